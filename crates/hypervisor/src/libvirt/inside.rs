//! What is done inside the machine around the instant: scripts, freezing, and what consistency they earn.
//!
//! The order: the extension prepares, the window opens and freezes, [the instant], the window closes and thaws, the extension
//! finishes. Whatever fails in between, the last two happen.

use super::agent;
use super::guest::{self, Consequence, Guest, GuestSession};
use super::taking::Taking;
use super::window::{Closed, Ended, Freezer, Window, agent_answers};
use crate::error::Result;
use crate::guest::GuestWork;
use crate::model::MachineState;
use crate::snapshot::Quiesce;
use strongroom_domain::{Consistency, ConsistencyLevel};

fn not_frozen(why: &impl std::fmt::Display) -> String {
    format!("UserErrorFsFreezeFailed: the guest could not be frozen: {why}")
}

impl Taking<'_> {
    /// Prepares the guest, opens the window, and freezes if that can be done; answers the consistency that is earned if the
    /// window stays open for the instant. Fails when a script did and the guest's configuration wants the backup to fail then.
    pub fn open_window(&mut self, suspends: bool) -> Result<(Window, Consistency)> {
        let dom = self.session.dom();
        let mark = self.session.frozen_mark();
        let mut cannot = self.cannot_freeze();
        // Of a machine that never had an agent nobody expects more.
        let mut is_silent = cannot.clone().filter(|_| self.request.was_frozen && self.is_agent_missing());
        if cannot.is_none()
            && let Err(why) = agent_answers(&dom)
        {
            cannot = Some(format!("its guest agent does not answer: {why}"));
            is_silent = Some(why);
        }
        let agent_is_there = cannot.is_none();
        let mut lets_in = agent_is_there;
        if agent_is_there && agent::is_frozen(&dom) == Some(true) {
            // Ours, if an earlier thaw did not get through: then the agent alone still thinks so, or nobody could thaw it.
            lets_in = mark.exists() && dom.thaw().is_ok();
        }
        let _ = std::fs::remove_file(&mark);
        let is_windows = lets_in && agent::os_id(&dom).as_deref() == Some("mswindows");
        let note = if is_windows { None } else { self.prepare_guest(lets_in) };
        if let Some(why) = self.weigh_preparation()? {
            cannot = Some(why);
        }
        let session = self.inside.session.as_ref();
        let port = session.and_then(GuestSession::port);
        let freezer = match (&cannot, port) {
            _ if session.is_some_and(|s| !s.prepared.freeze) => {
                is_silent = None;
                cannot = Some("its configuration asks not to freeze it (fsFreezeEnabled is false)".into());
                Freezer::Nobody
            }
            (None, _) => Freezer::Agent { vss: is_windows },
            // The agent cannot, but the extension can.
            (Some(_), Some(port)) if !agent_is_there => {
                (cannot, is_silent) = (None, None);
                Freezer::Port(port)
            }
            _ => Freezer::Nobody,
        };
        if let Some(why) = is_silent {
            self.warnings.push(not_frozen(&why));
        }
        let window = Window::new(&self.session, freezer, suspends);
        let note = note.map_or_else(String::new, |why| format!("; {why}"));
        let consistency = match cannot {
            Some(why) => Consistency::new(ConsistencyLevel::Crash, why),
            None => self.freeze(&window, is_windows, &note),
        };
        Ok((window, consistency))
    }

    /// What a problem of the extension's preparation means: why nothing is to be frozen, if so. Fails when the guest's
    /// configuration wants the backup to fail then.
    fn weigh_preparation(&mut self) -> Result<Option<String>> {
        let mut cannot = None;
        if let Some(session) = &self.inside.session
            && let Some(problem) = session.prepared.problem.clone()
        {
            match guest::consequence(problem.code, &session.prepared, self.disks.len()) {
                Consequence::FileSystem => {}
                Consequence::Crash => {
                    cannot = Some(format!(
                        "{}, and its configuration wants no other backup then (continueBackupOnFailure is false)",
                        problem.message
                    ));
                }
                Consequence::Fail => {
                    // Its drop runs the post-script.
                    self.inside.report = self.inside.session.take().map(|s| s.report.clone());
                    return Err(guest::error(&self.session.what(), &problem));
                }
            }
            self.warnings.push(guest::warning(&problem));
        }
        Ok(cannot)
    }

    /// Freezes; answers the consistency that is earned by it.
    fn freeze(&mut self, window: &Window, is_windows: bool, note: &str) -> Consistency {
        let crash = |reason: String| Consistency::new(ConsistencyLevel::Crash, reason);
        match window.freeze() {
            Ok(0) => crash("nothing in the guest could be frozen".into()),
            Ok(count) if is_windows => Consistency::new(
                ConsistencyLevel::Application,
                format!("the guest's VSS writers took part, and {count} volumes were frozen"),
            ),
            Ok(1) => Consistency::new(
                ConsistencyLevel::FileSystem,
                format!("the guest's file system was frozen{note}"),
            ),
            Ok(count) => Consistency::new(
                ConsistencyLevel::FileSystem,
                format!("the guest's {count} file systems were frozen{note}"),
            ),
            Err(why) => {
                self.warnings.push(not_frozen(&why));
                crash(format!("freezing failed: {why}"))
            }
        }
    }

    /// Has the extension in the guest prepare; answers why its scripts have no part in the snapshot, if so.
    fn prepare_guest(&mut self, agent: bool) -> Option<String> {
        // One that an earlier try of the same snapshot left is finished by its drop.
        drop(self.inside.session.take());
        self.inside.failure = None;
        let is_wanted = self.request.guest == GuestWork::Auto
            && self.request.quiesce == Quiesce::Auto
            && self.state == MachineState::Running;
        let port = self.inside.port.as_deref();
        if !is_wanted || (!agent && port.is_none()) {
            return None;
        }
        let what = self.session.what();
        let guest = Guest { dom: &self.session.dom(), what: &what, id: &self.session.id, port, agent };
        match guest::prepare(&guest, &mut self.warnings) {
            Ok(session) => {
                let prepared = &session.prepared;
                let note = match &prepared.problem {
                    Some(problem) => Some(format!("{} ({})", problem.message, problem.code.name())),
                    None if !prepared.configured => Some("no scripts are configured in it".into()),
                    None => None,
                };
                self.inside.session = Some(session);
                note
            }
            Err(why) => Some(format!("no scripts were run: {why}")),
        }
    }

    /// Takes over what the window says at its end, and finishes what the guest had prepared; answers what had ended it before,
    /// if anything.
    pub fn close_window(&mut self, window: Window, consistency: &mut Consistency) -> Option<Ended> {
        let Closed { frozen, freezing, suspended, ended, problems } = window.close();
        self.timings.frozen = frozen;
        self.timings.freezing = freezing;
        self.timings.suspended = suspended;
        if let Some(ended) = ended {
            *consistency = Consistency::new(ConsistencyLevel::Crash, ended.why());
            if matches!(ended, Ended::Resumed | Ended::Thawed) {
                self.warnings.push(ended.why().into());
            }
        }
        self.warnings.extend(problems);
        if let Some(session) = self.inside.session.take() {
            self.finish_guest(session, ended.is_some(), consistency);
        }
        ended
    }

    /// The post-script, and what both scripts make of the consistency. It never becomes more than was seen.
    fn finish_guest(&mut self, mut session: GuestSession, ended: bool, consistency: &mut Consistency) {
        let finished = session.finish();
        self.inside.report = Some(session.report.clone());
        let prepared = &session.prepared;
        let finished = match finished {
            Ok(finished) => finished,
            Err(why) => {
                if prepared.pre.is_some() {
                    self.warnings.push(format!(
                        "whether the guest's post-script has run is not known (it runs by itself when the guest's own time limit is over): {why}"
                    ));
                    consistency.reason += "; its post-script did not answer";
                }
                return;
            }
        };
        if finished.expired && consistency.level > ConsistencyLevel::Crash {
            let why = "the guest thawed itself by its time limit before it was told that the instant is over";
            self.warnings.push(why.into());
            *consistency = Consistency::new(ConsistencyLevel::Crash, why);
        }
        if let Some(problem) = &finished.problem {
            match guest::consequence(problem.code, prepared, self.disks.len()) {
                Consequence::FileSystem => {
                    consistency.reason += &format!("; {} ({})", problem.message, problem.code.name());
                }
                Consequence::Crash => {
                    *consistency = Consistency::new(ConsistencyLevel::Crash, problem.message.clone());
                }
                Consequence::Fail => {
                    self.inside.failure = Some(guest::error(&self.session.what(), problem));
                }
            }
            self.warnings.push(guest::warning(problem));
            return;
        }
        let has_run = finished.known && finished.post.as_ref().is_some_and(|run| run.exit_code == Some(0));
        if !prepared.ready || !has_run || finished.expired || ended {
            return;
        }
        if consistency.level == ConsistencyLevel::FileSystem {
            let reason = format!("the guest's scripts ran, and {}", consistency.reason);
            *consistency = Consistency::new(ConsistencyLevel::Application, reason);
        } else if !prepared.freeze {
            // What was on disk at one instant, whatever the applications did before: nothing held the file systems.
            consistency.reason += "; its scripts ran";
        }
    }
}
