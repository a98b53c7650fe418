//! How fast what one container prints gets into its log, and what that costs.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_cri::v1::Mount;

use super::measure::{Figures, Network, add, container, pod, run};
use super::peers::Peer;

/// A line of the container's, its end included, in bytes.
const LINE: usize = 100;
/// What is printed at once: it stays in the page cache, so that reading it costs little.
const FILE: usize = 64 << 20;
/// How often it is printed.
const TIMES: usize = 8;
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// One container that prints half a GiB of lines as fast as it can, until the last one is in its log. The processor time is
/// everybody's: the container's, too.
///
/// # Panics
/// When a call fails.
pub(super) async fn throughput(peer: &Peer, image: &str, figures: &mut Figures) {
    let words = peer.path("words");
    std::fs::write(&words, format!("{}\n", "x".repeat(LINE - 1)).repeat(FILE / LINE)).expect("a file");
    let client = peer.client();
    let config = pod(peer, Network::Host, 0);
    let pod = run(&client, peer, &config).await.expect("a pod");
    let script = format!("cat{}; echo the end", " /words".repeat(TIMES));
    let mut wanted = container(Network::Host, image);
    wanted.command = ["sh", "-c", script.as_str()].map(str::to_owned).to_vec();
    wanted.mounts = vec![Mount {
        container_path: "/words".to_owned(),
        host_path: words.display().to_string(),
        readonly: true,
        ..Mount::default()
    }];
    let log = Path::new(&config.log_directory).join(&wanted.log_path);
    let id = client.create(&pod, wanted, &config).await.expect("a container");
    let (begun, before) = (Instant::now(), peer.processor_time());
    client.start(&id).await.expect("a start");
    until_it_ends(log.clone()).await;
    let (seconds, used) = (begun.elapsed().as_secs_f64(), (peer.processor_time() - before) as f64 / 1e9);
    let mib = (FILE / LINE * LINE * TIMES) as f64 / f64::from(1 << 20);
    add(figures, "log of one container, MiB a second", mib / seconds);
    add(figures, "log of one container: processor time per GiB, s", used / mib * 1024.0);
    client.stop_pod(&pod).await.expect("a stop");
    client.remove_pod(&pod).await.expect("a removal");
    let _ = std::fs::remove_file(log);
    let _ = std::fs::remove_file(words);
}

/// Waits for the last line. Runtimes write times of different lengths, so the size says nothing.
async fn until_it_ends(log: PathBuf) {
    let until = Instant::now() + PATIENCE;
    while !ends(&log).unwrap_or(false) {
        assert!(Instant::now() < until, "\"{}\" has no end", log.display());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn ends(log: &Path) -> std::io::Result<bool> {
    const END: &[u8] = b" F the end\n";
    let mut file = File::open(log)?;
    file.seek(SeekFrom::End(-i64::try_from(END.len()).unwrap_or(0)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(tail == END)
}
