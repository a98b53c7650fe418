//! What went through the interfaces of network namespaces that this process is not in.
//!
//! The kernel shows a thread the interfaces of the namespace that it is in, so a thread of its own goes from one to the next and ends:
//! five system calls for a namespace, none of which waits, and nothing in there notices.
//! Not here: which namespaces there are, and whose.

use std::fs::File;
use std::io::{self, Read as _};
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network interface with what went through it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name in its namespace.
    pub name: String,
    /// What came in.
    pub received: Traffic,
    /// What went out.
    pub sent: Traffic,
}

/// One direction, since the interface was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were broken.
    pub errors: u64,
    /// Packets that were thrown away.
    pub dropped: u64,
}

/// A thread that may enter network namespaces, for it does nothing else. It can't leave its thread.
#[derive(Debug)]
pub struct Visitor {
    text: String,
    on_this_thread: PhantomData<*const ()>,
}

/// Has a thread of its own visit network namespaces; it ends with `work`. Doesn't wait for it.
///
/// # Errors
/// What the kernel says of the thread.
pub fn visit_networks(work: impl FnOnce(&mut Visitor) + Send + 'static) -> io::Result<()> {
    let work = move || work(&mut Visitor { text: String::new(), on_this_thread: PhantomData });
    // Nobody's: what it finds goes where `work` sends it.
    std::thread::Builder::new().name("pod-traffic".to_owned()).spawn(work).map(drop)
}

impl Visitor {
    /// The interfaces of a namespace, loopback apart, in the kernel's order.
    ///
    /// # Errors
    /// What the kernel says of the namespace (EINVAL: it is none of the network; EPERM: its user namespace is not below this one).
    pub fn interfaces(&mut self, network: BorrowedFd<'_>) -> io::Result<Vec<Interface>> {
        move_into_link_name_space(network, Some(LinkNameSpaceType::Network))?;
        self.text.clear();
        // Of this thread: /proc/net is that of the process's first one.
        File::open("/proc/thread-self/net/dev")?.read_to_string(&mut self.text)?;
        Ok(interfaces(&self.text))
    }
}

/// `/proc/net/dev` (proc_pid_net(5)): two lines of headings, then `name:` and eight numbers for each direction.
fn interfaces(text: &str) -> Vec<Interface> {
    let lines = text.lines().skip(2).filter_map(|line| line.rsplit_once(':'));
    let found = lines.filter_map(|(name, numbers)| {
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let traffic = |at: usize| match numbers.get(at..at + 4)? {
            &[bytes, packets, errors, dropped] => Some(Traffic { bytes, packets, errors, dropped }),
            _ => None,
        };
        Some(Interface { name: name.trim_start().to_owned(), received: traffic(0)?, sent: traffic(8)? })
    });
    found.filter(|interface| interface.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     720      10    0    0    0     0          0         0      720      10    0    0    0     0       0          0
  eth0: 18446744073709551615 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
a:b: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0
 broken: 1 2 3
";

    #[test]
    fn lines_are_read_by_their_columns() {
        let traffic =
            |[bytes, packets, errors, dropped]: [u64; 4]| Traffic { bytes, packets, errors, dropped };
        let expected = [("eth0", [u64::MAX, 2, 3, 4], [9, 10, 11, 12]), ("a:b", [1, 2, 3, 4], [5, 6, 7, 8])]
            .map(|(name, received, sent)| Interface {
                name: name.to_owned(),
                received: traffic(received),
                sent: traffic(sent),
            });
        assert_eq!(interfaces(TEXT), expected);
        assert!(interfaces("").is_empty());
    }

    /// The thread goes, and nobody else is where it was.
    #[test]
    fn other_namespaces_are_read_and_this_process_stays_where_it_is() {
        let own = || std::fs::read_link("/proc/self/ns/net").unwrap();
        let (before, (sender, receiver)) = (own(), std::sync::mpsc::channel());
        let here = File::open("/proc/self/ns/net").unwrap();
        let wrong = File::open("/proc/self/ns/uts").unwrap();
        visit_networks(move |visitor| {
            use std::os::fd::AsFd;
            let refused = visitor.interfaces(wrong.as_fd()).map_err(|error| error.kind());
            sender.send((refused, visitor.interfaces(here.as_fd()))).unwrap();
        })
        .unwrap();
        let (refused, found) = receiver.recv().unwrap();
        assert!(refused.is_err());
        if rustix::process::geteuid().is_root() {
            assert!(found.unwrap().iter().all(|interface| interface.name != "lo"));
        }
        assert_eq!(own(), before);
    }
}
