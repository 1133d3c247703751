//! What a write would do, without doing it: the command is applied to a copy of the state that is
//! thrown away, by the same machine that applies the log.

use std::collections::BTreeSet;
use std::io;

use cfgsvc_core::Machine;
use cfgsvc_core::placement::keys::Place;
use cfgsvc_core::placement::read::{Role, role};
use cfgsvc_core::placement::{RoleName, Verdict};
use cfgsvc_proto::kv::Event;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::role_command::Step;
use cfgsvc_proto::state::{Command, Move, Refusal, Reply, RoleCommand};
use cfgsvc_proto::v1::plan_request::Write;
use cfgsvc_proto::v1::{MoveRequest, PlanRequest, PlanResponse, VerdictChange};
use cluster::View;
use cluster_core::store::Overlay;
use prost::Message;
use tonic::{Response, Status};

use super::kv::{self, check_space};
use super::metadata::RequestMeta;
use super::roles::wire;
use super::status;
use crate::clock;
use crate::service::Service;

/// The step that a request to move a role asks for.
pub(super) fn move_step(request: MoveRequest) -> Move {
    Move {
        to: request.to,
        epoch: request.epoch,
        accept_loss: request.accept_loss,
    }
}

/// What came of trying.
struct Tried {
    events: Vec<Event>,
    verdicts: Vec<VerdictChange>,
    revision: i64,
}

/// Answers what the write would do.
pub(super) async fn plan(
    service: &Service,
    meta: RequestMeta,
    request: PlanRequest,
) -> Result<Response<PlanResponse>, Status> {
    let verdicts_only = request.verdicts_only;
    let op = match request.write {
        Some(Write::Put(put)) => Op::Put(put),
        Some(Write::DeleteRange(delete)) => Op::DeleteRange(delete),
        Some(Write::Txn(txn)) => Op::Txn(txn),
        Some(Write::Move(request)) => Op::Role(RoleCommand {
            role: request.role.clone(),
            step: Some(Step::Move(move_step(request))),
        }),
        None => return Err(Status::invalid_argument("the plan holds no write")),
    };
    // Without its session: a request that was planned is not a request that was made.
    let command = Command {
        at_ms: clock::wall_ms(),
        author: meta.author,
        reason: meta.reason,
        op: Some(op),
        ..Command::default()
    };
    if command.encoded_len() > service.limits.request_bytes {
        return Err(status::too_large());
    }
    if puts(&command) {
        check_space(service)?;
    }
    service.barrier().await?;
    let tried = service
        .read_large(move |view| {
            let mut tried = attempt(view, &command)?;
            if let (Ok(tried), true) = (&mut tried, verdicts_only) {
                tried.events.clear();
            }
            Ok(tried)
        })
        .await?
        .map_err(|refusal| status::of_refusal(&refusal))?;
    Ok(Response::new(PlanResponse {
        header: Some(service.header(tried.revision)),
        events: tried.events,
        verdicts: tried.verdicts,
    }))
}

/// Whether the state as it is now lets a command be carried out.
pub(crate) async fn rehearse(
    service: &Service,
    command: Command,
) -> Result<Result<(), Refusal>, Status> {
    let tried = service.read_step(move |view| attempt(view, &command));
    Ok(tried.await?.map(drop))
}

fn attempt(view: &dyn View, command: &Command) -> io::Result<Result<Tried, Refusal>> {
    let mut machine = Machine::load(view)?;
    let revision = machine.revision();
    let mut overlay = Overlay::new(view);
    let applied = machine.apply(&mut overlay, command.encode_to_vec().into())?;
    let reply = Reply::decode(applied.reply)
        .map_err(|error| io::Error::other(format!("a reply does not decode: {error}")))?;
    if let Some(Outcome::Refusal(refusal)) = reply.result {
        return Ok(Err(refusal));
    }
    let changed = applied.events.into_iter().flat_map(|commit| commit.events);
    let events: Vec<Event> = changed
        .map(|changed| Event {
            prev_kv: changed.previous,
            ..changed.event
        })
        .collect();
    let mut verdicts = Vec::new();
    for name in touched(&events) {
        verdicts.extend(changes(role(view, &name)?, role(&overlay, &name)?));
    }
    Ok(Ok(Tried {
        events,
        verdicts,
        revision,
    }))
}

/// Whether it needs room, as the write itself does.
fn puts(command: &Command) -> bool {
    match &command.op {
        Some(Op::Put(_)) => true,
        Some(Op::Txn(txn)) => kv::puts(txn),
        _ => false,
    }
}

/// The roles of which something changes.
fn touched(events: &[Event]) -> BTreeSet<RoleName> {
    let keys = events.iter().filter_map(|event| event.kv.as_ref());
    keys.filter_map(|kv| match Place::of(&kv.key) {
        Some(Ok(Place::Role(role) | Place::Grant(role) | Place::Attending(role, _))) => Some(role),
        Some(
            Ok(Place::Colo(_) | Place::Host(_) | Place::Failover | Place::Leader | Place::Dns(_))
            | Err(_),
        )
        | None => None,
    })
    .collect()
}

/// Whose verdict changes, and how.
fn changes(before: Option<Role>, after: Option<Role>) -> Vec<VerdictChange> {
    let (Some(before), Some(after)) = (before, after) else {
        return Vec::new();
    };
    let (was, is) = (before.grant.epoch, after.grant.epoch);
    let then = |host: &str| -> Option<&Verdict> {
        let mut all = before.attending.iter();
        all.find(|(one, ..)| one.as_str() == host)
            .map(|(.., verdict)| verdict)
    };
    let changed = after.attending.iter().filter_map(|(host, .., now)| {
        let then = then(host.as_str());
        (then != Some(now)).then(|| VerdictChange {
            role: after.name.to_string(),
            host: host.to_string(),
            before: then.map(|then| wire(then, was, Vec::new())),
            after: Some(wire(now, is, Vec::new())),
        })
    });
    changed.collect()
}
