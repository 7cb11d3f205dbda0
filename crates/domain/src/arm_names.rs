//! Names on Azure's backup plane: made here, read here, and checked where users choose them.
//!
//! A machine `vm1` of group `rg1` is, in lower case, the container `IaasVMContainer;iaasvmcontainerv2;rg1;vm1` and the item
//! `VM;iaasvmcontainerv2;rg1;vm1`. Requests come in any case.

use crate::limits::*;
use crate::names::{InvalidName, PointId};
use serde::{Deserialize, Serialize};

const CONTAINER_PREFIX: &str = "IaasVMContainer";
const ITEM_PREFIX: &str = "VM";
const KIND: &str = "iaasvmcontainerv2";
/// Azure's name of the only fabric.
pub const FABRIC: &str = "Azure";

/// A machine as Azure's names carry it: group and name, both in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MachineKey {
    /// The resource group, as the machine's names have it.
    pub group: String,
    /// The machine's name.
    pub machine: String,
}

/// `IaasVMContainer;iaasvmcontainerv2;{group};{machine}`.
pub fn container_name(group: &str, machine: &str) -> String {
    container_name_of(&container_short_name(group, machine))
}

/// The same, of its short name.
pub fn container_name_of(short_name: &str) -> String {
    format!("{CONTAINER_PREFIX};{short_name}")
}

/// `VM;iaasvmcontainerv2;{group};{machine}`.
pub fn item_name(group: &str, machine: &str) -> String {
    item_name_of(&container_short_name(group, machine))
}

/// The same, of its container's short name.
pub fn item_name_of(short_name: &str) -> String {
    format!("{ITEM_PREFIX};{short_name}")
}

/// `iaasvmcontainerv2;{group};{machine}`: the `containerName` of an item, the name of a protectable item.
pub fn container_short_name(group: &str, machine: &str) -> String {
    format!("{KIND};{};{}", group.to_lowercase(), machine.to_lowercase())
}

/// The last segment of a protectable item's id: `vm;iaasvmcontainerv2;{group};{machine}`.
pub fn protectable_id_name(group: &str, machine: &str) -> String {
    format!("vm;{}", container_short_name(group, machine))
}

/// Reads a container's name, in any case, with its prefix or without.
///
/// ```
/// use strongroom_domain::arm_names::{parse_container_name, MachineKey};
/// let key = MachineKey { group: "rg1".into(), machine: "vm1".into() };
/// assert_eq!(parse_container_name("iaasvmcontainer;iaasvmcontainerv2;RG1;vm1"), Some(key.clone()));
/// assert_eq!(parse_container_name("iaasvmcontainerv2;rg1;VM1"), Some(key));
/// assert_eq!(parse_container_name("IaasVMContainer;iaasvmcontainerv2;rg1"), None);
/// ```
pub fn parse_container_name(name: &str) -> Option<MachineKey> {
    parse(name, CONTAINER_PREFIX)
}

/// Reads an item's or a protectable item's name, in any case, with its prefix or without.
pub fn parse_item_name(name: &str) -> Option<MachineKey> {
    parse(name, ITEM_PREFIX)
}

/// What an ARM id names. All keep their case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceId {
    /// The subscription.
    pub subscription: String,
    /// The resource group.
    pub group: String,
    /// The names after the types, the outermost first.
    pub names: Vec<String>,
}

impl ResourceId {
    /// The innermost name: the resource's own.
    pub fn name(&self) -> &str {
        self.names.last().unwrap_or(&self.group)
    }
}

/// Reads an ARM id of exactly this provider and these types, one name after each; without types a resource group's.
/// Provider and types match in any case.
///
/// ```
/// use strongroom_domain::arm_names::parse_resource_id;
/// let subnet = ["virtualNetworks", "subnets"];
/// let id = "/subscriptions/S/resourcegroups/Rg1/providers/microsoft.network/VirtualNetworks/Net/subnets/default";
/// let parsed = parse_resource_id(id, "Microsoft.Network", &subnet).unwrap();
/// assert_eq!((parsed.group.as_str(), parsed.names[0].as_str(), parsed.name()), ("Rg1", "Net", "default"));
/// assert_eq!(parse_resource_id(id, "Microsoft.Network", &["virtualNetworks"]), None);
/// ```
pub fn parse_resource_id(id: &str, provider: &str, types: &[&str]) -> Option<ResourceId> {
    let mut segments = id.strip_prefix('/')?.split('/');
    let mut named = |expected: &[&str]| {
        for expected in expected {
            segments.next().filter(|word| word.eq_ignore_ascii_case(expected))?;
        }
        segments.next().filter(|name| !name.is_empty()).map(str::to_owned)
    };
    let subscription = named(&["subscriptions"])?;
    let group = named(&["resourceGroups"])?;
    let mut names = Vec::with_capacity(types.len());
    for (depth, kind) in types.iter().enumerate() {
        names.push(match depth {
            0 => named(&["providers", provider, kind])?,
            _ => named(&[kind])?,
        });
    }
    segments.next().is_none().then_some(ResourceId { subscription, group, names })
}

/// Reads a virtual machine's ARM id: its group and name.
///
/// ```
/// use strongroom_domain::arm_names::parse_machine_id;
/// let id = "/subscriptions/S/resourcegroups/Rg1/providers/microsoft.compute/virtualMachines/Vm1";
/// assert_eq!(parse_machine_id(id), Some(("Rg1".to_owned(), "Vm1".to_owned())));
/// assert_eq!(parse_machine_id("/subscriptions/S/resourceGroups/Rg1"), None);
/// ```
pub fn parse_machine_id(id: &str) -> Option<(String, String)> {
    let mut parsed = parse_resource_id(id, "Microsoft.Compute", &["virtualMachines"])?;
    Some((parsed.group, parsed.names.pop()?))
}

fn parse(name: &str, prefix: &str) -> Option<MachineKey> {
    let parts: Vec<&str> = name.split(';').collect();
    let parts = match parts.as_slice() {
        [first, rest @ ..] if rest.len() >= 3 && first.eq_ignore_ascii_case(prefix) => rest,
        whole => whole,
    };
    // A group's name has no semicolon, a machine's may.
    let [kind, group, machine @ ..] = parts else { return None };
    let machine = machine.join(";");
    if !kind.eq_ignore_ascii_case(KIND) || group.is_empty() || machine.is_empty() {
        return None;
    }
    Some(MachineKey { group: group.to_lowercase(), machine: machine.to_lowercase() })
}

/// A recovery point's name: a decimal number of 14 to 16 digits, always the same for the same point.
///
/// FNV-1a (64 bits) over the point's 16 bytes and `attempt` (4 bytes, little-endian), finished as splitmix64 does, and
/// taken into 10^13 to 9·10^15, which JavaScript's numbers hold too. Among an item's points two could have one name, one
/// time in millions: whoever records the point sees it and takes the next `attempt`.
pub fn recovery_point_name(id: &PointId, attempt: u32) -> String {
    numeric_name(id.as_bytes(), attempt)
}

/// The same for other identities of 16 bytes: an item's `protectedItemDataId`.
pub fn numeric_name(id: &[u8; 16], attempt: u32) -> String {
    const LEAST: u64 = 10_000_000_000_000;
    const MOST: u64 = 9_000_000_000_000_000;
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in id.iter().chain(&attempt.to_le_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    (LEAST + hash % (MOST - LEAST)).to_string()
}

/// Whether a text can be a recovery point's name.
pub fn is_point_name(text: &str) -> bool {
    (14..=16).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && !text.starts_with('0')
}

fn check(
    kind: &'static str,
    given: &str,
    (least, most): (usize, usize),
    rule: impl Fn(&str) -> bool,
    reason: &'static str,
) -> Result<(), InvalidName> {
    if (least..=most).contains(&given.chars().count()) && rule(given) {
        return Ok(());
    }
    Err(InvalidName { kind, given: given.chars().take(100).collect(), reason })
}

/// Checks a vault's name: 2 to 50 letters, digits and hyphens, a letter first.
pub fn check_vault_name(name: &str) -> Result<(), InvalidName> {
    check(
        "vault name",
        name,
        VAULT_NAME_CHARS,
        |name| {
            name.starts_with(|first: char| first.is_ascii_alphabetic())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        },
        "use 2 to 50 letters, digits and hyphens, a letter first",
    )
}

/// Checks a policy's name: 3 to 150 letters, digits and hyphens, a letter first and no hyphen last.
pub fn check_policy_name(name: &str) -> Result<(), InvalidName> {
    check(
        "policy name",
        name,
        POLICY_NAME_CHARS,
        |name| {
            name.starts_with(|first: char| first.is_ascii_alphabetic())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                && !name.ends_with('-')
        },
        "use 3 to 150 letters, digits and hyphens, a letter first and no hyphen last",
    )
}

/// Checks a resource group's name: 1 to 90 letters, digits, `_`, `-`, `.`, `(`, `)`, no full stop last.
pub fn check_resource_group_name(name: &str) -> Result<(), InvalidName> {
    check(
        "resource group name",
        name,
        GROUP_NAME_CHARS,
        |name| {
            name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '(' | ')'))
                && !name.ends_with('.')
        },
        "use 1 to 90 letters, digits, hyphens, underscores, brackets and full stops, no full stop last",
    )
}

/// Checks a tag's name: 1 to 512 characters, without `<`, `>`, `%`, `&`, `\`, `?`, `/` and control characters.
pub fn check_tag_name(name: &str) -> Result<(), InvalidName> {
    check(
        "tag name",
        name,
        (1, TAG_NAME_MAX_CHARS),
        |name| !name.contains(['<', '>', '%', '&', '\\', '?', '/']) && !name.contains(char::is_control),
        "use 1 to 512 characters without `<`, `>`, `%`, `&`, `\\`, `?`, `/` and control characters",
    )
}

/// Checks a machine's name for use in ids: what a path segment can carry. Wider than Azure's rule, since hypervisors'
/// own names come in here.
pub fn check_machine_name(name: &str) -> Result<(), InvalidName> {
    check(
        "machine name",
        name,
        (1, MACHINE_NAME_MAX_CHARS),
        |name| {
            name != "."
                && name != ".."
                && !name.contains(['/', '\\', '?', '#'])
                && !name.contains(char::is_control)
        },
        "use 1 to 255 characters without slashes, `?`, `#` and control characters",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_azures() {
        assert_eq!(container_name("RG1", "Vm1"), "IaasVMContainer;iaasvmcontainerv2;rg1;vm1");
        assert_eq!(item_name("RG1", "Vm1"), "VM;iaasvmcontainerv2;rg1;vm1");
        assert_eq!(container_short_name("RG1", "Vm1"), "iaasvmcontainerv2;rg1;vm1");
        assert_eq!(protectable_id_name("RG1", "Vm1"), "vm;iaasvmcontainerv2;rg1;vm1");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            ";",
            "vm",
            "VM;iaasvmcontainerv2;rg1",
            "VM;iaasvmcontainerv2;;vm1",
            "VM;other;rg1;vm1",
            "VM;iaasvmcontainerv2;rg1;",
        ] {
            assert_eq!(parse_item_name(bad), None, "{bad}");
        }
        assert_eq!(parse_container_name("VM;iaasvmcontainerv2;rg1;vm1"), None);
    }

    #[test]
    fn ids_have_one_name_after_each_type() {
        let read = |id: &str| parse_resource_id(id, "Microsoft.Compute", &["virtualMachines"]);
        let base = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines";
        assert_eq!(read(&format!("{base}/c2")).unwrap().name(), "c2");
        for bad in [
            "",
            "/",
            "c2",
            base,
            &format!("{base}/"),
            &format!("{base}//c2"),
            &format!("{base}/c2/"),
            &format!("{base}/finance/c2"),
            &format!("{base}/c2/extensions/x"),
            &base[1..],
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Foo/bars/x",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/x",
            "/subscriptions//resourceGroups/g/providers/Microsoft.Compute/virtualMachines/x",
            "/subscriptions/s/resourceGroups//providers/Microsoft.Compute/virtualMachines/x",
            "/subscriptions/s/providers/Microsoft.Compute/virtualMachines/x",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        let group = |id: &str| parse_resource_id(id, "", &[]).map(|id| id.group);
        assert_eq!(group("/Subscriptions/s/resourcegroups/G"), Some("G".into()));
        assert_eq!(group("/subscriptions/s/resourceGroups/g/"), None);
        assert_eq!(group(&format!("{base}/c2")), None);
    }

    #[test]
    fn point_names_are_fixed() {
        // Written down once: names that clients know must not change with the program.
        let id: PointId = "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b".parse().unwrap();
        assert_eq!(recovery_point_name(&id, 0), recovery_point_name(&id, 0));
        assert_ne!(recovery_point_name(&id, 0), recovery_point_name(&id, 1));
        assert_eq!(recovery_point_name(&id, 0), "6461209591790576");
    }

    #[test]
    fn names_that_users_choose_are_checked() {
        for good in ["v1", "My-Vault-2", &"a".repeat(50)] {
            assert!(check_vault_name(good).is_ok(), "{good}");
        }
        for bad in ["v", "1v", "-v", "v_1", "vault.1", "", "väult", &"a".repeat(51)] {
            assert!(check_vault_name(bad).is_err(), "{bad}");
        }
        assert!(check_policy_name("DefaultPolicy").is_ok());
        for bad in ["p1", "1policy", "policy-", "my policy", &"a".repeat(151)] {
            assert!(check_policy_name(bad).is_err(), "{bad}");
        }
        assert!(check_resource_group_name("rg_1.(prod)-ü").is_ok());
        for bad in ["", "rg.", "a/b", "a;b", "a b", &"a".repeat(91)] {
            assert!(check_resource_group_name(bad).is_err(), "{bad}");
        }
        assert!(check_tag_name("cost centre: ä").is_ok());
        for bad in ["", "a<b", "a>b", "a%b", "a&b", "a\\b", "a?b", "a/b", "a\nb", &"a".repeat(513)] {
            assert!(check_tag_name(bad).is_err(), "{bad}");
        }
        assert!(check_machine_name("Windows 11; ä%").is_ok());
        for bad in ["", "..", "a/b", "a\u{0}b", &"a".repeat(256)] {
            assert!(check_machine_name(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_made_is_read_back(group in "[A-Za-z0-9_.()-]{1,20}", machine in "[A-Za-z0-9;%ä ]{1,20}") {
            let key = MachineKey { group: group.to_lowercase(), machine: machine.to_lowercase() };
            for name in [container_name(&group, &machine), container_short_name(&group, &machine)] {
                prop_assert_eq!(parse_container_name(&name.to_uppercase()), Some(key.clone()));
            }
            for name in [item_name(&group, &machine), protectable_id_name(&group, &machine)] {
                prop_assert_eq!(parse_item_name(&name), Some(key.clone()));
            }
        }

        #[test]
        fn point_names_have_their_form(bytes: [u8; 16], attempt: u32) {
            let name = recovery_point_name(&PointId::from_bytes(bytes), attempt);
            prop_assert!(is_point_name(&name), "{}", name);
            prop_assert!(name.parse::<u64>().unwrap() < 1 << 53);
        }

        #[test]
        fn no_text_upsets_the_parsers(text in ".{0,60}") {
            let _ = (parse_item_name(&text), parse_container_name(&text), parse_machine_id(&text), is_point_name(&text));
        }
    }
}
