//! What handlers work with.

use crate::auth::{Gate, HasSignIn, SignIn};
use std::sync::Arc;
use strongroom_service::Service;

/// What handlers work with.
pub struct App {
    /// What does what is asked for.
    pub service: Service,
    /// Asked what a caller may, where that depends on more than a route says.
    pub gate: Arc<dyn Gate>,
    /// What the sign-in routes ask; usually the gate as well.
    pub sign_in: Arc<SignIn>,
}

impl HasSignIn for App {
    fn sign_in(&self) -> &SignIn {
        &self.sign_in
    }
}
