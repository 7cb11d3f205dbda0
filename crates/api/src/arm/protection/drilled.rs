//! How a point's last drill came out.

use crate::arm::shared::format;
use serde_json::{Value, json};
use strongroom_catalog::Drill;

/// Takes out of a drill as it is shown what the machine said.
pub(crate) fn withhold_output(drill: &mut Value) {
    if let Some(check) = drill.get_mut("check").and_then(Value::as_object_mut) {
        check.remove("stdout");
        check.remove("stderr");
    }
}

pub(crate) fn show(drill: &Drill) -> Value {
    json!({
        "passed": drill.passed,
        "time": format::time(drill.at),
        "jobId": drill.job.to_string(),
        "answeredBy": drill.answered,
        "seconds": drill.seconds,
        "message": drill.message,
        "check": drill.check.as_ref().map(|c| json!({
            "command": c.command, "exitCode": c.exit_code, "stdout": c.stdout, "stderr": c.stderr,
        })),
        "hasScreenshot": drill.screenshot,
    })
}
