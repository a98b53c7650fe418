//! The program's own pages in memory: code and constants that were needed for a moment.

use libc::{c_int, c_void, size_t};

/// Whole pages of the program that are never written to: where they begin, and how many bytes they are.
type Span = (usize, usize);

/// Lets go of the program's code and constants. What is needed again comes back by page faults, from the page cache for as long as
/// the kernel has no better use for it: the pages are marked as the first to be reclaimed. What a start touches and nothing after
/// it would otherwise stay mapped, and the kernel maps 16 pages around each that is touched.
///
/// Breakpoints of debuggers and uprobes, which are private copies of such pages, are lost.
pub fn give_back_program() {
    let mut spans: Vec<Span> = Vec::new();
    // SAFETY: dl_iterate_phdr hands the pointer on to `add_unwritten` and to nobody else, and is done with it when it returns.
    unsafe {
        libc::dl_iterate_phdr(Some(add_unwritten), (&raw mut spans).cast());
    }
    for (begin, length) in spans {
        for advice in [libc::MADV_COLD, libc::MADV_DONTNEED] {
            // SAFETY: the span is a part of a private mapping of the program's file that nobody may write to, without the part that
            // relocations have changed (its segment is a writable one): a page that is dropped reads the same when it comes back.
            unsafe {
                libc::madvise(std::ptr::without_provenance_mut(begin), length, advice);
            }
        }
    }
}

/// Adds what the first object in the loader's list, the program, has of segments that can't be written to.
unsafe extern "C" fn add_unwritten(object: *mut libc::dl_phdr_info, _: size_t, spans: *mut c_void) -> c_int {
    // SAFETY: the loader gives an object that stays as it is while this runs, and as many headers as it says; the other pointer is
    // the exclusive one that `give_back_program` has passed.
    let (object, spans) = unsafe { (&*object, &mut *spans.cast::<Vec<Span>>()) };
    // SAFETY: as above.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
    let unwritten =
        |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
    spans.extend(headers.iter().filter(unwritten).map(|header| {
        let begin = object.dlpi_addr.wrapping_add(header.p_vaddr);
        whole_pages(begin as usize, header.p_memsz as usize)
    }));
    // Not the libraries: other programs have them mapped, too.
    1
}

/// The whole pages between two addresses.
fn whole_pages(begin: usize, length: usize) -> Span {
    let page = rustix::param::page_size();
    let first = begin.next_multiple_of(page);
    let end = (begin + length) & !(page - 1);
    (first, end.saturating_sub(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of the program's code and constants is mapped, in KiB.
    fn mapped() -> u64 {
        let program = std::env::current_exe().unwrap();
        let mut counts = false;
        let mut sum = 0;
        for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            if line.contains(" r-xp ") || line.contains(" r--p ") {
                counts = line.ends_with(program.to_str().unwrap());
            } else if line.contains("p ") && line.contains('-') {
                counts = false;
            } else if counts && let Some(size) = line.strip_prefix("Rss:") {
                sum += size.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
            }
        }
        sum
    }

    #[test]
    fn only_whole_pages_are_given_back() {
        let page = rustix::param::page_size();
        assert_eq!(whole_pages(page + 1, 2 * page), (2 * page, page));
        assert_eq!(whole_pages(page, 2 * page), (page, 2 * page));
        assert_eq!(whole_pages(page + 1, page / 2).1, 0);
    }

    #[test]
    fn a_program_goes_on_without_the_pages_that_it_gave_back() {
        static CONSTANT: [u8; 1 << 20] = [7; 1 << 20];
        let sum = || CONSTANT.iter().map(|byte| u64::from(std::hint::black_box(*byte))).sum::<u64>();
        assert_eq!(sum(), 7 << 20);
        let before = mapped();
        give_back_program();
        let after = mapped();
        assert!(after + 1024 <= before, "{before} KiB before, {after} after");
        assert_eq!(sum(), 7 << 20);
    }
}
