//! What on this machine stands in the way of a pod network, said before anybody wonders.

use std::fmt;
use std::path::Path;

use super::{NetworkError, link};
use crate::api::Cidr;

/// Something about the machine that will make pods unreachable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The machine already routes addresses the cluster wants.
    Overlap {
        /// What the cluster wants them for.
        purpose: &'static str,
        /// The cluster's range.
        wanted: Cidr,
        /// The machine's range.
        routed: Cidr,
        /// By which link.
        link: String,
    },
    /// The two ranges of the cluster share addresses.
    RangesOverlap {
        /// Pods.
        cluster: Cidr,
        /// Services.
        service: Cidr,
    },
    /// A firewall drops forwarded packets by default.
    ForwardDrop {
        /// Which chain: table and name.
        chain: String,
    },
    /// Bridged packets do not pass netfilter.
    BridgeNetfilter,
}

impl Finding {
    /// Whether starting makes no sense; the rest is a warning.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Overlap { .. } | Self::RangesOverlap { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap { purpose, wanted, routed, link } => write!(
                out,
                "the {purpose} range {wanted} overlaps {routed}, which this machine routes by \
                 {link}; choose another with --{purpose}-cidr"
            ),
            Self::RangesOverlap { cluster, service } => write!(
                out,
                "--cluster-cidr {cluster} and --service-cidr {service} overlap; choose another for \
                 one of them"
            ),
            Self::ForwardDrop { chain } => write!(
                out,
                "the firewall chain {chain} drops forwarded packets, pods may not reach each other \
                 or the outside; allow them with: iptables -I FORWARD -i orch0 -j ACCEPT; \
                 iptables -I FORWARD -o orch0 -j ACCEPT"
            ),
            Self::BridgeNetfilter => write!(
                out,
                "bridged packets do not pass netfilter, so pods of this node will not reach each \
                 other through Services; load it with: modprobe br_netfilter"
            ),
        }
    }
}

/// Looks for everything in the way; `bridge` is ours and never in the way.
pub async fn preflight(
    cluster: Cidr,
    service: Cidr,
    bridge: &str,
) -> Result<Vec<Finding>, NetworkError> {
    let routes = link::routed_ranges().await?;
    let mut findings = overlaps(cluster, service, bridge, &routes);
    findings.extend(forward_policies().into_iter().map(|chain| Finding::ForwardDrop { chain }));
    if !Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        findings.push(Finding::BridgeNetfilter);
    }
    Ok(findings)
}

fn overlaps(cluster: Cidr, service: Cidr, bridge: &str, routes: &[(Cidr, String)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if cluster.overlaps(service) {
        findings.push(Finding::RangesOverlap { cluster, service });
    }
    for (purpose, wanted) in [("cluster", cluster), ("service", service)] {
        for (routed, link) in routes {
            // The default route overlaps everything, and a route that refuses takes nothing away.
            let ours = link == bridge || link == "unreachable" || routed.prefix_length() == 0;
            if !ours && routed.overlaps(wanted) {
                findings.push(Finding::Overlap {
                    purpose,
                    wanted,
                    routed: *routed,
                    link: link.clone(),
                });
            }
        }
    }
    findings
}

/// Base chains at the forward hook whose policy is to drop.
fn forward_policies() -> Vec<String> {
    match super::chains::forward_chains() {
        Ok(chains) => chains
            .into_iter()
            .filter(|chain| chain.drops)
            .map(|chain| format!("{} {}", chain.table, chain.name))
            .collect(),
        // No nf_tables in the kernel: nothing of it can drop.
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a range")
    }

    #[test]
    fn only_foreign_routes_are_in_the_way() {
        let routes = [
            (cidr("0.0.0.0/0"), "eth0".to_owned()),
            (cidr("192.168.1.0/24"), "eth0".to_owned()),
            (cidr("10.244.0.0/24"), "orch0".to_owned()),
            (cidr("10.244.0.0/16"), "unreachable".to_owned()),
            (cidr("10.0.0.0/8"), "tun0".to_owned()),
        ];
        let findings = overlaps(cidr("10.244.0.0/16"), cidr("10.96.0.0/12"), "orch0", &routes);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings.iter().all(Finding::is_fatal));
        assert!(findings[0].to_string().contains("--cluster-cidr"), "{}", findings[0]);
    }

    #[test]
    fn own_ranges_must_not_share_addresses() {
        let findings = overlaps(cidr("10.96.0.0/16"), cidr("10.96.0.0/12"), "orch0", &[]);
        assert!(matches!(findings[..], [Finding::RangesOverlap { .. }]));
    }
}
