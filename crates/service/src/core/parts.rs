//! What the rooms remember while the service lives. The core keeps it for them, by type, and knows none of it.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;

/// One value of each type that a room asked for when the service was opened.
#[derive(Default)]
pub struct Parts(HashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl Parts {
    /// With one more.
    #[must_use]
    pub fn with<T: Any + Send + Sync>(mut self, part: T) -> Self {
        self.0.insert(TypeId::of::<T>(), Box::new(part));
        self
    }

    /// The part of this type. `open.rs` names every one, and each service is opened by it.
    pub fn get<T: Any>(&self) -> &T {
        let part = self.0.get(&TypeId::of::<T>()).and_then(|part| part.downcast_ref());
        part.unwrap_or_else(|| unreachable!("{} is not among the service's parts", type_name::<T>()))
    }
}
