//! How jobs' facts are called and written in Azure's clients. A fact of a name that is not here was written by a version that kept
//! Azure's labels in its rows, and is shown as it is.

use jiff::Timestamp;
use strongroom_catalog::Job;
use strongroom_domain::fact;

/// Azure's label of a fact.
fn label(name: &str) -> &str {
    match name {
        fact::MACHINE => "VM Name",
        fact::ORIGINAL_MACHINE => "Original VM Name",
        fact::TARGET_MACHINE => "Target VM Name",
        fact::RESTORE_AS => "Job Type",
        fact::TARGET_PLACE => "Target Storage Account Name",
        fact::TARGET_GROUP => "Target resource group",
        fact::TARGET_NETWORK => "Target VNet Name",
        fact::POINT => "Recovery point",
        fact::POINT_TIME => "Recovery point time ",
        fact::POINT_KEPT_UNTIL => "Recovery Point Expiry Time in UTC",
        fact::POINTS => "Number of Recovery Points",
        fact::POLICY => "Policy Name",
        fact::UNDELETED => "Undelete flag",
        fact::SUBSCRIPTION => "VM Subscription ID",
        fact::BACKUP_SIZE_MIB => "Backup Size",
        fact::RESTORED_FROM => "Restored from",
        fact::NOTES => "Notes",
        fact::CONFIGURATION => "Config Blob Name",
        fact::CONFIGURATION_DIRECTORY => "Config Blob Container Name",
        fact::CONFIGURATION_URI => "Config Blob Uri",
        fact::TEMPLATE_URI => "Create VM Template Blob Uri",
        fact::RESTORED_DISKS_NAMED => "Restored disk(s)",
        fact::POINT_DISKS => "Backed-up disk(s)",
        fact::COMPARED_BYTES => "Bytes Compared",
        fact::WRITTEN_BYTES => "Bytes Written",
        fact::STARTED_MACHINE => "Started VM",
        fact::AGENT_ANSWERED_AFTER => "Guest agent answered after",
        fact::MOVED_IN => "Moved in",
        fact::ANSWERED_BY => "Answered by",
        fact::ANSWERED_AFTER => "Answered after",
        fact::CHECK_ENDED_WITH => "Check ended with",
        fact::CHECK_OUTPUT => "Check output",
        fact::CHECK_ERRORS => "Check errors",
        fact::SNAPSHOT_IS_POINT => "IsInstantRpJob",
        other => other,
    }
}

/// Whether a fact is what a drill's check printed inside the machine, which is not for everybody who sees the job.
pub(super) fn is_check_output(name: &str) -> bool {
    [fact::CHECK_OUTPUT, fact::CHECK_ERRORS].iter().any(|output| label(output) == label(name))
}

/// What Azure's clients are shown of a job: labels and texts, in the order of its facts.
pub(super) fn bag(job: &Job) -> Vec<(String, String)> {
    job.properties.iter().map(|(name, value)| (label(name).to_owned(), text(job, name, value))).collect()
}

/// What only Azure's own clients read.
pub(super) fn internal_bag(job: &Job) -> Vec<(String, String)> {
    let told = job.internal.iter().map(|(name, value)| (label(name).to_owned(), text(job, name, value)));
    let place = value_of(job, fact::RESTORE_AS).and_then(|what| match what {
        fact::RESTORED_DISKS => Some("RestoreDisks"),
        fact::NEW_MACHINE | fact::INSTANT_MACHINE => Some("AlternateLocation"),
        fact::REPLACED_DISKS => Some("OriginalLocation"),
        _ => None,
    });
    told.chain(place.map(|place| ("restoreLocationType".to_owned(), place.to_owned()))).collect()
}

fn value_of<'j>(job: &'j Job, name: &str) -> Option<&'j str> {
    job.properties.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn text(job: &Job, name: &str, value: &str) -> String {
    match name {
        fact::RESTORE_AS => match value {
            fact::RESTORED_DISKS => "Recover disks",
            fact::NEW_MACHINE => "Recover VM to an alternate location",
            fact::REPLACED_DISKS => "Replace disks",
            fact::INSTANT_MACHINE => "Instant restore",
            other => other,
        }
        .into(),
        fact::POINT_TIME | fact::POINT_KEPT_UNTIL => match value.parse::<Timestamp>() {
            Ok(time) => time.strftime("%-m/%-d/%Y %-I:%M:%S %p").to_string(),
            Err(_) => value.into(),
        },
        fact::BACKUP_SIZE_MIB => format!("{value} MB"),
        fact::TARGET_NETWORK => {
            format!("Group {} {value}", value_of(job, fact::TARGET_GROUP).unwrap_or_default())
        }
        fact::UNDELETED | fact::SNAPSHOT_IS_POINT => match value {
            "true" => "True",
            "false" => "False",
            other => other,
        }
        .into(),
        _ => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_check_printed_is_known_in_rows_of_either_version() {
        for name in ["check_output", "check_errors", "Check output", "Check errors"] {
            assert!(is_check_output(name), "{name}");
        }
        assert!(!is_check_output(fact::CHECK_ENDED_WITH));
    }
}
