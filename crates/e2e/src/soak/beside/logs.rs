//! Random logs are read from their beginning while they are written, and some are rotated.

use std::sync::Arc;

use super::{LOGS, every};
use crate::Dice;
use crate::soak::latencies::Call;
use crate::soak::life::Reading;
use crate::soak::place::Place;

/// One in so many is rotated first.
const ROTATED: u64 = 5;

pub(super) async fn read(place: Arc<Place>) {
    let client = place.client();
    let mut dice = Dice::new(2);
    let mut ticks = every(LOGS);
    while !place.is_over() {
        ticks.tick().await;
        let Some(life) = place.crowd.any(&mut dice) else { continue };
        let looked = async {
            if dice.below(ROTATED) == 0 {
                place.clock.timed(Call::Rotation, life.rotate_log(&place, &client)).await?;
            }
            place.clock.timed(Call::Log, life.read_log(Reading::SoFar)).await
        };
        match looked.await {
            Err(said) if !life.is_leaving() => place.complain(said),
            _ => {}
        }
    }
}
