//! Conversations over pipes, under a clock that the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep};

use super::buffers::OUTPUT_FULL;
use super::*;

const PATIENCE: Patience = Patience {
    idle: Duration::from_secs(10),
    write: Duration::from_secs(4),
};

fn epoch() -> Moment {
    Moment {
        unix_seconds: 0,
        monotonic_ms: 0,
    }
}

/// Answers `n` by `n`, `[.., b'T', count]` by so many messages of the same octets, and `[.., b'C']`
/// by one message of a transfer that is cut; replies to nothing that ends with `b'X'`.
#[derive(Default, Clone)]
struct Echo {
    answered: Arc<AtomicUsize>,
    /// Messages of transfers that were made.
    made: Arc<AtomicUsize>,
    reply_octets: usize,
}

struct Repeated {
    message: Vec<u8>,
    left: usize,
    made: Arc<AtomicUsize>,
    complete: bool,
}

impl Messages for Repeated {
    fn next(&mut self, _: Moment) -> Option<Vec<u8>> {
        self.left = self.left.checked_sub(1)?;
        self.made.fetch_add(1, Ordering::Relaxed);
        Some(self.message.clone())
    }

    fn is_complete(&self) -> bool {
        self.complete
    }
}

impl Answers for Echo {
    fn answer(&mut self, _: Moment, request: &[u8]) -> Answer {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let mut message = request.to_vec();
        message.resize(self.reply_octets.max(message.len()), b'-');
        let (left, complete) = match *request {
            [.., b'X'] => return Answer::Nothing,
            [.., b'C'] => (1, false),
            [.., b'T', count] => (usize::from(count), true),
            _ => return Answer::Message(message),
        };
        let made = Arc::clone(&self.made);
        Answer::Messages(Box::new(Repeated {
            message,
            left,
            made,
            complete,
        }))
    }
}

/// What the test does to a connection from outside.
#[derive(Default, Clone)]
struct Outside {
    idle: Arc<AtomicBool>,
    evict: Arc<Notify>,
    stop: Arc<Notify>,
}

struct Around {
    outside: Outside,
    evicted: Pin<Box<dyn Future<Output = ()> + Send>>,
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    stopped: bool,
}

impl Surroundings for Around {
    fn set_idle(&self, idle: bool) {
        self.outside.idle.store(idle, Ordering::Relaxed);
    }

    fn poll_evicted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.evicted.as_mut().poll(cx)
    }

    fn poll_stopping(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.stopped {
            std::task::ready!(self.stopping.as_mut().poll(cx));
            self.stopped = true;
        }
        Poll::Ready(())
    }
}

fn begin(echo: Echo, pipe_octets: usize) -> (DuplexStream, Outside, JoinHandle<End>) {
    let (client, server) = duplex(pipe_octets);
    let outside = Outside::default();
    let (evict, stop) = (Arc::clone(&outside.evict), Arc::clone(&outside.stop));
    let around = Around {
        outside: outside.clone(),
        evicted: Box::pin(async move { evict.notified().await }),
        stopping: Box::pin(async move { stop.notified().await }),
        stopped: false,
    };
    let connection = Connection::new(server, echo, epoch, PATIENCE);
    (client, outside, tokio::spawn(connection.run(around)))
}

/// A message of a header's length that ends so.
fn message(number: u8, end: &[u8]) -> Vec<u8> {
    let mut octets = vec![number; 16];
    octets.extend(end);
    octets
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("short").to_be_bytes();
    [&length[..], message].concat()
}

async fn read(client: &mut DuplexStream) -> Vec<u8> {
    let length = client.read_u16().await.expect("a reply");
    let mut message = vec![0; usize::from(length)];
    client.read_exact(&mut message).await.expect("all of it");
    message
}

/// Lets the connection do all that it can without the client: under paused time, which all tests
/// here have, the clock goes on when nobody can do anything else.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn requests_in_one_segment_and_one_in_many_are_answered_in_order() {
    let (mut client, outside, connection) = begin(Echo::default(), 4_096);
    let requests: Vec<_> = (0..20).map(|number| message(number, b"")).collect();
    let all: Vec<_> = requests
        .iter()
        .flat_map(|request| framed(request))
        .collect();
    client.write_all(&all).await.expect("sent");
    for request in &requests {
        assert_eq!(read(&mut client).await, *request);
    }
    for octet in &all {
        client.write_all(&[*octet]).await.expect("sent");
        settle().await;
    }
    for request in &requests {
        assert_eq!(read(&mut client).await, *request);
    }
    settle().await;
    assert!(outside.idle.load(Ordering::Relaxed));
    drop(client);
    assert!(matches!(connection.await, Ok(End::Done)));
}

#[tokio::test(start_paused = true)]
async fn client_that_closes_its_side_gets_all_replies_and_the_end() {
    let (client, _outside, connection) = begin(Echo::default(), 64);
    let sender = async {
        let (mut reading, mut writing) = tokio::io::split(client);
        let send = async {
            for number in 0..50 {
                let request = framed(&message(number, b""));
                writing.write_all(&request).await.expect("sent");
            }
            writing.write_all(&[0]).await.expect("half a length");
            writing.shutdown().await.expect("closed");
        };
        let mut replies = Vec::new();
        let ((), octets) = tokio::join!(send, reading.read_to_end(&mut replies));
        assert_eq!(octets.expect("the end"), 50 * 18);
        replies
    };
    let replies = sender.await;
    let expected = (0..50).flat_map(|number| framed(&message(number, b"")));
    assert!(replies.into_iter().eq(expected));
    assert!(matches!(connection.await, Ok(End::Done)));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_ends_it_after_the_replies_that_are_due() {
    for garbage in [&[0, 0][..], &framed(b"short"), &framed(&message(9, b"X"))] {
        let (mut client, _outside, connection) = begin(Echo::default(), 4_096);
        let all = [
            &framed(&message(1, b"")),
            garbage,
            &framed(&message(2, b"")),
        ]
        .concat();
        client.write_all(&all).await.expect("sent");
        let mut replies = Vec::new();
        client.read_to_end(&mut replies).await.expect("the end");
        assert_eq!(replies, framed(&message(1, b"")));
        assert!(matches!(connection.await, Ok(End::NotDns)));
    }
}

#[tokio::test(start_paused = true)]
async fn single_octets_do_not_stretch_the_time_for_a_request() {
    let (mut client, _outside, connection) = begin(Echo::default(), 4_096);
    client
        .write_all(&framed(&message(1, b"")))
        .await
        .expect("sent");
    read(&mut client).await;
    let before = Instant::now();
    let mut octets = framed(&[7; 1_000]).into_iter();
    while !connection.is_finished() {
        // The last one may come too late.
        let _ = client
            .write_all(&[octets.next().expect("some are left")])
            .await;
        // Of paused time: that the client is slow is what is tested, and nobody waits.
        sleep(Duration::from_millis(300)).await;
    }
    assert!(matches!(connection.await, Ok(End::Idle)));
    let expected = PATIENCE.idle..PATIENCE.idle + Duration::from_millis(400);
    assert!(
        expected.contains(&before.elapsed()),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn client_that_reads_nothing_is_left_and_takes_little() {
    let echo = Echo {
        reply_octets: 1_000,
        ..Echo::default()
    };
    let answered = Arc::clone(&echo.answered);
    let (mut client, outside, connection) = begin(echo, 100);
    let requests: Vec<_> = (0..250)
        .flat_map(|number| framed(&message(number, b"")))
        .collect();
    let before = Instant::now();
    // The server takes no more than it can answer, so the client is stuck with the rest.
    let sent = client.write_all(&requests).await;
    assert!(sent.is_err(), "the server is gone");
    assert!(matches!(connection.await, Ok(End::Slow)));
    assert_eq!(before.elapsed(), PATIENCE.write);
    assert!(!outside.idle.load(Ordering::Relaxed));
    let most = OUTPUT_FULL / 1_000 + 1;
    assert!(answered.load(Ordering::Relaxed) <= most);
}

#[tokio::test(start_paused = true)]
async fn single_octets_do_not_stretch_the_time_for_replies() {
    let echo = Echo {
        reply_octets: 1_000,
        ..Echo::default()
    };
    let (mut client, _outside, connection) = begin(echo, 64);
    client
        .write_all(&framed(&message(1, b"")))
        .await
        .expect("sent");
    let before = Instant::now();
    while !connection.is_finished() {
        // The last one may come too late.
        let _ = client.read_u8().await;
        // Of paused time: that the client is slow is what is tested, and nobody waits.
        sleep(Duration::from_millis(300)).await;
    }
    assert!(matches!(connection.await, Ok(End::Slow)));
    let expected = PATIENCE.write..PATIENCE.write + Duration::from_millis(400);
    assert!(
        expected.contains(&before.elapsed()),
        "{:?}",
        before.elapsed()
    );
}

/// A client that takes what there was in its time has time for the rest.
#[tokio::test(start_paused = true)]
async fn slow_client_that_keeps_reading_gets_everything() {
    let echo = Echo {
        reply_octets: 15_000,
        ..Echo::default()
    };
    let (mut client, _outside, connection) = begin(echo, 512);
    let requests: Vec<_> = (0..8)
        .flat_map(|number| framed(&message(number, b"")))
        .collect();
    client.write_all(&requests).await.expect("sent");
    let mut octets = 0;
    let before = Instant::now();
    while octets < 8 * 15_002 {
        let mut some = [0; 5_000];
        octets += client
            .read_exact(&mut some[..5_000.min(8 * 15_002 - octets)])
            .await
            .expect("more");
        advance(Duration::from_millis(500)).await;
    }
    assert!(before.elapsed() > PATIENCE.write);
    drop(client);
    assert!(matches!(connection.await, Ok(End::Done)));
}

#[tokio::test(start_paused = true)]
async fn next_message_of_a_transfer_is_made_when_the_last_is_written() {
    let echo = Echo {
        reply_octets: 1_000,
        ..Echo::default()
    };
    let made = Arc::clone(&echo.made);
    let (mut client, outside, connection) = begin(echo, 500);
    client
        .write_all(&framed(&message(1, b"T\x05")))
        .await
        .expect("sent");
    for number in 1..=5 {
        settle().await;
        assert_eq!(made.load(Ordering::Relaxed), number);
        assert!(!outside.idle.load(Ordering::Relaxed));
        read(&mut client).await;
    }
    settle().await;
    assert!(outside.idle.load(Ordering::Relaxed));
    drop(client);
    assert!(matches!(connection.await, Ok(End::Done)));
}

#[tokio::test(start_paused = true)]
async fn requests_are_answered_between_the_messages_of_a_transfer() {
    let echo = Echo {
        reply_octets: 1_000,
        ..Echo::default()
    };
    let (mut client, _outside, _connection) = begin(echo, 500);
    let transfer = framed(&message(1, b"T\x09"));
    client.write_all(&transfer).await.expect("sent");
    assert_eq!(read(&mut client).await[0], 1);
    client
        .write_all(&framed(&message(2, b"")))
        .await
        .expect("sent");
    let mut numbers = Vec::new();
    for _ in 0..9 {
        numbers.push(read(&mut client).await[0]);
    }
    let place = numbers.iter().position(|number| *number == 2);
    assert!(place.expect("it is answered") < 8, "{numbers:?}");
}

#[tokio::test(start_paused = true)]
async fn transfers_follow_one_another_and_too_many_wait() {
    let echo = Echo {
        reply_octets: 1_000,
        ..Echo::default()
    };
    let answered = Arc::clone(&echo.answered);
    let (mut client, _outside, _connection) = begin(echo, 500);
    let requests: Vec<_> = (1..=6)
        .flat_map(|number| framed(&message(number, b"T\x02")))
        .collect();
    client.write_all(&requests).await.expect("sent");
    settle().await;
    assert_eq!(answered.load(Ordering::Relaxed), TRANSFERS_MAX);
    let mut numbers = Vec::new();
    for _ in 0..12 {
        numbers.push(read(&mut client).await[0]);
    }
    assert_eq!(numbers, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]);
}

#[tokio::test(start_paused = true)]
async fn transfer_that_is_cut_ends_the_connection() {
    let (mut client, _outside, connection) = begin(Echo::default(), 500);
    let requests = [framed(&message(1, b"C")), framed(&message(2, b"T\x02"))].concat();
    client.write_all(&requests).await.expect("sent");
    assert_eq!(read(&mut client).await[0], 1);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("the end");
    assert_eq!(rest, b"", "of the other transfer nothing comes");
    assert!(matches!(connection.await, Ok(End::Cut)));
}

#[tokio::test(start_paused = true)]
async fn stop_and_eviction_let_what_is_under_way_end() {
    for stop in [true, false] {
        let echo = Echo {
            reply_octets: 1_000,
            ..Echo::default()
        };
        let (mut client, outside, connection) = begin(echo, 500);
        client
            .write_all(&framed(&message(1, b"T\x03")))
            .await
            .expect("sent");
        client
            .write_all(&framed(&message(2, b"")))
            .await
            .expect("sent");
        settle().await;
        if stop {
            outside.stop.notify_one();
        } else {
            outside.evict.notify_one();
        }
        let mut replies = Vec::new();
        client.read_to_end(&mut replies).await.expect("the end");
        assert_eq!(replies.len(), 4 * 1_002);
        let end = connection.await.expect("it ends");
        assert_eq!(matches!(end, End::Done), stop, "{end:?}");
        assert_eq!(matches!(end, End::Evicted), !stop, "{end:?}");
    }
}

/// Its place is another's already: who became busy then would be counted nowhere.
#[tokio::test(start_paused = true)]
async fn evicted_connection_does_not_read_the_request_that_waits() {
    let echo = Echo::default();
    let answered = Arc::clone(&echo.answered);
    let (mut client, outside, connection) = begin(echo, 500);
    settle().await;
    // Both are there before the connection is polled again.
    let before = Instant::now();
    let request = framed(&message(1, b"T\x09"));
    client.write_all(&request).await.expect("sent");
    outside.evict.notify_one();
    let mut replies = Vec::new();
    client.read_to_end(&mut replies).await.expect("the end");
    assert_eq!(replies, b"");
    assert!(matches!(connection.await, Ok(End::Evicted)));
    assert_eq!(answered.load(Ordering::Relaxed), 0);
    assert_eq!(before.elapsed(), Duration::ZERO, "others have its place");
}

/// Its place was taken just when it had read a request.
#[tokio::test(start_paused = true)]
async fn connection_that_became_busy_when_evicted_reads_no_more_requests() {
    let echo = Echo {
        reply_octets: 1_000,
        ..Echo::default()
    };
    let (mut client, outside, connection) = begin(echo, 500);
    let transfer = framed(&message(1, b"T\x03"));
    client.write_all(&transfer).await.expect("sent");
    settle().await;
    outside.evict.notify_one();
    let request = framed(&message(2, b""));
    client.write_all(&request).await.expect("sent");
    let mut replies = Vec::new();
    client.read_to_end(&mut replies).await.expect("the end");
    assert_eq!(replies.len(), 3 * 1_002, "the transfer, and nothing else");
    assert!(matches!(connection.await, Ok(End::Evicted)));
}

/// What was not read when a socket is closed resets the connection: replies could be lost.
#[tokio::test(start_paused = true)]
async fn what_comes_after_the_end_is_taken_until_the_client_ends_too() {
    let (client, _outside, connection) = begin(Echo::default(), 64);
    let before = Instant::now();
    let (mut reading, mut writing) = tokio::io::split(client);
    let all = [
        &framed(&message(1, b"")),
        &framed(&message(9, b"X"))[..],
        &vec![7; 20_000],
    ]
    .concat();
    writing.write_all(&all).await.expect("all of it is taken");
    let mut replies = Vec::new();
    reading.read_to_end(&mut replies).await.expect("the end");
    assert_eq!(replies, framed(&message(1, b"")));
    writing.shutdown().await.expect("closed");
    assert!(matches!(connection.await, Ok(End::NotDns)));
    assert_eq!(before.elapsed(), Duration::ZERO, "nobody waits any more");
}

#[tokio::test(start_paused = true)]
async fn client_that_does_not_end_is_left_after_a_while_or_when_its_place_is_needed() {
    let garbage = framed(&message(9, b"X"));
    for (more, evict, waited) in [
        (0, false, DRAIN_WAIT),
        (0, true, Duration::from_millis(1)),
        (10 * DRAIN_OCTETS_MAX, false, Duration::ZERO),
    ] {
        let (mut client, outside, connection) = begin(Echo::default(), 64);
        let before = Instant::now();
        let all = [&garbage[..], &vec![7; more]].concat();
        let sent = client.write_all(&all).await;
        assert_eq!(sent.is_ok(), more == 0);
        let mut replies = Vec::new();
        let read = client.read_to_end(&mut replies).await;
        assert_eq!(read.expect("the end, whatever it waits for"), 0);
        assert_eq!(before.elapsed(), Duration::ZERO);
        if evict {
            settle().await;
            outside.evict.notify_one();
        }
        assert!(matches!(connection.await, Ok(End::NotDns)));
        assert!(before.elapsed() >= waited);
        assert!(before.elapsed() <= waited + Duration::from_millis(1));
    }
}

proptest! {
    /// However the octets come, and however small the pipe is, each request gets its reply.
    #[test]
    fn any_fragments_make_the_same_replies(
        lengths in proptest::collection::vec(12_usize..9_000, 1..12),
        fragments in proptest::collection::vec(1_usize..5_000, 1..20),
        pipe_octets in 1_usize..8_000,
    ) {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
        let request = |(number, length): (usize, &usize)| {
            let number = u8::try_from(number).expect("few");
            framed(&vec![number; *length])
        };
        let all: Vec<_> = lengths.iter().enumerate().flat_map(request).collect();
        let replies = runtime.expect("a runtime").block_on(async {
            let (client, _outside, _connection) = begin(Echo::default(), pipe_octets);
            let (mut reading, mut writing) = tokio::io::split(client);
            let send = async {
                let mut rest = &all[..];
                for fragment in fragments.iter().cycle() {
                    let (first, others) = rest.split_at(rest.len().min(*fragment));
                    writing.write_all(first).await.expect("sent");
                    rest = others;
                    if rest.is_empty() {
                        break;
                    }
                    settle().await;
                }
                writing.shutdown().await.expect("closed");
            };
            let mut replies = Vec::new();
            let ((), octets) = tokio::join!(send, reading.read_to_end(&mut replies));
            octets.expect("the end");
            replies
        });
        prop_assert!(replies == all, "{} of {} octets", replies.len(), all.len());
    }
}
