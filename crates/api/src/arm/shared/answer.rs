//! What handlers answer.

use crate::{ArmError, Response};

pub(crate) type Answer = Result<Response, ArmError>;
