//! The Debian package, looked at where it was made: what is in it and where.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{needs, node};

/// Of a program that is part of this machine.
fn output(program: &str, arguments: &[&std::ffi::OsStr]) -> String {
    let ran = Command::new(program).args(arguments).output().unwrap();
    assert!(ran.status.success(), "{program}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

#[test]
fn the_package_has_everything_in_its_place() {
    needs!("dpkg-deb", "dpkg-shlibdeps", "strip");
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
    if !packaging.exists() {
        println!("skipped: {} needs the source tree", module_path!());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let binaries = node::binary("knarr").parent().unwrap().to_owned();
    let package = output(
        packaging.join("deb").to_str().unwrap(),
        &[binaries.as_os_str(), directory.path().as_os_str()],
    );
    let package = PathBuf::from(package.trim());
    let fields = output("dpkg-deb", &["--info".as_ref(), package.as_os_str()]);
    assert!(fields.contains("Package: knarr\n") && fields.contains("libc6 (>="), "{fields}");
    let root = directory.path().join("root");
    output("dpkg-deb", &["--raw-extract".as_ref(), package.as_os_str(), root.as_os_str()]);
    for name in [
        "usr/bin/knarr",
        "usr/bin/knarr-supervisor",
        "usr/libexec/knarr/knarr-demo-workload",
        "usr/lib/systemd/system/knarr.service",
        "usr/lib/modules-load.d/knarr.conf",
        "usr/lib/sysctl.d/50-knarr.conf",
        "usr/share/man/man1/knarr-serve.1.gz",
        "usr/share/doc/knarr/install.md",
        "usr/share/doc/knarr/examples/crictl.yaml",
        "etc/knarr/config.toml",
        "etc/knarr/config.toml.d",
    ] {
        assert!(root.join(name).exists(), "{name}");
    }
    assert_eq!(std::fs::read_to_string(root.join("DEBIAN/conffiles")).unwrap(), "/etc/knarr/config.toml\n");
    let unit = std::fs::read_to_string(root.join("usr/lib/systemd/system/knarr.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/knarr serve\n") && !unit.contains('@'), "{unit}");
    for script in ["preinst", "postinst", "prerm", "postrm"] {
        output("sh", &["-n".as_ref(), root.join("DEBIAN").join(script).as_os_str()]);
    }
    // The configuration that it brings says nothing but what is a default anyway.
    let knarr = root.join("usr/bin/knarr");
    let config = root.join("etc/knarr/config.toml");
    output(knarr.to_str().unwrap(), &["config".as_ref(), "check".as_ref(), config.as_os_str()]);
    let demo = output(knarr.to_str().unwrap(), &["demo".as_ref()]);
    assert!(demo.contains("pod, image, daemon and directories are gone"), "{demo}");
}
