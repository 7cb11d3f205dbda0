//! Who makes changes, as the audit says it: known to the thread that makes them.
//!
//! A request's changes are gathered here and become part of the row that the API writes for the request. All others are
//! written by [`crate::Recorded`] itself, together with the change: under the name given here, or, where nobody has said who acts,
//! as the service's own. So a change without a row there is none.

use std::cell::RefCell;

/// Whoever acts where nobody has said who does.
pub const SERVICE: &str = "service";

/// What is remembered of one request's changes.
const CHANGES_MAX: usize = 64;

#[derive(Debug, Clone, Default)]
enum Actor {
    #[default]
    Service,
    Named(String),
    Request(Vec<String>),
}

thread_local! {
    static ACTOR: RefCell<Actor> = const { RefCell::new(Actor::Service) };
}

/// Puts back who acted before, also when what was done panics.
struct Before(Actor);

impl Drop for Before {
    fn drop(&mut self) {
        ACTOR.set(std::mem::take(&mut self.0));
    }
}

/// Does what a request asks for; also answers what it changed.
pub fn of_request<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let before = Before(ACTOR.replace(Actor::Request(Vec::new())));
    let done = work();
    let changed = match ACTOR.take() {
        Actor::Request(changed) => changed,
        Actor::Service | Actor::Named(_) => Vec::new(),
    };
    drop(before);
    (done, changed)
}

/// Does something in somebody's name: `service: retention`, `local administrator (user 0)`.
pub fn named<T>(name: impl Into<String>, work: impl FnOnce() -> T) -> T {
    let _before = Before(ACTOR.replace(Actor::Named(name.into())));
    work()
}

/// Who acts; None: a request, whose row somebody else writes.
pub(crate) fn current() -> Option<String> {
    ACTOR.with_borrow(|actor| match actor {
        Actor::Service => Some(SERVICE.to_owned()),
        Actor::Named(name) => Some(name.clone()),
        Actor::Request(_) => None,
    })
}

/// Notes what a request changed.
pub(crate) fn note(what: String) {
    ACTOR.with_borrow_mut(|actor| {
        if let Actor::Request(changed) = actor
            && changed.len() < CHANGES_MAX
        {
            changed.push(what);
        }
    });
}
