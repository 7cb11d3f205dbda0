//! `strongroom az`: pointing Azure's own command line at the service.

use crate::context::{Context, Outcome};
use crate::serve::{self, directory, first};
use crate::text::shell_word;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::{Path, PathBuf};
use strongroom_api::tls::authority_path;
use strongroom_service::{Error, ErrorKind, Result};

#[derive(Debug, Subcommand)]
pub enum AzCommand {
    /// Print shell lines that point `az` at the service of this host.
    Env(EnvArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
The lines set the certificate to trust and two switches (az would otherwise try to reach hosts on the
internet), and register the service as a cloud. The az login that follows is printed to stderr.

Examples:
  eval \"$(strongroom az env)\"
  eval \"$(strongroom az env --data /srv/strongroom --name backup)\"")]
pub struct EnvArgs {
    /// The service's data directory.
    #[arg(long, value_name = "DIR", env = "STRONGROOM_DATA", hide_env_values = true)]
    data: Option<PathBuf>,
    /// The cloud's name in az.
    #[arg(long, value_name = "NAME", default_value = "strongroom")]
    name: String,
}

pub fn run(command: AzCommand, context: &Context) -> Result<Outcome> {
    match command {
        AzCommand::Env(arguments) => env(&arguments, context),
    }
}

#[derive(Serialize)]
struct EnvDocument {
    url: String,
    authority: PathBuf,
    tenant: String,
    subscription: String,
    app_id: Option<String>,
    secret_file: PathBuf,
    cloud: String,
}

/// What a running service says of itself over its socket, and files of the data directory.
fn env(arguments: &EnvArgs, context: &Context) -> Result<Outcome> {
    // The shell that reads the lines may go elsewhere.
    let data = arguments.data.clone().unwrap_or_else(serve::default_data_directory);
    let data = std::path::absolute(&data).map_err(|e| Error::io(format!("finding {}", data.display()), e))?;
    let parts = directory(&data);
    let url = std::fs::read_to_string(parts.0.join("url")).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            ErrorKind::NotFound,
            format!("no service has been started on {}: start it with `strongroom serve`", data.display()),
        ),
        _ => Error::io(format!("reading {}", parts.0.join("url").display()), e),
    })?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if arguments.name.is_empty() || !arguments.name.chars().all(plain) {
        return Err(Error::invalid("--name takes letters, digits, hyphens, dots and underscores"));
    }
    let catalog = strongroom_catalog::SqliteServiceCatalog::open(&parts.catalog())?;
    let catalog: &dyn strongroom_catalog::ServiceCatalog = &catalog;
    let setting = |name: &str| -> Result<String> {
        let found = catalog.get::<strongroom_catalog::Setting>(name)?;
        Ok(found.and_then(|s| s.value.as_str().map(str::to_owned)).unwrap_or_default())
    };
    let administrator = catalog.first::<strongroom_catalog::Principal>(
        strongroom_catalog::Query::all().eq("name_key", first::NAME),
    )?;
    let document = EnvDocument {
        url: url.trim().to_owned(),
        authority: authority_path(&parts.tls()),
        tenant: setting("tenant")?,
        subscription: setting("subscription")?,
        app_id: administrator.map(|a| a.app_id.to_string()),
        secret_file: first::secret_file(&parts),
        cloud: arguments.name.clone(),
    };
    context.print(&document, || lines(&document))?;
    if let Some(app_id) = &document.app_id {
        context.note(format_args!(
            "az login --service-principal -u {app_id} -p \"$(cat {})\" --tenant {}",
            quoted(&document.secret_file),
            document.tenant
        ));
    }
    Ok(Outcome::Done)
}

fn lines(document: &EnvDocument) -> String {
    let (name, url) = (&document.cloud, &document.url);
    format!(
        "export REQUESTS_CA_BUNDLE={}\n\
         export AZURE_CORE_COLLECT_TELEMETRY=no\n\
         export AZURE_EXTENSION_USE_DYNAMIC_INSTALL=no\n\
         az cloud show -n {name} --only-show-errors -o none 2>/dev/null && \
         az cloud update -n {name} --endpoint-resource-manager {url} --only-show-errors -o none || \
         az cloud register -n {name} --endpoint-resource-manager {url} --only-show-errors -o none\n\
         az cloud set -n {name} --only-show-errors -o none\n",
        quoted(&document.authority)
    )
}

fn quoted(path: &Path) -> String {
    shell_word(&path.display().to_string())
}
