//! What a member does for hosts; the twin of `cfgsvc::grpc::roles`.
//!
//! Real here: the steps of the core, its verdicts, the hub that tells of changes.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cfgsvc::lease::book::Renewal;
use cfgsvc::watch::cursor::Cursor;
use cfgsvc::watch::hub::Stream;
use cfgsvc_agent::role::core::{Standing, Told};
use cfgsvc_core::placement::read::{Judged, judge};
use cfgsvc_core::placement::{Fence, Name, RoleName, Verdict, keys};
use cfgsvc_core::read::machine_record;
use cfgsvc_proto::etcd::WatchCreateRequest;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::role_command::Step;
use cfgsvc_proto::state::{Command, Refusal, Reply, RoleCommand, RoleReply};
use cluster::state_store::StateStore as _;
use openraft::AsyncRuntime as _;
use openraft::async_runtime::Select2;
use openraft_rt_sim::SimRuntime;
use prost::Message as _;
use tokio::sync::mpsc;

use super::sync::Count;
use crate::lease;
use crate::member::Member;
use crate::network::{self, spawn_here};
use crate::runtime::world_time;

/// What became of a request at one member.
#[derive(Debug)]
pub enum Answer<T> {
    /// It was done.
    Done(T),
    /// It changed nothing.
    Refused(Refusal),
    /// Nobody knows, or it was not done.
    Unknown,
}

/// Numbers a step: a late copy is known by that.
fn number(step: &mut Step, number: u64) {
    match step {
        Step::Attend(step) => step.attempt = number,
        Step::Start(step) => step.attempt = number,
        Step::Yield(step) => step.attempt = number,
        Step::Sync(step) => step.attempt = number,
        Step::Move(_) => {}
    }
}

/// The command, of which a step passes for a new one whenever it is proposed: the defect
/// [`StepsWithoutNumbers`](crate::defect::Defect::StepsWithoutNumbers).
pub fn unnumbered(command: Bytes) -> Bytes {
    let Ok(mut decoded) = Command::decode(command.clone()) else {
        return command;
    };
    let Some(Op::Role(RoleCommand {
        step: Some(step), ..
    })) = &mut decoded.op
    else {
        return command;
    };
    let now = u64::try_from(world_time().as_nanos()).unwrap_or(u64::MAX);
    number(step, (u64::MAX >> 1).saturating_add(now));
    decoded.encode_to_vec().into()
}

/// Has the group carry out `op`.
pub async fn execute(member: Member, op: Op) -> Answer<Reply> {
    let command = Command {
        op: Some(op),
        ..Command::default()
    };
    let Ok(bytes) = member.propose(Bytes::from(command.encode_to_vec())).await else {
        return Answer::Unknown;
    };
    match Reply::decode(bytes) {
        Ok(Reply {
            result: Some(Outcome::Refusal(refusal)),
            ..
        }) => Answer::Refused(refusal),
        Ok(reply) => Answer::Done(reply),
        Err(error) => {
            let why = format!("a reply does not decode: {error}");
            member.world().fail(why);
            Answer::Unknown
        }
    }
}

/// Has the group take a step of a role.
pub async fn step(member: Member, attempt: u64, role: RoleName, step: Step) -> Answer<RoleReply> {
    match step_at(member, attempt, role, step).await {
        Answer::Done((_, reply)) => Answer::Done(reply),
        Answer::Refused(refusal) => Answer::Refused(refusal),
        Answer::Unknown => Answer::Unknown,
    }
}

/// The same, with the revision by which the answer is so.
pub async fn step_at(
    member: Member,
    attempt: u64,
    role: RoleName,
    mut step: Step,
) -> Answer<(i64, RoleReply)> {
    number(&mut step, attempt);
    let op = Op::Role(RoleCommand {
        role: role.as_str().to_owned(),
        step: Some(step),
    });
    match execute(member.clone(), op).await {
        Answer::Done(Reply {
            result: Some(Outcome::Role(reply)),
            revision,
        }) => Answer::Done((revision, reply)),
        Answer::Done(reply) => {
            let why = format!("a step of a role was answered by {reply:?}");
            member.world().fail(why);
            Answer::Unknown
        }
        Answer::Refused(refusal) => Answer::Refused(refusal),
        Answer::Unknown => Answer::Unknown,
    }
}

/// A revision that the group has reached by now.
pub async fn revision(member: Member) -> Option<i64> {
    member.read_barrier().await.ok()?;
    Some(member.hub().published())
}

/// A renewal, by the leader that the member knows.
pub async fn renew(member: Member, id: i64) -> Option<Renewal> {
    if member.leads() {
        return lease::renew_here(member, id).await;
    }
    let leader = member.leader()?;
    let renew = move |member: Member| lease::renew_here(member, id);
    let call = network::call(member.world(), member.from().clone(), leader, renew);
    call.await.ok()?
}

/// Who follows which verdicts.
#[derive(Debug, Clone)]
pub struct Follower {
    /// The role.
    pub role: RoleName,
    /// The host.
    pub host: Name,
    /// Its lease.
    pub lease: i64,
}

/// The end of a stream of verdicts that a member holds; taken by the first copy of the call.
pub type Outlet = Arc<Mutex<Option<mpsc::Sender<Heard>>>>;

/// What a stream of verdicts says: the verdict, and to a holder who is in sync with it.
pub type Heard = (Told, Option<Count>);

/// Opens a stream of verdicts; whether that was possible.
pub async fn verdicts(member: Member, follower: Follower, outlet: Outlet) -> bool {
    let stream = member.hub().stream();
    if member.read_barrier().await.is_err() {
        return false;
    }
    let Some(outlet) = crate::runtime::lock(&outlet).take() else {
        return false;
    };
    spawn_here(async move { follower.run(&member, &stream, outlet).await });
    true
}

impl Follower {
    fn wait_after(&self, stream: &Stream, revision: i64) -> bool {
        let keys = [
            keys::role(&self.role),
            keys::grant(&self.role),
            keys::attending(&self.role, &self.host),
        ];
        keys.into_iter().zip(0..).all(|(key, id)| {
            let request = WatchCreateRequest {
                key,
                ..WatchCreateRequest::default()
            };
            let cursor = Cursor::new(&request, revision + 1);
            cursor.is_some_and(|cursor| stream.join(id, &cursor))
        })
    }

    async fn run(&self, member: &Member, stream: &Stream, outlet: mpsc::Sender<Heard>) {
        let mut last: Option<Judged> = None;
        loop {
            let revision = member.hub().published();
            stream.leave_all();
            if !self.wait_after(stream, revision) {
                continue;
            }
            let Ok((at, judged)) = self.judge(member) else {
                return;
            };
            if last.as_ref() != Some(&judged) {
                let told = (told(&judged), count(at, &judged));
                if outlet.send(told).await.is_err() {
                    return;
                }
                last = Some(judged);
            }
            let inbox = Arc::clone(stream.inbox());
            let filled = SimRuntime::select2(inbox.filled(), outlet.closed()).await;
            if matches!(filled, Select2::Second(())) {
                return;
            }
        }
    }

    fn judge(&self, member: &Member) -> io::Result<(i64, Judged)> {
        let mut judged = None;
        member.store().engine().read(&mut |view| {
            let revision = machine_record(view)?.revision;
            judged = Some((revision, judge(view, &self.role, &self.host, self.lease)?));
            Ok(())
        })?;
        judged.ok_or_else(|| io::Error::other("nothing was read"))
    }
}

/// Who is in sync with a host that serves.
fn count(revision: i64, judged: &Judged) -> Option<Count> {
    let hosts = judged.synced.iter().cloned().map(String::from).collect();
    matches!(judged.verdict, Verdict::Serve { .. })
        .then(|| Count::of(judged.epoch, revision, hosts))
}

/// A verdict as the agent's core takes it.
fn told(judged: &Judged) -> Told {
    let other = |holder: String, reason: String| {
        Told::Other(Standing {
            verdict: judged.verdict.name(),
            epoch: judged.epoch,
            holder,
            addresses: Vec::new(),
            reason,
        })
    };
    match &judged.verdict {
        Verdict::Serve { epoch } => Told::Serve { epoch: *epoch },
        Verdict::Fenced(Fence::NotBegun { epoch }) => Told::MayStart { epoch: *epoch },
        Verdict::Fenced(Fence::NotAttending) => Told::NotAttending,
        Verdict::Fenced(fence) => other(String::new(), fence.to_string()),
        Verdict::Standby { holder, .. } | Verdict::Redirect { holder, .. } => {
            other(holder.to_string(), format!("{holder} holds it"))
        }
        Verdict::Rebuild { holder, why, .. } => other(holder.to_string(), why.clone()),
    }
}
