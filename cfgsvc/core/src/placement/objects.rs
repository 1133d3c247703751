//! What operators write: colos, hosts and roles, as JSON values under `/cfgsvc/`.
//!
//! Why JSON: every tool that can read a key can read them, and every client that can write a key
//! can write them; the same rules are applied whichever does (DESIGN 3).

use serde::{Deserialize, Serialize};

use super::name::{Name, RoleName};
pub use super::position::Data;

/// Most bytes of an address.
const ADDRESS_BYTES_MAX: usize = 255;
/// Most addresses of a colo or a host.
const ADDRESSES_MAX: usize = 64;
/// Most candidates of a role.
const CANDIDATES_MAX: usize = 1_000;

/// A failure domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Colo {
    /// Where its clients are sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// No role is given to it, or to a host in it, by the group itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
}

/// Where the group is led from, while a member there can lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaderWish {
    /// In this colo.
    Colo(Name),
    /// In the colo that holds this role.
    Role(RoleName),
}

/// A machine in a colo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The colo it is in.
    pub colo: Name,
    /// Where it is reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

/// Who can hold a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One host.
    Host,
    /// A colo: all its hosts may serve.
    Colo,
    /// One client of a lock, by the order in which they came.
    Lock,
}

/// Who decides on the next holder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Failover {
    /// The group, when the last one is over.
    #[default]
    Auto,
    /// A person.
    Manual,
}

/// What an operator says of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Who can hold it.
    #[serde(default = "host")]
    pub kind: Kind,
    /// How long a renewal counts, ms, from the moment it was sent.
    #[serde(default = "term_ms")]
    pub term_ms: u64,
    /// How far two clocks may differ in rate, parts per million.
    #[serde(default = "rate_ppm")]
    pub rate_ppm: u64,
    /// How long a holder needs to stop, ms: it begins so much before its time is over.
    #[serde(default = "stop_ms")]
    pub stop_ms: u64,
    /// How long the group waits after a holder that was lost, ms, for resources that do not check
    /// the epoch.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lock_delay_ms: u64,
    /// Who decides on the next holder.
    #[serde(default)]
    pub failover: Failover,
    /// Nothing is decided by the group itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Who may hold it, the best first; nobody listed is anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Name>,
    /// How positions are compared.
    #[serde(default)]
    pub data: Data,
    /// Only hosts that the holder named in sync are given it by the group when the holder is lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sync: bool,
    /// So much of what the holder has told may be missing where the group gives it by itself:
    /// transactions of a gtid, bytes of an lsn, units of a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lag: Option<u64>,
    /// A role of a colo: the group gives this one only to hosts of the colo that holds that one,
    /// and both move together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<RoleName>,
    /// How other hosts see whether the holder serves, at its first address: `tcp`, or `http:/PATH`
    /// that answers 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// Candidates in the colo of the last holder come first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub same_colo: bool,
}

fn host() -> Kind {
    Kind::Host
}

fn term_ms() -> u64 {
    5_000
}

fn rate_ppm() -> u64 {
    1_000
}

fn stop_ms() -> u64 {
    1_000
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde calls"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Least and greatest of each setting; `what`, found, least, greatest.
fn within(what: &str, found: u64, least: u64, greatest: u64) -> Result<(), String> {
    if (least..=greatest).contains(&found) {
        return Ok(());
    }
    Err(format!("{what} is {found}, allowed: {least} to {greatest}"))
}

impl Spec {
    /// A role of `kind` with the defaults.
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            term_ms: term_ms(),
            rate_ppm: rate_ppm(),
            stop_ms: stop_ms(),
            lock_delay_ms: 0,
            failover: Failover::default(),
            paused: false,
            candidates: Vec::new(),
            data: Data::default(),
            sync: false,
            max_lag: None,
            follows: None,
            check: None,
            same_colo: false,
        }
    }

    /// Whether the settings make sense, each and together.
    pub fn check(&self) -> Result<(), String> {
        within("term_ms", self.term_ms, 500, 600_000)?;
        within("rate_ppm", self.rate_ppm, 0, 100_000)?;
        within("lock_delay_ms", self.lock_delay_ms, 0, 600_000)?;
        // A holder renews at a third of its term; half of it must be left when it has to stop.
        within("stop_ms", self.stop_ms, 100, self.term_ms / 2)
            .map_err(|error| format!("{error}, half of term_ms {}", self.term_ms))?;
        let candidates = self.candidates.len() as u64;
        within("count of candidates", candidates, 0, CANDIDATES_MAX as u64)?;
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = self.candidates.iter().find(|name| !seen.insert(*name)) {
            return Err(format!("candidate '{twice}' is listed twice"));
        }
        if self.kind != Kind::Host && self.data != Data::None {
            return Err("data other than 'none' needs kind 'host'".to_owned());
        }
        let of_hosts = self.follows.is_some() || self.same_colo || self.check.is_some();
        if self.kind != Kind::Host && of_hosts {
            return Err("follows, same_colo and check need kind 'host'".to_owned());
        }
        if let Some(check) = &self.check {
            check_form(check)?;
        }
        if self.data == Data::None && (self.sync || self.max_lag.is_some()) {
            return Err("sync and max_lag need data other than 'none'".to_owned());
        }
        Ok(())
    }

    /// How long the group holds a lease of this role, ms, from the last renewal that it confirmed:
    /// the term by the slowest clock, and the lock-delay.
    pub fn lease_ms(&self) -> u64 {
        let slow = self.term_ms * self.rate_ppm;
        self.term_ms + slow.div_ceil(1_000_000) + self.lock_delay_ms
    }

    /// How long a holder may serve, ms, from the moment it sent its renewal: the term by the
    /// fastest clock, less the time to stop.
    pub fn serve_ms(&self) -> u64 {
        let fast = self.term_ms * self.rate_ppm;
        (self.term_ms - fast.div_ceil(1_000_000)).saturating_sub(self.stop_ms)
    }

    /// Whether `name`, a host or a colo, may be given the role.
    pub fn is_candidate(&self, name: &Name) -> bool {
        self.candidates.is_empty() || self.candidates.contains(name)
    }
}

/// Whether a check is one that can be made from elsewhere. A command is not: what the group holds
/// must not become a program on hosts.
fn check_form(check: &str) -> Result<(), String> {
    let path = check.strip_prefix("http:");
    let plain = |path: &str| {
        path.starts_with('/')
            && path.len() <= ADDRESS_BYTES_MAX
            && path.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if check == "tcp" || path.is_some_and(plain) {
        return Ok(());
    }
    Err(format!(
        "check '{}' must be tcp or http:/PATH",
        check.escape_debug()
    ))
}

/// Whether the addresses are few, short and of one word each.
pub(super) fn check_addresses(addresses: &[String]) -> Result<(), String> {
    let count = addresses.len() as u64;
    within("count of addresses", count, 0, ADDRESSES_MAX as u64)?;
    let bad = |text: &&String| {
        text.is_empty()
            || text.len() > ADDRESS_BYTES_MAX
            || text.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    match addresses.iter().find(bad) {
        Some(address) => Err(format!(
            "address {address:?} must be 1 to {ADDRESS_BYTES_MAX} bytes without spaces"
        )),
        None => Ok(()),
    }
}
