//! Drills, as they are asked for: once, or by the configuration.

use crate::core::error::{Error, Result};
use crate::limits::*;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use strongroom_catalog::{Item, key};

/// What is asked of a drill.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrillOptions {
    /// Run in the guest by its shell, through its agent; it has to end with 0.
    pub check: Option<String>,
    /// Until the machine has answered and its check is over. Default: [`DRILL_TIMEOUT`].
    pub timeout: Option<Duration>,
    /// What the machine writes to disks that libvirt encrypted may lie unencrypted beside them while the drill lasts.
    pub unencrypted: bool,
}

/// Drills that happen by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DrillSchedule {
    /// The machine's name, or `GROUP/NAME`; `*`: every machine that is protected.
    pub machine: String,
    /// Days from one drill of an item to the next.
    pub every_days: u32,
    /// As [`DrillOptions::check`].
    #[serde(default)]
    pub check: Option<String>,
    /// As [`DrillOptions::timeout`].
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
    /// See [`DrillOptions::unencrypted`].
    #[serde(default)]
    pub unencrypted: bool,
}

impl DrillSchedule {
    pub(crate) fn is_for(&self, item: &Item) -> bool {
        match self.machine.split_once('/') {
            _ if self.machine == "*" => true,
            Some((group, name)) => key(group) == key(&item.group) && key(name) == key(&item.machine_name),
            None => key(&self.machine) == key(&item.machine_name),
        }
    }

    pub(crate) fn options(&self) -> DrillOptions {
        DrillOptions {
            check: self.check.clone(),
            timeout: self.timeout_seconds.map(Duration::from_secs),
            unencrypted: self.unencrypted,
        }
    }

    /// What is wrong with it, if anything.
    pub fn problem(&self) -> Option<String> {
        if self.every_days == 0 {
            return Some("every_days must be 1 or more".into());
        }
        check_options(&self.options()).err().map(Error::into_message)
    }
}

pub(crate) fn check_options(options: &DrillOptions) -> Result<Duration> {
    let timeout = options.timeout.unwrap_or(DRILL_TIMEOUT);
    if !(DRILL_TIMEOUT_MIN..=DRILL_TIMEOUT_MAX).contains(&timeout) {
        return Err(Error::invalid(format!(
            "a drill's time-out is between {} seconds and {} hours",
            DRILL_TIMEOUT_MIN.as_secs(),
            DRILL_TIMEOUT_MAX.as_secs() / 3600
        ))
        .coded("UserErrorInvalidTimeout"));
    }
    let bad = |c: &String| c.trim().is_empty() || c.len() > DRILL_CHECK_MAX_BYTES || c.contains('\0');
    if options.check.as_ref().is_some_and(bad) {
        return Err(Error::invalid(format!("a check has 1 to {DRILL_CHECK_MAX_BYTES} bytes"))
            .coded("UserErrorInvalidCheck"));
    }
    Ok(timeout)
}

/// Whether points of an item can be started as machines.
pub(crate) fn check_boots(item: &Item) -> Result<()> {
    if item.datasource.boots() {
        return Ok(());
    }
    let what = item.datasource.name();
    Err(Error::invalid(format!(
        "'{}' is no machine (it is of the kind '{what}'): its points cannot be started as one. Restore them instead.",
        item.store_item
    ))
    .coded("UserErrorNotAMachine"))
}
