//! Watchers of one key, and how late events reach them.
//!
//! A watched value begins with the time at which its put was due, in microseconds since the start,
//! so whoever receives the event knows how old it is, in one process with one clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use cfgsvc_proto::etcd::watch_client::WatchClient;
use cfgsvc_proto::etcd::watch_request::RequestUnion;
use cfgsvc_proto::etcd::{WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::client::{REQUEST, told};
use crate::schedule::Phases;
use crate::tally::Tally;

/// Bytes of a value that carry its time.
pub(crate) const STAMP_BYTES: usize = 8;
/// Time for the last events to arrive.
const DRAIN: Duration = Duration::from_secs(10);
/// Between two looks at whether they have.
const LOOK: Duration = Duration::from_millis(5);

/// The watched key.
pub(crate) fn key() -> Bytes {
    Bytes::from_static(b"bench/watched")
}

/// `value` with its first bytes replaced by the time.
pub(crate) fn stamped(value: &Bytes, due: Duration) -> Bytes {
    let mut stamped = value.to_vec();
    let us = u64::try_from(due.as_micros()).unwrap_or(u64::MAX);
    stamped[..STAMP_BYTES].copy_from_slice(&us.to_be_bytes());
    stamped.into()
}

/// The time in a value; `None` in one that is not ours.
fn stamp_of(value: &[u8]) -> Option<Duration> {
    let stamp = value.get(..STAMP_BYTES)?.try_into().ok()?;
    Some(Duration::from_micros(u64::from_be_bytes(stamp)))
}

/// What watchers have received.
#[derive(Debug)]
pub(crate) struct Received {
    /// Events that count.
    pub tally: Tally,
    /// All events.
    pub events: u64,
}

/// Streams with watchers that exist, before anything is put.
pub(crate) struct Streams {
    open: Vec<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>)>,
}

/// Watchers that receive; they end when this is dropped.
pub(crate) struct Watchers {
    received: Arc<Mutex<Received>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Streams {
    /// Creates `watchers` over `streams`, on the connections in turn.
    pub(crate) async fn open(channels: &[Channel], watchers: u32, streams: u32) -> Result<Self> {
        let mut open = Vec::new();
        for (stream, channel) in (0..streams).zip(channels.iter().cycle()) {
            let share = watchers / streams + u32::from(stream < watchers % streams);
            let created = timeout(REQUEST, create(channel, share)).await;
            open.push(created.with_context(|| format!("no watchers within {REQUEST:?}"))??);
        }
        Ok(Self { open })
    }

    /// Lets the watchers receive; events count by when their put was due since `start`.
    pub(crate) fn receive(self, start: Instant, phases: Phases) -> Watchers {
        let received = Arc::new(Mutex::new(Received {
            tally: Tally::new(),
            events: 0,
        }));
        let tasks = self.open.into_iter().map(|(requests, mut responses)| {
            let received = Arc::clone(&received);
            tokio::spawn(async move {
                let end = loop {
                    match responses.message().await {
                        Ok(Some(response)) if response.canceled => {
                            break format!("a watcher was cancelled: {}", response.cancel_reason);
                        }
                        Ok(Some(response)) => note(&received, &response, start, &phases),
                        Ok(None) => break "a stream of watchers was ended".to_owned(),
                        Err(status) => break told(status).to_string(),
                    }
                };
                let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
                received.tally.failed(end);
                // Held until here: the stream ends when its sender goes.
                drop(requests);
            })
        });
        let tasks = tasks.collect();
        Watchers { received, tasks }
    }
}

impl Watchers {
    /// Waits for events up to this number, but not for ever, and tells what came.
    pub(crate) async fn finish(self, expected: u64) -> Received {
        let late = Instant::now() + DRAIN;
        while self.lock().events < expected && Instant::now() < late {
            tokio::time::sleep(LOOK).await;
        }
        let mut received = self.lock();
        Received {
            tally: std::mem::replace(&mut received.tally, Tally::new()),
            events: received.events,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn create(
    channel: &Channel,
    watchers: u32,
) -> Result<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>)> {
    let (requests, receiver) = mpsc::channel(1);
    let request = || WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
            key: key(),
            ..WatchCreateRequest::default()
        })),
    };
    // Sent before the call: etcd answers a stream when it is asked something.
    requests
        .send(request())
        .await
        .context("a new channel is open")?;
    let mut responses = WatchClient::new(channel.clone())
        .watch(ReceiverStream::new(receiver))
        .await
        .map_err(told)?
        .into_inner();
    for watcher in 0..watchers {
        if watcher > 0 {
            requests
                .send(request())
                .await
                .context("a stream of watchers was ended")?;
        }
        match responses.message().await.map_err(told)? {
            Some(response) => ensure!(
                response.created && !response.canceled,
                "a watcher was refused: {}",
                response.cancel_reason
            ),
            None => bail!("a stream was ended before its watchers were created"),
        }
    }
    Ok((requests, responses))
}

fn note(received: &Mutex<Received>, response: &WatchResponse, start: Instant, phases: &Phases) {
    let now = start.elapsed();
    let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
    for event in &response.events {
        received.events += 1;
        let value = event.kv.as_ref().map_or(&[][..], |kv| &kv.value);
        match stamp_of(value) {
            Some(due) if phases.counts(due) => received.tally.answered(now.saturating_sub(due)),
            Some(_) => {}
            None => received.tally.failed("an event without a time".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use cfgsvc_proto::kv::{Event, KeyValue};

    use super::*;

    #[test]
    fn stamps_are_read_back_and_the_rest_of_the_value_stays() {
        let value = Bytes::from(vec![7; 20]);
        let stamped = stamped(&value, Duration::from_micros(1_234_567));
        assert_eq!(stamp_of(&stamped), Some(Duration::from_micros(1_234_567)));
        assert_eq!(stamped[STAMP_BYTES..], value[STAMP_BYTES..]);
        assert_eq!(stamp_of(b"short"), None);
    }

    #[test]
    fn events_count_by_when_they_were_due() {
        let phases = Phases {
            warmup: Duration::from_secs(1),
            measured: Duration::from_secs(1),
        };
        let received = Mutex::new(Received {
            tally: Tally::new(),
            events: 0,
        });
        let events = [500, 1_500, 2_500].map(|ms| Event {
            kv: Some(KeyValue {
                value: stamped(&vec![0; 8].into(), Duration::from_millis(ms)),
                ..KeyValue::default()
            }),
            ..Event::default()
        });
        let response = WatchResponse {
            events: events.into(),
            ..WatchResponse::default()
        };
        note(&received, &response, Instant::now(), &phases);
        note(
            &received,
            &WatchResponse {
                events: vec![Event::default()],
                ..WatchResponse::default()
            },
            Instant::now(),
            &phases,
        );
        let received = received.into_inner().expect("nobody panicked");
        assert_eq!(received.events, 4);
        assert_eq!((received.tally.requests(), received.tally.errors()), (1, 1));
    }
}
