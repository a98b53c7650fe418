//! fs-verity, for whoever keeps files that must not change. Not here: which files.

use std::os::fd::BorrowedFd;

use crate::sys;

/// Has the kernel hash all of a file that is open for reading, and check it whenever it is read from then on. Nobody can write to
/// it any more; it can be removed. Takes the time of reading it.
///
/// # Errors
/// The kernel's: EOPNOTSUPP or ENOTTY where the filesystem doesn't have it, ETXTBSY while somebody has the file open for
/// writing, EEXIST where it is done.
pub fn enable(file: BorrowedFd<'_>) -> std::io::Result<()> {
    Ok(sys::enable_verity(file)?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn what_is_no_file_of_a_disk_has_none() {
        let procfs = std::fs::File::open("/proc/self/status").unwrap();
        assert!(enable(procfs.as_fd()).is_err());
    }
}
