//! A large read in pages, all of one revision, so that neither side holds it as a whole.
//!
//! The first page comes by `Range`, which also counts; most reads end with it. What follows comes
//! by `RangeStream`, in pages that the server bounds in bytes. A server that does not have that
//! call, or not for such a read, is asked by `Range` for one page after the other.
//!
//! Invariants
//! - every key of the range at the revision of the first page comes once, in order of the keys.
//! - a stream that breaks is made again behind the last key that came.

use crate::Client;
use crate::channel::{Missed, classify};
use crate::error::{Asked, CallError, KvError};
use crate::keys::Keys;
use crate::kv::{Get, GetReply, KeyValue};
use crate::route::Safety;
use bytes::Bytes;
use cfgsvc_proto::etcd::RangeStreamResponse;
use tokio::time::timeout;
use tonic::{Response, Streaming};

/// Keys of the first page: enough for most reads, little memory even when each value is as large
/// as it may be (1.5 MiB).
const FIRST_KEYS: i64 = 16;
/// Keys of a page by `Range`: with values of the largest size still below the limit of a message.
const PAGE_KEYS: i64 = 64;
/// Keys of either when values are left out.
const PAGE_KEYS_ONLY: i64 = 1000;
/// Streams in a row that may break without having brought a page.
const BREAKS_MAX: u32 = 5;

/// The pages of a read; see [`Client::get_pages`].
#[derive(Debug)]
pub struct Pages {
    client: Client,
    /// For what has not come yet; its revision is fixed.
    rest: Get,
    /// The end of the range, as the protocol writes it.
    end: Bytes,
    /// Keys that may still come; `None`: as many as there are.
    left: Option<i64>,
    revision: i64,
    count: i64,
    next: Next,
}

/// Where the next page comes from.
#[derive(Debug)]
enum Next {
    /// It is here; and whether more follow.
    Here(Vec<KeyValue>, bool),
    /// A stream is to be made.
    Connect,
    /// A stream is open.
    Stream(Box<Streaming<RangeStreamResponse>>, String),
    /// By `Range`.
    Range,
    End,
}

impl Pages {
    /// Revision of the store when it was read.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Number of keys, whatever the limit.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// The next page, which has at least one key; `None` at the end. [`KvError::Compacted`] when
    /// the revision is compacted in between: start again.
    pub async fn next(&mut self) -> Result<Option<Vec<KeyValue>>, KvError> {
        let mut breaks = 0;
        loop {
            let (kvs, more) = match std::mem::replace(&mut self.next, Next::End) {
                Next::End => return Ok(None),
                Next::Here(kvs, more) => {
                    self.next = if more { Next::Connect } else { Next::End };
                    (kvs, more)
                }
                Next::Range => {
                    let reply = self.client.get(self.limited()).await?;
                    self.next = if reply.more { Next::Range } else { Next::End };
                    (reply.kvs, reply.more)
                }
                Next::Connect => {
                    self.next = self.connect().await?;
                    continue;
                }
                Next::Stream(stream, endpoint) => match self.receive(stream, endpoint).await {
                    Ok(page) => page,
                    Err(CallError::Broken { .. } | CallError::Unavailable { .. })
                        if breaks < BREAKS_MAX =>
                    {
                        breaks += 1;
                        self.next = Next::Connect;
                        continue;
                    }
                    Err(error) => return Err(self.error(error)),
                },
            };
            let Some(last) = kvs.last() else {
                if more {
                    return Err(malformed());
                }
                return Ok(None);
            };
            self.advance(&Bytes::from([&last.key[..], &[0]].concat()), kvs.len());
            return Ok(Some(kvs));
        }
    }

    /// Moves behind what has come.
    fn advance(&mut self, next: &Bytes, came: usize) {
        self.rest.keys = match &self.end[..] {
            [0] => Keys::From(next.clone()),
            _ => Keys::Range(next.clone(), self.end.clone()),
        };
        if let Some(left) = &mut self.left {
            *left -= i64::try_from(came).unwrap_or(i64::MAX);
            if *left <= 0 {
                self.next = Next::End;
            }
        }
    }

    /// What is asked of `Range` for one page.
    fn limited(&self) -> Get {
        let page = if self.rest.keys_only {
            PAGE_KEYS_ONLY
        } else {
            PAGE_KEYS
        };
        let limit = self.left.map_or(page, |left| left.min(page));
        self.rest.clone().limit(limit)
    }

    async fn connect(&self) -> Result<Next, KvError> {
        let request = self.rest.clone().limit(self.left.unwrap_or(0)).to_request();
        let stream = self
            .client
            .call(Safety::Repeatable, &request, |channel, request| {
                let mut kv = self.client.kv(channel);
                async move { kv.range_stream(request).await.map(Response::into_inner) }
            })
            .await;
        match stream {
            Ok(stream) => {
                let endpoint = self.client.pool.current().1.to_owned();
                Ok(Next::Stream(Box::new(stream), endpoint))
            }
            Err(CallError::Unimplemented { .. }) => Ok(Next::Range),
            Err(error) => Err(self.error(error)),
        }
    }

    /// The next page of an open stream, and whether more follow.
    async fn receive(
        &mut self,
        mut stream: Box<Streaming<RangeStreamResponse>>,
        endpoint: String,
    ) -> Result<(Vec<KeyValue>, bool), CallError> {
        let wait = self.client.pool.request_timeout;
        let broken = |cause| CallError::Broken {
            endpoint: endpoint.clone(),
            source: cause,
        };
        loop {
            let Ok(message) = timeout(wait, stream.message()).await else {
                return Err(broken(Missed::silent(wait).cause));
            };
            match message {
                Ok(Some(part)) => {
                    let kvs = part.range_response.unwrap_or_default().kvs;
                    // The last one of a stream brings the count, and perhaps no key.
                    if kvs.is_empty() {
                        continue;
                    }
                    self.next = Next::Stream(stream, endpoint);
                    return Ok((kvs, true));
                }
                Ok(None) => return Ok((Vec::new(), false)),
                Err(status) => {
                    return Err(match classify(&status, &endpoint) {
                        Ok(missed) => broken(missed.cause),
                        Err(error) => error,
                    });
                }
            }
        }
    }

    fn error(&self, error: CallError) -> KvError {
        let asked = Asked {
            revision: self.rest.revision,
            ..Asked::default()
        };
        KvError::of(error, asked)
    }
}

fn malformed() -> KvError {
    CallError::Malformed {
        what: "an empty page with more behind",
    }
    .into()
}

impl Client {
    /// Reads keys in pages, all of one revision, in order of the keys whatever `get` says about
    /// that. For reads of any size: at no time more than a few pages are held.
    ///
    /// ```no_run
    /// # use cfgsvc_client::{Client, Get, KvError};
    /// # async fn example(client: Client) -> Result<(), KvError> {
    /// let mut pages = client.get_pages(Get::prefix("app/")).await?;
    /// while let Some(kvs) = pages.next().await? {
    ///     for kv in kvs {
    ///         println!("{:?} at r{}", kv.key, kv.mod_revision);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_pages(&self, get: Get) -> Result<Pages, KvError> {
        let mut rest = get;
        rest.sort = None;
        let left = Some(rest.limit).filter(|limit| *limit > 0);
        let page = if rest.keys_only {
            PAGE_KEYS_ONLY
        } else {
            FIRST_KEYS
        };
        let first = rest.clone().limit(left.map_or(page, |left| left.min(page)));
        let GetReply {
            revision,
            kvs,
            count,
            more,
            cluster_id: _,
        } = self.get(first).await?;
        if rest.revision == 0 {
            rest.revision = revision;
        }
        let (_, end) = rest.keys.to_range();
        Ok(Pages {
            client: self.clone(),
            rest,
            end,
            left,
            revision,
            count,
            next: Next::Here(kvs, more),
        })
    }
}
