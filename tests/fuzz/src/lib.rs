//! Everything that arrives from network or disk, as arbitrary bytes: one function for each place
//! where it arrives.
//!
//! Two runners call the same functions. `cargo fuzz` builds each into a binary that libFuzzer
//! steers by coverage (`fuzz/`); the gate runs them as an ordinary test over the kept inputs and a
//! bounded number of changed ones (`tests/short/`). `README.md` tells how to run both.
//!
//! Invariants
//! - a target depends on its input alone: no clock, no random number, nothing left behind on disk;
//! - a target returns, whatever the input: what it panics on is a defect of the product.

mod agent;
mod client;
mod commands;
mod directory;
mod dns;
mod draw;
mod files;
mod jobs;
mod log;
mod mutate;
mod peer;
mod receive;
mod replica;
mod requests;
mod roles;
mod snapshot;
mod votes;
mod watch;

pub use mutate::Mutator;

/// A place where something arrives.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of its binary in `fuzz/fuzz_targets` and of its inputs in `fuzz/seeds`.
    pub name: &'static str,
    /// Hands it an input.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 28] = [
    target("agent_files", agent::target),
    target("client_mirror", client::mirror),
    target("client_watch", client::watch),
    target("data_directory", directory::target),
    target("dns_key_file", dns::key_file),
    target("dns_keys", dns::keys),
    target("dns_master_file", dns::master_file),
    target("dns_notify", dns::notify),
    target("dns_request", dns::request),
    target("etcd_request", requests::target),
    target("log_command", commands::encoded),
    target("log_commands", commands::drawn),
    target("log_store", log::target),
    target("mapreduce_job", jobs::records),
    target("mapreduce_run", jobs::run),
    target("peer_message", peer::target),
    target("probe_lists", votes::lists),
    target("restore", commands::restore),
    target("role_commands", roles::commands),
    target("role_restore", roles::restore),
    target("server_options", files::server_options),
    target("snapshot_file", snapshot::file),
    target("snapshot_receive", receive::target),
    target("stored_record", snapshot::record),
    target("txn_file", files::txn_file),
    target("vote_cuts", votes::cuts),
    target("vote_rows", votes::rows),
    target("watch_session", watch::target),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// Hands `data` to the target `name`.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("there is no fuzz target {name}"));
    (target.run)(data);
}
