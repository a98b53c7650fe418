//! Where ours differs on purpose in every case, and why. Not here: what single cases say of themselves.

use crate::case::Difference;

/// What isn't compared anywhere.
pub(crate) const EVERYWHERE: &[Difference] = &[
    of("* / links / <veth of * / ifalias", "tells an operator whose link it is"),
    of(
        "* / links / <veth of * / txqlen",
        "Debian's 1.1.1 leaves a queue of length 0, upstream since 1.2 doesn't",
    ),
    of("* / links / eth0 / txqlen", "the same"),
    of("* / links / net1 / txqlen", "the same"),
    of("* / addr_info / * / nodad", "nobody else is asked about an address that the allocator gave"),
    of("* / files / *lock / 1", "the mode of a lock"),
    of(
        "* DEL * / files / reference/lock",
        "DEL makes no directory and no lock where there is nothing to give back",
    ),
    of("* DEL * / files / reference/", "the same"),
    of("* / host / sysctls / ipv6.default / accept_ra", "a host that forwards goes on hearing its router"),
    of("* / host / sysctls / ipv6.lo / accept_ra", "the same"),
    of("* / host / sysctls / ipv6.uplink / accept_ra", "the same"),
    of("* / host / links / <veth of * / addr_info", "a port of a bridge needs no address, and gets none"),
    of("* / host / routes / fe80::/64 *<veth of ", "the same"),
    of("* / host / sysctls / ipv6.<veth of * / addr_gen_mode", "the same"),
    of("* / host / sysctls / ipv6.<veth of * / accept_ra", "the same: no advertisement is heard without one"),
    of("* / pod* / sysctls / ipv6.eth0 / accept_ra", "a neighbour that says it is the router isn't believed"),
    of("* / pod* / sysctls / ipv6.net1 / accept_ra", "the same"),
    of("* / pod* / sysctls / ipv6.eth0 / keep_addr_on_down", "addresses survive that the link goes down"),
    of("* / pod* / sysctls / ipv6.net1 / keep_addr_on_down", "the same"),
];

const fn of(at: &'static str, reason: &'static str) -> Difference {
    Difference { at, reason }
}
