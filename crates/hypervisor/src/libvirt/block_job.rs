//! Jobs on a machine's disks that are not backups: copies, merges, pulls. They are the user's (or of a machine that
//! still runs from a vault), and a backup does not take part in them.

use super::dom::{BlockJob, Dom};
use super::session::Session;
use crate::error::{Error, Result};
use crate::text::machine;

/// libvirt's numbers.
const PULL: i32 = 1;
const COPY: i32 = 2;
const COMMIT: i32 = 3;
const ACTIVE_COMMIT: i32 = 4;

/// Fails with [`Error::Busy`] where one is under way on any of these disks: it says which, and what to do.
pub fn refuse(session: &Session, targets: &[&str]) -> Result<()> {
    let dom = session.dom();
    for target in targets {
        let found = dom.block_job(target);
        let found = found.map_err(|e| e.about("looking for jobs on", &session.disk(target)))?;
        if let Some(why) = found.and_then(|job| why(&dom, target, job)) {
            return Err(Error::Busy { what: machine(&session.name), why });
        }
    }
    Ok(())
}

fn why(dom: &Dom, target: &str, job: BlockJob) -> Option<String> {
    let (what, command) = match job.kind {
        PULL => ("its data is being moved into its own image (block pull)", "blockpull"),
        COPY => ("it is being copied (block copy)", "blockcopy"),
        COMMIT | ACTIVE_COMMIT => ("its images are being merged (block commit)", "blockcommit"),
        // A backup's: looked for elsewhere.
        _ => return None,
    };
    let name = crate::text::shorten(&dom.name());
    let is_ready =
        matches!(job.kind, COPY | ACTIVE_COMMIT) && job.total_bytes > 0 && job.done_bytes >= job.total_bytes;
    let end = if is_ready {
        "it has copied everything and waits: end it with `--pivot` or `--abort`".to_owned()
    } else {
        let percent = job.done_bytes.saturating_mul(100).checked_div(job.total_bytes).unwrap_or(0);
        format!("{percent} % are done: wait for its end (or cancel it with `--abort`)")
    };
    Some(format!(
        "a job is running on disk `{target}`, {what}, begun with `virsh {command}` or by another program. {end}, see `virsh blockjob '{name}' {target}`; then run the backup again"
    ))
}
