//! Writes an EROFS image from a layer: `erofs ARCHIVE IMAGE`. Prints how long it took.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool for measuring")]

use std::fs::File;
use std::io::BufReader;
use std::time::Instant;

use image_service::{Digest, write_erofs};

fn main() {
    let [_, archive, image] = std::env::args().collect::<Vec<_>>().try_into().unwrap();
    let archive = BufReader::with_capacity(1 << 20, File::open(archive).unwrap());
    let image = File::create(image).unwrap();
    let began = Instant::now();
    let written = write_erofs(archive, image, &Digest::of(b"")).unwrap();
    println!("{:?}, {} bytes", began.elapsed(), written.size_bytes);
}
