//! What vaults there are, and what is in them.

use super::document::{Named, VaultDocument, document, entries};
use super::strays::strays;
use crate::client::{Client, ServiceArgs};
use crate::commands::common::{items, some_text, text, vaults};
use crate::context::{Context, Outcome};
use crate::failure::{Failure, Result};
use crate::text::{list, size, table, time};
use clap::Args;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault list
  strongroom vault list -g office --json | jq -r '.vaults[].name'
  strongroom vault list --strays")]
pub struct ListArgs {
    /// Of this resource group alone.
    #[arg(short = 'g', long = "resource-group", value_name = "GROUP")]
    group: Option<String>,
    /// Stores and keys on the service's host that no vault has, instead: left by a purged vault, a lost catalog, or a
    /// start that was cut short. Nothing ever removes them by itself.
    #[arg(long, conflicts_with = "group")]
    strays: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault show
  strongroom vault show main --json")]
pub struct ShowArgs {
    #[command(flatten)]
    vault: Named,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The service does so by itself, at its start and daily; `strongroom vault show` shows what it found. Exit
status 1 if anything differs, or the vault cannot be looked at.

Example:
  strongroom vault reconcile main")]
pub struct ReconcileArgs {
    #[command(flatten)]
    vault: Named,
}

pub(super) fn list_vaults(arguments: &ListArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    if arguments.strays {
        return strays(&client, context);
    }
    let found: Vec<VaultDocument> =
        vaults(&client, arguments.group.as_deref())?.iter().map(document).collect();
    context.print(&json!({ "vaults": found }), || {
        if found.is_empty() {
            return String::new();
        }
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|v| {
                vec![
                    v.name.clone(),
                    v.resource_group.clone(),
                    v.location.clone(),
                    v.redundancy.clone(),
                    v.soft_delete.to_lowercase(),
                ]
            })
            .collect();
        table(&["NAME", "GROUP", "LOCATION", "REDUNDANCY", "SOFT DELETE"], &rows)
    })?;
    if found.is_empty() && !context.json {
        context.note("no vaults; make one with `strongroom vault create NAME`");
    }
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct ShowDocument {
    #[serde(flatten)]
    vault: VaultDocument,
    items: usize,
    deleted_items: usize,
    store: Option<StoreDocument>,
    /// Points in it that the catalog does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    unmanaged_points: Option<usize>,
    reconciliation: ReconciliationDocument,
}

/// How vault and catalog compared.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"), default)]
struct ReconciliationDocument {
    /// `Agreed`, `Differs` or `Unknown`.
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    recovery_points: u64,
    missing_points: Vec<String>,
    unlisted_points: Vec<String>,
    unmanaged_points: u64,
    adopted_points: Vec<String>,
    forgotten_points: Vec<String>,
    returned_points: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reclaim_problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purge_problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store_problem: Option<String>,
}

impl ReconciliationDocument {
    fn of(document: Value) -> Self {
        serde_json::from_value(document).unwrap_or_default()
    }

    fn entries(&self) -> Vec<(&'static str, String)> {
        let state = match (self.state.as_str(), &self.problem) {
            ("Agreed", _) => "it agrees".to_owned(),
            ("Differs", _) => "it differs".to_owned(),
            (_, Some(problem)) => problem.clone(),
            _ => "not known".to_owned(),
        };
        let at = self.time.map(|at| format!(" ({})", time(at))).unwrap_or_default();
        let mut entries = vec![("catalog", format!("{state}{at}"))];
        let named = [
            ("missing", &self.missing_points),
            ("not listed", &self.unlisted_points),
            ("adopted", &self.adopted_points),
            ("forgotten", &self.forgotten_points),
            ("found again", &self.returned_points),
        ];
        entries.extend(named.into_iter().filter(|(_, p)| !p.is_empty()).map(|(n, p)| (n, p.join(", "))));
        let problems = [
            ("reclaim", &self.reclaim_problem),
            ("purge", &self.purge_problem),
            ("store", &self.store_problem),
        ];
        entries.extend(problems.into_iter().filter_map(|(n, p)| Some((n, p.clone()?))));
        entries
    }
}

#[derive(Serialize)]
struct StoreDocument {
    location: String,
    id: String,
    stored_bytes: u64,
    recovery_points: u64,
    second_copy: String,
    single_writer: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reclaimed_at: Option<String>,
}

pub(super) fn show(arguments: &ShowArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = arguments.vault.find(&client)?;
    let items = items(&client, &vault)?;
    let deleted = items.iter().filter(|i| i.is_deleted()).count();
    // A store that cannot be reached hides nothing else.
    let store = match client.get(&vault.at("/providers/Strongroom.Backup/store")) {
        Ok(store) => Some(StoreDocument {
            location: text(&store, "/location"),
            id: text(&store, "/storeId"),
            stored_bytes: store["storedBytes"].as_u64().unwrap_or(0),
            recovery_points: store["recoveryPoints"].as_u64().unwrap_or(0),
            second_copy: text(&store, "/secondCopy"),
            single_writer: store["singleWriter"] == true,
            reclaimed_at: some_text(&store, "/reclaimedAt"),
        }),
        Err(error @ Failure::Api(_)) => {
            let Failure::Api(error) = error else { return Err(error) };
            context.warn(format_args!("where its bytes are could not be looked at: {error}"));
            None
        }
        Err(error) => return Err(error),
    };
    let unmanaged_points = match &store {
        Some(_) => Some(client.list(&vault.at("/providers/Strongroom.Backup/unmanagedPoints"), None)?.len()),
        None => None,
    };
    let reconciliation =
        ReconciliationDocument::of(client.get(&vault.at("/providers/Strongroom.Backup/reconciliation"))?);
    let shown = ShowDocument {
        vault: document(&vault),
        items: items.len() - deleted,
        deleted_items: deleted,
        store,
        unmanaged_points,
        reconciliation,
    };
    context.print(&shown, || {
        let mut entries = entries(&shown.vault);
        entries.push(("machines", shown.items.to_string()));
        if shown.deleted_items > 0 {
            entries.push(("deleted", format!("{} can be brought back", shown.deleted_items)));
        }
        if let Some(store) = &shown.store {
            entries.extend([
                ("points", store.recovery_points.to_string()),
                ("stored", size(store.stored_bytes)),
                ("bytes at", store.location.clone()),
                ("second copy", store.second_copy.clone()),
            ]);
            if store.single_writer {
                entries.push(("writers", "one at a time".into()));
            }
        }
        if let Some(unmanaged) = shown.unmanaged_points.filter(|n| *n > 0) {
            entries.push((
                "unmanaged",
                format!("{unmanaged} of the points, see `strongroom point list --unmanaged`"),
            ));
        }
        entries.extend(shown.reconciliation.entries());
        list(&entries)
    })?;
    Ok(Outcome::Done)
}

pub(super) fn reconcile(arguments: &ReconcileArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = arguments.vault.find(&client)?;
    let answer = client.post(&vault.at("/providers/Strongroom.Backup/reconcile"), None)?;
    let shown = ReconciliationDocument::of(answer.body);
    context.print(&shown, || {
        let mut entries = vec![("vault", vault.name.clone()), ("points", shown.recovery_points.to_string())];
        if shown.unmanaged_points > 0 {
            entries.push(("unmanaged", shown.unmanaged_points.to_string()));
        }
        entries.extend(shown.entries());
        list(&entries)
    })?;
    Ok(if shown.state == "Agreed" { Outcome::Done } else { Outcome::Damage })
}
