//! How a group begins: the founders agree on who they are before any of them votes.
//!
//! ```text
//! every founder        starts with the same list of names and peer addresses
//! the first by name    asks all others (Hello) until each has answered: same list, no group yet
//!                      draws the cluster id, writes it with everybody's incarnation to its disk
//!                      tells the others (Found); each writes it to its disk and answers
//! everybody            initializes Raft with that membership
//! ```
//!
//! All founders must be up once, at the same time. That is what makes the incarnations of all known
//! on every disk before the first vote, so that a founder whose disk is emptied later can never be
//! taken for its former self, whoever else is down at that moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::identity::DataDirectory;
use crate::proto;
use crate::proto::founding_client::FoundingClient;
use crate::proto::founding_server::Founding;
use crate::transport::connect;

/// How often a founder asks again.
const RETRY: Duration = Duration::from_millis(100);
/// One question takes this long at most.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What this member says of itself, and what it is told.
pub struct FoundingDesk {
    directory: Arc<Mutex<DataDirectory>>,
    founders: BTreeMap<String, String>,
    colo: String,
    client_addresses: Vec<String>,
    founded: watch::Sender<bool>,
}

/// Why the group did not begin.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// The group exists, and this member's disk is another.
    #[error(
        "group {cluster_id:x} has a member `{name}` with another data directory: this one is empty \
         or new. Its old promises are lost, so it cannot go on under its old id. Replace it: \
         `cfgctl member remove {name}`, then start it with `--join` instead of `--initial-cluster`"
    )]
    DiskLost {
        /// The group.
        cluster_id: u64,
        /// This member.
        name: String,
    },
    /// Another list.
    #[error(
        "`{peer}` was started with another --initial-cluster: it has `{theirs}`, this member has \
         `{ours}`; all founders need the same list"
    )]
    OtherFounders {
        /// The one asked.
        peer: String,
        /// Its list.
        theirs: String,
        /// Our list.
        ours: String,
    },
    /// Somebody else answers at that address.
    #[error("{address} is the peer address of `{found}`, --initial-cluster says `{expected}`")]
    OtherName {
        /// The address.
        address: String,
        /// Who answered.
        found: String,
        /// Who should have.
        expected: String,
    },
    /// The disk.
    #[error("the data directory cannot be written")]
    Disk(#[from] std::io::Error),
}

impl FoundingDesk {
    /// `founders` are names and peer addresses, this member's included.
    pub fn new(
        directory: Arc<Mutex<DataDirectory>>,
        founders: BTreeMap<String, String>,
        colo: String,
        client_addresses: Vec<String>,
    ) -> Self {
        let founded = watch::Sender::new(false);
        Self {
            directory,
            founders,
            colo,
            client_addresses,
            founded,
        }
    }

    fn identity(&self) -> proto::Identity {
        self.directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .identity()
            .clone()
    }

    fn list(&self) -> Vec<String> {
        self.founders
            .iter()
            .map(|(name, address)| format!("{name}={address}"))
            .collect()
    }

    /// Runs until this member's directory is bound to the group. Call again at every start until
    /// Raft is initialized: the first founder repeats its word to those who may have missed it.
    pub async fn found(&self) -> Result<(), FoundingError> {
        let me = self.identity();
        let first = self.founders.keys().next() == Some(&me.name);
        if me.cluster_id == 0 && first {
            let nodes = self.gather(&me).await?;
            let cluster_id = loop {
                let id: u64 = rand::random();
                if id != 0 {
                    break id;
                }
            };
            let mut directory = self
                .directory
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            directory.bind(cluster_id, 1, nodes)?;
        }
        if first {
            self.announce().await?;
            return Ok(());
        }
        self.wait(&me).await
    }

    /// Asks every other founder until all have answered.
    async fn gather(&self, me: &proto::Identity) -> Result<Vec<proto::Node>, FoundingError> {
        let mut nodes = Vec::new();
        for (id, (name, address)) in (1..).zip(&self.founders) {
            let mut node = proto::Node {
                id,
                name: name.clone(),
                colo: self.colo.clone(),
                peer_address: address.clone(),
                client_addresses: self.client_addresses.clone(),
                incarnation: me.incarnation.clone(),
                keep_learner: false,
            };
            if *name != me.name {
                let hello = self.ask_until_answered(me, name, address).await?;
                node.colo = hello.colo;
                node.client_addresses = hello.client_addresses;
                node.incarnation = hello.incarnation;
            }
            nodes.push(node);
        }
        Ok(nodes)
    }

    async fn ask_until_answered(
        &self,
        me: &proto::Identity,
        name: &str,
        address: &str,
    ) -> Result<proto::HelloResponse, FoundingError> {
        let mut asked: u64 = 0;
        loop {
            if let Some(hello) = self.hello_to(me, address).await {
                self.check(me, name, address, &hello)?;
                return Ok(hello);
            }
            if asked.is_multiple_of(50) {
                tracing::info!(
                    member = name,
                    address,
                    "waiting for this founder: all must be up once for the group to begin"
                );
            }
            asked += 1;
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn hello_to(&self, me: &proto::Identity, address: &str) -> Option<proto::HelloResponse> {
        let channel = connect(address, ASK_TIMEOUT).ok()?;
        let request = proto::HelloRequest {
            founders: self.list(),
            from_name: me.name.clone(),
            from_incarnation: me.incarnation.clone(),
        };
        let mut client = FoundingClient::new(channel);
        let answer = tokio::time::timeout(ASK_TIMEOUT, client.hello(request))
            .await
            .ok()?;
        answer.ok().map(Response::into_inner)
    }

    /// Whether an answer lets this member found a group, or wait for one.
    fn check(
        &self,
        me: &proto::Identity,
        name: &str,
        address: &str,
        hello: &proto::HelloResponse,
    ) -> Result<(), FoundingError> {
        if hello.cluster_id != 0 {
            let ours = hello.known.iter().find(|node| node.name == me.name);
            if ours.is_none_or(|node| node.incarnation != me.incarnation) {
                let (cluster_id, name) = (hello.cluster_id, me.name.clone());
                return Err(FoundingError::DiskLost { cluster_id, name });
            }
        }
        if hello.name != name {
            return Err(FoundingError::OtherName {
                address: address.to_owned(),
                found: hello.name.clone(),
                expected: name.to_owned(),
            });
        }
        if hello.founders != self.list() {
            return Err(FoundingError::OtherFounders {
                peer: name.to_owned(),
                theirs: hello.founders.join(","),
                ours: self.list().join(","),
            });
        }
        Ok(())
    }

    /// Tells the others what was decided, until each has it on its disk. One whose data directory
    /// is another by now is left behind: the group begins without it, so that it can be replaced.
    async fn announce(&self) -> Result<(), FoundingError> {
        let me = self.identity();
        for node in me.founders.iter().filter(|node| node.name != me.name) {
            loop {
                let request = proto::FoundRequest {
                    cluster_id: me.cluster_id,
                    nodes: me.founders.clone(),
                };
                if let Ok(channel) = connect(&node.peer_address, ASK_TIMEOUT) {
                    let mut client = FoundingClient::new(channel);
                    let told = tokio::time::timeout(ASK_TIMEOUT, client.found(request)).await;
                    match told {
                        Ok(Ok(_)) => break,
                        Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
                            tracing::error!(
                                member = node.name,
                                "this founder cannot take part and must be replaced: {}",
                                status.message()
                            );
                            break;
                        }
                        Ok(Err(_)) | Err(_) => {}
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        }
        Ok(())
    }

    /// Waits to be told, and asks meanwhile whether the group knows another disk by our name.
    async fn wait(&self, me: &proto::Identity) -> Result<(), FoundingError> {
        let mut founded = self.founded.subscribe();
        loop {
            if self.identity().cluster_id != 0 {
                return Ok(());
            }
            for (name, address) in self.founders.iter().filter(|(name, _)| **name != me.name) {
                if let Some(hello) = self.hello_to(me, address).await {
                    self.check(me, name, address, &hello)?;
                }
            }
            // Woken by Found, or the time to ask again has come.
            let _ = tokio::time::timeout(10 * RETRY, founded.changed()).await;
        }
    }
}

#[tonic::async_trait]
impl Founding for Arc<FoundingDesk> {
    async fn hello(
        &self,
        _request: Request<proto::HelloRequest>,
    ) -> Result<Response<proto::HelloResponse>, Status> {
        let me = self.identity();
        Ok(Response::new(proto::HelloResponse {
            name: me.name,
            incarnation: me.incarnation,
            colo: self.colo.clone(),
            client_addresses: self.client_addresses.clone(),
            founders: self.list(),
            cluster_id: me.cluster_id,
            known: me.founders,
        }))
    }

    async fn found(
        &self,
        request: Request<proto::FoundRequest>,
    ) -> Result<Response<proto::FoundResponse>, Status> {
        let request = request.into_inner();
        let mut directory = self
            .directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let me = directory.identity().clone();
        if me.cluster_id == request.cluster_id {
            return Ok(Response::new(proto::FoundResponse {}));
        }
        if me.cluster_id != 0 {
            return Err(Status::failed_precondition(format!(
                "member `{}` belongs to group {:x} already",
                me.name, me.cluster_id
            )));
        }
        let ours = request.nodes.iter().find(|node| node.name == me.name);
        let Some(node) = ours.filter(|node| node.incarnation == me.incarnation) else {
            return Err(Status::failed_precondition(format!(
                "the founders know member `{}` with another data directory",
                me.name
            )));
        };
        let (cluster_id, id) = (request.cluster_id, node.id);
        directory
            .bind(cluster_id, id, request.nodes)
            .map_err(|error| Status::internal(format!("cannot write the identity: {error}")))?;
        drop(directory);
        self.founded.send_replace(true);
        Ok(Response::new(proto::FoundResponse {}))
    }
}
