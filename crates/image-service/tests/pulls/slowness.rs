//! How slow this machine is.

/// By how much longer things may take here than on a machine of one's own.
pub(crate) fn slowness() -> u32 {
    std::env::var("KNARR_TEST_SLOWNESS").map_or(1, |factor| factor.parse().unwrap())
}
