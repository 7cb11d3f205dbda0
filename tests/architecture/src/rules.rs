//! The rules themselves, as tables. This is the file to edit when a crate or a room comes.

/// Crates by floor, lowest first: a crate may use those of lower lines, none of its own line or above.
pub const FLOORS: &[&[&str]] = &[
    &["domain", "nbd", "guest", "architecture"],
    &["store", "catalog", "hypervisor"],
    &["engine"],
    &["service"],
    &["api"],
    &["strongroom"],
];

/// What a crate may not use although it stands above: (crate, what it never knows, why).
pub const NEVER: &[(&str, &str, &str)] = &[
    ("engine", "catalog", "the engine moves data and knows no row"),
    ("store", "guest", "a vault knows bytes, no machine"),
    ("catalog", "nbd", "the catalog keeps rows, no byte of a disk"),
];

/// A place whose files stand in rooms.
pub struct House<'a> {
    /// Relative to the workspace.
    pub place: &'a str,
    /// Files and directories of the place, lowest first: a room may use those of lower lines, none of its own line or above.
    pub rooms: &'a [&'a [&'a str]],
    /// The files that know all rooms, and that no room knows.
    pub doors: &'a [&'a str],
}

/// The places with rooms. One without a single directory has none yet.
pub const HOUSES: &[House<'static>] = &[
    House {
        place: "crates/service/src",
        rooms: &[
            &["limits"],
            &["core"],
            &["jobs", "guards"],
            &["audit", "vaults"],
            &["estate"],
            &["points"],
            &["protection"],
            &["backup", "copies", "files", "databases"],
            &["restore"],
            &["drills", "failover"],
            &["reconciliation"],
            &["housekeeping"],
        ],
        doors: &["open.rs", "lib.rs"],
    },
    House {
        place: "crates/api/src/arm",
        rooms: &[
            &["shared"],
            &["jobs"],
            &["vaults"],
            &["estate"],
            &["protection"],
            &["restore"],
            &["absent"],
            &["schemas"],
        ],
        doors: &["mod.rs"],
    },
];

/// A use of one file by another that closes a circle and cannot be taken away yet.
pub struct Known<'a> {
    pub from: &'a str,
    pub to: &'a str,
    pub why: &'a str,
}

/// As few as can be. One that closes no circle any more is to go, and the test says so.
pub const KNOWN_CIRCLES: &[Known<'static>] = &[];

/// Places whose files may still use one another in circles, and why. One without a circle is to go from here, and the test says so.
pub const NOT_YET_OPENED: &[(&str, &str)] = &[];

/// Uses of crates that break a rule and cannot be taken away yet, likewise: crates by their names.
pub const KNOWN_FLOORS: &[Known<'static>] = &[];
