//! What is done to images, each again and again by workers of its own. All of it may fail, as the daemon is killed and others take
//! away what it is done to; nothing may hang, and nothing that is read may be wrong.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use e2e::cri;

use e2e::Dice;

use crate::place::{IMAGES, Place, STUCK};

#[derive(Debug, Clone, Copy)]
pub enum Work {
    Pull,
    /// Pulls that are called off after a moment.
    Try,
    Remove,
    Prune,
    Run,
    Mount,
    Archive,
    Look,
}

pub const ALL: [Work; 8] =
    [Work::Pull, Work::Try, Work::Remove, Work::Prune, Work::Run, Work::Mount, Work::Archive, Work::Look];

/// Does its work until the storm is over.
pub async fn until_it_ends(place: Arc<Place>, work: Work, seed: u64) {
    let mut dice = Dice::new(seed * 31 + work as u64 + 7);
    let mut turn = 0;
    while !place.over.load(Ordering::Relaxed) {
        let name = format!("{work:?}-{seed}-{turn}");
        let number = 1 + usize::try_from(dice.below(IMAGES as u64 - 1)).unwrap();
        let done = tokio::time::timeout(STUCK, once(&place, work, (number, &name), &mut dice)).await;
        done.unwrap_or_else(|_| panic!("stuck: {name} of image {number}"));
        turn += 1;
    }
}

async fn once(place: &Place, work: Work, (number, name): (usize, &str), dice: &mut Dice) {
    let reference = place.reference(number);
    let pause = Duration::from_millis(dice.below(50));
    match work {
        Work::Pull => {
            // Now and then the image that is always there: a pull of it changes nothing.
            let reference = if dice.below(8) == 0 { place.reference(0) } else { reference };
            place.count("pulls", told(place.client().pull(&reference).await));
            tokio::time::sleep(pause).await;
        }
        Work::Try => {
            let patience = Duration::from_millis(1 + dice.below(150));
            if dice.below(2) == 0 {
                let done = tokio::time::timeout(patience, place.client().pull(&reference)).await;
                place.count("hasty pulls", done.map_or_else(|_| Err("called off".to_owned()), told));
            } else {
                let done = place.knarr(&["pull", &reference], patience).await;
                place.count("hasty pulls by command", done.map(drop));
            }
            tokio::time::sleep(pause).await;
        }
        Work::Remove => {
            tokio::time::sleep(pause * 20).await;
            let image = Some(e2e::client::image_spec(&reference));
            let removed = place.client().images.clone().remove_image(cri::RemoveImageRequest { image }).await;
            place.count("removals", told(removed));
        }
        Work::Prune => {
            tokio::time::sleep(pause * 5).await;
            place.count("prunings", place.knarr(&["image", "prune"], STUCK).await.map(drop));
        }
        Work::Run => {
            place.count("containers", told(place.looked_at(&reference, name).await));
            tokio::time::sleep(pause).await;
        }
        Work::Mount => mount(place, &reference, name, pause).await,
        Work::Archive => archive(place, (&reference, name), dice).await,
        Work::Look => {
            let images = place.client().images.clone();
            let fs = images.clone().image_fs_info(cri::ImageFsInfoRequest {}).await;
            place.count("looks", told(fs));
            place.count("lists", place.knarr(&["image", "ls", "--json"], STUCK).await.map(drop));
            tokio::time::sleep(pause).await;
        }
    }
}

/// Mounts the image on a directory, reads it there and unmounts it, if need be after a restart of the daemon.
async fn mount(place: &Place, reference: &str, name: &str, pause: Duration) {
    let directory = place.path(&format!("mount-{name}"));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.to_str().unwrap();
    let mounted = place.knarr(&["image", "mount", reference, path], STUCK).await;
    place.count("mounts", mounted.clone().map(drop));
    if mounted.is_ok() {
        tokio::time::sleep(pause).await;
        let sums = std::fs::read_to_string(directory.join("sums")).unwrap();
        let check = format!("sed 's,  /,  {path}/,' {path}/sums | sha256sum --quiet -c -");
        let mut command = tokio::process::Command::new("sh");
        let output = command.args(["-c", &check]).kill_on_drop(true).output().await.unwrap();
        assert!(
            output.status.success(),
            "a wrong byte in a mount: {output:?}, {} lines",
            sums.lines().count()
        );
    }
    unmounted(place, &directory).await;
}

/// Not mounted any more: also what was mounted by a command whose answer never came.
async fn unmounted(place: &Place, directory: &std::path::Path) {
    let path = directory.to_str().unwrap();
    e2e::until(STUCK, "an unmounted directory", || async {
        let said = place.knarr(&["image", "unmount", path], STUCK).await;
        std::fs::remove_dir(directory).map_err(|error| (error, said))
    })
    .await;
}

/// Saves an image and loads it again.
async fn archive(place: &Place, (reference, name): (&str, &str), dice: &mut Dice) {
    let file = place.path(&format!("{name}.tar"));
    let path = file.to_str().unwrap();
    let format = ["oci", "docker"][usize::from(dice.below(2) == 0)];
    let saved = place.knarr(&["image", "save", "--format", format, "-o", path, reference], STUCK).await;
    place.count("archives", saved.clone().map(drop));
    assert_eq!(file.exists(), saved.is_ok(), "an archive that isn't whole is left: {saved:?}");
    if saved.is_ok() {
        let patience = if dice.below(2) == 0 { STUCK } else { Duration::from_millis(dice.below(100)) };
        place.count("loads", place.knarr(&["image", "load", "-i", path], patience).await.map(drop));
        std::fs::remove_file(file).unwrap();
    }
}

fn told<T>(outcome: Result<T, tonic::Status>) -> Result<(), String> {
    outcome.map(drop).map_err(|status| format!("{:?}: {}", status.code(), status.message()))
}
