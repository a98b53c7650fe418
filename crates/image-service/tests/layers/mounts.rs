//! How layers are mounted: shared by containers, unseen by the host, gone with the process.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use image_service::{Digest, Error};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::archive::{Tar, dir, file};
use crate::store::{Form, Mounted, Store};

/// What one container has read of a layer is in memory for all others: there is one mount of it, also when several begin
/// at once.
pub(crate) fn containers_share_pages(form: Form) {
    let store = Store::new(form);
    let layer = store.unpack(&Tar::new().with(file("f", vec![7; 400_000]))).unwrap();
    let names: Vec<String> = (0..6).map(|n| format!("c{n}")).collect();
    let roots: Vec<Mounted> = std::thread::scope(|scope| {
        let (store, layers) = (&store, std::slice::from_ref(&layer));
        let threads: Vec<_> =
            names.iter().map(|name| scope.spawn(move || store.mount(name, layers))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    forget_pages(&store, &layer, form);
    let resident: Vec<usize> = roots.iter().map(|root| pages_in_memory(&root.at("f"))).collect();
    assert_eq!(resident, [0; 6], "the pages were to be forgotten");
    assert_eq!(std::fs::read(roots[0].at("f")).unwrap().len(), 400_000);
    let resident: Vec<usize> = roots.iter().map(|root| pages_in_memory(&root.at("f"))).collect();
    assert_eq!(resident, [98; 6]);
}

/// A directory's pages are in memory since they were written; those of images are read through a mount first.
fn forget_pages(store: &Store, layer: &Digest, form: Form) {
    if form.is_directory() {
        let path = store.dir.path().join("images/layers/sha256").join(layer.hex()).join("fs/f");
        rustix::fs::fadvise(File::open(path).unwrap(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

#[allow(unsafe_code, reason = "a test; nothing safe says what is in memory")]
fn pages_in_memory(path: &Path) -> usize {
    let file = File::open(path).unwrap();
    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
    let mut pages = vec![0u8; length.div_ceil(4096)];
    // SAFETY: the mapping is new and ends here; `pages` has a byte for each of its pages.
    unsafe {
        let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
        let mapped = libc::mmap(std::ptr::null_mut(), length, read, shared, file.as_raw_fd(), 0);
        assert!(mapped != libc::MAP_FAILED);
        assert_eq!(libc::mincore(mapped, length, pages.as_mut_ptr()), 0);
        assert_eq!(libc::munmap(mapped, length), 0);
    }
    pages.iter().filter(|page| **page & 1 == 1).count()
}

/// A store whose form was changed: what is there goes on, above and below what is new.
pub(crate) fn layers_of_both_forms_stack(form: Form) {
    let store = Store::new(Form::Directories);
    let lower = Tar::new().with(dir("d").mode(0o1777)).with(file("d/gone", "1")).with(file("d/kept", "1"));
    let lower = store.unpack(&lower).unwrap();
    let store = store.reopen_as(form);
    let upper = Tar::new().with(file("d/.wh.gone", "")).with(file("d/new", "2"));
    let upper = store.unpack(&upper).unwrap();
    let store = store.reopen_as(Form::Directories);
    let top = store.unpack(&Tar::new().with(file("d/.wh.new", "")).with(file("top", "3"))).unwrap();
    let layers = [lower, upper, top];
    let root = store.mount("c", &layers);
    assert_eq!((root.names("d"), root.read("top")), (vec!["kept".to_owned()], "3".to_owned()));
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(root.metadata("d").mode() & 0o7777, 0o1777);
    // Files of all layers are on the root's device: programs that stay on one file system see them all.
    let device = |path| root.metadata(path).dev();
    assert_eq!([device("d/kept"), device("top")], [device("d"); 2]);
    let turned = store.mount("turned", &[&layers[2..], &layers[..2]].concat());
    assert_eq!(
        (turned.names("d"), turned.read("d/new")),
        (vec!["kept".into(), "new".into()], "2".to_owned())
    );
    let image = Digest::of(b"image");
    store.roots.hold_images("c", &[(image.clone(), layers.to_vec())]).unwrap();
    let view = store.roots.mount_image("c", (&image, Path::new("d")), (None, None)).unwrap();
    assert_eq!(Mounted::from(view).names("."), ["kept"]);
}

/// A layer whose files have vanished is an error that names it.
pub(crate) fn a_lost_layer_is_told(form: Form) {
    let store = Store::new(form);
    let layer = store.unpack(&Tar::new().with(file("f", "x"))).unwrap();
    std::fs::remove_dir_all(store.dir.path().join("images/layers/sha256").join(layer.hex())).unwrap();
    let outcome = store.roots.prepare("c", std::slice::from_ref(&layer));
    assert!(matches!(&outcome, Err(Error::LayerMissing { diff_id }) if *diff_id == layer), "{outcome:?}");
}

/// The containers of a daemon that ends go on with their roots, and when the last is gone nothing is in use any more.
pub(crate) fn a_mount_outlives_the_store(form: Form) {
    on_a_disk_of_its_own(form, |disk| {
        let store = open(form, disk);
        let layer = store.unpack(&Tar::new().with(file("f", "x"))).unwrap();
        let root = store.mount("c", &[layer]);
        let directory = store.close();
        assert_eq!(root.read("f"), "x");
        std::fs::write(root.at("new"), "y").unwrap();
        if !form.is_directory() {
            assert_eq!(rustix::mount::unmount(disk, UnmountFlags::empty()), Err(Errno::BUSY));
        }
        drop((root, directory));
    });
}

/// Nothing of a process that is killed stays in use: no mount, no loop device, no file of the store.
pub(crate) fn a_killed_process_leaves_nothing(form: Form) {
    on_a_disk_of_its_own(form, |disk| {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "mounts::hold_a_store_until_killed", "--ignored", "--nocapture"]);
        command.env("HELD_STORE", disk).env("HELD_FORM", format!("{form:?}")).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.ends_with("holding")), "{test}: the child has ended");
        let busy = rustix::mount::unmount(disk, UnmountFlags::empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(busy, Err(Errno::BUSY));
    });
}

/// The process that is killed.
#[test]
#[ignore = "a part of a_killed_process_leaves_nothing"]
fn hold_a_store_until_killed() {
    let Some(disk) = std::env::var_os("HELD_STORE") else { return };
    let named = std::env::var("HELD_FORM").unwrap();
    let forms = [Form::Directories, Form::Images, Form::ImagesOnLoopDevices, Form::ImagesOnStage];
    let form = forms.into_iter().find(|form| format!("{form:?}") == named).unwrap();
    let store = open(form, Path::new(&disk));
    let layer = store.unpack(&Tar::new().with(file("f", "x"))).unwrap();
    let root = store.mount("c", &[layer]);
    assert_eq!(root.read("f"), "x");
    println!("holding");
    loop {
        std::thread::park();
    }
}

fn open(form: Form, disk: &Path) -> Store {
    let dir = tempfile::Builder::new().prefix("store-").tempdir_in(disk).unwrap();
    Store::open(form, dir)
}

/// Runs `work` in a mount namespace of its own with a filesystem that nobody else uses, of which nothing is left then: the
/// kernel refuses to unmount it for as long as a file of it is open anywhere, and keeps its loop device for as long as
/// anything is mounted of it.
fn on_a_disk_of_its_own(form: Form, work: impl FnOnce(&Path) + Send) {
    let in_thread = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        if matches!(form, Form::ImagesOnLoopDevices) {
            rustix::mount::mount("tmpfs", &disk, "tmpfs", MountFlags::empty(), c"size=64m").unwrap();
        } else {
            mount_ext4(&dir.path().join("image"), &disk);
        }
        work(&disk);
        let started = Instant::now();
        let wait = |what: &dyn std::fmt::Debug| {
            assert!(started.elapsed() < Duration::from_secs(20), "the disk is still in use: {what:?}");
            std::thread::yield_now();
        };
        while let Err(errno) = rustix::mount::unmount(&disk, UnmountFlags::empty()) {
            wait(&errno);
        }
        while let Some(device) = loop_device_of(dir.path()) {
            wait(&device);
        }
    };
    std::thread::scope(|scope| scope.spawn(in_thread).join().unwrap());
}

/// A loop device on a file below `dir`.
fn loop_device_of(dir: &Path) -> Option<String> {
    let devices = std::fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path());
    let files = devices.filter_map(|device| std::fs::read_to_string(device.join("loop/backing_file")).ok());
    files.into_iter().find(|file| Path::new(file).starts_with(dir))
}

fn mount_ext4(image: &Path, disk: &Path) {
    let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    File::create(image).unwrap().set_len(64 << 20).unwrap();
    run("mkfs.ext4", &["-q".as_ref(), image.as_os_str()]);
    run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), disk.as_os_str()]);
}
