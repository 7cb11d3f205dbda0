//! Finding out whether a store creates only what is not there, while something else goes on.

use crate::error::Result;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// Whether the store creates only what is not there, as far as it is being found out.
#[derive(Default)]
pub(crate) enum Exclusive {
    /// Nobody asked.
    #[default]
    Unasked,
    Checking(mpsc::Receiver<Result<()>>),
    Checked(Result<()>),
}

/// Finding it out, and what has to be put away afterwards.
#[derive(Default)]
pub(crate) struct Probe {
    pub exclusive: Exclusive,
    pub thread: Option<JoinHandle<()>>,
}
