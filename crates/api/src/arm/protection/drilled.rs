//! How a point's last drill came out.

use crate::arm::shared::format;
use schemars::JsonSchema;
use serde::Serialize;
use strongroom_catalog::Drill;

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    passed: bool,
    #[schemars(extend("format" = "date-time"))]
    time: String,
    job_id: String,
    /// By what it was seen to have booted; null: it was not.
    #[schemars(extend("enum" = ["agent", "screen", null]))]
    answered_by: Option<String>,
    seconds: f64,
    message: String,
    check: Option<Check>,
    has_screenshot: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required, extend("contentEncoding" = "base64", "contentMediaType" = "image/png"))]
    pub(crate) screenshot: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Check {
    command: String,
    /// Null: a signal ended it.
    exit_code: Option<i32>,
    /// Left out, as the other, for who may not see what the machine said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    stdout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    stderr: Option<String>,
}

impl Shown {
    /// Takes out what the machine said.
    pub(crate) fn withhold_output(&mut self) {
        if let Some(check) = &mut self.check {
            check.stdout = None;
            check.stderr = None;
        }
    }
}

/// The same where a drill is part of a point that is shown.
pub(crate) fn withhold_output(drill: &mut serde_json::Value) {
    if let Some(check) = drill.get_mut("check").and_then(serde_json::Value::as_object_mut) {
        check.remove("stdout");
        check.remove("stderr");
    }
}

pub(crate) fn show(drill: &Drill) -> Shown {
    Shown {
        passed: drill.passed,
        time: format::time(drill.at),
        job_id: drill.job.to_string(),
        answered_by: drill.answered.clone(),
        seconds: drill.seconds,
        message: drill.message.clone(),
        check: drill.check.as_ref().map(|check| Check {
            command: check.command.clone(),
            exit_code: check.exit_code,
            stdout: Some(check.stdout.clone()),
            stderr: Some(check.stderr.clone()),
        }),
        has_screenshot: drill.screenshot,
        screenshot: None,
    }
}
