//! The service in this process, where none runs on the data directory.

use crate::context::Context;
use crate::failure::{ApiError, Result};
use crate::serve::{self, Opened};
use ::http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use std::path::Path;
use strongroom_api::Request;

pub struct InProcess {
    opened: Opened,
    is_started: Mutex<bool>,
}

impl InProcess {
    /// Takes the data directory, or makes it. Nothing runs by itself.
    pub fn open(data: &Path, config: Option<&Path>, context: &Context) -> Result<Self> {
        let opened = serve::open(data, config)?;
        if opened.first.is_some() {
            context.note(format_args!(
                "{} was made: vaults, keys and the catalog are kept there",
                data.display()
            ));
        }
        Ok(Self { opened, is_started: Mutex::new(false) })
    }

    /// Has jobs run, until this is dropped.
    pub fn start(&self) -> Result<()> {
        let mut is_started = self.is_started.lock();
        if !*is_started {
            self.opened.service.start()?;
            *is_started = true;
        }
        Ok(())
    }

    pub fn send(
        &self,
        method: &Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, HeaderMap, Value)> {
        let request = Request::in_process(method.clone(), target, body)
            .map_err(|e| ApiError::new(e.status.as_u16(), e.code.to_string(), e.message))?;
        let answer = self.opened.api.dispatch(request);
        let body = answer.json_body().unwrap_or_default();
        Ok((answer.status, answer.headers, body))
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        if *self.is_started.get_mut() {
            self.opened.service.stop();
        }
    }
}
