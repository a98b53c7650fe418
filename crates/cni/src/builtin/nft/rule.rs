//! A rule as a list of expressions over registers: load, compare, act.
//!
//! A comparison that doesn't hold ends the rule. Registers are four bytes each, a longer value fills those that follow.

use super::{
    Family, NFT_JUMP, NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_LIST_ELEM, NFTA_VERDICT_CHAIN,
    NFTA_VERDICT_CODE,
};
use crate::builtin::netlink::Attributes;

/// The first four-byte register, NFT_REG32_00.
pub(in crate::builtin) const REGISTER: u32 = 8;
/// The register of verdicts.
const NFT_REG_VERDICT: u32 = 0;

const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NF_DROP: i32 = 0;
const NFT_RETURN: i32 = -5;

const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_CT_STATUS: u32 = 2;
const NFT_CT_PROTO_DST: u32 = 12;
const IP_CT_DIR_ORIGINAL: u8 = 0;
const IPS_DST_NAT: u32 = 1 << 5;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 1 << 1;
const RTN_LOCAL: u32 = 2;
const NFT_NAT_DNAT: u32 = 1;

/// An address's place in the IP header.
#[derive(Debug, Clone, Copy)]
pub(in crate::builtin) enum Side {
    Source,
    Destination,
}

/// A rule being written.
#[derive(Debug, Default)]
pub(in crate::builtin) struct Rule {
    expressions: Attributes,
    comment: Option<&'static str>,
}

impl Rule {
    pub(super) fn expressions(&self) -> &Attributes {
        &self.expressions
    }

    pub(super) fn comment(&self) -> Option<&'static str> {
        self.comment
    }

    /// Gives the rule a comment, shown by whoever lists the table.
    pub(in crate::builtin) fn commented(self, comment: &'static str) -> Rule {
        Rule { comment: Some(comment), ..self }
    }

    fn push(mut self, name: &str, fill: impl FnOnce(&mut Attributes)) -> Rule {
        self.expressions.nest(NFTA_LIST_ELEM, |expression| {
            expression.put_str(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, fill);
        });
        self
    }

    fn meta(self, key: u32, register: u32) -> Rule {
        self.push("meta", |data| {
            data.put_be32(1, register).put_be32(2, key);
        })
    }

    fn payload(self, base: u32, offset: u32, length: u32, register: u32) -> Rule {
        self.push("payload", |data| {
            data.put_be32(1, register).put_be32(2, base).put_be32(3, offset).put_be32(4, length);
        })
    }

    fn compare(self, operator: u32, value: &[u8]) -> Rule {
        self.push("cmp", |data| {
            data.put_be32(1, REGISTER).put_be32(2, operator).nest(3, |operand| {
                operand.put(NFTA_DATA_VALUE, value);
            });
        })
    }

    fn mask(self, mask: &[u8]) -> Rule {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        let zero = vec![0; mask.len()];
        self.push("bitwise", |data| {
            data.put_be32(1, REGISTER).put_be32(2, REGISTER).put_be32(3, length);
            data.nest(4, |operand| {
                operand.put(NFTA_DATA_VALUE, mask);
            });
            data.nest(5, |operand| {
                operand.put(NFTA_DATA_VALUE, &zero);
            });
        })
    }

    fn verdict(self, code: i32, chain: Option<&str>) -> Rule {
        self.push("immediate", |data| {
            data.put_be32(1, NFT_REG_VERDICT).nest(2, |operand| {
                operand.nest(NFTA_DATA_VERDICT, |verdict| {
                    verdict.put(NFTA_VERDICT_CODE, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        verdict.put_str(NFTA_VERDICT_CHAIN, chain);
                    }
                });
            });
        })
    }

    fn subnet(self, family: Family, side: Side, prefix: u8) -> Rule {
        let (offset, length) = place(family, side);
        let rule = self.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, length, REGISTER);
        let bytes = usize::try_from(length).unwrap_or(0);
        rule.mask(&mask(prefix, bytes))
    }

    /// The address lies in that network; its bits beyond the prefix are zero.
    pub(in crate::builtin) fn within(self, family: Family, side: Side, network: &[u8], prefix: u8) -> Rule {
        self.subnet(family, side, prefix).compare(NFT_CMP_EQ, network)
    }

    /// The address doesn't lie in that network.
    pub(in crate::builtin) fn outside(self, family: Family, side: Side, network: &[u8], prefix: u8) -> Rule {
        self.subnet(family, side, prefix).compare(NFT_CMP_NEQ, network)
    }

    /// The connection's destination was changed by a rule.
    pub(in crate::builtin) fn destination_changed(self) -> Rule {
        let status = self.push("ct", |data| {
            data.put_be32(1, REGISTER).put_be32(2, NFT_CT_STATUS);
        });
        status.mask(&IPS_DST_NAT.to_ne_bytes()).compare(NFT_CMP_NEQ, &0u32.to_ne_bytes())
    }

    /// The destination is an address of this host.
    pub(in crate::builtin) fn for_this_host(self) -> Rule {
        let kind = self.push("fib", |data| {
            data.put_be32(1, REGISTER).put_be32(2, NFT_FIB_RESULT_ADDRTYPE).put_be32(3, NFTA_FIB_F_DADDR);
        });
        kind.compare(NFT_CMP_EQ, &RTN_LOCAL.to_ne_bytes())
    }

    /// Came in by an interface whose name is in that set.
    pub(in crate::builtin) fn came_by_one_of(self, set: &str) -> Rule {
        self.meta(NFT_META_IIFNAME, REGISTER).contained(set, REGISTER)
    }

    /// Loads the source address.
    pub(in crate::builtin) fn load_source(self, family: Family, register: u32) -> Rule {
        let (offset, length) = place(family, Side::Source);
        self.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, length, register)
    }

    /// The transport protocol is that.
    pub(in crate::builtin) fn over(self, protocol: u8) -> Rule {
        self.meta(NFT_META_L4PROTO, REGISTER).compare(NFT_CMP_EQ, &[protocol])
    }

    /// Loads the transport protocol.
    pub(in crate::builtin) fn load_protocol(self, register: u32) -> Rule {
        self.meta(NFT_META_L4PROTO, register)
    }

    /// Loads the port that the connection was first meant for.
    pub(in crate::builtin) fn load_original_port(self, register: u32) -> Rule {
        self.push("ct", |data| {
            data.put_be32(1, register).put_be32(2, NFT_CT_PROTO_DST).put(3, &[IP_CT_DIR_ORIGINAL]);
        })
    }

    /// Loads the destination port.
    pub(in crate::builtin) fn load_port(self, register: u32) -> Rule {
        self.payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, register)
    }

    /// Loads the destination address.
    pub(in crate::builtin) fn load_destination(self, family: Family, register: u32) -> Rule {
        let (offset, length) = place(family, Side::Destination);
        self.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, length, register)
    }

    /// Loads the transport protocol, and into the next register the destination port; TCP, UDP and SCTP have it at the
    /// same place, and no other protocol is in our maps.
    pub(in crate::builtin) fn load_service(self, register: u32) -> Rule {
        self.load_protocol(register).load_port(register + 1)
    }

    /// Looks the registers up in a map, and puts what it finds into others; ends the rule if there is nothing.
    pub(in crate::builtin) fn lookup(self, map: &str, key: u32, found: u32) -> Rule {
        self.push("lookup", |data| {
            data.put_str(1, map).put_be32(2, key).put_be32(3, found);
        })
    }

    /// Goes on in the chain that a map has for the registers, if it has one.
    pub(in crate::builtin) fn branch(self, map: &str, key: u32) -> Rule {
        self.lookup(map, key, NFT_REG_VERDICT)
    }

    /// The registers are in a set.
    pub(in crate::builtin) fn contained(self, set: &str, key: u32) -> Rule {
        self.push("lookup", |data| {
            data.put_str(1, set).put_be32(2, key);
        })
    }

    /// Sends the connection to the address and port in these registers.
    pub(in crate::builtin) fn redirect(self, family: Family, address: u32, port: u32) -> Rule {
        self.push("nat", |data| {
            data.put_be32(1, NFT_NAT_DNAT).put_be32(2, u32::from(family.number()));
            data.put_be32(3, address).put_be32(5, port);
        })
    }

    /// Gives the connection the address of the interface that it leaves by as its source.
    pub(in crate::builtin) fn masquerade(self) -> Rule {
        self.push("masq", |_| {})
    }

    /// Drops the packet.
    pub(in crate::builtin) fn drop_packet(self) -> Rule {
        self.verdict(NF_DROP, None)
    }

    /// Ends this chain.
    pub(in crate::builtin) fn end_chain(self) -> Rule {
        self.verdict(NFT_RETURN, None)
    }

    /// Goes on in another chain.
    pub(in crate::builtin) fn jump(self, chain: &str) -> Rule {
        self.verdict(NFT_JUMP, Some(chain))
    }
}

/// Offset and length of an address in the IP header (RFC 791; RFC 8200).
fn place(family: Family, side: Side) -> (u32, u32) {
    match (family, side) {
        (Family::Ipv4, Side::Source) => (12, 4),
        (Family::Ipv4, Side::Destination) => (16, 4),
        (Family::Ipv6, Side::Source) => (8, 16),
        (Family::Ipv6, Side::Destination) => (24, 16),
    }
}

fn mask(prefix: u8, bytes: usize) -> Vec<u8> {
    let prefix = usize::from(prefix);
    let byte = |at: usize| match prefix.saturating_sub(at * 8) {
        0 => 0,
        bits @ 1..=7 => 0xff << (8 - bits),
        _ => 0xff,
    };
    (0..bytes).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_as_many_bits_as_the_prefix() {
        assert_eq!(mask(0, 4), [0, 0, 0, 0]);
        assert_eq!(mask(20, 4), [255, 255, 0xf0, 0]);
        assert_eq!(mask(32, 4), [255; 4]);
        assert_eq!(mask(65, 16)[7..10], [255, 0x80, 0]);
    }
}
