//! What Azure backs up: of all its kinds this server has machines. Lists that are asked for another kind have nothing of
//! it; what is no kind of Azure's is refused, for it would find nothing either.

use super::answer::Answer;
use super::lists::{by_shown_name, page};
use crate::odata::{Equalities, FilterError};
use crate::{ArmError, Request};
use serde_json::Value;

pub const MANAGEMENT_TYPES: [&str; 8] = [
    "AzureIaasVM",
    "MAB",
    "DPM",
    "AzureBackupServer",
    "AzureSql",
    "AzureStorage",
    "AzureWorkload",
    "DefaultBackup",
];

/// Kinds of items, workloads and protectable items together: clients use them for each other.
pub const WORKLOADS: [&str; 23] = [
    "VM",
    "Microsoft.Compute/virtualMachines",
    "FileFolder",
    "AzureSqlDb",
    "SQLDB",
    "Exchange",
    "Sharepoint",
    "VMwareVM",
    "SystemState",
    "Client",
    "GenericDataSource",
    "SQLDataBase",
    "SQLInstance",
    "SQLAG",
    "MSSQL",
    "AzureFileShare",
    "SAPHANA",
    "SAPHanaSystem",
    "SAPHanaDatabase",
    "SAPHanaDBInstance",
    "SAPASE",
    "SAPAseSystem",
    "SAPAseDatabase",
];

/// Whether a list of machines is asked for, by whichever of these names its filter has.
pub fn is_for_machines(wanted: &Equalities) -> Result<bool, FilterError> {
    let kind = wanted.one_of("backupManagementType", &MANAGEMENT_TYPES)?;
    let mut is = kind.is_none_or(|kind| kind == MANAGEMENT_TYPES[0]);
    for name in ["workloadType", "itemType", "workloadItemType"] {
        is &= wanted.one_of(name, &WORKLOADS)?.is_none_or(|kind| WORKLOADS[..2].contains(&kind));
    }
    Ok(is)
}

/// A list that has nothing whatever it is filtered by.
pub fn nothing(request: &Request, known: &[&str]) -> Answer {
    if let Some(filter) = request.filter()? {
        filter
            .equalities(known)
            .and_then(|wanted| is_for_machines(&wanted))
            .map_err(|e| ArmError::invalid_filter(filter.source(), e))?;
    }
    page(request, Vec::<Value>::new(), 500, by_shown_name, Value::clone)
}
