//! Why a command did not succeed: something here, or an answer of the API.

use std::fmt;
use strongroom_engine::{Error, ErrorKind};

pub type Result<T, E = Failure> = std::result::Result<T, E>;

#[derive(Debug)]
pub enum Failure {
    /// Named by what the user can do.
    Here(Error),
    /// What the API refused, or what an operation or job failed with, in its own words.
    Api(ApiError),
}

/// An error of the API's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status; 0 of operations and jobs that failed later.
    pub status: u16,
    /// Azure's code, such as `ResourceNotFound`.
    pub code: String,
    pub message: String,
    /// What to do; empty: the message says it, or nobody knows.
    pub recommendation: String,
}

impl ApiError {
    pub fn new(status: u16, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into(), recommendation: String::new() }
    }

    pub fn recommending(mut self, recommendation: impl Into<String>) -> Self {
        self.recommendation = recommendation.into();
        self
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message.trim_end(), self.code)
    }
}

impl Failure {
    /// Its name for machines: one of our own, or Azure's.
    pub fn code(&self) -> &str {
        match self {
            Self::Here(error) => error.kind.code(),
            Self::Api(error) => &error.code,
        }
    }

    /// What to do, where that is known apart from the message.
    pub fn recommendation(&self) -> Option<&str> {
        let told = match self {
            Self::Here(error) => error.number.map_or("", |(_, advice)| advice),
            Self::Api(error) => error.recommendation.trim(),
        };
        Some(told).filter(|told| !told.is_empty())
    }

    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Here(error) if error.kind == ErrorKind::Cancelled)
    }

    /// Whether the API said so with this status.
    pub fn has_status(&self, status: u16) -> bool {
        matches!(self, Self::Api(error) if error.status == status)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Here(error)
    }
}

impl From<strongroom_service::Error> for Failure {
    fn from(error: strongroom_service::Error) -> Self {
        Self::Here(error.into())
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}
