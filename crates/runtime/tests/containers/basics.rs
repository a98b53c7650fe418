//! What a container is given.

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use runtime::plan::seccomp::Instruction;
use runtime::plan::{PlanInput, SeccompFilter, plan};
use runtime::spec::oci;
use runtime::{FailedStep, FailureKind};

use crate::Test;
use crate::rig::{
    Rig, add_mount, edit_process, handshake, line, namespaces, planned, shell, spec, times_a_bare_process,
    wait,
};

pub const TESTS: &[Test] = &[
    ("a_command_runs_and_its_exit_code_comes_back", exit_code),
    ("the_environment_is_what_was_asked", environment),
    ("filesystems_are_there_and_restricted", filesystems),
    ("cgroups_are_shown_read_only", cgroups),
    ("rights_are_those_of_the_plan", rights),
    ("a_user_has_its_groups_and_no_capability", user),
    ("ambient_capabilities_reach_a_user", ambient),
    ("volumes_are_attached_with_their_flags", volumes),
    ("a_read_only_root_is_one", read_only_root),
    ("a_terminal_is_the_containers_own", terminal),
    ("a_seccomp_filter_is_in_force", seccomp_filter),
    ("a_seccomp_filter_sees_nothing_of_ours_but_execve", seccomp_filter_comes_last),
    ("a_seccomp_filter_that_kills_ends_the_process_and_not_the_start", seccomp_filter_kills),
    ("commands_that_cannot_run_are_told_apart", failing_commands),
    ("limits_and_masks_are_set", limits),
    ("starting_fits_its_budget", budget),
];

fn exit_code() {
    let rig = Rig::new();
    let outcome = rig.run(&shell("echo hello; exit 7"));
    assert_eq!((outcome.code, outcome.signal, outcome.lines()), (7, 0, vec!["hello"]));
    let outcome = rig.run(&shell("kill -9 $$"));
    // The first process of a pid namespace ignores its own signals.
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

fn environment() {
    let rig = Rig::new();
    let mut spec = shell(
        "pwd; echo $FLAG; hostname; umask; ls /proc/self/fd | wc -l; cat /proc/self/comm; echo $$; ls -A /dev/shm",
    );
    edit_process(&mut spec, |process| {
        process.set_cwd("/made/for it".into());
    });
    let outcome = rig.run(&spec);
    // ls itself has the directory open, as the fourth.
    assert_eq!(outcome.lines(), ["/made/for it", "up", "boat", "0022", "4", "cat", "1"], "{outcome:?}");
}

fn filesystems() {
    let rig = Rig::new();
    let script = "
        stat -c '%n %t:%T %a' /dev/null /dev/tty
        for link in ptmx fd core; do readlink /dev/$link; done
        echo $(cat /proc/version | wc -c) bytes
        echo $(ls -A /sys/firmware | wc -l) entries
        touch /sys/firmware/x 2>&1
        echo 1 2>&1 > /proc/sys/kernel/shmmax || echo read-only
        touch /sys/x 2>/dev/null || echo read-only
        touch /tmp/x && echo writable
        echo $(stat -f -c %T /proc /sys /dev/shm /dev/mqueue /dev/pts)
        stat -c %a /dev/shm
    ";
    let mut spec = shell(script);
    let mut linux = spec.linux().clone().unwrap();
    let masked = linux.masked_paths().iter().flatten().cloned().chain(["/proc/version".to_owned()]).collect();
    linux.set_masked_paths(Some(masked));
    spec.set_linux(Some(linux));
    let outcome = rig.run(&spec);
    let lines = outcome.lines().join("\n");
    for wanted in [
        "/dev/null 1:3 666",
        "/dev/tty 5:0 666",
        "pts/ptmx\n/proc/self/fd\n/proc/kcore",
        "0 bytes\n0 entries\n",
        "\nread-only\n",
        "writable",
        "\n1777",
    ] {
        assert!(lines.contains(wanted), "{wanted} is missing in:\n{lines}");
    }
    assert_eq!(lines.matches("read-only").count(), 2, "{lines}");
    assert!(!fs::exists("/sys/x").unwrap());
}

fn cgroups() {
    let rig = Rig::new();
    let outcome = rig.run(&shell("cat /proc/self/cgroup; ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/*/x 2>/dev/null && echo made; cat /sys/fs/cgroup/pids/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null"));
    let lines = outcome.lines();
    let own: Vec<_> = lines.iter().filter(|line| line.matches(':').count() == 2).collect();
    assert!(!own.is_empty() && own.iter().all(|line| line.ends_with(":/")), "a cgroup namespace: {lines:?}");
    assert!(!lines.contains(&"made"), "{lines:?}");
    assert!(lines.contains(&"1"), "its own processes are listed: {lines:?}");
}

fn rights() {
    let rig = Rig::new();
    let outcome = rig.run(&spec(&["cat", "/proc/self/status"]));
    let text = outcome.lines().join("\n");
    // Chown, DAC override, fowner, fsetid, kill, setgid, setuid, setpcap, bind service, raw, chroot, mknod,
    // audit write, setfcap.
    let default = "00000000a80425fb";
    for wanted in [
        format!("CapPrm:\t{default}"),
        format!("CapEff:\t{default}"),
        format!("CapBnd:\t{default}"),
        "CapInh:\t0000000000000000".to_owned(),
        "CapAmb:\t0000000000000000".to_owned(),
        "NoNewPrivs:\t1".to_owned(),
        "SigBlk:\t0000000000000000".to_owned(),
        "SigIgn:\t0000000000000000".to_owned(),
    ] {
        assert!(text.contains(&wanted), "{wanted} is missing in:\n{text}");
    }
}

fn user() {
    let rig = Rig::new();
    let mut spec = shell(
        "id -u; id -g; id -G; grep -E 'Cap(Prm|Eff|Amb|Inh)' /proc/self/status; echo out > /dev/stdout; touch /data/x 2>/dev/null || echo denied",
    );
    edit_process(&mut spec, |process| {
        let user =
            oci::UserBuilder::default().uid(33u32).gid(34u32).additional_gids([34, 50, 51]).build().unwrap();
        process.set_user(user);
    });
    fs::create_dir_all(rig.image().join("bin")).unwrap();
    symlink("busybox", rig.image().join("bin/grep")).unwrap();
    let outcome = rig.run(&spec);
    let lines = outcome.lines();
    assert_eq!(&lines[..3], ["33", "34", "34 50 51"]);
    assert!(lines[3..7].iter().all(|line| line.ends_with("0000000000000000")), "{lines:?}");
    assert_eq!(&lines[7..], ["out", "denied"]);
}

fn ambient() {
    let rig = Rig::new();
    let mut spec = shell("cat /proc/self/status");
    edit_process(&mut spec, |process| {
        let one: oci::Capabilities = [oci::Capability::NetBindService].into_iter().collect();
        let mut sets = process.capabilities().clone().unwrap();
        sets.set_ambient(Some(one));
        process.set_capabilities(Some(sets));
        process.set_user(oci::UserBuilder::default().uid(33u32).gid(33u32).build().unwrap());
    });
    let outcome = rig.run(&spec);
    let text = outcome.lines().join("\n");
    assert!(
        text.contains("CapEff:\t0000000000000400") && text.contains("CapAmb:\t0000000000000400"),
        "{text}"
    );
}

fn volumes() {
    let rig = Rig::new();
    let volume = rig.outside("volume");
    fs::write(volume.join("note"), "from outside\n").unwrap();
    fs::create_dir(volume.join("sub")).unwrap();
    let mut spec = shell(
        "cat /mnt/ro/note /etc/one; touch /mnt/ro/x 2>/dev/null || echo read-only; touch /mnt/rw/x && echo written; \
         cp /bin/busybox /mnt/rw/cat; /mnt/rw/cat /etc/one 2>/dev/null || echo no-exec; cat /var/run/deep/note",
    );
    symlink("/run", rig.image().join("run-link")).unwrap();
    fs::create_dir(rig.image().join("var")).unwrap();
    symlink("/run", rig.image().join("var/run")).unwrap();
    add_mount(&mut spec, &volume, "/mnt/ro", &["rbind", "ro"]);
    add_mount(&mut spec, &volume, "/mnt/rw", &["rbind", "rw", "noexec"]);
    add_mount(&mut spec, &volume.join("note"), "/etc/one", &["bind", "ro"]);
    add_mount(&mut spec, &volume, "/var/run/deep", &["rbind", "rro"]);
    symlink("busybox", rig.image().join("bin/cp")).unwrap();
    let outcome = rig.run(&spec);
    assert_eq!(
        outcome.lines(),
        ["from outside", "from outside", "read-only", "written", "no-exec", "from outside"],
        "{outcome:?}"
    );
    assert!(volume.join("x").exists());
    assert!(
        !rig.image().join("etc/one").exists() && !rig.image().join("run").exists(),
        "the image is as it was"
    );
}

fn read_only_root() {
    let rig = Rig::new();
    let mut spec = shell(
        "touch /x 2>/dev/null || echo read-only; touch /dev/x && touch /dev/shm/x && echo writable; pwd",
    );
    let mut root = oci::Root::default();
    root.set_readonly(Some(true));
    spec.set_root(Some(root));
    edit_process(&mut spec, |process| {
        process.set_cwd("/new".into());
    });
    assert_eq!(rig.run(&spec).lines(), ["read-only", "writable", "/new"]);
}

fn terminal() {
    let rig = Rig::new();
    let mut spec = shell(
        "tty; stty size; stat -c '%u %t:%T' /dev/console; test -t 0 && test -t 2 && echo all; read word; echo got $word",
    );
    edit_process(&mut spec, |process| {
        process.set_terminal(Some(true));
        process
            .set_console_size(Some(oci::BoxBuilder::default().height(24u64).width(80u64).build().unwrap()));
        process.set_user(oci::UserBuilder::default().uid(33u32).gid(33u32).build().unwrap());
    });
    let null = File::open("/dev/null").unwrap().into();
    let mut launched = rig.start(&planned(&spec), &null).unwrap();
    let (master, result) = handshake(&mut launched.handshake);
    result.unwrap();
    let mut master = File::from(master.expect("a terminal's master"));
    let lines: Vec<String> = (0..4).map(|_| line(&mut master)).collect();
    assert_eq!(lines[..2], ["/dev/pts/0", "24 80"], "{lines:?}");
    assert_eq!(lines[2..], ["33 88:0", "all"], "{lines:?}");
    std::io::Write::write_all(&mut master, b"word\n").unwrap();
    assert_eq!([line(&mut master), line(&mut master)], ["word", "got word"]);
    assert_eq!(wait(&launched.pidfd), (0, 0));
}

/// A filter for this machine's own system calls that answers EPERM to one of them.
fn denying(call: libc::c_long) -> SeccompFilter {
    let say = |code, jf, k| Instruction { code, jt: 0, jf, k };
    let errno = 0x0005_0000 | libc::EPERM.unsigned_abs();
    SeccompFilter {
        flags: 0,
        program: [
            say(0x20, 0, 0),
            say(0x15, 1, u32::try_from(call).unwrap()),
            say(0x06, 0, errno),
            say(0x06, 0, 0x7fff_0000),
        ]
        .into(),
    }
}

fn seccomp_filter() {
    for no_new_privileges in [true, false] {
        let rig = Rig::new();
        let mut spec = shell("grep Seccomp: /proc/self/status; uname 2>&1; hostname");
        for name in ["grep", "uname"] {
            symlink("busybox", rig.image().join("bin").join(name)).unwrap();
        }
        edit_process(&mut spec, |process| {
            process.set_no_new_privileges(Some(no_new_privileges));
        });
        let filter = denying(libc::SYS_uname);
        let plan = plan(&PlanInput { spec: &spec, namespaces: namespaces(), seccomp: Some(filter) }).unwrap();
        let outcome = rig.run_planned(&plan);
        assert_eq!(outcome.lines().first(), Some(&"Seccomp:\t2"), "{outcome:?}");
        assert!(!outcome.output.contains("Linux") && !outcome.output.contains("boat"), "{outcome:?}");
    }
}

/// A filter for this machine's own system calls that kills for some of them; for all, when none is named.
fn killing(calls: &[libc::c_long]) -> SeccompFilter {
    let say = |code, k| Instruction { code, jt: 0, jf: 0, k };
    let (kill, allow) = (say(0x06, 0x8000_0000), say(0x06, 0x7fff_0000));
    let mut program = vec![say(0x20, 0)];
    for call in calls {
        program.push(Instruction { code: 0x15, jt: 0, jf: 1, k: u32::try_from(*call).unwrap() });
        program.push(kill);
    }
    program.push(if calls.is_empty() { kill } else { allow });
    SeccompFilter { flags: 4, program: program.into() }
}

fn seccomp_filter_comes_last() {
    let ours = [
        libc::SYS_capget,
        libc::SYS_capset,
        libc::SYS_seccomp,
        libc::SYS_close_range,
        libc::SYS_sendmsg,
        libc::SYS_setresuid,
        libc::SYS_setgroups,
        libc::SYS_openat2,
    ];
    for (uid, no_new_privileges) in [(0_u32, true), (0, false), (33, true), (33, false)] {
        let rig = Rig::new();
        let mut spec = shell(
            "while read line; do case $line in Seccomp:*|Cap*) echo $line;; esac; done < /proc/self/status",
        );
        edit_process(&mut spec, |process| {
            process.set_no_new_privileges(Some(no_new_privileges));
            process.set_user(oci::UserBuilder::default().uid(uid).gid(uid).build().unwrap());
        });
        let bare = rig.run(&spec);
        let input = PlanInput { spec: &spec, namespaces: namespaces(), seccomp: Some(killing(&ours)) };
        let outcome = rig.run_planned(&plan(&input).unwrap());
        let case = format!("user {uid}, no_new_privs {no_new_privileges}: {outcome:?}");
        assert_eq!((outcome.code, outcome.lines().last()), (0, Some(&"Seccomp: 2")), "{case}");
        // The capability that a filter is installed with is gone.
        let capabilities = |lines: Vec<&str>| lines[..lines.len() - 1].join("\n");
        assert_eq!(capabilities(outcome.lines()), capabilities(bare.lines()), "{case}");
    }
}

fn seccomp_filter_kills() {
    let rig = Rig::new();
    let input =
        PlanInput { spec: &shell("echo never"), namespaces: namespaces(), seccomp: Some(killing(&[])) };
    let outcome = rig.run_planned(&plan(&input).unwrap());
    assert_eq!(
        (outcome.signal, outcome.failure.is_none(), &*outcome.output),
        (libc::SIGSYS, true, ""),
        "{outcome:?}"
    );
}

fn failing_commands() {
    let rig = Rig::new();
    fs::write(rig.image().join("bin/script"), "#!/bin/missing\n").unwrap();
    fs::write(rig.image().join("bin/plain"), "echo\n").unwrap();
    fs::write(rig.image().join("bin/noise"), "noise").unwrap();
    for name in ["script", "noise"] {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(rig.image().join("bin").join(name), permissions).unwrap();
    }
    for (command, kind, errno) in [
        ("nothing", FailureKind::NotFound, libc::ENOENT),
        ("/bin/nothing", FailureKind::NotFound, libc::ENOENT),
        ("/bin/sh/x", FailureKind::NotFound, libc::ENOENT),
        ("script", FailureKind::NoInterpreter, libc::ENOENT),
        ("/bin/plain", FailureKind::NotExecutable, libc::EACCES),
        ("plain", FailureKind::NotExecutable, libc::EACCES),
        ("/etc", FailureKind::NotExecutable, libc::EACCES),
        ("noise", FailureKind::NotExecutable, libc::ENOEXEC),
    ] {
        let outcome = rig.run(&spec(&[command]));
        let failure = outcome.failed();
        assert_eq!((failure.step, failure.subject.as_str()), (FailedStep::Exec, command), "{failure:?}");
        assert_eq!((failure.kind, failure.errno), (kind, Some(errno)), "{failure:?}");
        println!("    {failure}");
    }
}

fn limits() {
    let rig = Rig::new();
    let mut spec = shell(
        "ulimit -n; ulimit -Hn; umask; cat /proc/self/oom_score_adj; touch /data/x; stat -c %a /data/x",
    );
    edit_process(&mut spec, |process| {
        let limit = oci::PosixRlimitBuilder::default()
            .typ(oci::PosixRlimitType::RlimitNofile)
            .soft(100u64)
            .hard(200u64);
        process.set_rlimits(Some(vec![limit.build().unwrap()]));
        process.set_oom_score_adj(Some(500));
        process.set_user(oci::UserBuilder::default().uid(0u32).gid(0u32).umask(0o027u32).build().unwrap());
    });
    assert_eq!(rig.run(&spec).lines(), ["100", "200", "0027", "500", "640"]);
    edit_process(&mut spec, |process| {
        process.set_oom_score_adj(Some(-999));
    });
    assert_eq!(rig.run(&spec).code, 0, "a score that may not be set does not stop a container");
}

fn budget() {
    let rig = Rig::new();
    let plan = planned(&spec(&["/bin/busybox", "true"]));
    let ratio = times_a_bare_process(|| {
        let (_read, write) = rustix::pipe::pipe().unwrap();
        let mut launched = rig.start(&plan, &write).unwrap();
        handshake(&mut launched.handshake).1.unwrap();
        wait(&launched.pidfd);
    });
    assert!(ratio < 10.0, "{ratio} times a bare process");
}
