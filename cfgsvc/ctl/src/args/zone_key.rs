//! Grammar of the commands about the keys of a zone (DNSSEC).

use super::zone::zone;
use cfgdns_sign::Algorithm;
use cfgsvc_core::zones::{KeyRole, ZoneName};
use clap::{Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// What a key signs, as it is said on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// Everything; one key is enough
    Csk,
    /// The keys; the parent vouches for it
    Ksk,
    /// Everything but the keys
    Zsk,
}

impl From<RoleName> for KeyRole {
    fn from(role: RoleName) -> Self {
        match role {
            RoleName::Csk => Self::Csk,
            RoleName::Ksk => Self::Ksk,
            RoleName::Zsk => Self::Zsk,
        }
    }
}

/// An algorithm, as it is said on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AlgorithmName {
    /// Ed25519 (15)
    Ed25519,
    /// ECDSA with P-256 and SHA-256 (13)
    Ecdsap256sha256,
}

impl From<AlgorithmName> for Algorithm {
    fn from(algorithm: AlgorithmName) -> Self {
        match algorithm {
            AlgorithmName::Ed25519 => Self::Ed25519,
            AlgorithmName::Ecdsap256sha256 => Self::EcdsaP256Sha256,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ZoneKeyCommand {
    /// Make a key: two files, of which the private one goes to each name server's --zone-keys
    #[command(
        after_help = "The files are those of BIND's dnssec-keygen, which may be used instead.

Example: cfgctl zone key generate example.com --dir /etc/cfgdns/keys"
    )]
    Generate {
        /// The zone; it need not be there yet
        #[arg(value_parser = zone)]
        zone: ZoneName,
        /// Where the files are made
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// What it signs with
        #[arg(long, value_name = "NAME", default_value = "ed25519")]
        algorithm: AlgorithmName,
        /// What it will sign
        #[arg(long, value_name = "ROLE", default_value = "csk")]
        role: RoleName,
    },
    /// Put a key into a zone; the first one signs it
    #[command(
        after_help = "The name servers must have the private key before one signs.

To change a key: generate and add the new one with --standby, wait for the TTL of DNSKEY; `use` it,
give its DS to the parent (zone key list) and wait for the TTL of DS; `retire` the old one, wait for
the longest TTL of the zone, and `remove` it.

To change the algorithm: add a key of the new one, which signs at once, wait for the longest TTL of
the zone; give its DS to the parent, take the old one away there and wait for the TTL of DS;
`remove` all keys of the old algorithm in one command.

A key signing key and a zone signing key are added together: the one is not enough without the
other.

Example: cfgctl zone key add example.com /etc/cfgdns/keys/Kexample.com.+015+12345.key"
    )]
    Add {
        /// The zone
        #[arg(value_parser = zone)]
        zone: ZoneName,
        /// The .key files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// What it signs; by default, by its flags, everything but the keys, or the keys beside
        /// one that signs the zone, or else everything
        #[arg(long, value_name = "ROLE")]
        role: Option<RoleName>,
        /// Publish it, and sign nothing with it yet
        #[arg(long)]
        standby: bool,
        /// Print what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// List the keys of a zone, with the DS records for its parent
    #[command(after_help = "Example: cfgctl zone key list example.com")]
    List {
        /// The zone
        #[arg(value_parser = zone)]
        zone: ZoneName,
    },
    /// Sign with a key that is there
    #[command(after_help = "Example: cfgctl zone key use example.com 12345")]
    Use(ZoneKeyArgs),
    /// Sign with a key no more, and leave it in the zone for those who have its signatures
    #[command(after_help = "Example: cfgctl zone key retire example.com 12345")]
    Retire(ZoneKeyArgs),
    /// Take a key out of a zone; without keys it is not signed
    #[command(
        after_help = "A key that signs is retired first, unless it is the last one, or all keys of
its algorithm go, whose tags are given together.

Example: cfgctl zone key remove example.com 12345"
    )]
    Remove {
        /// The zone
        #[arg(value_parser = zone)]
        zone: ZoneName,
        /// The tags of the keys
        #[arg(required = true, value_name = "TAG")]
        tags: Vec<u16>,
        /// Do not ask, before the time and before the last one goes
        #[arg(long)]
        yes: bool,
        /// Print what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Sign a zone anew now, which happens by itself when half of the time is over
    #[command(after_help = "Example: cfgctl zone key sign example.com --valid 14d")]
    Sign {
        /// The zone
        #[arg(value_parser = zone)]
        zone: ZoneName,
        /// How long signatures are good, from now on: 1h to 366d; two weeks unless it was said
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        valid: Option<Duration>,
        /// Print what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// A key of a zone.
#[derive(Debug, clap::Args)]
pub(crate) struct ZoneKeyArgs {
    /// The zone
    #[arg(value_parser = zone)]
    pub(crate) zone: ZoneName,
    /// The tag of the key
    pub(crate) tag: u16,
    /// Do not ask before the time
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}
