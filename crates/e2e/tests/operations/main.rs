//! What operators do with a node: configure it, have the configuration read again, ask the doctor, dump its state, install it.
//!
//! Not here: how configurations are merged and judged (`cri-server`'s own tests), what the figures say (`metrics`).

mod command;
mod configuration;
mod doctor;
mod dump;
mod package;
mod reload;
mod unit;
