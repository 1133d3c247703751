//! Offline recovery of a group that lost its majority for good: everything that one surviving
//! member holds, as a snapshot file for a new group.
//!
//! ```text
//!  state, and entries known     revisions       entries of which
//!  to be committed          ─►  left out    ─►  nobody knows     ─►  file
//!  at their old revisions       (`Floor`)       at new revisions
//! ```
//!
//! Why a file and not a member that is made a group of its own: a new group has a new cluster id
//! and new members by the way it begins, so that nobody of the old group, whenever it comes back,
//! can be taken for one of the new; and the survivor's directory stays what it was.
//!
//! Why the entries of which nobody knows get new revisions: the lost members may have committed
//! others in their place, and clients may have seen those at the same revisions. An epoch is a
//! revision.
//!
//! Invariants
//! - nothing that the survivor holds is left out, but expiries that nobody confirmed: the leases
//!   live again for their whole time in the new group.
//! - the file appears under its name only when it is whole and durable.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use cfgsvc_core::refusal::refusal_text;
use cfgsvc_core::{Machine, export, snapshot_file};
use cfgsvc_proto::state::{Refusal, SnapshotHeader};
use clap::{Arg, ArgMatches, Command, value_parser};
use cluster::survivor::{Holdings, Replay, Survivor};
use cluster_core::store::Overlay;
use tempfile::NamedTempFile;

use crate::{app, clock};

/// Name of the subcommand.
pub const NAME: &str = "danger-recover-lost-majority";

/// Revisions left out: a day of ten thousand writes a second that the survivor did not hear of.
const ADVANCE_DEFAULT: &str = "1000000000";

const AFTER_HELP: &str = "\
Only when a majority of the group is lost for good. Whatever the lost members had acknowledged
and this one did not hear of is gone. If any of them comes back and finds a majority, two groups
serve: make sure that they cannot.

Without --out it only says what the directory holds. Of several survivors, take the one with the
last entry of the highest term and, in that, the highest index.

Example: cfgsvcd danger-recover-lost-majority --data-dir /var/lib/cfgsvc --out group.snapshot";

/// The subcommand with its arguments.
pub fn command() -> Command {
    Command::new(NAME)
        .about(
            "Writes all that a stopped member holds into a snapshot file, for a group that lost \
             its majority for good",
        )
        .after_help(AFTER_HELP)
        .arg(
            Arg::new("data-dir")
                .long("data-dir")
                .value_name("DIR")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Data directory of a member that does not run; it stays as it is"),
        )
        .arg(
            Arg::new("out")
                .long("out")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("The snapshot file to write; must not exist"),
        )
        .arg(
            Arg::new("advance")
                .long("advance")
                .value_name("N")
                .default_value(ADVANCE_DEFAULT)
                .value_parser(value_parser!(i64).range(1..))
                .help(
                    "Revisions to leave out: more than the lost members may have made that this \
                     one did not hear of",
                ),
        )
}

/// What a survivor's directory comes to.
struct Found {
    /// Last revision that is known to be committed.
    committed_revision: i64,
    /// Last revision with everything in it.
    revision: i64,
    keys: u64,
}

/// Runs the subcommand; what it finds and does is told to `told`.
pub fn run(matches: &ArgMatches, told: &mut dyn Write) -> anyhow::Result<()> {
    let argument = |name| matches.get_one::<PathBuf>(name);
    let directory = argument("data-dir").context("--data-dir is missing")?;
    let advance = *matches.get_one("advance").context("--advance is missing")?;
    let out = argument("out");
    if let Some(out) = out
        && out.symlink_metadata().is_ok()
    {
        bail!("{} exists: choose another name", out.display());
    }
    let survivor = Survivor::open(directory)?;
    tell(&survivor.holdings, told)?;
    let mut file = out.map(|out| temporary(out)).transpose()?;
    let sink = file.as_mut().map(|file| file as &mut dyn Write);
    let found = replay(&survivor, advance, sink)
        .with_context(|| format!("recover {}", directory.display()))?;
    writeln!(
        told,
        "revision     {} is the last that is known to be committed",
        found.committed_revision
    )?;
    let (Some(out), Some(file)) = (out, file) else {
        writeln!(told, "\nNothing was written: name a file with --out.")?;
        return Ok(());
    };
    keep(file, out).with_context(|| format!("write {}", out.display()))?;
    let (keys, revision) = (found.keys, found.revision);
    writeln!(
        told,
        "\nWrote {}: {keys} keys, revision {revision}. Next:",
        out.display()
    )?;
    writeln!(
        told,
        " 1. make sure that no member of the old group can ever start again;"
    )?;
    writeln!(
        told,
        " 2. start a new group on empty directories (cfgsvcd --initial-cluster ...);"
    )?;
    writeln!(told, " 3. cfgctl snapshot restore {} --yes", out.display())?;
    Ok(())
}

fn tell(holdings: &Holdings, told: &mut dyn Write) -> io::Result<()> {
    let Holdings { name, node_id, .. } = holdings;
    writeln!(
        told,
        "member       {name} (id {node_id}) of group {:x}",
        holdings.cluster_id
    )?;
    if holdings.copied {
        writeln!(
            told,
            "             a copy of its directory: is it of the last state?"
        )?;
    }
    writeln!(told, "voters       {}", holdings.voters.join(", "))?;
    let (term, index) = holdings.last;
    writeln!(told, "last entry   term {term}, index {index}")?;
    match holdings.unsure() {
        0 => writeln!(told, "             all entries are known to be committed"),
        unsure => writeln!(
            told,
            "             of the last {unsure} nobody knows whether they are committed"
        ),
    }
}

/// Replays all that the survivor holds, and writes it.
fn replay(
    survivor: &Survivor,
    advance: i64,
    mut out: Option<&mut dyn Write>,
) -> anyhow::Result<Found> {
    let mut machine = None;
    let mut committed_revision = None;
    let mut keys = 0;
    survivor.replay(&mut |state, step| {
        if matches!(step, Replay::Begin) {
            machine = Some(Machine::load(state)?);
        }
        let Some(machine) = machine.as_mut() else {
            return Err(io::Error::other("an entry came before the state"));
        };
        if matches!(step, Replay::Unsure(_) | Replay::End) && committed_revision.is_none() {
            committed_revision = Some(machine.revision());
            machine.advance(state, advance)?.map_err(refused)?;
        }
        match step {
            Replay::Begin => {}
            Replay::Unsure(entry) if app::ends_leases(entry) => {}
            Replay::Committed(entry) | Replay::Unsure(entry) => {
                drop(app::apply(machine, state, entry)?);
            }
            Replay::End => {
                keys = export::current_keys(state)?;
                if let Some(out) = &mut out {
                    write(state, machine, &survivor.holdings, keys, *out)?;
                }
            }
        }
        Ok(())
    })?;
    let machine = machine.context("the state was not read")?;
    Ok(Found {
        committed_revision: committed_revision.context("the log was not read")?,
        revision: machine.revision(),
        keys,
    })
}

fn refused(refusal: Refusal) -> io::Error {
    io::Error::other(format!(
        "{} ({})",
        refusal_text(refusal.code()),
        refusal.detail
    ))
}

fn write(
    state: &Overlay<'_>,
    machine: &Machine,
    holdings: &Holdings,
    keys: u64,
    out: &mut dyn Write,
) -> io::Result<()> {
    let floor = machine.floor();
    let (mut file, first) = snapshot_file::Writer::new(SnapshotHeader {
        cluster_id: holdings.cluster_id,
        revision: machine.revision(),
        compacted_revision: floor.compacted,
        created_ms: clock::wall_ms(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        keys,
        recovered_from: holdings.name.clone(),
        lost_after: floor.lost_after,
        lost_until: floor.lost_until,
        ..SnapshotHeader::default()
    });
    out.write_all(&first)?;
    let mut put = |piece: Bytes| out.write_all(&piece);
    export::records(state, &mut |record| match file.push(record) {
        Some(piece) => put(piece),
        None => Ok(()),
    })?
    .map_err(refused)?;
    put(file.finish())
}

/// A file beside `out` that goes unless it is kept; only its owner may read it.
fn temporary(out: &Path) -> anyhow::Result<NamedTempFile> {
    NamedTempFile::new_in(directory_of(out)).with_context(|| format!("write {}", out.display()))
}

fn directory_of(path: &Path) -> &Path {
    let parent = path.parent();
    parent
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn keep(file: NamedTempFile, out: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist_noclobber(out).map_err(|error| error.error)?;
    fs_err::File::open(directory_of(out))?.sync_all()
}
