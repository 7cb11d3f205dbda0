//! What handlers work with.

use crate::auth::{Gate, HasSignIn, SignIn};
use std::sync::Arc;
use strongroom_service::Service;

/// What handlers work with.
pub struct App {
    pub service: Service,
    pub gate: Arc<dyn Gate>,
    pub sign_in: Arc<SignIn>,
}

impl HasSignIn for App {
    fn sign_in(&self) -> &SignIn {
        &self.sign_in
    }
}
