//! The service as a process: its configuration, its first start, and opening it without a server.

pub mod config;
pub mod first;

use config::FileConfig;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strongroom_api::Api;
use strongroom_api::arm::App;
use strongroom_catalog::actor;
use strongroom_service::Result;
use strongroom_service::{DataDirectory, Service, audit};

/// A data directory in use by this process.
pub struct Opened {
    pub service: Service,
    pub api: Arc<Api<App>>,
    pub config: FileConfig,
    /// The administrator, if this was the first start.
    pub first: Option<first::Administrator>,
}

/// Opens the data directory, or makes it; nothing runs by itself until `service.start()`. `config`: a file; default: the
/// one in `/etc`, if it is there.
pub fn open(data: &Path, config: Option<&Path>) -> Result<Opened> {
    let config = config::load(config)?;
    let service = Service::open(config.service(data)?)?;
    let first = actor::named("service: start", || first::ensure_administrator(&service))?;
    let api = Arc::new(App::api(service.clone())?);
    Ok(Opened { service, api, config, first })
}

impl Opened {
    /// Notes in the audit what of the configuration is another than at the last start.
    pub fn record_configuration(&self) -> Result<()> {
        audit::configuration(&self.service, self.config.sections())
    }
}

/// Where the service keeps everything unless it is told otherwise.
pub fn default_data_directory() -> PathBuf {
    if let Some(set) = std::env::var_os("STRONGROOM_DATA").filter(|v| !v.is_empty()) {
        return PathBuf::from(set);
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/strongroom");
    }
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    base.or_else(home).unwrap_or_else(|| PathBuf::from(".")).join("strongroom")
}

/// The parts of a data directory.
pub fn directory(data: &Path) -> DataDirectory {
    DataDirectory(data.to_owned())
}
