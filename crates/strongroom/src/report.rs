//! How errors are told, and what the process ends with.

use crate::context::to_stderr;
use crate::failure::Failure;
use serde::Serialize;
use std::error::Error as StdError;
use strongroom_engine::Error;

#[derive(Serialize)]
struct Document<'a> {
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    recommendation: Option<&'a str>,
}

/// What happened, with each cause that the words before it do not contain yet.
fn full_message(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !words.is_empty() && !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

/// Tells an error on stderr.
pub fn error(failure: &Failure, json: bool) {
    let message = match (failure, json) {
        (Failure::Here(error), _) => full_message(error),
        // The code has a field of its own there.
        (Failure::Api(error), true) => error.message.trim_end().to_owned(),
        (Failure::Api(error), false) => error.to_string(),
    };
    let recommendation = failure.recommendation().filter(|told| !message.contains(told));
    if json {
        let document = Document { error: Body { code: failure.code(), message: &message, recommendation } };
        if let Ok(text) = serde_json::to_string(&document) {
            to_stderr(&text);
            return;
        }
    }
    to_stderr(&format_args!("error: {message}"));
    if let Some(told) = recommendation {
        to_stderr(&format_args!("what to do: {told}"));
    }
}

/// Tells a wrong command line as JSON.
pub fn usage(message: &str) {
    let document = Document { error: Body { code: "usage", message: message.trim(), recommendation: None } };
    if let Ok(text) = serde_json::to_string(&document) {
        to_stderr(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn causes_are_told_once() {
        let cause = io::Error::other("the cable is out");
        let error = Error::invalid("reading x: the cable is out").caused_by(cause);
        assert_eq!(full_message(&error), "reading x: the cable is out");
        let error = Error::invalid("reading x").caused_by(io::Error::other("the cable is out"));
        assert_eq!(full_message(&error), "reading x: the cable is out");
    }
}
