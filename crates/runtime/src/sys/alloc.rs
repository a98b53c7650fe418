//! Pages that were used for a moment: the allocator's and the stack's.

/// Gives memory that was used for a moment back to the kernel: an idle pod, and an idle daemon, pay for every page that stays.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's locks itself and moves no live allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// From which size on a block is mapped for itself, in bytes (M_MMAP_THRESHOLD in mallopt(3)): more than what hyper reads into
/// (408 KiB). The network's buffers come and go with every read of a pull, and the kernel clears each that is mapped anew.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 512 << 10;

/// How much free memory the end of the heap may have, in bytes: what glibc begins with (M_TRIM_THRESHOLD).
#[cfg(target_env = "gnu")]
const TRIMMED: libc::c_int = 128 << 10;

/// How many arenas there may be (M_ARENA_MAX): what one thread has freed is used by the others. By itself glibc makes up to eight a
/// processor, and in each stays what happened to lie between two blocks that live.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Has the allocator keep little, for the whole life of the process: large blocks go back to the kernel when they are freed (by itself
/// glibc maps less and less for itself once a large block was freed, up to 32 MiB, and keeps twice as much at the end of its heap), and
/// threads share what is free.
pub fn allocate_frugally() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes the allocator's lock, and changes nothing but these three numbers.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIMMED);
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// How far below the current end of the stack pages may have been touched by what was called before, in
/// bytes: reading a plan, a copy of the environment.
const STACK_REACH: usize = 256 << 10;

/// Gives stack that was used for a moment back to the kernel.
#[inline(never)]
pub(crate) fn give_back_stack() {
    let marker = 0_u8;
    let page = rustix::param::page_size();
    // A page stays below: this function's own frame, those of the call to come, and the red zone.
    let end = (std::ptr::from_ref(&marker).addr() & !(page - 1)).saturating_sub(page);
    let begin = end.saturating_sub(STACK_REACH);
    // SAFETY: the range is below every frame of this process's only thread, where nothing is kept: what is
    // there now reads as zeroes later, and every function writes its frame before it reads it. The kernel
    // keeps at least 128 MiB below a stack free of other mappings (mmap_base of mm/util.c), and passes over
    // what is not mapped.
    unsafe {
        libc::madvise(std::ptr::without_provenance_mut(begin), end - begin, libc::MADV_DONTNEED);
    }
}
