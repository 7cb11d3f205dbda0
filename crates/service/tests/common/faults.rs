//! A catalog that fails when a test says so.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use strongroom_catalog::{Change, Query, Result, ServiceCatalog, ServiceError, Stored, Table};

type Watcher = Box<dyn FnMut(Table) + Send>;
type Judge = Box<dyn FnMut(&[Change]) -> Option<ServiceError> + Send>;

std::thread_local! {
    static IS_JUDGING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Says of each change whether it fails; shared with who changes its mind.
#[derive(Clone, Default)]
pub struct Faults {
    turn: Arc<Mutex<()>>,
    judge: Arc<Mutex<Option<Judge>>>,
    watcher: Arc<Mutex<Option<Watcher>>>,
}

impl Faults {
    pub fn set(&self, judge: impl FnMut(&[Change]) -> Option<ServiceError> + Send + 'static) {
        *self.judge.lock().unwrap() = Some(Box::new(judge));
    }

    /// From here on nothing fails.
    pub fn heal(&self) {
        self.set(|_| None);
    }

    /// Told after each query, before its answer goes out.
    pub fn after_query(&self, watcher: impl FnMut(Table) + Send + 'static) {
        *self.watcher.lock().unwrap() = Some(Box::new(watcher));
    }

    /// One after the other; what a judge changes itself passes, and it may set another one.
    fn judged(&self, changes: &[Change]) -> Option<ServiceError> {
        if IS_JUDGING.get() {
            return None;
        }
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut judge = self.judge.lock().unwrap().take()?;
        IS_JUDGING.set(true);
        let failed = judge(changes);
        IS_JUDGING.set(false);
        self.judge.lock().unwrap().get_or_insert(judge);
        failed
    }

    pub fn around(&self, inner: Arc<dyn ServiceCatalog>) -> Arc<dyn ServiceCatalog> {
        Arc::new(FaultyCatalog { inner, faults: self.clone() })
    }
}

/// The errors that a catalog has while its disk is full, locked or ill, in turn.
pub fn error(number: usize) -> ServiceError {
    let (path, detail) = (PathBuf::from("catalog.db"), "a fault of the test's".to_owned());
    match number % 3 {
        0 => ServiceError::Busy { path, detail },
        1 => ServiceError::NoSpace { path, detail },
        _ => ServiceError::Failed { path, detail },
    }
}

struct FaultyCatalog {
    inner: Arc<dyn ServiceCatalog>,
    faults: Faults,
}

impl ServiceCatalog for FaultyCatalog {
    fn apply(&self, changes: &[Change]) -> Result<()> {
        match self.faults.judged(changes) {
            Some(error) => Err(error),
            None => self.inner.apply(changes),
        }
    }

    fn fetch(&self, table: Table, query: &Query) -> Result<Vec<Stored>> {
        let found = self.inner.fetch(table, query);
        let watcher = self.faults.watcher.lock().unwrap().take();
        if let Some(mut watcher) = watcher {
            watcher(table);
            self.faults.watcher.lock().unwrap().get_or_insert(watcher);
        }
        found
    }

    fn count(&self, table: Table, query: &Query) -> Result<u64> {
        self.inner.count(table, query)
    }
}
