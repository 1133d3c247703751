//! Has zones signed anew before their signatures end: whoever leads the group writes a new moment
//! of signing ([`SigningObject::next`]), and every name server signs by it.
//!
//! Invariants
//! - what somebody else has changed since it was looked at stays as it is;
//! - a zone that cannot be signed anew keeps no other from it, and is named.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use cfgsvc_core::read::{machine_record, range_page};
use cfgsvc_core::zones::{SigningObject, VALID_S_MIN};
use cfgsvc_proto::etcd::{
    Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, compare, request_op,
};
use cfgsvc_proto::kv::KeyValue;
use cfgsvc_proto::state::Command;
use cfgsvc_proto::state::command::Op;
use cluster_core::store::View;
use tokio::time::MissedTickBehavior;
use tonic::Status;

use crate::clock;
use crate::housekeeping::{command, leads};
use crate::service::Service;

/// Time between looks: many of them in half of the shortest time that signatures are good for.
const LOOK: Duration = Duration::from_secs(10);
const _: () = assert!(
    LOOK.as_secs() * 10 <= VALID_S_MIN / 2,
    "looks have a margin"
);
/// The keys of how zones are signed.
const SIGNING: &[u8] = b"/cfgsvc/signing/";
const SIGNING_END: &[u8] = b"/cfgsvc/signing0";

/// What a look found.
#[derive(Debug, Default, PartialEq)]
struct Found {
    due: Vec<Due>,
    /// Keys whose value is not understood, with why.
    unreadable: Vec<(Bytes, String)>,
}

/// A zone whose signatures are to be made anew.
#[derive(Debug, PartialEq)]
struct Due {
    kv: KeyValue,
    /// How it is signed then.
    next: SigningObject,
    /// Little time is left: looks before this one should have done it.
    is_late: bool,
}

/// Has zones signed anew for as long as the member runs, while it leads.
pub(crate) async fn keep(service: &Service) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if leads(service)
            && let Err(status) = look(service).await
        {
            let error = status.message();
            tracing::warn!(error, "it is not known which zones are to be signed anew");
        }
    }
}

async fn look(service: &Service) -> Result<(), Status> {
    let now_s = u64::try_from(clock::wall_ms() / 1_000).unwrap_or(0);
    let found = service.read_large(move |view| find(view, now_s)).await?;
    for (key, why) in found.unreadable {
        let key = String::from_utf8_lossy(&key).into_owned();
        tracing::error!(
            key,
            why,
            "a zone is not signed anew: its keys are not understood"
        );
    }
    for due in found.due {
        let key = String::from_utf8_lossy(&due.kv.key).into_owned();
        let error = match signed_anew(&due) {
            Ok(command) => match service.propose(&command).await {
                Ok(_) => {
                    tracing::info!(key, at = due.next.at, "a zone is signed anew");
                    continue;
                }
                Err(status) => status.message().to_owned(),
            },
            Err(error) => error.to_string(),
        };
        if due.is_late {
            tracing::error!(
                key,
                error,
                "signatures end soon, and a zone is not signed anew"
            );
        } else {
            tracing::warn!(key, error, "a zone is not signed anew yet");
        }
    }
    Ok(())
}

/// The zones whose signatures are to be made anew.
fn find(view: &dyn View, now_s: u64) -> io::Result<Found> {
    let mut found = Found::default();
    if machine_record(view)?.restore_id != 0 {
        // Nothing is read or written until it is over.
        return Ok(found);
    }
    let request = RangeRequest {
        key: SIGNING.into(),
        range_end: SIGNING_END.into(),
        ..RangeRequest::default()
    };
    let page = range_page(view, &request, usize::MAX)?;
    let page = page.map_err(|refusal| io::Error::other(refusal.detail))?;
    for kv in page.kvs {
        match serde_json::from_slice::<SigningObject>(&kv.value) {
            Ok(object) => {
                if let Some(next) = object.next(now_s) {
                    let is_late = object.is_late(now_s);
                    found.due.push(Due { kv, next, is_late });
                }
            }
            Err(error) => found.unreadable.push((kv.key, error.to_string())),
        }
    }
    Ok(found)
}

/// A put, unless somebody else has changed the key meanwhile.
fn signed_anew(due: &Due) -> serde_json::Result<Command> {
    let key = &due.kv.key;
    let unchanged = Compare {
        key: key.clone(),
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Mod.into(),
        target_union: Some(compare::TargetUnion::ModRevision(due.kv.mod_revision)),
        ..Compare::default()
    };
    let put = PutRequest {
        key: key.clone(),
        value: serde_json::to_vec(&due.next)?.into(),
        ..PutRequest::default()
    };
    let request = Some(request_op::Request::RequestPut(put));
    let txn = TxnRequest {
        compare: vec![unchanged],
        success: vec![RequestOp { request }],
        failure: Vec::new(),
    };
    Ok(Command {
        reason: "signatures are renewed at half of their time".to_owned(),
        ..command(Op::Txn(txn))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cfgsvc_core::Machine;
    use cfgsvc_proto::state::Reply;
    use cfgsvc_proto::state::reply::Result as Outcome;
    use cluster_core::store::Overlay;
    use prost::Message;

    use super::*;

    const APEX: &str = r#"{"sets":{"NS":{"ttl":300,"data":["ns1"]},"SOA":{"ttl":300,"data":["ns1 h 1 3600 600 604800 60"]}}}"#;
    const AT: u64 = 1_700_000_000;

    /// How a zone is signed: by the key of RFC 8080 6.1.
    fn signed(at: u64) -> String {
        let dnskey = "257 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=";
        let key = format!(r#"{{"dnskey":"{dnskey}","role":"csk","signs":true}}"#);
        format!(r#"{{"keys":[{key}],"at":{at},"valid_s":{VALID_S_MIN}}}"#)
    }

    /// A member's state, as its commands make it.
    struct World {
        state: BTreeMap<Bytes, Bytes>,
        machine: Machine,
    }

    impl World {
        /// With these zones, signed at these moments.
        fn new(zones: &[(&str, u64)]) -> Self {
            let state = BTreeMap::new();
            let machine = Machine::load(&state).expect("an empty store");
            let mut world = Self { state, machine };
            for (zone, at) in zones {
                world.put(&format!("/cfgsvc/names/{zone}/1/@"), APEX);
                world.put(&format!("/cfgsvc/zones/{zone}"), r#"{"generation":1}"#);
                world.put(&format!("/cfgsvc/signing/{zone}"), &signed(*at));
            }
            world
        }

        fn apply(&mut self, command: &Command) -> Outcome {
            let mut overlay = Overlay::new(&self.state);
            let bytes = command.encode_to_vec().into();
            let applied = self.machine.apply(&mut overlay, bytes).expect("memory");
            for (key, value) in overlay.into_batch().iter() {
                match value {
                    Some(value) => drop(self.state.insert(key.clone(), value.clone())),
                    None => drop(self.state.remove(key)),
                }
            }
            let reply = Reply::decode(applied.reply).expect("a reply");
            reply.result.expect("a result")
        }

        fn put(&mut self, key: &str, value: &str) {
            let put = PutRequest {
                key: key.as_bytes().to_vec().into(),
                value: value.as_bytes().to_vec().into(),
                ..PutRequest::default()
            };
            let done = self.apply(&command(Op::Put(put)));
            assert!(matches!(done, Outcome::Put(_)), "{key}: {done:?}");
        }

        fn find(&self, now_s: u64) -> Found {
            find(&self.state, now_s).expect("memory")
        }
    }

    fn zones(found: &Found) -> Vec<String> {
        let key = |due: &Due| String::from_utf8_lossy(&due.kv.key).into_owned();
        found.due.iter().map(key).collect()
    }

    #[test]
    fn zones_are_due_at_half_of_their_time_and_late_at_three_quarters() {
        let world = World::new(&[("a", AT), ("b", AT + 900), ("c", AT + 1_800)]);
        assert_eq!(world.find(AT + 1_799), Found::default());
        assert_eq!(zones(&world.find(AT + 1_800)), ["/cfgsvc/signing/a"]);
        let both = world.find(AT + 2_700);
        assert_eq!(zones(&both), ["/cfgsvc/signing/a", "/cfgsvc/signing/b"]);
        let late: Vec<bool> = both.due.iter().map(|due| due.is_late).collect();
        assert_eq!(late, [true, false]);
    }

    #[test]
    fn what_is_due_is_signed_anew_unless_somebody_has_changed_it_meanwhile() {
        let mut world = World::new(&[("a", AT), ("b", AT)]);
        let now = AT + 1_800;
        let found = world.find(now);
        assert_eq!(found.due.len(), 2);
        let theirs = signed(now + 1);
        world.put("/cfgsvc/signing/a", &theirs);
        let each = found.due.iter().map(|due| {
            let done = world.apply(&signed_anew(due).expect("JSON"));
            let Outcome::Txn(done) = done else {
                panic!("{done:?}");
            };
            done.succeeded
        });
        let succeeded: Vec<bool> = each.collect();
        assert_eq!(succeeded, [false, true]);
        assert_eq!(world.find(now), Found::default(), "nothing is left to do");
        let then = world.find(now + 1_801);
        assert_eq!(then.due[0].kv.value.as_ref(), theirs.as_bytes());
        let done: SigningObject = serde_json::from_slice(&then.due[1].kv.value).expect("JSON");
        assert_eq!(done.at, now);
    }

    #[test]
    fn nothing_is_looked_for_while_a_restore_is_under_way_and_damage_is_told() {
        let mut world = World::new(&[("a", AT)]);
        let stored = cfgsvc_core::tables::current(b"/cfgsvc/signing/a");
        let mut record =
            cfgsvc_proto::state::KeyRecord::decode(world.state[&stored].clone()).expect("a record");
        record.value = Bytes::from_static(b"{}");
        world.state.insert(stored, record.encode_to_vec().into());
        let found = world.find(AT);
        assert!(found.due.is_empty());
        assert!(found.unreadable[0].1.contains("missing field"), "{found:?}");
        let machine = cfgsvc_proto::state::MachineRecord {
            restore_id: 7,
            ..machine_record(&world.state).expect("memory")
        };
        let key = cfgsvc_core::tables::MACHINE;
        world.state.insert(key, machine.encode_to_vec().into());
        assert_eq!(world.find(AT), Found::default());
    }
}
