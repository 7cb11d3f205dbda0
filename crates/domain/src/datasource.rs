//! What can be protected.

use serde::{Deserialize, Serialize};

/// What kind of thing an item is, a job is about, and a policy is for. Rows and vaults keep it by these names; what Azure's clients
/// are told of it, the API says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Datasource {
    /// A virtual machine, with all its disks or some of them.
    #[default]
    Machine,
    /// A database server's data, apart from the machine that it runs on.
    Database,
    /// Folders of a computer.
    Files,
}

impl Datasource {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Machine, Self::Database, Self::Files];

    /// The name that rows and vaults keep.
    pub fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Database => "database",
            Self::Files => "files",
        }
    }

    /// Whether its points can be started as machines: drilled, and restored at once.
    pub fn boots(self) -> bool {
        self == Self::Machine
    }

    /// Whether its backups leave something in a machine's disks that tells them what changed, and that is to go with the last one.
    pub fn is_tracked_in_machine(self) -> bool {
        self == Self::Machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows and vaults have these names: they stay.
    #[test]
    fn names_that_rows_keep() {
        for datasource in Datasource::ALL {
            let name = serde_json::to_value(datasource).unwrap();
            assert_eq!(name, datasource.name());
            assert_eq!(serde_json::from_value::<Datasource>(name).unwrap(), datasource);
        }
        assert_eq!(Datasource::ALL.map(Datasource::name), ["machine", "database", "files"]);
        // A word of a later version is nothing else by mistake.
        assert!(serde_json::from_value::<Datasource>("blobs".into()).is_err());
    }
}
