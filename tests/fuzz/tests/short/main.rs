//! The short run: every target over its kept inputs, and over a bounded number of changed ones.
//!
//! Why not libFuzzer here: a build with its instrumentation compiles the product and all that it
//! stands on a second time, which takes longer than the rest of the gate. `cargo fuzz` looks for
//! new inputs (`README.md`); this run keeps what it has found, and looks near it.
//!
//! A failure prints the input, as a command that repeats it. `FUZZ_INPUTS` says how many are changed,
//! `FUZZ_SEED` by which chances, for longer runs where libFuzzer is not at hand.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use cfgsvc_fuzz::{Mutator, TARGETS, Target};

/// Changed inputs for each target, in the gate.
const INPUTS: u64 = 2_000;

/// A number from the environment.
fn setting(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => otherwise,
    }
}

fn fuzz_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The kept inputs of a target, in order of their names.
fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let directory = fuzz_directory().join("seeds").join(target.name);
    let entries = fs::read_dir(&directory);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a seed").path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).expect("a seed"))
        .collect()
}

fn hand(target: &Target, input: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if outcome.is_ok() {
        return;
    }
    let mut bytes = String::new();
    for byte in input {
        write!(bytes, "\\x{byte:02x}").expect("memory");
    }
    let name = target.name;
    panic!("repeat with: printf '{bytes}' >input && cargo fuzz run -s none {name} input");
}

fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.expect("a target of this name");
    let seeds = seeds(target);
    assert!(!seeds.is_empty(), "{name} has no kept inputs");
    for seed in &seeds {
        hand(target, seed);
    }
    let mut mutator = Mutator::new(&seeds, setting("FUZZ_SEED", 1));
    for _ in 0..setting("FUZZ_INPUTS", INPUTS) {
        hand(target, &mutator.input());
    }
}

macro_rules! short_runs {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        /// The targets that a test above runs.
        const RUN: &[&str] = &[$(stringify!($name)),*];
    };
}

short_runs!(
    agent_files,
    client_mirror,
    client_watch,
    data_directory,
    dns_key_file,
    dns_keys,
    dns_master_file,
    dns_notify,
    dns_request,
    etcd_request,
    log_command,
    log_commands,
    log_store,
    mapreduce_job,
    mapreduce_run,
    peer_message,
    probe_lists,
    restore,
    role_commands,
    role_restore,
    server_options,
    snapshot_file,
    snapshot_receive,
    stored_record,
    txn_file,
    vote_cuts,
    vote_rows,
    watch_session,
);

fn names(directory: &str) -> BTreeSet<String> {
    let directory = fuzz_directory().join(directory);
    let entries = fs::read_dir(directory).expect("part of the fuzz package");
    let name = |path: PathBuf| {
        path.file_stem()
            .map(|name| name.to_string_lossy().into_owned())
    };
    entries
        .filter_map(|entry| name(entry.expect("an entry").path()))
        .collect()
}

#[test]
fn every_target_is_run_here_and_has_a_binary_and_kept_inputs() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|one| one.name.to_owned()).collect();
    let run: BTreeSet<String> = RUN.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(run, targets);
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("seeds"), targets);
    let manifest = fs::read_to_string(fuzz_directory().join("Cargo.toml")).expect("a manifest");
    for target in &targets {
        assert!(
            manifest.contains(&format!("name = \"{target}\"")),
            "{target} has no binary"
        );
    }
}
