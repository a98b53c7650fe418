//! knarr-supervisor
fn main() {}
