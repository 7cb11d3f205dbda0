//! What Azure backs up: of all its kinds this server has machines. Lists that are asked for another kind have nothing of
//! it; what is no kind of Azure's is refused, for it would find nothing either.

use super::answer::Answer;
use super::lists::{by_shown_name, page};
use super::refused::not_available;
use crate::odata::{Equalities, FilterError};
use crate::{ArmError, Request};
use serde_json::Value;
use strongroom_domain::Datasource;

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

/// What Azure calls a kind of thing, its items and the jobs about it.
pub struct Labels {
    /// `backupManagementType`
    pub management: &'static str,
    /// `workloadType`
    pub workload: &'static str,
    /// `protectedItemType`
    pub item: &'static str,
    /// `jobType`
    pub job: &'static str,
}

/// Azure's names for what rows know as facts.
pub fn labels(datasource: Datasource) -> Labels {
    match datasource {
        Datasource::Machine => Labels {
            management: "AzureIaasVM",
            workload: "VM",
            item: "Microsoft.Compute/virtualMachines",
            job: "AzureIaaSVMJob",
        },
        Datasource::Database => Labels {
            management: "AzureWorkload",
            workload: "SQLDataBase",
            item: "AzureVmWorkloadSQLDatabase",
            job: "AzureWorkloadJob",
        },
        Datasource::Files => Labels {
            management: "MAB",
            workload: "FileFolder",
            item: "MabFileFolderProtectedItem",
            job: "MabJob",
        },
    }
}

/// Refuses a request about anything but a machine, told by a field for which machines have these names, if it is given.
pub fn check_is_machine(kind: Option<&str>, names: &[&str]) -> Result<(), ArmError> {
    match kind {
        Some(kind) if !names.iter().any(|name| kind.eq_ignore_ascii_case(name)) => {
            Err(not_available("Protecting anything but virtual machines"))
        }
        _ => Ok(()),
    }
}

/// The same, of a `resourceType`.
pub fn check_resource_type(kind: Option<&str>) -> Result<(), ArmError> {
    check_is_machine(kind, &[labels(Datasource::Machine).workload])
}

/// Which kinds of things a list is asked for, by whichever of these names its filter has.
pub struct Kinds {
    management: Option<&'static str>,
    workloads: Vec<&'static str>,
}

impl Kinds {
    /// Those of a filter; without one of the names: all. A value that is no kind of Azure's is refused.
    pub fn wanted(filter: &Equalities) -> Result<Self, FilterError> {
        let management = filter.one_of("backupManagementType", &MANAGEMENT_TYPES)?;
        let mut workloads = Vec::new();
        for name in ["workloadType", "itemType", "workloadItemType"] {
            workloads.extend(filter.one_of(name, &WORKLOADS)?);
        }
        Ok(Self { management, workloads })
    }

    /// Those of them that there may be here; none: whatever is asked for, there is nothing of it.
    pub fn datasources(&self) -> Vec<Datasource> {
        Datasource::ALL.into_iter().filter(|d| self.take(*d)).collect()
    }

    /// Whether these things are among them.
    pub fn take(&self, datasource: Datasource) -> bool {
        let labels = labels(datasource);
        self.management.is_none_or(|wanted| wanted == labels.management)
            && self.workloads.iter().all(|wanted| [labels.workload, labels.item].contains(wanted))
    }
}

/// A list that has nothing whatever it is filtered by.
pub fn nothing(request: &Request, known: &[&str]) -> Answer {
    if let Some(filter) = request.filter()? {
        let kinds = filter.equalities(known).and_then(|wanted| Kinds::wanted(&wanted).map(drop));
        kinds.map_err(|e| ArmError::invalid_filter(filter.source(), e))?;
    }
    page(request, Vec::<Value>::new(), 500, by_shown_name, Value::clone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::odata::Filter;

    /// What is shown can be asked for, and finds that kind alone.
    #[test]
    fn every_kind_is_found_by_its_labels_and_no_other_is() {
        for datasource in Datasource::ALL {
            let Labels { management, workload, .. } = labels(datasource);
            assert!(MANAGEMENT_TYPES.contains(&management) && WORKLOADS.contains(&workload));
            for text in [
                format!("backupManagementType eq '{management}'"),
                format!("itemType eq '{workload}'"),
                format!("backupManagementType eq '{management}' and workloadType eq '{workload}'"),
            ] {
                let filter = Filter::parse(&text).unwrap();
                let by = filter.equalities(&["backupManagementType", "itemType", "workloadType"]).unwrap();
                let kinds = Kinds::wanted(&by).unwrap();
                assert_eq!(kinds.datasources(), [datasource], "{text}");
            }
        }
    }
}
