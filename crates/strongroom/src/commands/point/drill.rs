//! How a drill came out.

use crate::commands::common::{shown_time, some_time, text};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// How a drill came out.
#[derive(Debug, Clone, Serialize)]
pub struct ResultDocument {
    pub passed: bool,
    pub at: Option<Timestamp>,
    /// `agent` or `screen`; null: it did not boot.
    pub answered_by: Option<String>,
    pub seconds: f64,
    pub message: String,
    pub check: Option<Value>,
    pub has_screenshot: bool,
    pub job: String,
}

impl ResultDocument {
    pub fn of(document: &Value) -> Option<Self> {
        let passed = document["passed"].as_bool()?;
        Some(Self {
            passed,
            at: some_time(document, "/time"),
            answered_by: document["answeredBy"].as_str().map(str::to_owned),
            seconds: document["seconds"].as_f64().unwrap_or(0.0),
            message: text(document, "/message"),
            check: Some(document["check"].clone()).filter(|c| !c.is_null()),
            has_screenshot: document["hasScreenshot"].as_bool().unwrap_or(false),
            job: text(document, "/jobId"),
        })
    }

    /// In a line.
    pub fn shown(&self) -> String {
        let what = match (&self.answered_by, self.passed) {
            (Some(by), true) => format!("passed: booted, seen by its {by} after {:.0} s", self.seconds),
            (None, true) => "passed".to_owned(),
            (_, false) => format!("failed: {}", self.message),
        };
        format!("{what} ({})", shown_time(self.at))
    }
}
