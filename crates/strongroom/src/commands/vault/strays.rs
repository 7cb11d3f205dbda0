//! Stores and keys that no vault has.

use crate::client::{Client, ServiceArgs, segment};
use crate::commands::common::{text, vaults};
use crate::context::{Context, Outcome, to_stderr};
use crate::failure::Result;
use crate::text::table;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use strongroom_engine::{Error, ErrorKind};

#[derive(Debug, Args)]
#[command(after_help = "\
Nothing else deletes a key, ever. Refused while a vault of the catalog has it, while its store is there, and
where that cannot be known: where the vault was not purged here, unless you say that it is gone
(--vault-is-gone). The vault's id is asked for where --id does not give it. Needs the
administrator of the service's host.

Example:
  strongroom vault key delete main --id 0190a1b2-c3d4-4e5f-8a9b-0c1d2e3f4a5b")]
pub struct KeyDeleteArgs {
    /// The vault that is gone: its name or id, or the key's file, as `strongroom vault list --strays` shows them.
    #[arg(value_name = "VAULT")]
    vault: String,
    /// The vault's id, in full.
    #[arg(long, value_name = "UUID")]
    id: Option<String>,
    /// The places for vaults are mounted, or new ones: give them their markers.
    #[arg(long)]
    init_storage: bool,
    /// The vault is gone, also where nothing says where it was.
    #[arg(long)]
    vault_is_gone: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

/// Stores and keys that no vault has, as the API says them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"), default)]
struct StraysDocument {
    stores: Vec<StrayStoreDocument>,
    keys: Vec<StrayKeyDocument>,
    problems: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"), default)]
struct StrayStoreDocument {
    path: String,
    vault_id: Option<String>,
    key_file: Option<String>,
    recovery_points: Option<u64>,
    problem: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"), default)]
struct StrayKeyDocument {
    path: String,
    vault_id: Option<String>,
    vault_name: Option<String>,
    problem: Option<String>,
}

impl StraysDocument {
    fn get(client: &Client) -> Result<Self> {
        let found = client.get(&client.path("/providers/Strongroom.Backup/strays"))?;
        serde_json::from_value(found)
            .map_err(|e| Error::new(ErrorKind::Failed, format!("the answer is not understood: {e}")).into())
    }
}

pub(super) fn strays(client: &Client, context: &Context) -> Result<Outcome> {
    let found = StraysDocument::get(client)?;
    context.print(&found, || {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let stores = found.stores.iter().map(|s| {
            let points = s.recovery_points.map_or_else(|| "-".into(), |n| n.to_string());
            vec!["store".into(), or_dash(&s.vault_id), "-".into(), points, s.path.clone()]
        });
        let keys = found.keys.iter().map(|k| {
            vec!["key".into(), or_dash(&k.vault_id), or_dash(&k.vault_name), "-".into(), k.path.clone()]
        });
        let rows: Vec<Vec<String>> = stores.chain(keys).collect();
        if rows.is_empty() {
            return String::new();
        }
        table(&["WHAT", "VAULT ID", "NAME", ">POINTS", "PATH"], &rows)
    })?;
    for problem in &found.problems {
        context.warn(problem);
    }
    let told = found.stores.iter().map(|s| (&s.path, &s.problem));
    for (path, problem) in told.chain(found.keys.iter().map(|k| (&k.path, &k.problem))) {
        if let Some(problem) = problem {
            context.warn(format_args!("{path}: {problem}"));
        }
    }
    if !context.json {
        context.note(match (found.stores.is_empty(), found.keys.is_empty()) {
            (true, true) => "no stores and no keys without a vault",
            (false, _) => {
                "`strongroom vault import PATH --key-file KEY` brings a store back; nothing removes what is listed here by itself"
            }
            (true, false) => "`strongroom vault key delete` deletes the key of a vault that is gone; nothing else does",
        });
    }
    Ok(Outcome::Done)
}

pub(super) fn key_delete(arguments: &KeyDeleteArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    let found = StraysDocument::get(&client)?.keys;
    let named: Vec<&StrayKeyDocument> = found
        .iter()
        .filter(|k| {
            let path = Path::new(&k.path);
            // The file is called by the id that the catalog had for the vault.
            let file = [path.file_name(), path.file_stem()].map(|n| n.and_then(|n| n.to_str()));
            [k.vault_name.as_deref(), k.vault_id.as_deref(), Some(&k.path)]
                .into_iter()
                .chain(file)
                .flatten()
                .any(|known| known.eq_ignore_ascii_case(&arguments.vault))
        })
        .collect();
    let id = match &arguments.id {
        Some(id) => id.trim().to_lowercase(),
        None if io::stdin().is_terminal() => {
            to_stderr(&"What the vault held can never be read again. Type the vault's id in full:");
            let mut line = String::new();
            io::stdin().read_line(&mut line).map_err(|e| Error::io("reading the vault's id", e))?;
            line.trim().to_lowercase()
        }
        None => {
            return Err(Error::invalid(
                "deleting a key needs the vault's id in full, with --id; nothing was deleted",
            )
            .into());
        }
    };
    let is_it =
        |k: &&StrayKeyDocument| k.vault_id.as_deref().is_some_and(|known| known.eq_ignore_ascii_case(&id));
    if !named.is_empty() && !named.iter().any(is_it) {
        return Err(Error::invalid(format!(
            "`{id}` is not the id of vault `{}`; nothing was deleted. See `strongroom vault list --strays`",
            arguments.vault
        ))
        .into());
    }
    if named.is_empty() {
        // One that the catalog still has, perhaps: the service says why its key stays.
        let is_known = vaults(&client, None)?.iter().any(|v| v.name.eq_ignore_ascii_case(&arguments.vault));
        if !is_known && !arguments.vault.eq_ignore_ascii_case(&id) {
            return Err(Error::not_found(format!(
                "there is no key of a vault `{}` that is gone; see `strongroom vault list --strays`",
                arguments.vault
            ))
            .into());
        }
    }
    if arguments.init_storage {
        client.post(&client.path("/providers/Strongroom.Backup/initStorage"), None)?;
    }
    let is_gone = if arguments.vault_is_gone { "?vaultIsGone=true" } else { "" };
    let path = format!("/providers/Strongroom.Backup/keys/{}{is_gone}", segment(&id));
    let answer = client.delete(&client.path(&path))?;
    let path = text(&answer.body, "/deleted");
    context.print(&json!({ "deleted": path, "vault_id": id }), || format!("deleted: {path}\n"))?;
    Ok(Outcome::Done)
}
