//! `etcdserverpb.Cluster`: the membership as etcd's clients see it.
//!
//! etcd's member URLs are `http://HOST:PORT` of what the group calls an address. As etcd has it,
//! these answers carry no revision.

use cfgsvc_proto::etcd::cluster_server::Cluster;
use cfgsvc_proto::etcd::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};
use cluster::NewMember;
use tonic::{Request, Response, Status};

use super::{Api, status};
use crate::service::Service;

#[tonic::async_trait]
impl Cluster for Api {
    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        self.check_leader(&request)?;
        let request = request.into_inner();
        let peer_address = single_address(&request.peer_ur_ls)?;
        let new = NewMember {
            // The call has no name; the member brings its own when it joins from this address.
            name: peer_address.clone(),
            colo: String::new(),
            peer_address,
            client_addresses: Vec::new(),
            incarnation: String::new(),
            learner: request.is_learner,
        };
        let added = self
            .0
            .group
            .member_add(new)
            .await
            .map_err(|error| status::of_membership(&error))?;
        Ok(Response::new(MemberAddResponse {
            header: Some(self.0.header(0)),
            member: Some(member(&added)),
            members: members(&self.0),
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.check_leader(&request)?;
        let id = request.into_inner().id;
        self.0
            .group
            .member_remove(id)
            .await
            .map_err(|error| status::of_membership(&error))?;
        let members = members(&self.0)
            .into_iter()
            .filter(|member| member.id != id)
            .collect();
        Ok(Response::new(MemberRemoveResponse {
            header: Some(self.0.header(0)),
            members,
        }))
    }

    async fn member_update(
        &self,
        _request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        Err(Status::unimplemented(
            "etcdserver: a member that joined changes its address by a restart with its new \
             --advertise-peer; a founder is removed and joins anew",
        ))
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        self.check_leader(&request)?;
        if request.into_inner().linearizable {
            self.0.barrier().await?;
        }
        Ok(Response::new(MemberListResponse {
            header: Some(self.0.header(0)),
            members: members(&self.0),
        }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        self.check_leader(&request)?;
        let id = request.into_inner().id;
        self.0
            .group
            .member_promote(id)
            .await
            .map_err(|error| status::of_membership(&error))?;
        Ok(Response::new(MemberPromoteResponse {
            header: Some(self.0.header(0)),
            members: members(&self.0),
        }))
    }
}

fn members(service: &Service) -> Vec<Member> {
    service.status().members.iter().map(member).collect()
}

fn member(known: &cluster::Member) -> Member {
    let started = !known.client_addresses.is_empty();
    Member {
        id: known.id,
        // As etcd has it, a member that has not started has no name yet.
        name: if started {
            known.name.clone()
        } else {
            String::new()
        },
        peer_ur_ls: vec![url(&known.peer_address)],
        client_ur_ls: known
            .client_addresses
            .iter()
            .map(|address| url(address))
            .collect(),
        is_learner: !known.voter,
    }
}

fn url(address: &str) -> String {
    format!("http://{address}")
}

/// HOST:PORT of the one URL that there must be.
fn single_address(urls: &[String]) -> Result<String, Status> {
    let refused = || Status::invalid_argument("etcdserver: given member URLs are invalid");
    let [url] = urls else { return Err(refused()) };
    let address = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    let address = address.ok_or_else(refused)?.trim_end_matches('/');
    crate::options::host_port(address).map_err(|_| refused())
}
