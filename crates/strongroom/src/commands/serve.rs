//! `strongroom serve`: the service, until it is told to stop.

use crate::context::{Context, Outcome};
use crate::serve::{self, config, directory};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use strongroom_api::http::{Server, ServerBounds, ServerConfig, ServerError, Stop};
use strongroom_api::tls::{Certificates, TlsSource};
use strongroom_service::{Error, ErrorKind, Result};

/// How long requests that came before the end may wait for a vault's store.
const STORE_PATIENCE: Duration = Duration::from_secs(5);
/// How often certificates are looked after.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(3600);

#[derive(Debug, Args)]
#[command(after_help = "\
The first start needs no configuration: it makes the data directory, an authority and a certificate,
keys, the catalog and an administrator, finds the libvirt of this host, and says how to sign in.
SIGTERM and SIGINT end it: running jobs are let go of, and go on at the next start.

Examples:
  strongroom serve
  strongroom serve --data /srv/strongroom --listen 0.0.0.0:8443
  strongroom serve --print-config > /etc/strongroom/strongroom.toml")]
pub struct ServeArgs {
    /// Where the service keeps everything; default: /var/lib/strongroom for root.
    #[arg(long, value_name = "DIR", env = "STRONGROOM_DATA", hide_env_values = true)]
    pub data: Option<PathBuf>,
    /// Where it listens; default: 127.0.0.1:8443. May be given several times.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<SocketAddr>,
    /// The configuration; default: /etc/strongroom/strongroom.toml, if it is there.
    #[arg(long, value_name = "FILE", env = "STRONGROOM_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Print a commented configuration with the defaults, and do nothing else.
    #[arg(long)]
    pub print_config: bool,
}

pub fn run(arguments: &ServeArgs, context: &Context) -> Result<Outcome> {
    if arguments.print_config {
        context.print(&config::EXAMPLE, || config::EXAMPLE.to_owned())?;
        return Ok(Outcome::Done);
    }
    let data = arguments.data.clone().unwrap_or_else(serve::default_data_directory);
    let mut opened = serve::open(&data, arguments.config.as_deref())?;
    if !arguments.listen.is_empty() {
        opened.config.listen.clone_from(&arguments.listen);
    }
    let parts = directory(&data);
    let tls = &opened.config.tls;
    let source = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            TlsSource::Files { certificate: certificate.clone(), key: key.clone() }
        }
        _ => TlsSource::Own { directory: parts.tls(), names: tls.names.clone() },
    };
    let certificates = Arc::new(
        Certificates::open(source, opened.service.now())
            .map_err(|e| Error::new(ErrorKind::Failed, e.to_string()).caused_by(e))?,
    );
    let server = Server::bind(ServerConfig {
        listen: opened.config.listen.clone(),
        socket: Some(parts.socket()),
        certificates: certificates.clone(),
        public_url: opened.config.public_url.clone(),
        bounds: ServerBounds::default(),
    })
    .map_err(server_error)?;
    let url = server.url();
    std::fs::write(parts.0.join("url"), format!("{url}\n"))
        .map_err(|e| Error::io(format!("writing {}", parts.0.join("url").display()), e))?;
    opened.record_configuration()?;
    opened.service.start()?;
    say(context, &url, &data, &opened);

    let stop = Stop::new();
    let is_over = Arc::<AtomicBool>::default();
    let watcher = {
        let over = is_over.clone();
        let (stop, progress, service) = (stop.clone(), context.progress.clone(), opened.service.clone());
        std::thread::spawn(move || {
            let mut looked = std::time::Instant::now();
            while !progress.is_cancelled() {
                std::thread::sleep(Duration::from_millis(100));
                if looked.elapsed() >= CERTIFICATE_INTERVAL {
                    looked = std::time::Instant::now();
                    if let Err(error) = certificates.refresh(service.now()) {
                        tracing::error!(%error, "the certificate could not be renewed");
                    }
                }
            }
            stop.stop();
            // Requests under way are answered first, unless what they wait for does not come.
            let told = std::time::Instant::now();
            while told.elapsed() < STORE_PATIENCE && !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
            service.let_go();
        })
    };
    server.run(opened.api.clone(), &stop);
    is_over.store(true, Ordering::Relaxed);
    context.progress.cancel();
    let _ = watcher.join();
    context.note("stopping: running jobs are let go of, and go on at the next start");
    opened.service.stop();
    Ok(Outcome::Done)
}

fn server_error(error: ServerError) -> Error {
    let (kind, advice) = match &error {
        ServerError::InUse { .. } => (ErrorKind::Busy, "; stop it, or choose another address with --listen"),
        _ => (ErrorKind::Failed, ""),
    };
    Error::new(kind, format!("{error}{advice}")).caused_by(error)
}

fn say(context: &Context, url: &str, data: &std::path::Path, opened: &serve::Opened) {
    let hosts: Vec<&str> = opened.service.hosts().iter().map(|h| h.name.as_str()).collect();
    context.note(format_args!("API:     {url}  (description: {url}/openapi.json)"));
    context.note(format_args!("data:    {}", data.display()));
    context.note(format_args!(
        "hosts:   {}",
        if hosts.is_empty() { "none in the configuration".to_owned() } else { hosts.join(", ") }
    ));
    if let Some(first) = &opened.first {
        context.note(format_args!(
            "first start: the administrator is application {}; its secret is in {}",
            first.app_id,
            first.secret_file.display()
        ));
    }
    let option = match data == serve::default_data_directory() {
        true => String::new(),
        false => format!(" --data {}", data.display()),
    };
    context.note(format_args!(
        "sign in: eval \"$(strongroom az env{option})\", then the `az login` that it prints"
    ));
}
