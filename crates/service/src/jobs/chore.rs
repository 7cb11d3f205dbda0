//! Chores: what happens by itself, again and again, on a thread of its own each.

use crate::core::error::{Error, Result};
use crate::core::service::Service;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use strongroom_catalog::actor;

/// Something that the service does by itself. One is made for each start.
pub(crate) trait Chore: Send {
    /// What its thread and its entries in the audit are called.
    fn name(&self) -> &'static str;

    /// Does what there is to do, and says how long it rests then. What fails it logs itself.
    fn turn(&mut self, service: &Service) -> Rest;

    /// When the service stops.
    fn last(&mut self, _service: &Service) {}
}

/// How long a chore rests.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rest {
    /// So long.
    For(Duration),
    /// Until the bell rings, and so long at most.
    UntilBell(Duration),
}

/// How each chore is made.
#[derive(Default)]
pub(crate) struct Chores(Vec<fn() -> Box<dyn Chore>>);

impl Chores {
    /// With one more.
    #[must_use]
    pub fn with<C: Chore + Default + 'static>(mut self) -> Self {
        self.0.push(|| Box::new(C::default()));
        self
    }
}

/// Starts all of them.
pub(crate) fn start(service: &Service) -> Result<()> {
    for make in &service.part::<Chores>().0 {
        let mut chore = make();
        let (name, of) = (chore.name(), service.clone());
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || actor::named(format!("service: {name}"), || keep_up(&of, &mut *chore)))
            .map_err(|e| Error::io(format!("starting the thread for {name}"), e))?;
        service.life.keep(thread);
    }
    Ok(())
}

/// Turn after turn, until the service stops.
fn keep_up(service: &Service, chore: &mut dyn Chore) {
    let mut heard = 0;
    while !service.life.is_stopping() {
        let turn = catch_unwind(AssertUnwindSafe(|| chore.turn(service)));
        let rest = turn.unwrap_or_else(|_| {
            tracing::error!(chore = chore.name(), "a turn ended by itself; this is a bug, see above");
            Rest::For(AFTER_A_BUG)
        });
        match rest {
            Rest::For(time) => service.life.pause(time),
            Rest::UntilBell(at_most) => service.life.wait(&mut heard, at_most),
        }
    }
    chore.last(service);
}

/// How long a chore rests that has a bug.
const AFTER_A_BUG: Duration = Duration::from_secs(60);
