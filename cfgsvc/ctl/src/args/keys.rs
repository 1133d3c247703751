//! Grammar of the commands about keys and leases.

use bytes::Bytes;
use cfgctl::lease_id::hex_lease;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

/// An argument of any bytes: a key need not be UTF-8.
fn any_bytes() -> impl TypedValueParser<Value = Bytes> {
    OsStringValueParser::new().map(|text| Bytes::from(text.into_vec()))
}

#[derive(Debug, Args)]
#[command(after_help = "Example: cfgctl get app/flags
         cfgctl get --prefix app/ --keys-only
         cfgctl get -v app/flags --rev 41")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(crate) struct GetArgs {
    /// The key, or with --prefix the beginning of keys
    #[arg(value_parser = any_bytes())]
    pub(crate) key: Bytes,
    /// All keys that start with KEY
    #[arg(long)]
    pub(crate) prefix: bool,
    /// As the keys were at this revision
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) rev: i64,
    /// At most so many keys
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) limit: i64,
    /// Without values
    #[arg(long, conflicts_with = "print_value_only")]
    pub(crate) keys_only: bool,
    /// From one member's own copy, which may be behind the group
    #[arg(long)]
    pub(crate) serializable: bool,
    /// Only the value, byte for byte; with --prefix each value and a newline
    #[arg(short = 'v', long)]
    pub(crate) print_value_only: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: cfgctl set app/flags on --reason 'launch'
         cfgctl set app/flags off --if-revision 41
         cfgctl set app/flags off --dry-run
         cfgctl set app/cert < cert.pem")]
pub(crate) struct SetArgs {
    /// The key
    #[arg(value_parser = any_bytes())]
    pub(crate) key: Bytes,
    /// The value; - or nothing: the bytes of standard input
    #[arg(allow_hyphen_values = true, value_parser = any_bytes())]
    pub(crate) value: Option<Bytes>,
    /// The key goes when this lease ends (hexadecimal id)
    #[arg(long, value_name = "ID", value_parser = hex_lease, default_value = "0")]
    #[arg(hide_default_value = true)]
    pub(crate) lease: i64,
    /// Only if the key's last change was at this revision
    #[arg(long, value_name = "N", conflicts_with = "if_absent")]
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) if_revision: Option<i64>,
    /// Only if the key does not exist
    #[arg(long)]
    pub(crate) if_absent: bool,
    /// Print the value that was replaced as well
    #[arg(long)]
    pub(crate) prev: bool,
    /// Only print what would be changed; the group checks a write when it is made
    #[arg(long, conflicts_with = "prev")]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: cfgctl del app/flags
         cfgctl del --prefix app/ --dry-run
         cfgctl del --prefix app/ --yes")]
pub(crate) struct DelArgs {
    /// The key, or with --prefix the beginning of keys
    #[arg(value_parser = any_bytes())]
    pub(crate) key: Bytes,
    /// All keys that start with KEY; asks first
    #[arg(long)]
    pub(crate) prefix: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Only print what would be changed
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: cfgctl watch --prefix app/ -o json
         cfgctl watch app/flags --rev 41 --count 1")]
pub(crate) struct WatchArgs {
    /// The key, or with --prefix the beginning of keys
    #[arg(value_parser = any_bytes())]
    pub(crate) key: Bytes,
    /// All keys that start with KEY
    #[arg(long)]
    pub(crate) prefix: bool,
    /// From this revision on; without it from now on
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) rev: i64,
    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: cfgctl history app/flags --limit 10")]
pub(crate) struct HistoryArgs {
    /// The key
    #[arg(value_parser = any_bytes())]
    pub(crate) key: Bytes,
    /// At most so many versions, the newest
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub(crate) limit: i64,
    /// Only versions at or after this revision
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) rev: i64,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The file holds conditions, what to do when all hold, and what to do when one does not:

    # '#' begins a comment; words with spaces stand in \"...\" with \\n \\t \\\\ \\\" \\xNN
    if
      mod app/flags = 41          # also: version, create, lease (hexadecimal), value
      value app/state != \"locked\" # comparisons: = != < >
      missing app/lock            # or: exists KEY
    then
      put app/flags on            # or: put KEY VALUE lease ID
      del app/old prefix
    else
      get app/flags               # or: get KEY prefix

or the same as JSON, which may nest and hold any bytes:

    {\"if\": [{\"key\": \"app/flags\", \"mod\": 41, \"is\": \"=\"}],
     \"then\": [{\"put\": {\"key\": \"app/flags\", \"value\": \"on\"}},
              {\"txn\": {\"then\": [{\"del\": {\"key\": \"app/old\", \"prefix\": true}}]}}],
     \"else\": [{\"get\": {\"key\": \"app/flags\"}}]}

The exit code is 1 when the conditions did not hold, or with --dry-run would not.

Example: cfgctl txn change.txt
         cfgctl txn change.txt --dry-run
         printf 'then\\n put a 1\\n put b 2\\n' | cfgctl txn -")]
pub(crate) struct TxnArgs {
    /// The file; - is standard input
    pub(crate) file: PathBuf,
    /// Only print whether the conditions hold and what would be changed
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Every regular file under DIR becomes the key PREFIX/its/path. Files that are
unchanged are not written. Links, sockets and the like, files over 1 MiB and files
that cannot be read are skipped, and named.

Example: cfgctl import /etc/nginx --prefix web/nginx --dry-run"
)]
pub(crate) struct ImportArgs {
    /// A directory, or one file
    pub(crate) path: PathBuf,
    /// Begin of the keys
    #[arg(long, default_value = "", hide_default_value = true, value_parser = any_bytes())]
    pub(crate) prefix: Bytes,
    /// Only print what would be written
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Every key under PREFIX becomes the file DIR/rest/of/the/key. Keys that do not
make a path inside DIR are refused before anything is written.

Example: cfgctl export web/nginx/ ./nginx"
)]
pub(crate) struct ExportArgs {
    /// Begin of the keys
    #[arg(value_parser = any_bytes())]
    pub(crate) prefix: Bytes,
    /// The directory; made if it does not exist
    pub(crate) dir: PathBuf,
    /// Replace files that exist
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Grant a lease
    #[command(after_help = "Example: cfgctl lease grant 60s")]
    Grant {
        /// Its term, such as 60s; rounded up to whole seconds
        #[arg(value_parser = humantime::parse_duration)]
        ttl: Duration,
    },
    /// End a lease; its keys go with it
    #[command(after_help = "Example: cfgctl lease revoke 694d89a1b2c3d4e5")]
    Revoke {
        /// The lease (hexadecimal id)
        #[arg(value_parser = hex_lease)]
        id: i64,
    },
    /// List all leases
    #[command(after_help = "Example: cfgctl lease list")]
    List,
    /// Print the time that a lease has left, and its keys
    #[command(after_help = "Example: cfgctl lease show 694d89a1b2c3d4e5")]
    Show {
        /// The lease (hexadecimal id)
        #[arg(value_parser = hex_lease)]
        id: i64,
    },
    /// Renew a lease until interrupted, or once
    #[command(after_help = "Example: cfgctl lease keep-alive 694d89a1b2c3d4e5 --once")]
    KeepAlive {
        /// The lease (hexadecimal id)
        #[arg(value_parser = hex_lease)]
        id: i64,
        /// Renew it once only
        #[arg(long)]
        once: bool,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Example: cfgctl compact 4000")]
pub(crate) struct CompactArgs {
    /// The oldest revision that stays readable
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) revision: i64,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --rev the version before is compared with the one that is there now. Text is compared
line by line, JSON one member a line; of other bytes there are the count and an excerpt.

With --prefix it lists the keys that were added, removed or changed between two revisions; a key
is changed when it was written, be it with the same value.

The exit code says nothing about whether they differ. It is 1 when the key exists at neither
revision, and when a revision is compacted.

Example: cfgctl diff app/flags
         cfgctl diff app/flags --rev 41 --to 57
         cfgctl diff --prefix app/ --rev 41")]
pub(crate) struct DiffArgs {
    /// The key, or with --prefix the beginning of keys
    #[arg(value_parser = any_bytes())]
    pub(crate) key: Bytes,
    /// All keys that start with KEY; needs --rev
    #[arg(long, requires = "rev")]
    pub(crate) prefix: bool,
    /// The first of both revisions; without it the version before
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) rev: Option<i64>,
    /// The second; without it now
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) to: Option<i64>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
This makes a new version with the value that the key had at revision REV, by the same checks as
any write; a key that did not exist at REV is deleted. The history keeps all versions, so that a
rollback can be rolled back. First the plan is printed: what differs, and whose changes are undone.

The key keeps the lease that it has now, or none: that of revision REV may be over, and the key
would go with it. A key that does not exist now gets none.

Everything is done in one transaction that is refused when one of the keys was changed after the
plan was made. With --prefix that are at most 128 keys and 1.5 MiB of keys and values; keys that
somebody else creates below the prefix meanwhile are left alone.

The reason in the history is `rollback to revision REV` unless --reason says another.

Example: cfgctl rollback app/flags --to 41 --dry-run
         cfgctl rollback app/flags --to 41 --yes --reason 'launch failed'
         cfgctl rollback --prefix app/ --to 41")]
pub(crate) struct RollbackArgs {
    /// The key, or with --prefix the beginning of keys
    #[arg(value_parser = any_bytes())]
    pub(crate) key: Bytes,
    /// All keys that start with KEY, in one transaction
    #[arg(long)]
    pub(crate) prefix: bool,
    /// The revision whose values come back
    #[arg(long, value_name = "REV", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) to: i64,
    /// Only print what would be changed
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}
