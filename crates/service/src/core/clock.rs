//! Time, as the service sees it.

use crate::core::error::Result;
use jiff::Timestamp;
use std::time::Duration;
use strongroom_catalog::{Change, ServiceCatalog, Setting};
use strongroom_domain::clock::{ClockGuard, ClockRecord};

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// What the wall says.
    fn now(&self) -> Timestamp;

    /// Time since some beginning, which never jumps.
    fn elapsed(&self) -> Duration;
}

/// The host's. What has elapsed counts sleep as well: a host that slept has no clock that jumped.
#[derive(Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// It has no state.
    pub fn new() -> Self {
        Self
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn elapsed(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    }
}

const SETTING: &str = "clock";

/// What the last run knew of the time.
pub fn load_guard(catalog: &dyn ServiceCatalog, clock: &dyn Clock) -> Result<ClockGuard> {
    let last: Option<ClockRecord> =
        catalog.get::<Setting>(SETTING)?.and_then(|s| serde_json::from_value(s.value).ok());
    Ok(ClockGuard::start(last.as_ref(), clock.now(), clock.elapsed()))
}

/// Keeps what is known of the time for the next run.
pub fn save_guard(catalog: &dyn ServiceCatalog, record: &ClockRecord) -> Result<()> {
    let mut setting = catalog.get::<Setting>(SETTING)?.unwrap_or_else(|| Setting {
        id: SETTING.into(),
        version: 0,
        value: serde_json::Value::Null,
    });
    setting.value = serde_json::to_value(record).unwrap_or_default();
    Ok(catalog.apply(&[Change::put(&setting)])?)
}
