//! Ranges of IPv4 addresses.

use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 range such as `10.96.0.0/12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    prefix: u32,
}

impl Cidr {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - self.prefix).unwrap_or(0)
    }

    /// First address.
    pub fn network(self) -> Ipv4Addr {
        self.base.into()
    }

    /// Bits that all addresses share.
    pub fn prefix_length(self) -> u8 {
        u8::try_from(self.prefix).expect("parsing admits at most 32")
    }

    /// How many addresses there are.
    pub fn size(self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// The nth address.
    pub fn nth(self, n: u64) -> Option<Ipv4Addr> {
        let offset = u32::try_from(n).ok().filter(|_| n < self.size())?;
        Some((self.base + offset).into())
    }

    /// Whether an address is in the range.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == self.base
    }

    /// Whether two ranges share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not an IPv4 range such as 10.96.0.0/12");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let base: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let prefix = prefix.parse().ok().filter(|bits| *bits <= 32).ok_or_else(bad)?;
        let range = Self { base: base.into(), prefix };
        if range.base & range.mask() != range.base {
            return Err(format!("{text:?} is not a range: bits are set after the prefix"));
        }
        Ok(range)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.network(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_counted() {
        let range: Cidr = "10.96.0.0/12".parse().expect("valid");
        assert_eq!(range.to_string(), "10.96.0.0/12");
        assert_eq!(range.nth(1), Some(Ipv4Addr::new(10, 96, 0, 1)));
        assert_eq!(range.size(), 1 << 20);
        assert!(range.nth(1 << 20).is_none());
        assert!(range.contains(Ipv4Addr::new(10, 111, 255, 255)));
        assert!(!range.contains(Ipv4Addr::new(10, 112, 0, 0)));
        let all: Cidr = "0.0.0.0/0".parse().expect("valid");
        assert!(all.overlaps(range) && range.overlaps(all));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in ["10.96.0.0", "10.96.0.1/12", "10.96.0.0/33", "::/0", ""] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
