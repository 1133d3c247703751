//! Connections of the other members to this one: a leader whose process died is known by them.
//!
//! ```text
//! last connection of the leader closes ─► a moment (it may be remade) ─► ask the other voters:
//! "is it lost for you, too, and is my log as long as yours?" ─► majority ─► stand for election
//! ```
//!
//! The rules are in `cluster_core::contact`; here are sockets and tasks. This only makes elections
//! sooner: who wins one is decided by Raft. A leader that is cut off without a closed connection is
//! noticed by the election timeout.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use cluster_core::contact::{Contacts, Question};
use cluster_core::membership::majority;
use futures_util::{Stream, StreamExt as _};
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tonic::Request;
use tonic::transport::server::{Connected, TcpIncoming};

use crate::member::Member;
use crate::proto;
use crate::transport::CallIdentity;
use crate::types::{LogId, log_id_to};

/// A connection that closes may be remade at once; this long is waited for that.
const SETTLE: Duration = Duration::from_millis(20);
/// Members ask one after the other, this far apart, so that they do not stand against each other.
const APART: Duration = Duration::from_millis(40);
/// An answer takes this long at most.
const ASK_TIMEOUT: Duration = Duration::from_millis(200);

/// What is known of the connections.
#[derive(Default)]
pub(crate) struct ConnectionWatch {
    contacts: Mutex<Contacts>,
    closed: Notify,
    next: AtomicU64,
}

/// A connection and its number.
pub(crate) struct Watched {
    stream: TcpStream,
    number: u64,
    watch: Arc<ConnectionWatch>,
}

/// What a call knows of its connection.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionNumber(u64);

/// The connections of a listener, watched.
pub(crate) fn watched(
    listener: TcpListener,
    watch: Arc<ConnectionWatch>,
) -> impl Stream<Item = io::Result<Watched>> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    incoming.map(move |stream| {
        let stream = stream?;
        let number = watch.next.fetch_add(1, Ordering::Relaxed);
        watch.contacts().opened(number);
        Ok(Watched {
            stream,
            number,
            watch: watch.clone(),
        })
    })
}

impl Connected for Watched {
    type ConnectInfo = ConnectionNumber;

    fn connect_info(&self) -> ConnectionNumber {
        ConnectionNumber(self.number)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.watch.contacts().closed(self.number).is_some() {
            self.watch.closed.notify_one();
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

fn place(log_id: Option<LogId>) -> (u64, u64) {
    log_id.map_or((0, 0), |id| (id.committed_leader_id().term, id.index()))
}

impl ConnectionWatch {
    fn contacts(&self) -> MutexGuard<'_, Contacts> {
        self.contacts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of who calls over a connection. The caller was admitted before.
    pub(crate) fn called<T>(&self, request: &Request<T>) {
        let Some(ConnectionNumber(number)) = request.extensions().get::<ConnectionNumber>() else {
            return;
        };
        if let Ok(call) = CallIdentity::from_metadata(request.metadata()) {
            self.contacts().called(*number, call.from_id);
        }
    }

    /// Whether a member was connected and is not any more.
    pub(crate) fn lost(&self, id: u64) -> bool {
        self.contacts().lost(id)
    }

    /// Whether this member agrees that the leader is lost.
    pub(crate) fn agrees(&self, question: Question, member: &Member) -> bool {
        let metrics = member.raft().metrics();
        let (term, follows) = {
            let now = metrics.borrow_watched();
            (now.current_term, now.current_leader)
        };
        question.agreed(&self.contacts(), term, follows, place(member.last_log_id()))
    }

    /// Stands for election when the leader is lost for a majority.
    pub(crate) async fn run(self: Arc<Self>, member: Member) {
        loop {
            self.closed.notified().await;
            let me = member.identity().node_id;
            let (leader, term, voters): (Option<u64>, u64, BTreeSet<u64>) = {
                let metrics = member.raft().metrics();
                let now = metrics.borrow_watched();
                if now.running_state.is_err() {
                    return;
                }
                (
                    now.current_leader,
                    now.current_term,
                    now.membership_config.voter_ids().collect(),
                )
            };
            let Some(leader) = leader.filter(|leader| *leader != me && voters.contains(&me)) else {
                continue;
            };
            let ahead = voters
                .iter()
                .filter(|id| **id < me && **id != leader)
                .count();
            let rank = u32::try_from(ahead).unwrap_or(u32::MAX);
            tokio::time::sleep(SETTLE + APART * rank).await;
            let question = Question {
                term,
                leader,
                asking: place(member.last_log_id()),
            };
            if !self.agrees(question, &member) {
                continue;
            }
            if self.majority_agrees(&member, question, &voters).await {
                tracing::info!(
                    leader,
                    term,
                    "the leader's connections are closed: election"
                );
                if member.raft().trigger().elect(false).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn majority_agrees(
        &self,
        member: &Member,
        question: Question,
        voters: &BTreeSet<u64>,
    ) -> bool {
        let me = member.identity();
        let message = proto::LeaderLostRequest {
            term: question.term,
            leader_id: question.leader,
            last_log_id: member.last_log_id().as_ref().map(log_id_to),
        };
        let others = voters
            .iter()
            .filter(|id| **id != me.node_id && **id != question.leader);
        let asked = others.filter_map(|id| {
            let mut client = member.client_of(*id)?;
            let request = me.request(*id, message);
            Some(async move {
                let answer = tokio::time::timeout(ASK_TIMEOUT, client.leader_lost(request)).await;
                matches!(answer, Ok(Ok(answer)) if answer.get_ref().agreed)
            })
        });
        let answers = futures_util::future::join_all(asked).await;
        // Itself, and those that agree.
        let agreed = 1 + answers.into_iter().filter(|agreed| *agreed).count();
        agreed >= majority(voters.len())
    }
}
