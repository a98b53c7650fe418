//! Network namespaces of a case's own: what plays the host, the pods and the world beyond. Not here: plugins, snapshots.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// Where something is done or looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Host,
    /// Beyond the host, which routes to it: 192.0.2.2 and 2001:db8::2, with the host as its default gateway.
    World,
    Pod(u8),
}

impl Place {
    pub(crate) fn name(self) -> String {
        match self {
            Place::Host => "host".into(),
            Place::World => "world".into(),
            Place::Pod(number) => format!("pod{number}"),
        }
    }
}

/// A network namespace that lives as long as this does.
pub(crate) struct Netns(File);

impl Netns {
    fn new(setup: &str) -> Netns {
        thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                succeed(setup);
                Netns(File::open("/proc/thread-self/ns/net").unwrap())
            });
            made.join().unwrap()
        })
    }

    /// Runs something inside, on a thread of its own.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// What a host of tests is like before anything is done. Who asks in vain is told so every time; addresses of its own links
/// need no detection of duplicates, which takes a second each; whether it forwards is not for the real host to say.
const HOST: &str = "ip link set lo up && echo 0 > /proc/sys/net/ipv4/ip_forward &&
    echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad &&
    echo 0 > /proc/sys/net/ipv4/icmp_ratelimit && echo 0 > /proc/sys/net/ipv6/icmp/ratelimit";

/// A link between the host and the world.
const UPLINK: &str = "ip link add uplink type veth peer name beyond netns $WORLD && ip link set uplink up &&
    ip address add 192.0.2.1/24 dev uplink && ip address add 2001:db8::1/64 dev uplink nodad";
const BEYOND: &str = "ip link set beyond up && ip address add 192.0.2.2/24 dev beyond &&
    ip address add 2001:db8::2/64 dev beyond nodad && ip route add default via 192.0.2.1 &&
    ip route add default via 2001:db8::1";

/// The namespaces of a case; the world and the pods come to be when they are first asked for.
pub(crate) struct Scratch {
    directory: PathBuf,
    places: BTreeMap<Place, Netns>,
}

impl Scratch {
    /// A host; links to namespaces go into `directory`.
    pub(crate) fn new(directory: &Path) -> Scratch {
        let places = BTreeMap::from([(Place::Host, Netns::new(HOST))]);
        Scratch { directory: directory.to_owned(), places }
    }

    /// The namespace of `place`, made when there is none yet.
    pub(crate) fn at(&mut self, place: Place) -> &Netns {
        if !self.places.contains_key(&place) {
            let made = Netns::new(if place == Place::World { HOST } else { "" });
            symlink(format!("/proc/{}/fd/{}", std::process::id(), made.0.as_raw_fd()), self.path(place))
                .unwrap();
            self.places.insert(place, made);
            if place == Place::World {
                let uplink = UPLINK.replace("$WORLD", &self.path(place).to_string_lossy());
                self.places[&Place::Host].run(|| succeed(&uplink));
                self.places[&place].run(|| succeed(BEYOND));
            }
        }
        &self.places[&place]
    }

    /// The namespace of `place`, which there is.
    pub(crate) fn existing(&self, place: Place) -> &Netns {
        &self.places[&place]
    }

    /// The namespaces that there are.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Place, &Netns)> {
        self.places.iter().map(|(place, netns)| (*place, netns))
    }

    /// The path by which plugins find it.
    pub(crate) fn path(&self, place: Place) -> PathBuf {
        self.directory.join(place.name())
    }

    /// Ends the namespace of `place`. The kernel takes its links away some time later.
    pub(crate) fn end(&mut self, place: Place) {
        fs::remove_file(self.path(place)).unwrap();
        self.places.remove(&place);
    }
}

/// Runs a shell's commands in the calling thread's namespace; they must end well.
pub(crate) fn succeed(commands: &str) -> String {
    let output = shell(commands);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{commands}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn shell(commands: &str) -> Output {
    Command::new("sh").args(["-c", commands]).output().unwrap()
}
