//! A group of one that takes the steps of hosts, and what they send to it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cfgsvc_core::placement::{Attending, Grant, Spec, Verdict, verdict::verdict};
use cfgsvc_core::{LeaseChange, Machine, tables};
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::role_command::Step;
use cfgsvc_proto::state::{
    Attend, Command, KeyRecord, Move, Reply, RoleCommand, RoleReply, Start, Yield,
};
use cluster_core::store::Overlay;
use prost::Message;

pub(crate) const COLOS: [&str; 2] = ["akl", "wlg"];
pub(crate) const HOSTS: [(&str, &str); 4] =
    [("h1", "akl"), ("h2", "wlg"), ("h3", "akl"), ("h4", "wlg")];
pub(crate) const ROLES: [&str; 3] = ["db", "web", "locks/l"];
const FIRST_BOOT: &str = "boot-0";
pub(crate) const LOCK: &str = r#"{"kind":"lock"}"#;

/// A group of one: the machine over a store in memory.
pub(crate) struct World {
    pub(crate) state: BTreeMap<Bytes, Bytes>,
    pub(crate) machine: Machine,
    pub(crate) leases: BTreeSet<i64>,
    /// Steps of agents so far, which are numbered by that; all roles and hosts count together.
    pub(crate) attempt: u64,
    /// When commands are proposed; 0: they do not say.
    pub(crate) at_ms: i64,
    /// The boot of the last agent that was taken in, by role and host.
    boots: BTreeMap<(String, String), String>,
    /// What they sent.
    pub(crate) sent: Vec<(String, Step)>,
}

/// How far the numbers of the steps of a boot are ahead: they follow the machine's clock, and that
/// of one boot knows nothing of another's. The first is the one that was up for long.
fn ahead(boot: &str) -> u64 {
    if boot == FIRST_BOOT { 1_000_000 } else { 0 }
}

impl World {
    pub(crate) fn new() -> Self {
        let state = BTreeMap::new();
        let machine = Machine::load(&state).expect("an empty store");
        Self {
            state,
            machine,
            leases: BTreeSet::new(),
            attempt: 0,
            at_ms: 0,
            boots: BTreeMap::new(),
            sent: Vec::new(),
        }
    }

    /// What agents and the network still know is that of another group.
    pub(crate) fn follows(&mut self, former: Self) {
        self.attempt = former.attempt;
        self.boots = former.boots;
        self.sent = former.sent;
    }

    pub(crate) fn apply(&mut self, op: Op) -> Outcome {
        let command = Command {
            op: Some(op),
            at_ms: self.at_ms,
            ..Command::default()
        };
        let mut overlay = Overlay::new(&self.state);
        let applied = self
            .machine
            .apply(&mut overlay, command.encode_to_vec().into())
            .expect("memory does not fail");
        let batch = overlay.into_batch();
        for (key, value) in batch.iter() {
            match value {
                Some(value) => drop(self.state.insert(key.clone(), value.clone())),
                None => drop(self.state.remove(key)),
            }
        }
        for change in applied.leases {
            match change {
                LeaseChange::Granted { id, .. } => assert!(self.leases.insert(id)),
                LeaseChange::Ended { id } => assert!(self.leases.remove(&id)),
                LeaseChange::Closing { id, .. } => assert!(self.leases.contains(&id)),
            }
        }
        let reply = Reply::decode(applied.reply).expect("a reply");
        reply.result.expect("a result")
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) -> Outcome {
        self.apply(Op::Put(cfgsvc_proto::etcd::PutRequest {
            key: key.as_bytes().to_vec().into(),
            value: value.as_bytes().to_vec().into(),
            ..Default::default()
        }))
    }

    /// A new step.
    pub(crate) fn step(&mut self, role: &str, mut step: Step) -> Result<RoleReply, String> {
        self.attempt += 1;
        let boot = |host: &str| {
            let boot = self.boots.get(&(role.to_owned(), host.to_owned()));
            boot.map_or(0, |boot| ahead(boot))
        };
        match &mut step {
            Step::Attend(step) => step.attempt = self.attempt + ahead(&step.boot),
            Step::Start(step) => step.attempt = self.attempt + boot(&step.host),
            Step::Yield(step) => step.attempt = self.attempt + boot(&step.host),
            Step::Sync(step) => step.attempt = self.attempt + boot(&step.host),
            Step::Move(_) => {}
        }
        self.sent.push((role.to_owned(), step.clone()));
        self.arrives(role, step)
    }

    /// A step, or a copy of one that was kept back by the network.
    pub(crate) fn arrives(&mut self, role: &str, step: Step) -> Result<RoleReply, String> {
        let role = role.to_owned();
        let came = match &step {
            Step::Attend(step) => Some(((role.clone(), step.host.clone()), step.boot.clone())),
            Step::Start(_) | Step::Yield(_) | Step::Sync(_) | Step::Move(_) => None,
        };
        let step = Some(step);
        let outcome = self.apply(Op::Role(RoleCommand { role, step }));
        if let Outcome::Refusal(refusal) = &outcome {
            return Err(format!("{:?}: {}", refusal.code(), refusal.detail));
        }
        let Outcome::Role(reply) = outcome else {
            panic!("an answer to another command: {outcome:?}");
        };
        self.boots.extend(came);
        Ok(reply)
    }

    pub(crate) fn object<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        let stored = tables::current(key.as_bytes());
        let record: Option<KeyRecord> = tables::get(&self.state, &stored).expect("memory");
        record.map(|record| serde_json::from_slice(&record.value).expect("an object"))
    }

    pub(crate) fn grant(&self, role: &str) -> Grant {
        self.object(&format!("/cfgsvc/grants/{role}"))
            .unwrap_or_default()
    }

    pub(crate) fn attending(&self, role: &str, host: &str) -> Option<Attending> {
        self.object(&format!("/cfgsvc/attending/{role}/{host}"))
    }

    pub(crate) fn verdict(&self, role: &str, host: &str) -> Verdict {
        let spec: Option<Spec> = self.object(&format!("/cfgsvc/roles/{role}"));
        let grant = self.grant(role);
        let attending = self.attending(role, host);
        let host = host.parse().expect("a name");
        verdict(
            spec.as_ref().map(|spec| (spec, &grant)),
            &host,
            attending.as_ref(),
        )
    }
}

pub(crate) fn attend(host: (&str, &str), lease: i64, facts: Facts) -> Step {
    Step::Attend(Attend {
        host: host.0.to_owned(),
        colo: host.1.to_owned(),
        lease,
        instance: format!("{}-{}", host.0, facts.instance),
        boot: format!("boot-{}", facts.boot),
        epoch: facts.epoch,
        has_data: facts.position.is_some(),
        identity: if facts.position.is_some() {
            "orders".to_owned()
        } else {
            String::new()
        },
        position: facts.position.map_or_else(String::new, |at| at.to_string()),
        lock: LOCK.to_owned(),
        ..Attend::default()
    })
}

/// Whose step it is, and its number.
pub(crate) fn whose(step: &Step) -> Option<(&str, u64)> {
    match step {
        Step::Attend(step) => Some((&step.host, step.attempt)),
        Step::Start(step) => Some((&step.host, step.attempt)),
        Step::Yield(step) => Some((&step.host, step.attempt)),
        Step::Sync(step) => Some((&step.host, step.attempt)),
        Step::Move(_) => None,
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts {
    pub(crate) instance: u8,
    pub(crate) boot: u8,
    pub(crate) epoch: i64,
    pub(crate) position: Option<u64>,
}

pub(crate) fn start(host: &str, lease: i64, epoch: i64, position: &str) -> Step {
    let (host, position) = (host.to_owned(), position.to_owned());
    Step::Start(Start {
        host,
        lease,
        epoch,
        identity: if position.is_empty() { "" } else { "orders" }.to_owned(),
        position,
        attempt: 0,
        life: String::new(),
    })
}

pub(crate) fn stop(host: &str, lease: i64, position: &str, leave: bool) -> Step {
    let (host, position) = (host.to_owned(), position.to_owned());
    Step::Yield(Yield {
        host,
        lease,
        position,
        leave,
        attempt: 0,
    })
}

pub(crate) fn go(to: &str) -> Step {
    let to = to.to_owned();
    Step::Move(Move {
        to,
        ..Move::default()
    })
}
