//! When each vault is compared with the catalog next.

use crate::core::service::Service;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Instant;
use uuid::Uuid;

/// When what is looked at next.
#[derive(Default)]
pub(crate) struct Turns(pub(crate) Mutex<HashMap<Uuid, Instant>>);

/// Looks at all vaults soon, where something runs by itself.
pub(crate) fn soon(service: &Service) {
    service.part::<Turns>().0.lock().clear();
}

pub(crate) fn is_due(service: &Service, vault: Uuid) -> bool {
    service.part::<Turns>().0.lock().get(&vault).is_none_or(|at| *at <= Instant::now())
}
