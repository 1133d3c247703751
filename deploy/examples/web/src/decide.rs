//! What a web server may answer, from its copy of the group's keys: pure.
//!
//! - what is not known is *fenced*: no copy yet, one that the group has not confirmed within the
//!   bound, a role that is just being handed over, a value that cannot be read;
//! - another colo is active: its clients are sent where that colo says (`cfgctl colo add wlg
//!   --address ...`);
//! - this colo is active, and the database has a master: serve, by its epoch.
//!
//! The copy is that of one revision, so colo and master belong together. It may be older than the
//! group by the bound: that keeps the answers of two colos apart only by time. What keeps the data
//! right is the epoch in each write, which the database checks.

use std::collections::BTreeMap;

use bytes::Bytes;
use cfgsvc_client::{Freshness, KeyValue, Moment};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Where this server is, and which roles it looks at.
#[derive(Debug, clap::Args)]
pub(crate) struct Site {
    /// The colo that this server is in
    #[arg(long)]
    colo: String,
    /// The role whose holder is the active colo
    #[arg(long, default_value = "web")]
    colo_role: String,
    /// The role whose holder is the database's master
    #[arg(long, default_value = "db/orders")]
    database_role: String,
}

/// A copy of the keys below `/cfgsvc/`, and until when it may be trusted.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) keys: BTreeMap<Bytes, KeyValue>,
    pub(crate) freshness: Freshness,
}

/// Where the database is written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Master {
    pub(crate) host: String,
    /// HOST:PORT, as its agent was told (`cfgagent run --address`).
    pub(crate) address: String,
    pub(crate) epoch: i64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Serve(Master),
    /// The address of the colo that is active.
    Redirect(String),
    /// Nothing, and why.
    Fenced(String),
}

/// `/cfgsvc/grants/ROLE`, as far as it matters here.
#[derive(Deserialize)]
struct Grant {
    epoch: i64,
    holder: Option<String>,
    /// Hosts that may serve.
    serving: u32,
    /// Asked to stop, in favour of this one, or of nobody.
    next: Option<String>,
    #[serde(default)]
    vacate: bool,
    /// From a snapshot, which may lack later epochs.
    #[serde(default)]
    restored: bool,
}

/// `/cfgsvc/colos/NAME` and `/cfgsvc/hosts/NAME`.
#[derive(Deserialize)]
struct Place {
    #[serde(default)]
    addresses: Vec<String>,
}

/// What to answer to a request that comes at `now`.
pub(crate) fn decide(site: &Site, view: &View, now: Moment) -> Answer {
    let fresh = match view.freshness {
        Freshness::Never => Err("nothing is known of the group yet".to_owned()),
        Freshness::Fresh { until, .. } if now < until => Ok(()),
        Freshness::Fresh { .. } | Freshness::Stale { .. } => {
            Err("the group has not confirmed for too long what is known here".to_owned())
        }
    };
    let answer = fresh.and_then(|()| by_roles(site, &view.keys));
    answer.unwrap_or_else(Answer::Fenced)
}

type Keys = BTreeMap<Bytes, KeyValue>;

fn by_roles(site: &Site, keys: &Keys) -> Result<Answer, String> {
    let (active, _) = holder(keys, &site.colo_role)?;
    if active != site.colo {
        return Ok(Answer::Redirect(address(keys, "colos", &active)?));
    }
    let (host, grant) = holder(keys, &site.database_role)?;
    if grant.serving == 0 {
        return Err(format!("{host} is to be the master, and has not begun"));
    }
    Ok(Answer::Serve(Master {
        address: address(keys, "hosts", &host)?,
        epoch: grant.epoch,
        host,
    }))
}

/// Who has a role for certain.
fn holder(keys: &Keys, role: &str) -> Result<(String, Grant), String> {
    let grant: Grant = read(keys, &format!("/cfgsvc/grants/{role}"))?;
    let settled = grant.next.is_none() && !grant.vacate && !grant.restored;
    match grant.holder.clone().filter(|_| settled) {
        Some(holder) => Ok((holder, grant)),
        None => Err(format!("nobody has {role} for certain")),
    }
}

fn address(keys: &Keys, kind: &str, name: &str) -> Result<String, String> {
    let place: Place = read(keys, &format!("/cfgsvc/{kind}/{name}"))?;
    let first = place.addresses.into_iter().next();
    first.ok_or_else(|| format!("{name} has no address"))
}

fn read<T: DeserializeOwned>(keys: &Keys, key: &str) -> Result<T, String> {
    let found = keys.get(key.as_bytes());
    let found = found.ok_or_else(|| format!("there is no {key}"))?;
    serde_json::from_slice(&found.value).map_err(|error| format!("{key} cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const WEB: &str = "/cfgsvc/grants/web";
    const ORDERS: &str = "/cfgsvc/grants/db/orders";
    const SERVED: &str = r#"{"epoch":17,"holder":"a1","serving":1,"starts":[]}"#;

    fn at(ms: u64) -> Moment {
        Moment::since_boot(Duration::from_millis(ms))
    }

    /// What a server in akl answers at 50 ms when these values are others than usual, and the copy
    /// is good until `until`.
    fn answer(other: &[(&str, &str)], until: u64) -> Answer {
        let usual = [
            ("/cfgsvc/colos/wlg", r#"{"addresses":["192.0.2.9:80"]}"#),
            ("/cfgsvc/colos/chc", "{}"),
            (
                "/cfgsvc/hosts/a1",
                r#"{"colo":"akl","addresses":["h:3306"]}"#,
            ),
            (WEB, r#"{"epoch":9,"holder":"akl","serving":0}"#),
            (ORDERS, SERVED),
        ];
        let keys = usual.iter().chain(other).map(|(key, value)| {
            let value = Bytes::copy_from_slice(value.as_bytes());
            let kv = KeyValue {
                value,
                ..KeyValue::default()
            };
            (Bytes::copy_from_slice(key.as_bytes()), kv)
        });
        let view = View {
            keys: keys.collect(),
            freshness: Freshness::Fresh {
                revision: 20,
                until: at(until),
            },
        };
        let names = ["akl", "web", "db/orders"].map(str::to_owned);
        let [colo, colo_role, database_role] = names;
        decide(
            &Site {
                colo,
                colo_role,
                database_role,
            },
            &view,
            at(50),
        )
    }

    fn is_fenced(other: &[(&str, &str)], words: &str) {
        let Answer::Fenced(reason) = answer(other, 100) else {
            panic!("not fenced: {words}");
        };
        assert!(reason.contains(words), "{reason}");
    }

    #[test]
    fn active_colo_with_a_master_serves_by_its_epoch() {
        let master = Master {
            host: "a1".into(),
            address: "h:3306".into(),
            epoch: 17,
        };
        assert_eq!(answer(&[], 100), Answer::Serve(master));
    }

    #[test]
    fn copy_is_good_until_its_bound_and_no_longer() {
        assert!(matches!(answer(&[], 51), Answer::Serve(_)));
        assert!(matches!(answer(&[], 50), Answer::Fenced(_)));
    }

    #[test]
    fn clients_are_sent_to_the_colo_that_is_active() {
        let wlg = (WEB, r#"{"epoch":20,"holder":"wlg","serving":0}"#);
        assert_eq!(answer(&[wlg], 100), Answer::Redirect("192.0.2.9:80".into()));
    }

    #[test]
    fn what_is_not_certain_is_fenced_with_the_reason() {
        is_fenced(&[(WEB, r#"{"epoch":9,"serving":0}"#)], "nobody has web");
        let closing = r#"{"epoch":9,"holder":"akl","serving":1,"next":"wlg"}"#;
        is_fenced(&[(WEB, closing)], "nobody has web");
        let vacated = r#"{"epoch":9,"holder":"a1","serving":1,"vacate":true}"#;
        is_fenced(&[(ORDERS, vacated)], "nobody has db/orders");
        let restored = r#"{"epoch":9,"holder":"akl","serving":0,"restored":true}"#;
        is_fenced(&[(WEB, restored)], "nobody has web");
        let granted = r#"{"epoch":21,"holder":"a1","serving":0}"#;
        is_fenced(&[(ORDERS, granted)], "has not begun");
        is_fenced(
            &[(ORDERS, r#"{"epoch":1,"holder":"b1","serving":1}"#)],
            "no /cfgsvc/hosts/b1",
        );
        is_fenced(
            &[(WEB, r#"{"epoch":9,"holder":"chc","serving":0}"#)],
            "chc has no address",
        );
        is_fenced(&[(WEB, "[")], "cannot be read");
    }
}
