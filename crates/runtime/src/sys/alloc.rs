//! The allocator's spare pages.

/// Gives memory that was used for a moment back to the kernel: an idle pod pays for every page that stays.
pub(crate) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's locks itself and moves no live allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}
