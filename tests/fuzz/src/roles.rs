//! Roles: steps of agents and operators in any order, keys of roles written as any key, and
//! restores of what they have made, damaged.
//!
//! - the machine fails at nothing, and the store's invariants hold after each command;
//! - an epoch is served by one, and none is served after a later one, nor one that was given before
//!   a snapshot after its restore, whatever became of the file.

use std::collections::BTreeMap;

use bytes::Bytes;
use cfgsvc_core::export;
use cfgsvc_core::placement::objects::{Kind, Spec};
use cfgsvc_core::placement::{Grant, Name, RoleName, Verdict, keys, read};
use cfgsvc_proto::etcd;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::role_command::Step;
use cfgsvc_proto::state::seed::Step as Seeding;
use cfgsvc_proto::state::{
    Attend, Command, LeaseExpire, Move, Record, RoleCommand, Seed, Start, Sync, Yield,
};
use prost::Message;

use crate::draw::Draw;
use crate::replica::Replicas;

/// Commands in one run at most: bounds the time of a run.
const COMMANDS_MAX: usize = 32;
/// Commands before a restore at most.
const BEFORE_MAX: u64 = 24;
const ROLES: [&str; 4] = ["db", "db/x", "web", "locks/l"];
const HOSTS: [&str; 4] = ["h1", "h2", "h3", "-"];
const COLOS: [&str; 3] = ["akl", "wlg", "x"];

/// Steps on a group of two colos and three roles.
pub(crate) fn commands(data: &[u8]) {
    let mut draw = Draw::new(data);
    let mut replicas = Replicas::after(ready());
    let mut served = Served::default();
    for _ in 0..COMMANDS_MAX {
        if draw.is_empty() {
            break;
        }
        apply(&mut draw, &mut replicas, &mut served);
    }
    replicas.compare();
}

/// What some steps have made is exported, damaged and restored; then there are more steps.
pub(crate) fn restore(data: &[u8]) {
    let mut draw = Draw::new(data);
    let mut before = Replicas::after(ready());
    let mut served = Served::default();
    for _ in 0..draw.below(BEFORE_MAX) {
        apply(&mut draw, &mut before, &mut served);
    }
    served.are_over(&before);
    let mut records = Vec::new();
    let exported = export::records(&before.store().entries(), &mut |record| {
        records.push(record);
        Ok(())
    });
    exported.expect("its own store").expect("not half filled");
    let mut whole = true;
    for record in &mut records {
        if draw.rarely(32) {
            damage(&mut draw, record);
            whole = false;
        }
    }
    let mut replicas = Replicas::new();
    for (number, step) in (0..).zip([Seeding::Begin, Seeding::Records, Seeding::Finish]) {
        let records = match step {
            Seeding::Records => std::mem::take(&mut records),
            Seeding::Begin | Seeding::Finish => Vec::new(),
        };
        let seed = Seed {
            step: step.into(),
            number,
            records,
            restore_id: 7,
            advance: if step == Seeding::Finish { 100 } else { 0 },
        };
        let command = Command {
            op: Some(Op::Seed(seed)),
            ..Command::default()
        };
        let applied = replicas.apply(command.encode_to_vec().into());
        applied.expect("a known step");
    }
    let sound = replicas.is_sound();
    assert!(sound || !whole, "a restore of what commands made");
    for _ in 0..COMMANDS_MAX {
        if draw.is_empty() {
            break;
        }
        apply(&mut draw, &mut replicas, &mut served);
    }
    replicas.compare();
}

fn apply(draw: &mut Draw<'_>, replicas: &mut Replicas, served: &mut Served) {
    let command = Command {
        op: Some(op(draw)),
        at_ms: draw.signed(100),
        ..Command::default()
    };
    let applied = replicas.apply(command.encode_to_vec().into());
    applied.expect("a known command");
    if draw.is_empty() || draw.rarely(4) {
        served.look(replicas);
    }
}

/// What anybody was told to serve so far.
#[derive(Default)]
struct Served {
    /// The last epoch of each role, and who held it.
    last: BTreeMap<RoleName, (i64, Option<Name>)>,
    /// Epochs that were given by a group which is no more.
    over: BTreeMap<RoleName, i64>,
}

impl Served {
    /// The group is no more; another is made of what it has stored.
    fn are_over(&mut self, replicas: &Replicas) {
        let entries = replicas.store().entries();
        self.over = std::mem::take(&mut self.last)
            .into_iter()
            .map(|(role, (epoch, _))| (role, epoch))
            .collect();
        for name in read::roles(&entries).expect("its own store") {
            let role = read::role(&entries, &name).expect("its own store");
            let given = role.map_or(0, |role| role.grant.epoch);
            let over = self.over.entry(name).or_default();
            *over = given.max(*over);
        }
    }

    /// Everybody is told something, and nobody to serve what another was told.
    fn look(&mut self, replicas: &Replicas) {
        let entries = replicas.store().entries();
        for name in read::roles(&entries).expect("its own store") {
            let Some(role) = read::role(&entries, &name).expect("its own store") else {
                continue;
            };
            for (host, _, lease, told) in &role.attending {
                let judged = read::judge(&entries, &name, host, *lease).expect("its own store");
                assert_eq!(judged.verdict, *told, "{name} {host}");
                if let Verdict::Serve { epoch } = *told {
                    self.serves(&role, host, epoch);
                }
            }
        }
    }

    fn serves(&mut self, role: &read::Role, host: &Name, epoch: i64) {
        let (name, grant) = (&role.name, &role.grant);
        let over = self.over.get(name).copied().unwrap_or(0);
        assert!(epoch > over, "{name} is served at {epoch} after {over}");
        let holder = match role.spec.kind {
            Kind::Colo => grant.holder.clone(),
            Kind::Host | Kind::Lock => Some(host.clone()),
        };
        let last = self.last.entry(name.clone()).or_default();
        assert!(
            epoch >= last.0,
            "{name} is served at {epoch} after {last:?}"
        );
        assert!(
            epoch > last.0 || holder == last.1,
            "{name} is served at {epoch} by {holder:?} and by {last:?}"
        );
        *last = (epoch, holder);
    }
}

fn put(key: Bytes, value: Vec<u8>) -> Op {
    Op::Put(etcd::PutRequest {
        key,
        value: value.into(),
        ..etcd::PutRequest::default()
    })
}

fn ready() -> Vec<Command> {
    let objects = [
        ("colos/akl", "{}"),
        ("colos/wlg", "{}"),
        ("roles/db", r#"{"data":"number"}"#),
        ("roles/db/x", r#"{"failover":"manual"}"#),
        ("roles/web", r#"{"kind":"colo"}"#),
    ];
    let write = |(name, value): (&str, &str)| Command {
        op: Some(put(
            format!("/cfgsvc/{name}").into(),
            value.as_bytes().to_vec(),
        )),
        ..Command::default()
    };
    objects.into_iter().map(write).collect()
}

fn one_of(draw: &mut Draw<'_>, words: &[&str]) -> String {
    let chosen = draw.below(words.len() as u64);
    let word = words.get(usize::try_from(chosen).unwrap_or(0));
    (*word.unwrap_or(&"")).to_owned()
}

/// A role or host of which there are few, or now and then any text.
fn name(draw: &mut Draw<'_>, words: &[&str]) -> String {
    if draw.rarely(32) {
        return draw.text(8);
    }
    one_of(draw, words)
}

fn position(draw: &mut Draw<'_>) -> String {
    match draw.below(8) {
        0..=3 => draw.below(9).to_string(),
        4..=6 => String::new(),
        _ => draw.text(4),
    }
}

fn op(draw: &mut Draw<'_>) -> Op {
    let step = match draw.below(36) {
        0..=6 => Step::Attend(attend(draw)),
        7..=13 => Step::Start(Start {
            host: name(draw, &HOSTS),
            lease: draw.signed(9),
            epoch: draw.signed(24),
            position: position(draw),
            attempt: draw.number(24),
            identity: one_of(draw, &["", "orders", "other"]),
            life: one_of(draw, &["", "1", "2"]),
        }),
        14..=17 => Step::Yield(Yield {
            host: name(draw, &HOSTS),
            lease: draw.signed(9),
            position: position(draw),
            leave: draw.flag(),
            attempt: draw.number(24),
        }),
        18..=20 => Step::Move(Move {
            to: if draw.flag() {
                name(draw, &HOSTS)
            } else {
                name(draw, &COLOS)
            },
            epoch: if draw.rarely(4) { draw.signed(24) } else { 0 },
            accept_loss: draw.flag(),
        }),
        32..=35 => Step::Sync(Sync {
            host: name(draw, &HOSTS),
            lease: draw.signed(9),
            epoch: draw.signed(24),
            synced: (0..draw.below(3)).map(|_| name(draw, &HOSTS)).collect(),
            position: position(draw),
            attempt: draw.number(24),
            revision: draw.signed(24),
        }),
        21..=23 => return object(draw),
        24 | 25 => {
            return Op::LeaseExpire(LeaseExpire {
                ids: vec![draw.signed(9)],
                term: draw.below(3),
            });
        }
        26 => {
            let id = draw.signed(9);
            return Op::LeaseRevoke(etcd::LeaseRevokeRequest { id });
        }
        27 | 28 => return Op::DeleteRange(delete(draw)),
        _ => return draw.command().op.unwrap_or(object(draw)),
    };
    Op::Role(RoleCommand {
        role: name(draw, &ROLES),
        step: Some(step),
    })
}

fn attend(draw: &mut Draw<'_>) -> Attend {
    Attend {
        host: name(draw, &HOSTS),
        colo: if draw.rarely(4) {
            String::new()
        } else {
            name(draw, &COLOS)
        },
        lease: draw.signed(9),
        instance: one_of(draw, &["i", "i", "i", "other", ""]),
        boot: one_of(draw, &["b", "b", "b", "other", ""]),
        epoch: draw.signed(24),
        has_data: draw.flag(),
        identity: one_of(draw, &["", "orders", "other"]),
        position: position(draw),
        value: draw.text(2),
        lock: if draw.rarely(8) {
            draw.text(16)
        } else {
            one_of(draw, &[r#"{"kind":"lock"}"#, "{}", ""])
        },
        addresses: if draw.rarely(8) {
            vec![draw.text(8)]
        } else {
            Vec::new()
        },
        attempt: draw.number(24),
        life: one_of(draw, &["", "1", "2"]),
    }
}

fn delete(draw: &mut Draw<'_>) -> etcd::DeleteRangeRequest {
    let key = key(draw);
    let range_end = if draw.rarely(4) {
        Bytes::from_static(b"/cfgsvc0")
    } else {
        Bytes::new()
    };
    etcd::DeleteRangeRequest {
        key,
        range_end,
        ..etcd::DeleteRangeRequest::default()
    }
}

fn key(draw: &mut Draw<'_>) -> Bytes {
    let role = one_of(draw, &ROLES);
    let (host, colo) = (one_of(draw, &HOSTS), one_of(draw, &COLOS));
    let key = match draw.below(8) {
        0 | 1 => format!("roles/{role}"),
        2 => format!("colos/{colo}"),
        3 => format!("hosts/{host}"),
        4 => format!("grants/{role}"),
        5 => format!("attending/{role}/{host}"),
        6 => String::new(),
        _ => draw.text(8),
    };
    format!("/cfgsvc/{key}").into()
}

/// An object written as any key is.
fn object(draw: &mut Draw<'_>) -> Op {
    let role = one_of(draw, &ROLES);
    match draw.below(8) {
        0..=3 => {
            let key = format!("/cfgsvc/roles/{role}");
            put(key.into(), to_json(&spec(draw)))
        }
        4 => {
            let drained = draw.flag();
            let key = format!("/cfgsvc/colos/{}", one_of(draw, &COLOS));
            put(key.into(), format!(r#"{{"drained":{drained}}}"#).into())
        }
        5 => {
            let key = format!("/cfgsvc/hosts/{}", one_of(draw, &HOSTS));
            let colo = one_of(draw, &COLOS);
            put(key.into(), format!(r#"{{"colo":"{colo}"}}"#).into())
        }
        _ => {
            let key = key(draw);
            put(key, draw.bytes(24).to_vec())
        }
    }
}

fn spec(draw: &mut Draw<'_>) -> Spec {
    let kind = match draw.below(8) {
        0..=4 => Kind::Host,
        5 | 6 => Kind::Colo,
        _ => Kind::Lock,
    };
    let mut spec = Spec::of(kind);
    let text = format!(
        r#"{{"failover":"{}","data":"{}"}}"#,
        one_of(draw, &["auto", "auto", "manual"]),
        one_of(draw, &["none", "number", "number", "gtid", "lsn"]),
    );
    let words: Spec = serde_json::from_str(&text).expect("words of the table");
    (spec.failover, spec.data) = (words.failover, words.data);
    spec.paused = draw.rarely(4);
    spec.sync = draw.rarely(3);
    spec.max_lag = draw.rarely(3).then(|| draw.number(4));
    spec.same_colo = draw.rarely(4);
    spec.follows = draw.rarely(4).then(|| "web".parse().expect("a role"));
    if draw.rarely(4) {
        spec.term_ms = draw.number(10_000);
        spec.stop_ms = draw.number(2_000);
        spec.rate_ppm = draw.number(10_000);
        spec.lock_delay_ms = draw.number(1_000);
    }
    for _ in 0..draw.below(3) {
        spec.candidates.extend(name(draw, &HOSTS).parse());
    }
    spec
}

fn to_json(object: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(object).expect("plain data")
}

/// A record of a damaged file, or of one that somebody made.
fn damage(draw: &mut Draw<'_>, record: &mut Record) {
    match draw.below(4) {
        0 => record.value = Bytes::copy_from_slice(draw.bytes(24)),
        1 => {
            let mut value = record.value.to_vec();
            let at = draw.below(value.len() as u64 + 1);
            if let Some(byte) = value.get_mut(usize::try_from(at).unwrap_or(0)) {
                *byte = draw.byte();
            }
            record.value = value.into();
        }
        2 => {
            let role = one_of(draw, &ROLES).parse().expect("a name");
            let found = stored_key(&keys::grant(&role));
            if record.key == found {
                grant(draw, record);
            }
        }
        _ => record.key = Bytes::copy_from_slice(draw.bytes(24)),
    }
}

fn stored_key(key: &Bytes) -> Bytes {
    cfgsvc_core::tables::current(key)
}

/// Another grant in the place of the one that is there.
fn grant(draw: &mut Draw<'_>, record: &mut Record) {
    let Ok(mut stored) = cfgsvc_proto::state::KeyRecord::decode(record.value.clone()) else {
        return;
    };
    let Ok(mut grant) = serde_json::from_slice::<Grant>(&stored.value) else {
        return;
    };
    grant.epoch = draw.signed(40);
    grant.serving = draw.number_u32(3);
    grant.holder = name(draw, &HOSTS).parse().ok();
    grant.next = name(draw, &HOSTS).parse().ok().filter(|_| draw.flag());
    grant.left = Some(position(draw)).filter(|left| !left.is_empty());
    stored.value = to_json(&grant).into();
    record.value = stored.encode_to_vec().into();
}
