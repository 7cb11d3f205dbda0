//! Where a request comes from, as it is counted: whoever has one address of an IPv6 network usually has all of it.

use super::Client;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// What shares its budgets: an IPv4 address, an IPv6 /64, a user of this host, or this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    V4([u8; 4]),
    V6Network([u16; 4]),
    LocalUser(u32),
    Process,
}

impl Source {
    pub fn of_address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6Network([a, b, c, d])
            }
        }
    }

    /// Whether it is on this host by what the kernel says, not by an address.
    pub fn is_local(self) -> bool {
        matches!(self, Self::LocalUser(_) | Self::Process)
    }
}

impl From<Client> for Source {
    fn from(client: Client) -> Self {
        match client {
            Client::Address(address) => Self::of_address(address),
            Client::LocalUser { uid } => Self::LocalUser(uid),
            Client::Process => Self::Process,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4(octets) => IpAddr::from(octets).fmt(f),
            Self::V6Network([a, b, c, d]) => write!(f, "{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)),
            Self::LocalUser(uid) => write!(f, "local user {uid}"),
            Self::Process => f.write_str("this process"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_counts_by_its_network() {
        let of = |text: &str| Source::of_address(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8::7").to_string(), "2001:db8::/64");
        assert_eq!(of("192.0.2.1").to_string(), "192.0.2.1");
    }
}
