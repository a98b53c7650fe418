//! Readings of directories with the files of real cgroups: of version 1 with a version 2 tree beside it (Linux 6.18), and of version 2
//! (Debian's 6.12), each limited and busy when they were taken. blkio's two and `memory.memsw.failcnt` are written by hand: that
//! machine's disk is counted by nobody, and its limit was never hit.

use std::path::{Path, PathBuf};

use super::super::{Directory, Host, Layout};
use super::*;

const ALL: &[Part] = &[
    Part::Cpu,
    Part::CpuDetail,
    Part::Memory,
    Part::MemoryDetail,
    Part::Pressure,
    Part::Tasks,
    Part::Io,
    Part::HugePages,
];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cgroup")
}

fn unified() -> Cgroup {
    Cgroup { path: "/c".to_owned(), unified: Some(golden().join("unified")), legacy: vec![] }
}

fn hybrid() -> Cgroup {
    let directory = |name: &str| Directory {
        controllers: vec![name.to_owned()],
        name: name.to_owned(),
        directory: golden().join("legacy").join(name),
    };
    let legacy = ["memory", "cpu", "cpuacct", "blkio", "pids"].map(directory).into();
    Cgroup { path: "/c".to_owned(), unified: Some(golden().join("legacy/unified")), legacy }
}

fn read(cgroup: &Cgroup) -> Stats {
    let mut reader = Reader::new();
    reader.page_sizes = Some(vec!["2MB".to_owned(), "1GB".to_owned()]);
    reader.stats(cgroup, ALL).unwrap()
}

fn stall(total_us: u64, averages: [u32; 3]) -> Stall {
    Stall { total_us, averages }
}

#[test]
fn everything_of_version_2() {
    let stats = read(&unified());
    assert_eq!(stats.cpu, Some(CpuStats { usage_ns: 3_099_855_000 }));
    let modes = CpuModes { user_ns: 2_545_722_000, system_ns: 554_133_000 };
    let throttling = Throttling {
        periods: 68,
        throttled_periods: 61,
        throttled_ns: 3_024_041_000,
        ..Throttling::default()
    };
    assert_eq!(stats.cpu_detail, CpuDetail { modes: Some(modes), throttling: Some(throttling) });
    let memory = MemoryStats {
        usage: 25_518_080,
        working_set: 25_518_080 - 25_186_304,
        cache: 25_247_744,
        active_file: 61_440,
        inactive_file: 25_186_304,
        kernel: Some(65_536),
        dirty: Some(0),
        writeback: Some(0),
        page_faults: 925,
        major_page_faults: 1,
        pages_scanned: Some(0),
        pages_stolen: Some(0),
        refaults_file: Some(0),
        refaults_anonymous: Some(0),
        limit: Some(64 << 20),
        ..MemoryStats::default()
    };
    assert_eq!(stats.memory, Some(memory));
    assert_eq!(stats.swap, Some(SwapStats { usage: 0, limit: Some(32 << 20), limit_with_memory: None }));
    let detail = MemoryDetail {
        peak: Some(27_115_520),
        kernel: None,
        limit_hits: Some(0),
        high_events: Some(0),
        oom_kills: Some(0),
    };
    assert_eq!(stats.memory_detail, detail);
    let line = stall(2_486_788, [885, 346, 82]);
    assert_eq!(stats.pressure.cpu, Some(Pressure { some: line, full: Some(line) }));
    assert_eq!(stats.pressure.io.unwrap().some, stall(15_472, [0; 3]));
    assert_eq!(stats.tasks, Some(TaskStats { current: 0, limit: Some(100) }));
    let io = |read, write| Io { read, write, ..Io::default() };
    let device =
        DeviceIo { device: (254, 0), bytes: io(25_247_744, 25_165_824), operations: io(28, 24), cost: None };
    assert_eq!(stats.io, [device]);
    let pages = HugePages { size: "2MB".to_owned(), usage: 0, peak: None, limit_hits: Some(0) };
    assert_eq!(stats.huge_pages, [pages], "pages of 1 GiB have no files there");
}

#[test]
fn everything_of_version_1_and_pressure_of_the_tree_beside() {
    let stats = read(&hybrid());
    assert_eq!(stats.cpu, Some(CpuStats { usage_ns: 932_123_949 }));
    let modes = CpuModes { user_ns: 780_000_000, system_ns: 140_000_000 };
    let throttling =
        Throttling { periods: 21, throttled_periods: 17, throttled_ns: 755_180_986, ..Throttling::default() };
    assert_eq!(stats.cpu_detail, CpuDetail { modes: Some(modes), throttling: Some(throttling) });
    let memory = MemoryStats {
        usage: 835_584,
        working_set: 835_584 - 98_304,
        rss: 188_416,
        cache: 364_544,
        mapped_file: 8192,
        active_file: 266_240,
        inactive_file: 98_304,
        dirty: Some(8192),
        writeback: Some(0),
        page_faults: 931,
        major_page_faults: 2,
        own_page_faults: Some((931, 2)),
        refaults_file: Some(89),
        refaults_anonymous: Some(0),
        limit: Some(64 << 20),
        ..MemoryStats::default()
    };
    assert_eq!(stats.memory, Some(memory));
    let swap = SwapStats { usage: 0, limit: Some(64 << 20), limit_with_memory: Some(128 << 20) };
    assert_eq!(stats.swap, Some(swap), "what may be used beyond memory");
    let detail = MemoryDetail {
        peak: Some(2_121_728),
        kernel: Some(114_688),
        limit_hits: Some(3),
        high_events: None,
        oom_kills: Some(0),
    };
    assert_eq!(stats.memory_detail, detail);
    assert_eq!(stats.pressure.cpu.unwrap().full, Some(stall(428_123, [242, 61, 13])));
    assert_eq!(stats.pressure.memory.unwrap().some, Stall::default());
    assert_eq!(stats.tasks, Some(TaskStats { current: 2, limit: Some(100) }));
    let [disk, other] = &*stats.io else { panic!("{:?}", stats.io) };
    assert_eq!((disk.device, other.device), ((253, 0), (8, 16)));
    let bytes = Io {
        read: 25_165_824,
        write: 50_331_648,
        discard: 8192,
        sync: Some(75_493_376),
        background: Some(4096),
    };
    assert_eq!((disk.bytes, disk.operations.discard, other.operations.read), (bytes, 2, 1));
    assert!(stats.huge_pages.is_empty(), "there is no such controller");
}

/// A limit on memory that is none of swap's: what version 1 says of both together is no number.
#[test]
fn no_limit_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    put("memory.usage_in_bytes", "4096\n");
    put("memory.limit_in_bytes", "9223372036854771712\n");
    put("memory.memsw.limit_in_bytes", "9223372036854771712\n");
    // What lies above has limits.
    put(
        "memory.stat",
        "cache 1\nhierarchical_memory_limit 8192\nhierarchical_memsw_limit 8192\ntotal_swap 7\n\
         total_inactive_file 8192\n",
    );
    let mut cgroup = hybrid();
    cgroup.legacy[0].directory = directory.path().to_owned();
    let stats = Reader::new().stats(&cgroup, &[Part::Memory]).unwrap();
    let memory = stats.memory.unwrap();
    assert_eq!((memory.limit, memory.working_set), (None, 0), "more inactive pages than usage, for a moment");
    assert_eq!(stats.swap, Some(SwapStats { usage: 7, limit: None, limit_with_memory: None }));
    put("memory.limit_in_bytes", "4096\n");
    put("memory.memsw.limit_in_bytes", "12288\n");
    let swap = SwapStats { usage: 7, limit: Some(8192), limit_with_memory: Some(12_288) };
    assert_eq!(Reader::new().stats(&cgroup, &[Part::Memory]).unwrap().swap, Some(swap));
    // Without accounting of swap the kernel has no line of it.
    put("memory.stat", "cache 1\n");
    assert_eq!(Reader::new().stats(&cgroup, &[Part::Memory]).unwrap().swap, None);
}

#[test]
fn a_quota_is_one_in_both_versions() {
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let mut legacy = hybrid();
    for cpu in legacy.legacy.iter_mut().filter(|cpu| cpu.name == "cpu") {
        cpu.directory = directory.path().to_owned();
    }
    let unified = Cgroup { unified: Some(directory.path().to_owned()), ..unified() };
    let mut reader = Reader::new();
    let mut both = || [&legacy, &unified].map(|cgroup| reader.quota(cgroup).unwrap());
    assert_eq!(both(), [None, None]);
    put("cpu.cfs_period_us", "100000\n");
    put("cpu.cfs_quota_us", "-1\n");
    put("cpu.max", "max 100000\n");
    assert_eq!(both(), [Some(Quota { runtime_us: None, period_us: 100_000 }); 2]);
    put("cpu.cfs_quota_us", "50000\n");
    put("cpu.max", "50000 100000\n");
    assert_eq!(both(), [Some(Quota { runtime_us: Some(50_000), period_us: 100_000 }); 2]);
}

#[test]
fn a_cgroup_that_is_gone_uses_nothing() {
    let host = Host { unified: Some("/nowhere".into()), legacy: vec![] };
    assert_eq!(host.layout(), Layout::Unified);
    let gone = Cgroup::at(&host, "/c").unwrap();
    assert_eq!(read(&gone), Stats::default());
    assert_eq!(Reader::new().processes(&gone).unwrap(), [] as [i32; 0]);
}

/// The price of a list: the files in the table of the module's head, each read once. What is read is counted by the kernel.
#[test]
fn a_file_is_read_once_with_one_call() {
    let reads = || {
        let text = std::fs::read_to_string("/proc/thread-self/io").ok()?;
        text.lines().find_map(|line| line.strip_prefix("syscr: ")?.parse::<u64>().ok())
    };
    let Some(own) = reads().zip(reads()).map(|(first, second)| second - first) else {
        println!("skipped: this kernel does not count reads");
        return;
    };
    let count = |cgroup: &Cgroup, parts: &[Part]| {
        let mut reader = Reader::new();
        reader.page_sizes = Some(vec!["2MB".to_owned()]);
        let before = reads().unwrap();
        reader.stats(cgroup, parts).unwrap();
        reads().unwrap() - before - own
    };
    let list = [Part::Cpu, Part::Memory, Part::Pressure];
    assert_eq!((count(&hybrid(), &list), count(&unified(), &list)), (8, 9));
    assert_eq!((count(&hybrid(), ALL), count(&unified(), ALL)), (19, 16));
}
