//! The tables, and the columns that rows are found by.

/// The tables there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// What the service remembers under a name.
    Settings,
    /// Who may sign in.
    Principals,
    /// What they may do, and where.
    RoleAssignments,
    /// What tokens are signed with.
    SigningKeys,
    /// Groups that vaults and machines are named under.
    ResourceGroups,
    /// Also those that were deleted and not purged yet.
    Vaults,
    /// The vaults' policies.
    Policies,
    /// Those that were discovered, also such as are gone.
    Machines,
    /// Machines that are, or were, protected in a vault.
    Items,
    /// The items' points.
    RecoveryPoints,
    /// Those that go on and those that are over.
    Jobs,
    /// What clients follow.
    Operations,
    /// What was done, and by whom.
    Audit,
}

impl Table {
    /// As the database calls it, and as messages do.
    pub fn name(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Principals => "principals",
            Self::RoleAssignments => "role_assignments",
            Self::SigningKeys => "signing_keys",
            Self::ResourceGroups => "resource_groups",
            Self::Vaults => "vaults",
            Self::Policies => "policies",
            Self::Machines => "machines",
            Self::Items => "items",
            Self::RecoveryPoints => "recovery_points",
            Self::Jobs => "jobs",
            Self::Operations => "operations",
            Self::Audit => "audit",
        }
    }

    /// What rows are found by, beside `id`.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Settings => &[],
            Self::Principals => &["app_id", "name_key"],
            Self::RoleAssignments => &["principal"],
            Self::SigningKeys => &["created_us"],
            Self::ResourceGroups => &["name_key"],
            Self::Vaults => &["group_key", "name_key", "deleted"],
            Self::Policies => &["vault", "name_key"],
            Self::Machines => &["host", "host_uuid", "group_key", "name_key", "gone"],
            Self::Items => &["vault", "machine", "policy", "state", "name_key"],
            Self::RecoveryPoints => &["vault", "item", "name", "taken_us"],
            Self::Jobs => {
                &["vault", "item", "operation", "kind", "datasource", "status", "open", "started_us"]
            }
            Self::Operations => &["vault", "open", "started_us"],
            Self::Audit => &["at_us"],
        }
    }

    pub(crate) fn has(self, column: &str) -> bool {
        column == "id" || self.columns().contains(&column)
    }
}
