//! Ends backup jobs in machines: ours that were left behind, and the one at hand.

use super::conn::VirtError;
use super::dom::Dom;
use super::session::Session;
use super::{definition, sys};
use crate::error::{Error, Result};
use crate::limits::{JOB_BEGIN_TIMEOUT, JOB_END_TIMEOUT, OWN_PREFIX};
use roxmltree::Node;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use strongroom_nbd::{Client, ConnectOptions, Endpoint};

/// Ends a backup job of ours that was left behind; a job of somebody else's is an error.
pub fn end_leftover_job(session: &Session, warnings: &mut Vec<String>) -> Result<()> {
    let Some(xml) = job_told_of(&session.dom(), &session.what())? else { return Ok(()) };
    if !is_own_job(&xml) {
        return Err(Error::Busy {
            what: session.what(),
            why: "another program's backup job is running on it; wait for its end, or cancel it with `virsh domjobabort`"
                .into(),
        });
    }
    end_begun_job(&session.dom(), &session.what(), &xml)?;
    warnings.push("an interrupted backup had left its job behind; it was cancelled".into());
    Ok(())
}

/// The machine's backup job, waiting for one that just begins, for somebody or for a killed process of ours: it is not told
/// of yet.
pub fn job_told_of(dom: &Dom, what: &str) -> Result<Option<String>> {
    let about = |e: VirtError| e.about("looking for jobs of", what);
    let mut xml = dom.backup_xml().map_err(about)?;
    let deadline = Instant::now() + JOB_BEGIN_TIMEOUT;
    while xml.is_none() && dom.has_job().map_err(about)? {
        if Instant::now() > deadline {
            return Err(Error::Busy {
                what: what.to_owned(),
                why: "libvirt is doing something else with it (migrating, saving, copying); wait for its end, or cancel it with `virsh domjobabort`".into(),
            });
        }
        std::thread::sleep(Duration::from_millis(20));
        xml = dom.backup_xml().map_err(about)?;
    }
    Ok(xml)
}

/// Ends a job that was left behind, once libvirt has begun it.
pub fn end_begun_job(dom: &Dom, what: &str, xml: &str) -> Result<()> {
    wait_until_begun(xml);
    end_job(dom, what, xml)
}

/// libvirt may still be beginning the job, for a process that was killed a moment ago, and can get
/// stuck when it is cancelled meanwhile. Exporting the disks is the last it does.
fn wait_until_begun(xml: &str) {
    let Ok(document) = definition::parse("the job", xml) else { return };
    let root = document.root_element();
    let Some(socket) = definition::child(root, "server").and_then(|s| s.attribute("socket")) else { return };
    let exports: Vec<&str> = disks(root).filter_map(|n| n.attribute("exportname")).collect();
    let endpoint = Endpoint::Unix(socket.into());
    let options = ConnectOptions {
        connect_timeout: JOB_BEGIN_TIMEOUT,
        negotiation_timeout: JOB_BEGIN_TIMEOUT,
        ..ConnectOptions::default()
    };
    let deadline = Instant::now() + JOB_BEGIN_TIMEOUT;
    loop {
        if let Ok(found) = Client::list_exports(&endpoint, &options)
            && exports.iter().all(|wanted| found.iter().any(|f| f.name == *wanted))
        {
            break;
        }
        if Instant::now() > deadline {
            tracing::info!(socket, "a job that was left behind is not complete");
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(50));
}

/// The disks that a job backs up.
fn disks<'d>(job: Node<'d, 'd>) -> impl Iterator<Item = Node<'d, 'd>> {
    job.descendants().filter(|n| n.has_tag_name("disk") && n.attribute("backup") == Some("yes"))
}

/// A job of ours is told by the name of its socket.
fn is_own_job(xml: &str) -> bool {
    socket_of(xml)
        .and_then(|path| path.file_name().and_then(|name| name.to_str()).map(|n| n.starts_with(OWN_PREFIX)))
        .unwrap_or(false)
}

/// Cancels the backup job that libvirt tells of so, and waits until it is gone.
pub fn end_job(dom: &Dom, what: &str, xml: &str) -> Result<()> {
    let deadline = Instant::now() + JOB_END_TIMEOUT;
    let mut asked = Instant::now();
    let mut aborted = dom.abort_job();
    let mut pause = Duration::from_millis(1);
    loop {
        match dom.backup_xml() {
            // Also when the machine has stopped: its jobs ended with it.
            Ok(None) => {
                wait_for_disks(dom, &targets_of(xml));
                return Ok(());
            }
            Err(e) if e.code == sys::ERR_NO_DOMAIN => return Ok(()),
            Err(e) if e.is_away() || Instant::now() > deadline => {
                return Err(e.about("cancelling the backup job of", what));
            }
            Err(_) => {}
            Ok(Some(_)) if Instant::now() > deadline => {
                return Err(match aborted {
                    Err(e) => e.about("cancelling the backup job of", what),
                    Ok(()) => Error::Busy { what: what.into(), why: "its backup job does not end".into() },
                });
            }
            Ok(Some(_)) => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
        if aborted.is_err() || asked.elapsed() > Duration::from_secs(2) {
            asked = Instant::now();
            aborted = dom.abort_job();
        }
    }
}

/// libvirt tells of no job a moment before it has let go of the disks, and reverts the machine to no snapshot, say, until it has.
/// It answers what is asked of a disk's own job after that.
fn wait_for_disks(dom: &Dom, targets: &[String]) {
    for target in targets {
        if let Err(error) = dom.block_job(target) {
            // The machine may have stopped.
            tracing::debug!(disk = target, %error, "whether a disk's job is over could not be seen");
        }
    }
}

fn targets_of(xml: &str) -> Vec<String> {
    let Ok(document) = definition::parse("the job", xml) else { return Vec::new() };
    disks(document.root_element()).filter_map(|n| n.attribute("name")).map(str::to_owned).collect()
}

/// Where a job serves its disks.
pub fn socket_of(xml: &str) -> Option<PathBuf> {
    let document = definition::parse("the job", xml).ok()?;
    let server = definition::child(document.root_element(), "server")?;
    server.attribute("socket").map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::job_xml;
    use std::path::Path;

    #[test]
    fn disks_that_a_job_backs_up_are_told_by_its_definition() {
        let told = "<domainbackup mode='pull'><disks><disk name='vda' backup='yes'/><disk name='vdb' backup='no'/></disks></domainbackup>";
        assert_eq!(targets_of(told), ["vda"]);
        assert!(targets_of("not xml").is_empty());
    }

    #[test]
    fn jobs_are_told_by_their_socket() {
        let job = |socket: &str| {
            job_xml::pull_job(
                Path::new(socket),
                &[job_xml::JobDisk { target: "vda", scratch: None, since: None }],
            )
        };
        assert!(is_own_job(&job("/run/x/strongroom-1.sock")));
        assert!(!is_own_job(&job("/strongroom-x/other.sock")));
        assert!(!is_own_job("<domainbackup/>"));
        assert!(!is_own_job("not xml"));
    }
}
