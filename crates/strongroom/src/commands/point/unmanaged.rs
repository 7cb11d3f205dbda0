//! Points that the catalog does not know.

use crate::client::{Client, segment};
use crate::commands::common::{InVault, Vault, find_vault, or_dash, shown_time, some_text, some_time, text};
use crate::context::{Context, Outcome};
use crate::failure::Result;
use crate::text::{list, size, table};
use clap::{ArgGroup, Args};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

#[derive(Debug, Args)]
#[command(after_help = "\
It comes to the item of its machine; where there is none, a new one is made whose protection is
stopped. A point that a schedule made is kept by the item's policy from then on. One that was made with
a date, as by --keep-until, is kept until that. Any other was promised nothing, and never goes by itself:
those of `rescue vm backup` without --keep-until, too. Points of images cannot be adopted.

Example:
  strongroom point adopt 0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b --vault main")]
pub struct AdoptArgs {
    /// The point's id, as `strongroom point list --unmanaged` shows it.
    point: String,
    #[command(flatten)]
    vault: InVault,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["unmanaged", "missing"]))]
#[command(after_help = "\
Nothing is asked. With --unmanaged the point is gone at once, and its space is given back later. With
--missing the vault has lost the point already (see `strongroom vault show`): the loss is accepted.

Examples:
  strongroom point forget 0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b --unmanaged --vault main
  strongroom point forget 0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b --missing")]
pub struct ForgetArgs {
    /// The point's id.
    point: String,
    /// It is in the vault, and the catalog does not know it.
    #[arg(long)]
    unmanaged: bool,
    /// It is in the catalog, and missing in the vault.
    #[arg(long)]
    missing: bool,
    #[command(flatten)]
    vault: InVault,
}

/// A point that the catalog does not know.
#[derive(Debug, Serialize)]
struct UnmanagedDocument {
    point: String,
    vault: String,
    item: String,
    /// `machine` or `image`; empty where it cannot be read.
    kind: String,
    taken_at: Option<Timestamp>,
    size_bytes: u64,
    stored_bytes: u64,
    can_be_adopted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl UnmanagedDocument {
    fn of(document: &Value, vault: &Vault) -> Self {
        let number = |name: &str| document["properties"][name].as_u64().unwrap_or(0);
        Self {
            point: text(document, "/name"),
            vault: vault.name.clone(),
            item: text(document, "/properties/item"),
            kind: text(document, "/properties/kind"),
            taken_at: some_time(document, "/properties/recoveryPointTime"),
            size_bytes: number("sizeBytes"),
            stored_bytes: number("storedBytes"),
            can_be_adopted: document["properties"]["canBeAdopted"].as_bool().unwrap_or(false),
            problem: some_text(document, "/properties/problem"),
        }
    }
}

const UNMANAGED: &str = "/providers/Strongroom.Backup/unmanagedPoints";

pub(super) fn list_unmanaged(client: &Client, vault: &Vault, context: &Context) -> Result<Outcome> {
    let found: Vec<UnmanagedDocument> =
        client.list(&vault.at(UNMANAGED), None)?.iter().map(|p| UnmanagedDocument::of(p, vault)).collect();
    context.print(&json!({ "unmanaged": found }), || {
        if found.is_empty() {
            return String::new();
        }
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|p| {
                vec![
                    or_dash(&p.point),
                    or_dash(&p.item),
                    or_dash(&p.kind),
                    shown_time(p.taken_at),
                    size(p.size_bytes),
                    size(p.stored_bytes),
                ]
            })
            .collect();
        table(&["POINT", "ITEM", "KIND", "TAKEN", ">SIZE", ">STORED"], &rows)
    })?;
    for point in &found {
        if let Some(problem) = &point.problem {
            context.warn(format_args!("a point cannot be read: {problem}"));
        }
    }
    if !context.json {
        context.note(match found.is_empty() {
            true => format!("vault {} has no points that the catalog does not know", vault.name),
            false => "`strongroom point adopt` tells the catalog of one; `strongroom point forget --unmanaged` removes it".into(),
        });
    }
    Ok(Outcome::Done)
}

pub(super) fn adopt(arguments: &AdoptArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = find_vault(&client, &arguments.vault)?;
    let path = vault.at(&format!("{UNMANAGED}/{}/adopt", segment(&arguments.point)));
    let answer = client.post(&path, None)?.body;
    let (machine, point) = (text(&answer, "/machine"), text(&answer, "/recoveryPoint"));
    let shown =
        json!({ "machine": machine, "point": point, "vault": vault.name, "id": text(&answer, "/id") });
    context.print(&shown, || {
        list(&[("adopted", point.clone()), ("machine", machine.clone()), ("vault", vault.name.clone())])
    })?;
    Ok(Outcome::Done)
}

pub(super) fn forget(arguments: &ForgetArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = find_vault(&client, &arguments.vault)?;
    let kind = if arguments.missing { "/providers/Strongroom.Backup/missingPoints" } else { UNMANAGED };
    client.delete(&vault.at(&format!("{kind}/{}", segment(&arguments.point))))?;
    let shown = json!({ "forgotten": arguments.point, "vault": vault.name });
    context.print(&shown, || format!("forgotten: {} of vault {}\n", arguments.point, vault.name))?;
    Ok(Outcome::Done)
}
