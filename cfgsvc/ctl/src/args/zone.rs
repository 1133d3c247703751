//! Grammar of the commands about DNS zones.

use super::zone_key::ZoneKeyCommand;
use cfgdns_zone::Name as DnsName;
use cfgsvc_core::placement::RoleName;
use cfgsvc_core::zones::{FollowType, ZoneName};
use clap::{Args, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum ZoneCommand {
    /// Make a zone what a master file says
    #[command(
        after_help = "The file is checked first; what differs is written in one commit, whole or
not at all. Names that follow a role stay. The serial grows by one, or to that of the file's SOA
where that is newer. A file has at most 32 MB and 1,000,000 records.

Example: cfgctl zone apply example.com.zone --dry-run
         cfgctl zone apply - --zone example.com <db.example"
    )]
    Apply(ZoneApplyArgs),
    /// List the zones
    #[command(after_help = "Example: cfgctl zone list")]
    List,
    /// Print a zone as a master file, with its serial
    #[command(after_help = "Example: cfgctl zone show example.com >example.com.zone")]
    Show {
        /// The zone
        #[arg(value_parser = zone)]
        zone: ZoneName,
        /// As it was at this revision; see cfgctl zone history
        #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(1..))]
        rev: Option<i64>,
    },
    /// Print the changes of a zone, and the moves of the roles that it follows
    #[command(
        after_help = "Each line is a commit by which the zone has another serial. Moves of a
role are those since the zone follows it; all of them: cfgctl history /cfgsvc/grants/ROLE

Example: cfgctl zone history example.com"
    )]
    History {
        /// The zone
        #[arg(value_parser = zone)]
        zone: ZoneName,
        /// At most so many, the newest
        #[arg(long, default_value_t = 20, value_name = "N")]
        #[arg(value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
    },
    /// Make a zone what it was at a revision
    #[command(after_help = "Names that follow a role stay as they are.

Example: cfgctl zone rollback example.com --to 117 --dry-run")]
    Rollback {
        /// The zone
        #[arg(value_parser = zone)]
        zone: ZoneName,
        /// The revision; see cfgctl zone history
        #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(1..))]
        to: i64,
        /// Print what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete a zone, with all its names
    #[command(after_help = "Example: cfgctl zone delete example.com --dry-run")]
    Delete {
        /// The zone
        #[arg(value_parser = zone)]
        zone: ZoneName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Say what would be deleted, and delete nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Have a name answer with the holder of a role
    #[command(
        after_help = "A and AAAA answer the addresses of the host or colo that holds the role; CNAME
and SRV its name below --names.

Example: cfgctl zone follow www.example.com A web
         cfgctl zone follow _orders._tcp.example.com SRV db/orders --names hosts --port 3306"
    )]
    Follow(ZoneFollowArgs),
    /// The keys that a zone is signed with (DNSSEC)
    #[command(subcommand, after_help = "Example: cfgctl zone key list example.com")]
    Key(ZoneKeyCommand),
    /// Have a name follow a role no more
    #[command(after_help = "Example: cfgctl zone unfollow www A --zone example.com")]
    Unfollow {
        #[command(flatten)]
        what: Followed,
        /// Print what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ZoneApplyArgs {
    /// The master file; `-` is standard input
    pub(crate) file: PathBuf,
    /// The zone; that of the file's SOA record when not given
    #[arg(long, value_name = "NAME", value_parser = zone)]
    pub(crate) zone: Option<ZoneName>,
    /// Print what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A name and a type.
#[derive(Debug, Args)]
pub(crate) struct Followed {
    /// The name, in --zone where that is given; `@` is that of the zone
    pub(crate) name: String,
    /// The type: A, AAAA, CNAME or SRV
    #[arg(value_name = "TYPE", value_parser = follow_type)]
    pub(crate) rtype: FollowType,
    /// The zone that the name is relative to; without it the name is a whole one
    #[arg(long, value_name = "NAME", value_parser = zone)]
    pub(crate) zone: Option<ZoneName>,
}

#[derive(Debug, Args)]
pub(crate) struct ZoneFollowArgs {
    #[command(flatten)]
    pub(crate) what: Followed,
    /// The role
    pub(crate) role: RoleName,
    /// How long an answer may be kept, s, at most 300: clients go to the old holder for so long
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    pub(crate) ttl: u32,
    /// For CNAME and SRV: the domain below which each host or colo has its name
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) names: Option<String>,
    /// For SRV: the port, instead of that of the holder's first address
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// For A and AAAA: how often an address comes first among the others; 0: never answered
    #[arg(long = "weight", value_name = "ADDRESS=N", value_parser = weight)]
    pub(crate) weights: Vec<(IpAddr, u16)>,
    /// Print what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A zone in any case, with or without its last dot.
pub(super) fn zone(text: &str) -> Result<ZoneName, String> {
    let name = DnsName::parse(text.as_bytes(), Some(&DnsName::root()));
    let name = name.map_err(|error| error.to_string())?;
    Ok(ZoneName::new(&name))
}

fn follow_type(text: &str) -> Result<FollowType, String> {
    text.to_ascii_uppercase().parse()
}

fn weight(text: &str) -> Result<(IpAddr, u16), String> {
    let (address, weight) = text.split_once('=').ok_or("is not ADDRESS=N")?;
    let address = address.parse().map_err(|error| format!("{error}"))?;
    let weight = weight.parse().map_err(|error| format!("{error}"))?;
    Ok((address, weight))
}
