//! `cfgsvc.v1.Admin`: what etcd's protocol has no call for.

use cfgsvc_core::history::{HistoryEntry as CoreEntry, key_history};
use cfgsvc_core::read::machine_record;
use cfgsvc_core::refusal::{Code, refuse};
use cfgsvc_proto::kv::{Event, KeyValue};
use cfgsvc_proto::v1::admin_server::Admin;
use cfgsvc_proto::v1::member_info::Role as InfoRole;
use cfgsvc_proto::v1::{
    HistoryEntry, HistoryRequest, HistoryResponse, JoinRequest, JoinResponse, MemberAddRequest,
    MemberAddResponse, MemberInfo, MembersRequest, MembersResponse, RestoreRequest,
    RestoreResponse,
};
use cluster::{Member, NewMember, Status as GroupStatus};
use tonic::{Request, Response, Status, Streaming};

use super::{Api, restore, status};
use crate::options::host_port;

/// Most versions of one answer.
const HISTORY_MAX: usize = 1_000;
/// Most bytes of values of one answer.
const HISTORY_BYTES_MAX: usize = 64 << 20;
/// Longest name of a member or colo in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Most characters of a refused text that an error repeats.
const SHOWN_CHARS_MAX: usize = 100;
/// Most client addresses of a member.
const ADDRESSES_MAX: usize = 16;

#[tonic::async_trait]
impl Admin for Api {
    async fn history(
        &self,
        request: Request<HistoryRequest>,
    ) -> Result<Response<HistoryResponse>, Status> {
        let HistoryRequest {
            key,
            limit,
            min_revision,
        } = request.into_inner();
        if key.is_empty() {
            return Err(status::of_refusal(&refuse(Code::EmptyKey, "")));
        }
        let limit = match usize::try_from(limit) {
            Ok(0) => HISTORY_MAX,
            Ok(limit) if limit <= HISTORY_MAX => limit,
            Ok(_) | Err(_) => {
                return Err(Status::invalid_argument(format!(
                    "limit is {limit}, expected 0 to {HISTORY_MAX}"
                )));
            }
        };
        self.0.barrier().await?;
        let shown = key.clone();
        let (machine, found) = self
            .0
            .read_large(move |view| {
                Ok((
                    machine_record(view)?,
                    key_history(view, &key, min_revision, limit, HISTORY_BYTES_MAX)?,
                ))
            })
            .await?;
        if machine.restore_id != 0 {
            let detail = format!("restore {:x}", machine.restore_id);
            return Err(status::of_refusal(&refuse(Code::RestoreInProgress, detail)));
        }
        let Some(found) = found else {
            return Err(Status::invalid_argument(format!(
                "the last {limit} versions hold more than {HISTORY_BYTES_MAX} bytes: ask for fewer \
                 (limit), or for later ones (min_revision)"
            )));
        };
        Ok(Response::new(HistoryResponse {
            header: Some(self.0.header(machine.revision)),
            entries: found
                .into_iter()
                .rev()
                .map(|found| entry(&shown, found))
                .collect(),
            compact_revision: machine.compacted_revision,
        }))
    }

    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let MemberAddRequest {
            name,
            peer_address,
            colo,
            learner,
        } = request.into_inner();
        let new = NewMember {
            name: checked_name("name", name)?,
            colo: checked_colo(colo)?,
            peer_address: checked_address("peer_address", peer_address)?,
            client_addresses: Vec::new(),
            incarnation: String::new(),
            learner,
        };
        let added = self
            .0
            .group
            .member_add(new)
            .await
            .map_err(|error| status::of_membership(&error))?;
        Ok(Response::new(MemberAddResponse {
            header: Some(self.0.header(0)),
            member: Some(info(&added, &self.0.status())),
        }))
    }

    async fn members(
        &self,
        _request: Request<MembersRequest>,
    ) -> Result<Response<MembersResponse>, Status> {
        let known = self.0.status();
        Ok(Response::new(MembersResponse {
            header: Some(self.0.header(self.0.hub.published())),
            members: known
                .members
                .iter()
                .map(|member| info(member, &known))
                .collect(),
            leader_id: known.leader.unwrap_or(0),
            term: known.term,
            committed_index: known.committed_index,
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let cluster_id = self.0.status().cluster_id;
        if request.cluster_id != 0 && request.cluster_id != cluster_id {
            return Err(Status::failed_precondition(format!(
                "cluster ID mismatch: the data directory of `{}` belongs to cluster {:x}, this is \
                 cluster {cluster_id:x}; use an empty --data-dir or join the other cluster",
                shown(&request.name),
                request.cluster_id
            )));
        }
        if request.incarnation.is_empty() || request.incarnation.len() > NAME_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "incarnation is {} bytes, expected 1 to {NAME_BYTES_MAX}",
                request.incarnation.len()
            )));
        }
        let count = request.client_addresses.len();
        if count == 0 || count > ADDRESSES_MAX {
            return Err(Status::invalid_argument(format!(
                "{count} client addresses, expected 1 to {ADDRESSES_MAX}"
            )));
        }
        let client_addresses: Result<Vec<String>, Status> = request
            .client_addresses
            .into_iter()
            .map(|address| checked_address("client_addresses", address))
            .collect();
        let new = NewMember {
            name: checked_name("name", request.name)?,
            colo: checked_colo(request.colo)?,
            peer_address: checked_address("peer_address", request.peer_address)?,
            client_addresses: client_addresses?,
            incarnation: request.incarnation,
            learner: request.learner,
        };
        let joined = self
            .0
            .group
            .member_join(new)
            .await
            .map_err(|error| status::of_membership(&error))?;
        Ok(Response::new(JoinResponse {
            cluster_id,
            node_id: joined.id,
        }))
    }

    async fn restore(
        &self,
        request: Request<Streaming<RestoreRequest>>,
    ) -> Result<Response<RestoreResponse>, Status> {
        let (revision, records) = restore::run(&self.0, request.into_inner()).await?;
        Ok(Response::new(RestoreResponse {
            header: Some(self.0.header(revision)),
            records,
        }))
    }
}

fn entry(key: &bytes::Bytes, found: CoreEntry) -> HistoryEntry {
    let commit = found.commit.unwrap_or_default();
    let deleted = || KeyValue {
        key: key.clone(),
        mod_revision: found.revision,
        ..KeyValue::default()
    };
    HistoryEntry {
        event: Some(Event {
            r#type: found.kind.into(),
            kv: Some(found.version.unwrap_or_else(deleted)),
            prev_kv: None,
        }),
        author: commit.author,
        reason: commit.reason,
        at_ms: commit.at_ms,
    }
}

fn info(member: &Member, known: &GroupStatus) -> MemberInfo {
    let role = if known.leader == Some(member.id) {
        InfoRole::Leader
    } else if member.incarnation.is_empty() {
        InfoRole::Pending
    } else if member.voter {
        InfoRole::Follower
    } else {
        InfoRole::Learner
    };
    MemberInfo {
        id: member.id,
        name: member.name.clone(),
        colo: member.colo.clone(),
        peer_address: member.peer_address.clone(),
        client_addresses: member.client_addresses.clone(),
        role: role.into(),
        matched_index: member.matched.unwrap_or(0),
        last_contact_ms: member
            .last_contact_ms
            .map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX)),
    }
}

fn checked_name(field: &str, text: String) -> Result<String, Status> {
    crate::options::name(&text).map_err(|allowed| {
        Status::invalid_argument(format!("{field} is `{}`, expected {allowed}", shown(&text)))
    })
}

fn checked_colo(text: String) -> Result<String, Status> {
    if text.is_empty() {
        Ok(text)
    } else {
        checked_name("colo", text)
    }
}

fn checked_address(field: &str, text: String) -> Result<String, Status> {
    host_port(&text).map_err(|allowed| {
        Status::invalid_argument(format!("{field} is `{}`, expected {allowed}", shown(&text)))
    })
}

/// The beginning of a text that may be of any length: a status travels in a header.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    shown
}
