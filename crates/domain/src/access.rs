//! Who may do what: Azure's built-in roles for backup, the scopes they are assigned on, and the decision.
//!
//! A role is a list of actions with wildcards, less another. Lists are those of Azure's public documentation of built-in roles
//! (July 2026), as far as they concern Recovery Services vaults; the roles' ids are Azure's. Ours differ in:
//!
//! - The backup roles read all of a vault (Azure names what they read one by one), and machines: there are no roles for
//!   machines here, and who backs up must see what.
//! - An operator doesn't remove resource guards: guards are against just this.
//! - A reader's list has no `monitoringAlerts/write` and no `monitoringConfigurations/*`: readers change nothing here.
//! - Stopping protection and giving an item another policy are writes to the item by their path, which operators may make; but
//!   Azure's table of who does what has them for contributors alone. They need the right to delete the item as well:
//!   [`ItemWrite::actions`].
//! - Who restores to, or protects, what a request names beside its path may do so by the backup roles as well as by the
//!   rights to write to it: [`linked`].
//! - Pictures and output of drills are a guest's contents: reading them is an action of its own, [`DRILL_OUTPUT`], which no
//!   reader has.
//!
//! `Strongroom.Backup` is our own namespace: for what Azure has no calls for.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A role that can be assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, and who else may do what.
    Owner,
    /// Everything but who may do what.
    Contributor,
    /// Sees everything, changes nothing.
    Reader,
    /// Everything about backups but deleting vaults.
    BackupContributor,
    /// Backs up and restores; removes nothing, changes no policy.
    BackupOperator,
    /// Sees everything about backups.
    BackupReader,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Owner,
        Self::Contributor,
        Self::Reader,
        Self::BackupContributor,
        Self::BackupOperator,
        Self::BackupReader,
    ];

    /// Azure's name of it: `Backup Operator`.
    pub fn arm_name(self) -> &'static str {
        match self {
            Self::Owner => "Owner",
            Self::Contributor => "Contributor",
            Self::Reader => "Reader",
            Self::BackupContributor => "Backup Contributor",
            Self::BackupOperator => "Backup Operator",
            Self::BackupReader => "Backup Reader",
        }
    }

    /// The id of Azure's built-in role: a GUID.
    pub fn id(self) -> &'static str {
        match self {
            Self::Owner => "8e3af657-a8ff-443c-a75c-2fe8c4bcb635",
            Self::Contributor => "b24988ac-6180-42a0-ab88-20f7382dd24c",
            Self::Reader => "acdd72a7-3385-48ef-bd42-f606fba81ae7",
            Self::BackupContributor => "5e467623-bb1f-42f4-a55d-6e525e11384b",
            Self::BackupOperator => "00c29273-979b-4161-815c-10b084fb9324",
            Self::BackupReader => "a795c7a0-d4a2-40c1-ae25-d81f01202912",
        }
    }

    /// One sentence for whoever chooses.
    pub fn description(self) -> &'static str {
        match self {
            Self::Owner => "Full access to all resources, including who may access them",
            Self::Contributor => "Full access to all resources, but not to who may access them",
            Self::Reader => "Sees all resources, changes nothing",
            Self::BackupContributor => {
                "Manages backups, but neither deletes vaults nor gives access to others"
            }
            Self::BackupOperator => {
                "Backs up and restores, but neither removes backups, nor creates vaults, nor gives access to others"
            }
            Self::BackupReader => "Sees vaults and backups, changes nothing",
        }
    }

    /// Reads a role as a user gives it: by name, with spaces, hyphens or neither, in any case, or by id.
    ///
    /// ```
    /// use strongroom_domain::access::Role;
    /// assert_eq!(Role::parse("backup-operator"), Some(Role::BackupOperator));
    /// assert_eq!(Role::parse("Backup Operator"), Some(Role::BackupOperator));
    /// assert_eq!(Role::parse("00C29273-979b-4161-815c-10b084fb9324"), Some(Role::BackupOperator));
    /// assert_eq!(Role::parse("root"), None);
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |text: &str| {
            text.chars()
                .filter(|c| !matches!(c, ' ' | '-' | '_'))
                .map(|c| c.to_ascii_lowercase())
                .collect::<String>()
        };
        let wanted = plain(text);
        Self::ALL.into_iter().find(|role| plain(role.arm_name()) == wanted || plain(role.id()) == wanted)
    }

    /// The actions it allows, with wildcards.
    pub fn actions(self) -> &'static [&'static str] {
        match self {
            Self::Owner | Self::Contributor => &["*"],
            Self::Reader => &["*/read"],
            Self::BackupContributor => BACKUP_CONTRIBUTOR,
            Self::BackupOperator => BACKUP_OPERATOR,
            Self::BackupReader => BACKUP_READER,
        }
    }

    /// What of these it does not.
    pub fn not_actions(self) -> &'static [&'static str] {
        match self {
            Self::Contributor => &[
                "Microsoft.Authorization/*/Delete",
                "Microsoft.Authorization/*/Write",
                "Microsoft.Authorization/elevateAccess/Action",
                "Strongroom.Backup/principals/write",
                "Strongroom.Backup/principals/delete",
                "Strongroom.Backup/principals/*/action",
            ],
            _ => &[],
        }
    }

    /// Whether it allows an action, in any case.
    pub fn allows(self, action: &str) -> bool {
        let any = |patterns: &[&str]| patterns.iter().any(|pattern| matches(pattern, action));
        any(self.actions()) && !any(self.not_actions())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.arm_name())
    }
}

/// What is done by writing to a protected item's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemWrite {
    /// Protecting a machine, or changing its protection.
    Protect,
    /// Other disks.
    ChangeDisks,
    /// Another policy, also by resuming: the points that it keeps less long will go.
    ChangePolicy,
    /// Stop or suspend.
    Stop,
    /// Bringing back what was deleted softly.
    Undelete,
}

const ITEM_WRITE: &str =
    "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/write";
const ITEM_DELETE: &str =
    "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/delete";
const ITEM_RESTORE: &str = "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/restore/action";

impl ItemWrite {
    /// The actions that are needed for it, all of them.
    pub fn actions(self) -> &'static [&'static str] {
        match self {
            Self::Protect | Self::ChangeDisks | Self::Undelete => &[ITEM_WRITE],
            Self::ChangePolicy | Self::Stop => &[ITEM_WRITE, ITEM_DELETE],
        }
    }
}

/// To see what a drill saw inside a machine: its screen, and what a check printed. No `read`: those are for readers.
pub const DRILL_OUTPUT: &str = "Strongroom.Backup/vaults/drills/output/action";

/// What is needed over a resource that a request names beside the one of its path: one action of these, whichever the caller
/// has. The first is the one that Azure asks for, and refusals name. To restore somewhere, or to protect a machine, a backup
/// role over that place or machine is enough: here is no role that writes to machines and nothing else.
pub mod linked {
    use super::{ITEM_RESTORE, ITEM_WRITE};

    /// To restore into a resource group.
    pub const TARGET_GROUP: &[&str] =
        &["Microsoft.Resources/subscriptions/resourceGroups/write", ITEM_RESTORE];
    /// To restore disks to a storage account, or a machine's disks.
    pub const TARGET_ACCOUNT: &[&str] = &["Microsoft.Storage/storageAccounts/write", ITEM_RESTORE];
    /// To connect a restored machine to a network, or to a subnet of it.
    pub const TARGET_NETWORK: &[&str] =
        &["Microsoft.Network/virtualNetworks/subnets/join/action", ITEM_RESTORE];
    /// To make a machine of a recovery point, or to replace a machine's disks.
    pub const TARGET_MACHINE: &[&str] = &["Microsoft.Compute/virtualMachines/write", ITEM_RESTORE];
    /// To copy a machine into a vault.
    pub const PROTECTED_MACHINE: &[&str] = &["Microsoft.Compute/virtualMachines/write", ITEM_WRITE];
    /// To run a command inside a machine, or inside a copy of it. No backup role has it.
    pub const COMMANDED_MACHINE: &[&str] = &["Microsoft.Compute/virtualMachines/runCommand/action"];
    /// To put a machine into another resource group.
    pub const PLACED_MACHINE: &[&str] = &["Microsoft.Compute/virtualMachines/write"];
    /// To give a vault a user-assigned identity.
    pub const IDENTITY: &[&str] = &["Microsoft.ManagedIdentity/userAssignedIdentities/assign/action"];
    /// To see a machine.
    pub const READ_MACHINE: &[&str] = &["Microsoft.Compute/virtualMachines/read"];
    /// To see a vault.
    pub const READ_VAULT: &[&str] = &["Microsoft.RecoveryServices/Vaults/read"];
    /// To see a policy.
    pub const READ_POLICY: &[&str] = &["Microsoft.RecoveryServices/Vaults/backupPolicies/read"];
    /// To see a point.
    pub const READ_POINT: &[&str] = &[
        "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/read",
    ];
}

/// Where a role holds: a path, and all below it. `/` is everywhere. Segments match whole and in any case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Scope {
    path: String,
}

impl Scope {
    /// Everywhere.
    pub fn root() -> Self {
        Self { path: "/".to_owned() }
    }

    /// A resource's path, or a subscription's or a group's. Empty segments are dropped.
    pub fn new(path: &str) -> Self {
        let segments: Vec<&str> = segments(path).collect();
        Self { path: format!("/{}", segments.join("/")) }
    }

    /// As ids begin.
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// Whether `resource` is this or below it. A path with `.` or `..` in it is below nothing but everything.
    ///
    /// ```
    /// use strongroom_domain::access::Scope;
    /// let group = Scope::new("/subscriptions/s/resourceGroups/rg1");
    /// assert!(group.contains("/Subscriptions/S/resourcegroups/RG1/providers/Microsoft.RecoveryServices/vaults/v1"));
    /// assert!(!group.contains("/subscriptions/s/resourceGroups/rg10"));
    /// assert!(!group.contains("/subscriptions/s"));
    /// ```
    pub fn contains(&self, resource: &str) -> bool {
        let mut below = segments(resource);
        let within = segments(&self.path)
            .all(|segment| below.next().is_some_and(|other| other.to_lowercase() == segment.to_lowercase()));
        within && (self.path == "/" || !segments(resource).any(|segment| matches!(segment, "." | "..")))
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

impl From<String> for Scope {
    fn from(path: String) -> Self {
        Self::new(&path)
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> String {
        scope.path
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// A role on a scope: what a principal has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// What may be done.
    pub role: Role,
    /// Where.
    pub scope: Scope,
}

/// Whether any of a principal's assignments allows `action` on `resource`, a path. What one denies another may allow.
pub fn is_allowed<'a>(
    assignments: impl IntoIterator<Item = &'a Assignment>,
    action: &str,
    resource: &str,
) -> bool {
    assignments
        .into_iter()
        .any(|assignment| assignment.role.allows(action) && assignment.scope.contains(resource))
}

/// Whether an action matches a pattern: `*` stands for any text, also over segments; letters in any case.
fn matches(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.as_bytes(), action.as_bytes());
    let (mut p, mut a) = (0, 0);
    // Where the last star was, and how far it has eaten: on a mismatch it eats one more.
    let mut star: Option<(usize, usize)> = None;
    while a < action.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, a));
                p += 1;
            }
            Some(c) if c.eq_ignore_ascii_case(&action[a]) => {
                p += 1;
                a += 1;
            }
            _ => match star {
                Some((at, eaten)) => {
                    star = Some((at, eaten + 1));
                    p = at + 1;
                    a = eaten + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

static BACKUP_CONTRIBUTOR: &[&str] = &[
    "Microsoft.Authorization/*/read",
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Compute/disks/read",
    "Microsoft.Network/virtualNetworks/read",
    "Microsoft.Network/virtualNetworks/subnets/read",
    "Microsoft.RecoveryServices/locations/*",
    "Microsoft.RecoveryServices/operations/read",
    "Microsoft.RecoveryServices/Vaults/*/read",
    "Microsoft.RecoveryServices/Vaults/read",
    "Microsoft.RecoveryServices/Vaults/write",
    "Microsoft.RecoveryServices/Vaults/backupFabrics/backupProtectionIntent/*",
    "Microsoft.RecoveryServices/Vaults/backupFabrics/operationResults/*",
    "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/*",
    "Microsoft.RecoveryServices/Vaults/backupFabrics/refreshContainers/action",
    "Microsoft.RecoveryServices/Vaults/backupJobs/*",
    "Microsoft.RecoveryServices/Vaults/backupJobsExport/action",
    "Microsoft.RecoveryServices/Vaults/backupOperationResults/*",
    "Microsoft.RecoveryServices/Vaults/backupPolicies/*",
    "Microsoft.RecoveryServices/Vaults/backupProtectableItems/*",
    "Microsoft.RecoveryServices/Vaults/backupProtectedItems/*",
    "Microsoft.RecoveryServices/Vaults/backupProtectionContainers/*",
    "Microsoft.RecoveryServices/Vaults/backupResourceGuardProxies/delete",
    "Microsoft.RecoveryServices/Vaults/backupResourceGuardProxies/unlockDelete/action",
    "Microsoft.RecoveryServices/Vaults/backupResourceGuardProxies/write",
    "Microsoft.RecoveryServices/Vaults/backupSecurityPIN/*",
    "Microsoft.RecoveryServices/Vaults/backupTriggerValidateOperation/action",
    "Microsoft.RecoveryServices/Vaults/backupValidateOperation/action",
    "Microsoft.RecoveryServices/Vaults/backupconfig/*",
    "Microsoft.RecoveryServices/Vaults/backupstorageconfig/*",
    "Microsoft.RecoveryServices/Vaults/certificates/*",
    "Microsoft.RecoveryServices/Vaults/extendedInformation/*",
    "Microsoft.RecoveryServices/Vaults/monitoringAlerts/write",
    "Microsoft.RecoveryServices/Vaults/monitoringConfigurations/*",
    "Microsoft.RecoveryServices/Vaults/registeredIdentities/*",
    "Microsoft.RecoveryServices/Vaults/usages/*",
    "Microsoft.Resources/deployments/*",
    "Microsoft.Resources/subscriptions/resourceGroups/read",
    "Microsoft.Storage/storageAccounts/read",
    "Microsoft.Support/*",
    "Strongroom.Backup/*/read",
    "Strongroom.Backup/vaults/*",
];

static BACKUP_OPERATOR: &[&str] = &[
    "Microsoft.Authorization/*/read",
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Compute/disks/read",
    "Microsoft.Network/virtualNetworks/read",
    "Microsoft.Network/virtualNetworks/subnets/read",
    "Microsoft.RecoveryServices/locations/backupCrossRegionRestore/action",
    "Microsoft.RecoveryServices/locations/backupCrrJob/action",
    "Microsoft.RecoveryServices/locations/backupCrrJobs/action",
    "Microsoft.RecoveryServices/locations/backupPreValidateProtection/action",
    "Microsoft.RecoveryServices/locations/backupStatus/action",
    "Microsoft.RecoveryServices/locations/backupValidateFeatures/action",
    "Microsoft.RecoveryServices/locations/*/read",
    "Microsoft.RecoveryServices/operations/read",
    "Microsoft.RecoveryServices/Vaults/*/read",
    "Microsoft.RecoveryServices/Vaults/read",
    "Microsoft.RecoveryServices/Vaults/backupFabrics/backupProtectionIntent/write",
    "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/inquire/action",
    "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/backup/action",
    "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/accessToken/action",
    "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/provisionInstantItemRecovery/action",
    "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/restore/action",
    "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/revokeInstantItemRecovery/action",
    "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/write",
    "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/write",
    "Microsoft.RecoveryServices/Vaults/backupFabrics/refreshContainers/action",
    "Microsoft.RecoveryServices/Vaults/backupJobs/*",
    "Microsoft.RecoveryServices/Vaults/backupJobsExport/action",
    "Microsoft.RecoveryServices/Vaults/backupOperationResults/*",
    "Microsoft.RecoveryServices/Vaults/backupProtectableItems/*",
    "Microsoft.RecoveryServices/Vaults/backupTriggerValidateOperation/action",
    "Microsoft.RecoveryServices/Vaults/backupValidateOperation/action",
    "Microsoft.RecoveryServices/Vaults/backupstorageconfig/*",
    "Microsoft.RecoveryServices/Vaults/certificates/write",
    "Microsoft.RecoveryServices/Vaults/extendedInformation/write",
    "Microsoft.RecoveryServices/Vaults/monitoringAlerts/write",
    "Microsoft.RecoveryServices/Vaults/monitoringConfigurations/*",
    "Microsoft.RecoveryServices/Vaults/registeredIdentities/write",
    "Microsoft.Resources/deployments/*",
    "Microsoft.Resources/subscriptions/resourceGroups/read",
    "Microsoft.Storage/storageAccounts/read",
    "Microsoft.Support/*",
    "Strongroom.Backup/*/read",
    "Strongroom.Backup/vaults/check/action",
    "Strongroom.Backup/vaults/drills/action",
    DRILL_OUTPUT,
];

static BACKUP_READER: &[&str] = &[
    "Microsoft.Authorization/*/read",
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Compute/disks/read",
    "Microsoft.RecoveryServices/locations/backupCrrJob/action",
    "Microsoft.RecoveryServices/locations/backupCrrJobs/action",
    "Microsoft.RecoveryServices/locations/backupStatus/action",
    "Microsoft.RecoveryServices/locations/backupValidateFeatures/action",
    "Microsoft.RecoveryServices/locations/*/read",
    "Microsoft.RecoveryServices/operations/read",
    "Microsoft.RecoveryServices/Vaults/*/read",
    "Microsoft.RecoveryServices/Vaults/read",
    "Microsoft.RecoveryServices/Vaults/backupJobsExport/action",
    "Microsoft.Resources/subscriptions/resourceGroups/read",
    "Strongroom.Backup/*/read",
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ITEM: &str = "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems";
    const VAULT: &str = "Microsoft.RecoveryServices/vaults";

    #[test]
    fn operators_back_up_and_restore_and_remove_nothing() {
        let may = |action: String| Role::BackupOperator.allows(&action);
        for action in
            ["write", "read", "backup/action", "recoveryPoints/read", "recoveryPoints/restore/action"]
        {
            assert!(may(format!("{ITEM}/{action}")), "{action}");
        }
        assert!(may(format!("{VAULT}/backupJobs/cancel/action")));
        assert!(may(format!("{VAULT}/backupFabrics/refreshContainers/action")));
        for action in [
            "delete",
            "write",
            "backupPolicies/write",
            "backupPolicies/delete",
            "backupconfig/write",
            "backupconfig/vaultconfig/write",
            "backupSecurityPIN/action",
            "backupResourceGuardProxies/delete",
            "backupEncryptionConfigs/write",
        ] {
            assert!(!may(format!("{VAULT}/{action}")), "{action}");
        }
        assert!(!may(format!("{ITEM}/delete")));
        assert!(!may(format!("{ITEM}/recoveryPoints/delete")));
        assert!(!may("Microsoft.Authorization/roleAssignments/write".to_owned()));
        let all = |what: ItemWrite, role: Role| what.actions().iter().all(|action| role.allows(action));
        for what in [ItemWrite::Stop, ItemWrite::ChangePolicy] {
            assert!(!all(what, Role::BackupOperator) && all(what, Role::BackupContributor), "{what:?}");
        }
        assert!(
            all(ItemWrite::Protect, Role::BackupOperator) && !all(ItemWrite::Protect, Role::BackupReader)
        );
    }

    #[test]
    fn no_role_below_contributor_deletes_vaults_or_gives_access() {
        for role in [Role::BackupContributor, Role::BackupOperator, Role::BackupReader, Role::Reader] {
            assert!(!role.allows(&format!("{VAULT}/delete")), "{role}");
            assert!(!role.allows("Microsoft.Authorization/roleAssignments/write"), "{role}");
            assert!(!role.allows("Strongroom.Backup/principals/write"), "{role}");
            assert!(!role.allows("Microsoft.Compute/virtualMachines/delete"), "{role}");
            assert!(role.allows(&format!("{ITEM}/recoveryPoints/read")), "{role}");
            assert!(role.allows(&format!("{VAULT}/backupPolicies/read")), "{role}");
        }
        assert!(Role::BackupContributor.allows(&format!("{VAULT}/backupPolicies/write")));
        assert!(Role::BackupContributor.allows(&format!("{ITEM}/delete")));
        assert!(Role::Contributor.allows(&format!("{VAULT}/delete")));
        assert!(!Role::Contributor.allows("Microsoft.Authorization/roleAssignments/write"));
        assert!(!Role::Contributor.allows("strongroom.backup/PRINCIPALS/write"));
        assert!(Role::Owner.allows("Microsoft.Authorization/roleAssignments/write"));
    }

    #[test]
    fn readers_change_nothing() {
        for role in [Role::Reader, Role::BackupReader] {
            for action in role.actions() {
                let reads = action.ends_with("/read");
                // Questions that are asked by POST.
                let asks = [
                    "backupCrrJob",
                    "backupCrrJobs",
                    "backupStatus",
                    "backupValidateFeatures",
                    "backupJobsExport",
                ]
                .iter()
                .any(|what| action.ends_with(&format!("/{what}/action")));
                assert!(reads || asks, "{role}: {action}");
            }
        }
    }

    #[test]
    fn readers_see_nothing_of_a_guest_and_backup_roles_run_nothing_in_it() {
        use Role::{BackupContributor, BackupOperator, BackupReader, Contributor, Owner, Reader};
        let may = |actions: &[&str]| -> Vec<Role> {
            Role::ALL.into_iter().filter(|role| actions.iter().any(|action| role.allows(action))).collect()
        };
        assert_eq!(may(&[DRILL_OUTPUT]), [Owner, Contributor, BackupContributor, BackupOperator]);
        assert_eq!(may(linked::COMMANDED_MACHINE), [Owner, Contributor]);
        for actions in [
            linked::TARGET_GROUP,
            linked::TARGET_ACCOUNT,
            linked::TARGET_NETWORK,
            linked::TARGET_MACHINE,
            linked::PROTECTED_MACHINE,
        ] {
            assert_eq!(may(actions), [Owner, Contributor, BackupContributor, BackupOperator], "{actions:?}");
            assert_eq!(may(&actions[..1]), [Owner, Contributor], "{actions:?}");
        }
        assert_eq!(
            may(linked::READ_MACHINE),
            [Owner, Contributor, Reader, BackupContributor, BackupOperator, BackupReader]
        );
    }

    #[test]
    fn assignments_hold_below_their_scope() {
        let vault = "/subscriptions/s/resourceGroups/rg1/providers/Microsoft.RecoveryServices/vaults/v1";
        let assigned = [
            Assignment { role: Role::BackupReader, scope: Scope::new("/subscriptions/s") },
            Assignment { role: Role::BackupOperator, scope: Scope::new(&format!("{vault}/")) },
        ];
        let item = format!("{vault}/backupFabrics/Azure/protectionContainers/c/protectedItems/i");
        assert!(is_allowed(&assigned, &format!("{ITEM}/write"), &item));
        assert!(is_allowed(&assigned, &format!("{ITEM}/WRITE"), &item.to_uppercase()));
        let other = item.replace("v1", "v12");
        assert!(!is_allowed(&assigned, &format!("{ITEM}/write"), &other));
        assert!(is_allowed(&assigned, &format!("{ITEM}/read"), &other));
        assert!(!is_allowed(&assigned, &format!("{ITEM}/read"), "/subscriptions/other"));
        assert!(!is_allowed(&[], &format!("{ITEM}/read"), &other));
        let sneaky = format!("{vault}/../v2");
        assert!(!is_allowed(&assigned[1..], &format!("{ITEM}/write"), &sneaky));
        assert!(Scope::root().contains("/") && Scope::root().contains(&sneaky));
        assert!(!Scope::new("/subscriptions/s").contains("/"));
    }

    #[test]
    fn roles_are_read_back() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.arm_name()), Some(role));
            assert_eq!(Role::parse(role.id()), Some(role));
            let json = serde_json::to_string(&role).unwrap();
            assert_eq!(serde_json::from_str::<Role>(&json).unwrap(), role);
        }
        let json = r#"{"role":"backup_operator","scope":"subscriptions/s/"}"#;
        let read: Assignment = serde_json::from_str(json).unwrap();
        assert_eq!(read.scope.as_str(), "/subscriptions/s");
    }

    /// Wildcards the slow way.
    fn slow(pattern: &[u8], action: &[u8]) -> bool {
        match pattern.split_first() {
            None => action.is_empty(),
            Some((b'*', rest)) => (0..=action.len()).any(|eaten| slow(rest, &action[eaten..])),
            Some((c, rest)) => {
                action.first().is_some_and(|a| a.eq_ignore_ascii_case(c)) && slow(rest, &action[1..])
            }
        }
    }

    proptest! {
        #[test]
        fn wildcards_match_as_a_slow_model_says(pattern in "[aB/*]{0,8}", action in "[Ab/]{0,10}") {
            prop_assert_eq!(matches(&pattern, &action), slow(pattern.as_bytes(), action.as_bytes()));
        }
    }
}
