//! Clients: they write and read through any member, ask again after an unknown outcome with the
//! same request id, and have every answer judged.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cfgsvc::lease::book::Renewal;
use cfgsvc_core::read::range;
use cfgsvc_proto::etcd::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest,
    PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, compare, request_op,
};
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::refusal::Code;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::{Command, Refusal, Reply};
use cluster::state_store::StateStore as _;
use openraft::AsyncRuntime as _;
use openraft_rt_sim::SimRuntime;
use prost::Message as _;

use crate::defect::Defect;
use crate::lease;
use crate::member::Member;
use crate::nemesis::operator;
use crate::network;
use crate::oracle::Read;
use crate::rng::Rng;
use crate::runtime::{lock, world_time};
use crate::world::World;

/// Keys of all clients.
const KEYS: u64 = 8;
/// A client waits so long for one answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// Tries of one request.
const TRIES: u32 = 8;

/// All keys of clients begin with this.
pub const PREFIX: (&[u8], &[u8]) = (b"k", b"l");

/// One client.
pub struct Client {
    world: Arc<World>,
    rng: Rng,
    number: u64,
    session: Option<Session>,
    written: u64,
    /// Last revision known of each key; 0 is absent.
    known: BTreeMap<Bytes, i64>,
}

struct Session {
    id: i64,
    ttl_s: i64,
    seq: u64,
    /// When the last confirmed renewal was sent.
    renewed: Duration,
}

/// What became of a request.
enum Answer {
    Done(Reply),
    Refused(Refusal),
    Unknown,
}

impl Client {
    /// A client that has not begun.
    pub fn new(world: Arc<World>, number: u64) -> Self {
        let rng = world.fork_rng();
        Self {
            world,
            rng,
            number,
            session: None,
            written: 0,
            known: BTreeMap::new(),
        }
    }

    /// Works until `until`.
    pub async fn run(mut self, until: Duration) {
        while world_time() < until && self.world.failure().is_none() {
            let pause = self.rng.millis(1, 60);
            SimRuntime::sleep(pause).await;
            if !self.keep_session().await {
                continue;
            }
            match self.rng.between(0, 99) {
                0..=34 => self.put().await,
                35..=54 => self.compare_and_swap().await,
                55..=64 => self.delete().await,
                65..=84 => self.read(true).await,
                85..=94 => self.read(false).await,
                95..=97 => self.compact().await,
                _ => self.revoke().await,
            }
        }
    }

    fn member(&mut self) -> u64 {
        let ids: Vec<u64> = self.world.hosts().iter().map(|host| host.id).collect();
        self.rng.pick(&ids).copied().unwrap_or(1)
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!("k{}", self.rng.between(0, KEYS - 1)))
    }

    /// A value that nobody ever wrote.
    fn value(&mut self) -> Bytes {
        self.written += 1;
        Bytes::from(format!("c{}-{}", self.number, self.written))
    }

    // === requests ===

    /// Sends a request until its outcome is known or nobody knows it.
    async fn ask(&mut self, op: Op) -> Answer {
        let mut command = Command {
            author: format!("client {}", self.number),
            op: Some(op),
            ..Command::default()
        };
        let mut again = false;
        if let Some(session) = &mut self.session {
            session.seq += 1;
            again = true;
            if self.world.plan.defect != Some(Defect::RequestIdForgotten) {
                command.session = session.id;
                command.seq = session.seq;
                command.ack = session.seq - 1;
            }
        }
        let answer = self.send(&command, again).await;
        if matches!(answer, Answer::Unknown) {
            self.world.count("outcome unknown");
            lock(&self.world.oracle).unknown += 1;
            // An answer to that request is of no use any more: another session begins anew.
        }
        answer
    }

    async fn send(&mut self, command: &Command, again: bool) -> Answer {
        let bytes = Bytes::from(command.encode_to_vec());
        let mut unknown = false;
        for _ in 0..TRIES {
            let to = self.member();
            let command = bytes.clone();
            let propose = move |member: Member| {
                let command = command.clone();
                async move { member.propose(command).await }
            };
            let call = network::call(&self.world, operator(), to, propose);
            match SimRuntime::timeout(PATIENCE, call).await {
                Ok(Ok(Ok(reply))) => return self.decode(reply),
                // Nobody is there, or whoever is there did nothing.
                Ok(Err(network::CallError::Refused(_))) => {}
                Ok(Ok(Err(error))) if error.not_executed() => {}
                Ok(Ok(Err(_)) | Err(network::CallError::Broken)) | Err(_) => {
                    unknown = true;
                    if !again {
                        return Answer::Unknown;
                    }
                    self.world
                        .count("request sent again after an unknown outcome");
                }
            }
            let pause = self.rng.millis(5, 200);
            SimRuntime::sleep(pause).await;
        }
        if unknown {
            Answer::Unknown
        } else {
            Answer::Refused(Refusal::default())
        }
    }

    fn decode(&self, bytes: Bytes) -> Answer {
        match Reply::decode(bytes) {
            Ok(Reply {
                result: Some(Outcome::Refusal(refusal)),
                ..
            }) => Answer::Refused(refusal),
            Ok(reply) => Answer::Done(reply),
            Err(error) => {
                self.world.fail(format!("a reply does not decode: {error}"));
                Answer::Unknown
            }
        }
    }

    fn refused(&mut self, refusal: &Refusal) {
        let code = refusal.code();
        if matches!(code, Code::SessionNotFound | Code::LeaseNotFound) {
            self.world.count("session ended under its client");
            self.session = None;
        } else if !matches!(
            code,
            Code::Unspecified | Code::Compacted | Code::FutureRevision
        ) {
            let (number, detail) = (self.number, &refusal.detail);
            self.world
                .fail(format!("client {number} was refused: {code:?} {detail}"));
        }
    }

    // === sessions ===

    /// Has a session that lives, if this run has sessions.
    async fn keep_session(&mut self) -> bool {
        if !self.world.plan.sessions {
            return true;
        }
        let Some(session) = &self.session else {
            return self.begin_session().await;
        };
        let (id, ttl_s) = (session.id, session.ttl_s);
        let third = Duration::from_millis(ttl_s.unsigned_abs() * 333);
        if world_time().saturating_sub(session.renewed) < third {
            return true;
        }
        let sent = world_time();
        let to = self.member();
        let renew = move |member: Member| renew(member, id);
        let call = network::call(&self.world, operator(), to, renew);
        match SimRuntime::timeout(Duration::from_secs(1), call).await {
            Ok(Ok(Some(Renewal::Renewed(ttl)))) => {
                self.confirmed(id, ttl, sent);
                true
            }
            Ok(Ok(Some(Renewal::Gone))) => {
                self.session = None;
                false
            }
            _ => true,
        }
    }

    fn confirmed(&mut self, id: i64, ttl: Duration, sent: Duration) {
        self.told(&format!("has lease {id:x} for {ttl:?} from {sent:?}"));
        self.world
            .check(|checks| checks.leases.confirmed(id, sent, ttl));
        if let Some(session) = &mut self.session {
            session.renewed = sent;
        }
    }

    async fn begin_session(&mut self) -> bool {
        let id = i64::try_from(self.rng.number() >> 1).unwrap_or(1).max(1);
        let ttl_s = i64::try_from(self.rng.between(1, 4)).unwrap_or(2);
        let sent = world_time();
        let grant = LeaseGrantRequest { ttl: ttl_s, id };
        let command = Command {
            op: Some(Op::LeaseGrant(grant)),
            ..Command::default()
        };
        // An id is asked for once: a second grant after the end of the first is another lease.
        match self.send(&command, false).await {
            Answer::Done(_) => {
                self.session = Some(Session {
                    id,
                    ttl_s,
                    seq: 0,
                    renewed: sent,
                });
                let ttl = Duration::from_secs(ttl_s.unsigned_abs());
                self.confirmed(id, ttl, sent);
                self.world.count("session");
                true
            }
            // If it was granted all the same, it ends by itself.
            Answer::Refused(_) | Answer::Unknown => false,
        }
    }

    async fn revoke(&mut self) {
        let Some(session) = &self.session else { return };
        let id = session.id;
        self.told(&format!("gives up lease {id:x}"));
        self.world.check(|checks| {
            checks.leases.revoked(id);
            Ok(())
        });
        // It ends itself: its answer is not kept, so the request goes without an id.
        let revoke = Command {
            op: Some(Op::LeaseRevoke(LeaseRevokeRequest { id })),
            ..Command::default()
        };
        self.send(&revoke, false).await;
        self.session = None;
    }

    // === operations ===

    async fn put(&mut self) {
        let (key, value) = (self.key(), self.value());
        let lease = match &self.session {
            Some(session) if self.rng.chance(300) => session.id,
            _ => 0,
        };
        let request = PutRequest {
            key: key.clone(),
            value: value.clone(),
            lease,
            ..PutRequest::default()
        };
        match self.ask(Op::Put(request)).await {
            Answer::Done(reply) => {
                self.told(&format!("put {key:?} {value:?} at {}", reply.revision));
                self.known.insert(key.clone(), reply.revision);
                self.world.judge(|oracle, history| {
                    oracle.acknowledged(history, reply.revision, &key, Some(&value))
                });
            }
            Answer::Refused(refusal) => self.refused(&refusal),
            Answer::Unknown => {}
        }
    }

    async fn compare_and_swap(&mut self) {
        let (key, value) = (self.key(), self.value());
        let expected = self.known.get(&key).copied().unwrap_or(0);
        let put = PutRequest {
            key: key.clone(),
            value: value.clone(),
            ..PutRequest::default()
        };
        let request = TxnRequest {
            compare: vec![Compare {
                result: compare::CompareResult::Equal.into(),
                target: compare::CompareTarget::Mod.into(),
                key: key.clone(),
                target_union: Some(compare::TargetUnion::ModRevision(expected)),
                ..Compare::default()
            }],
            success: vec![RequestOp {
                request: Some(request_op::Request::RequestPut(put)),
            }],
            ..TxnRequest::default()
        };
        match self.ask(Op::Txn(request)).await {
            Answer::Done(reply) => {
                let Some(Outcome::Txn(txn)) = &reply.result else {
                    return self.world.fail("a transaction got another answer");
                };
                let (revision, succeeded) = (reply.revision, txn.succeeded);
                self.told(&format!("swap {key:?} {value:?} {succeeded} at {revision}"));
                self.world.judge(|oracle, history| {
                    if succeeded {
                        oracle.acknowledged(history, revision, &key, Some(&value))?;
                    }
                    oracle.compared(history, revision, &key, expected, succeeded)
                });
                if succeeded {
                    self.known.insert(key, revision);
                }
            }
            Answer::Refused(refusal) => self.refused(&refusal),
            Answer::Unknown => {}
        }
    }

    async fn delete(&mut self) {
        let key = self.key();
        let request = DeleteRangeRequest {
            key: key.clone(),
            ..DeleteRangeRequest::default()
        };
        match self.ask(Op::DeleteRange(request)).await {
            Answer::Done(reply) => {
                let Some(Outcome::DeleteRange(deleted)) = &reply.result else {
                    return self.world.fail("a delete got another answer");
                };
                let (revision, deleted) = (reply.revision, deleted.deleted);
                self.told(&format!("delete {key:?} {deleted} at {revision}"));
                self.known.insert(key.clone(), 0);
                self.world.judge(|oracle, history| match deleted {
                    0 => oracle.absent(history, revision, &key),
                    _ => oracle.acknowledged(history, revision, &key, None),
                });
            }
            Answer::Refused(refusal) => self.refused(&refusal),
            Answer::Unknown => {}
        }
    }

    async fn compact(&mut self) {
        let revision = lock(&self.world.history).last() - 20;
        if revision > 0 {
            let request = CompactionRequest {
                revision,
                physical: false,
            };
            if let Answer::Refused(refusal) = self.ask(Op::Compact(request)).await {
                self.refused(&refusal);
            }
        }
    }

    async fn read(&mut self, linearizable: bool) {
        let last = lock(&self.world.history).last();
        let past = !linearizable && self.rng.chance(300);
        let asked = if past {
            self.rng.between(1, last.unsigned_abs()).cast_signed()
        } else {
            0
        };
        let floor = linearizable.then(|| lock(&self.world.oracle).floor());
        let to = self.member();
        let read = move |member: Member| read_at(member, linearizable, asked);
        let call = network::call(&self.world, operator(), to, read);
        let Ok(Ok(Ok(response))) = SimRuntime::timeout(PATIENCE, call).await else {
            return self.world.count("read without an answer");
        };
        for kv in &response.kvs {
            self.known.insert(kv.key.clone(), kv.mod_revision);
        }
        let found = response.kvs.into_iter().map(|kv| (kv.key, kv.value));
        let read = Read {
            revision: response.header.map_or(0, |header| header.revision),
            asked,
            found: found.collect(),
        };
        self.told(&format!("read {asked} {floor:?} at {}", read.revision));
        self.world
            .judge(|oracle, history| oracle.read(history, floor, &read));
    }

    fn told(&self, what: &str) {
        self.world.event(&format!("client {} {what}", self.number));
    }
}

/// A range of all keys, by the member that is asked.
async fn read_at(member: Member, linearizable: bool, asked: i64) -> Result<RangeResponse, String> {
    if linearizable {
        let barrier = member.read_barrier().await;
        barrier.map_err(|error| error.to_string())?;
    }
    let request = RangeRequest {
        key: Bytes::from_static(PREFIX.0),
        range_end: Bytes::from_static(PREFIX.1),
        revision: asked,
        ..RangeRequest::default()
    };
    let mut found = None;
    let read = member.store().engine().read(&mut |view| {
        found = Some(range(view, &request)?);
        Ok(())
    });
    read.map_err(|error: io::Error| error.to_string())?;
    match found {
        Some(Ok(response)) => Ok(response),
        Some(Err(refusal)) => Err(format!("{:?}", refusal.code())),
        None => Err("nothing was read".to_owned()),
    }
}

/// A renewal, by the leader that the member knows.
async fn renew(member: Member, id: i64) -> Option<Renewal> {
    if member.leads() {
        return lease::renew_here(member, id).await;
    }
    let leader = member.leader()?;
    let renew = move |member: Member| lease::renew_here(member, id);
    let call = network::call(member.world(), member.from().clone(), leader, renew);
    call.await.ok()?
}
