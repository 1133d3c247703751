//! Connections to the servers, the keys that all loads share, and failures as text.
//!
//! These are gRPC's plain clients: no retry, no batching, no memory of a leader. What is measured
//! is the server, and is asked of every server in the same way.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use cfgsvc_proto::etcd::kv_client::KvClient;
use cfgsvc_proto::etcd::request_op::Request;
use cfgsvc_proto::etcd::{PutRequest, RangeRequest, RequestOp, TxnRequest};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Time for one request; longer is an error.
pub(crate) const REQUEST: Duration = Duration::from_secs(10);
/// Puts in a transaction that fills: below the limit of etcd, which is 128.
const FILL_BATCH: u32 = 100;
/// Where the keys are that are read and written at random.
const PREFIX: &str = "bench/key/";
/// First key after them.
const PREFIX_END: &[u8] = b"bench/key0";
/// An answer may be as long as a thousand values of the largest size that etcd takes by default.
const ANSWER_BYTES_MAX: usize = 2 << 30;

/// Key number `index`.
pub(crate) fn key(index: u32) -> Bytes {
    format!("{PREFIX}{index:06}").into()
}

/// First key after all of them.
pub(crate) fn keys_end() -> Bytes {
    Bytes::from_static(PREFIX_END)
}

/// A value of this length that does not compress.
pub(crate) fn value(bytes: usize, seed: u64) -> Bytes {
    let mut value = vec![0; bytes];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut value);
    value.into()
}

/// A client for keys that takes answers of any length.
pub(crate) fn kv(channel: &Channel) -> KvClient<Channel> {
    KvClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// Opens `count` connections, to the endpoints in turn.
pub(crate) async fn connect(endpoints: &[String], count: u32) -> Result<Vec<Channel>> {
    ensure!(
        !endpoints.is_empty(),
        "no endpoint: give --endpoints HOST:PORT"
    );
    let mut channels = Vec::new();
    for (endpoint, _) in endpoints.iter().cycle().zip(0..count) {
        channels.push(connect_one(endpoint).await?);
    }
    Ok(channels)
}

async fn connect_one(endpoint: &str) -> Result<Channel> {
    Endpoint::from_shared(format!("http://{endpoint}"))
        .with_context(|| format!("endpoint {endpoint} is not HOST:PORT"))?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .connect()
        .await
        .with_context(|| format!("connect to {endpoint}: does a server listen there?"))
}

/// Puts all keys, unless they are there already.
pub(crate) async fn fill(channel: &Channel, keys: u32, value: &Bytes) -> Result<()> {
    let mut kv = kv(channel);
    let count = RangeRequest {
        key: key(0),
        range_end: keys_end(),
        count_only: true,
        ..RangeRequest::default()
    };
    let found = kv
        .range(count)
        .await
        .map_err(told)
        .context("count the keys")?;
    if found.into_inner().count >= i64::from(keys) {
        return Ok(());
    }
    let mut first = 0;
    while first < keys {
        let end = keys.min(first + FILL_BATCH);
        let success = (first..end).map(|index| RequestOp {
            request: Some(Request::RequestPut(put(key(index), value.clone()))),
        });
        let txn = TxnRequest {
            success: success.collect(),
            ..TxnRequest::default()
        };
        match tokio::time::timeout(REQUEST, kv.txn(txn)).await {
            Ok(Ok(_)) => first = end,
            Ok(Err(status)) => return Err(told(status)).context("put the keys to be read"),
            Err(_) => bail!("put the keys to be read: no answer in {REQUEST:?}"),
        }
    }
    Ok(())
}

/// A put of this value.
pub(crate) fn put(key: Bytes, value: Bytes) -> PutRequest {
    PutRequest {
        key,
        value,
        ..PutRequest::default()
    }
}

/// What a server refused, as an error.
pub(crate) fn told(status: Status) -> anyhow::Error {
    anyhow::anyhow!("{:?}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_sixteen_bytes_and_end_before_their_end() {
        assert_eq!(key(0).len(), 16);
        assert!(key(0) < key(1) && key(999_999) < keys_end());
    }

    #[test]
    fn values_repeat_for_a_seed_and_differ_between_seeds() {
        assert_eq!(value(256, 7), value(256, 7));
        assert_ne!(value(256, 7), value(256, 8));
        assert_eq!(value(0, 7).len(), 0);
    }

    #[tokio::test]
    async fn endpoints_that_do_not_answer_are_named() {
        let free = cfgsvc_tests::harness::unused_address()
            .expect("a port")
            .to_string();
        let error = connect(std::slice::from_ref(&free), 1)
            .await
            .expect_err("nobody listens");
        assert!(format!("{error:#}").contains(&free), "{error:#}");
        let error = connect(&["not an address".to_owned()], 1)
            .await
            .expect_err("malformed");
        assert!(error.to_string().contains("not an address"), "{error:#}");
    }
}
