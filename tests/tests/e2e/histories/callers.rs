//! Clients that answer with the recorded outcome: ours, and etcd's own as a process.
//!
//! Why `etcdctl` and not a Rust crate of somebody else: etcd-client compiles protobuf files with
//! `protoc` when it is built, which every build of the workspace would need. `etcdctl` is etcd's Go
//! client with its retries and its balancer, and the tests need it anyway.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cfgsvc_client::{
    Client, Compare, Delete, Get, Is, KeyValue, KvError, Op, OpReply, Options, Put, Session, Txn,
};
use cfgsvc_history::{Condition, Kv, Outcome, Reply, Request};
use cfgsvc_tests::harness::{etcdctl, run};
use serde_json::Value;
use tokio::runtime::Handle;

/// Time for one operation, after which its outcome is unknown.
const ANSWER: Duration = Duration::from_secs(3);

/// Somebody who can be asked.
pub(super) trait Caller: Send {
    /// Asks; an error is an answer that cannot be understood.
    fn call(&mut self, request: &Request) -> Result<Outcome>;
}

/// Our client, with or without a session.
pub(super) struct Ours {
    runtime: Handle,
    client: Client,
    exactly_once: bool,
    session: Option<Session>,
}

/// A client of these endpoints.
pub(super) fn client(runtime: &Handle, endpoints: &[String]) -> Result<Client> {
    let _inside = runtime.enter();
    let mut options = Options::new(endpoints);
    options.request_timeout = ANSWER;
    Ok(Client::new(options)?)
}

impl Ours {
    pub(super) fn new(runtime: &Handle, endpoints: &[String], exactly_once: bool) -> Result<Self> {
        Ok(Self {
            runtime: runtime.clone(),
            client: client(runtime, endpoints)?,
            exactly_once,
            session: None,
        })
    }

    /// The client to ask with; `None` when it has no session and gets none.
    async fn ready(&mut self) -> Option<Client> {
        if !self.exactly_once {
            return Some(self.client.clone());
        }
        if !self.session.as_ref().is_some_and(Session::is_live) {
            self.session = self.client.session(60).await.ok();
        }
        let session = self.session.as_ref()?;
        Some(self.client.in_session(session))
    }
}

impl Caller for Ours {
    fn call(&mut self, request: &Request) -> Result<Outcome> {
        let runtime = self.runtime.clone();
        runtime.block_on(async {
            let Some(client) = self.ready().await else {
                return Ok(Outcome::Failed);
            };
            match ask(&client, request).await {
                Ok(reply) => Ok(Outcome::Done(reply?)),
                Err(error) if error.outcome_unknown() => Ok(Outcome::Unknown),
                Err(error) if error.retryable() || matches!(error, KvError::SessionLost) => {
                    self.session = None;
                    Ok(Outcome::Failed)
                }
                Err(error) => Err(error).context("an answer that no fault explains"),
            }
        })
    }
}

async fn ask(client: &Client, request: &Request) -> Result<Result<Reply>, KvError> {
    Ok(match request {
        Request::Read { key, serializable } => {
            let get = match key {
                Some(key) => Get::new(key.clone()),
                None => Get::prefix(""),
            };
            let get = if *serializable {
                get.serializable()
            } else {
                get
            };
            let reply = client.get(get).await?;
            answer(reply.revision, true, 0, &reply.kvs)
        }
        Request::Write { when, changes } => {
            let only = changes.first_key_value().filter(|_| changes.len() == 1);
            match (when, only) {
                (None, Some((key, Some(value)))) => {
                    let reply = client.put(Put::new(key.clone(), value.clone())).await?;
                    answer(reply.revision, true, 0, &[])
                }
                (None, Some((key, None))) => {
                    let reply = client.delete(Delete::new(key.clone())).await?;
                    answer(reply.revision, true, reply.deleted, &[])
                }
                (when, _) => {
                    let reply = client.txn(transaction(when.as_ref(), changes)).await?;
                    let mut deleted = 0;
                    let mut found = Vec::new();
                    for reply in reply.replies {
                        match reply {
                            OpReply::Delete(reply) => deleted += reply.deleted,
                            OpReply::Get(reply) => found = reply.kvs,
                            OpReply::Put(_) | OpReply::Txn(_) => {}
                        }
                    }
                    answer(reply.revision, reply.succeeded, deleted, &found)
                }
            }
        }
    })
}

fn transaction(
    when: Option<&(String, Condition)>,
    changes: &BTreeMap<String, Option<String>>,
) -> Txn {
    let mut txn = Txn::new();
    if let Some((key, condition)) = when {
        let compare = match condition {
            Condition::Revision(at) => Compare::mod_revision(key.clone(), Is::Equal, *at),
            Condition::Value(value) => Compare::value(key.clone(), Is::Equal, value.clone()),
        };
        txn = txn.when(compare).otherwise(Op::Get(Get::new(key.clone())));
    }
    for (key, value) in changes {
        txn = txn.then(match value {
            Some(value) => Op::Put(Put::new(key.clone(), value.clone())),
            None => Op::Delete(Delete::new(key.clone())),
        });
    }
    txn
}

fn answer(revision: i64, succeeded: bool, deleted: i64, kvs: &[KeyValue]) -> Result<Reply> {
    let found: Result<BTreeMap<String, Kv>> = kvs.iter().map(version_of).collect();
    Ok(Reply {
        revision,
        succeeded,
        deleted,
        found: found?,
    })
}

/// A key and its version as our client tells them.
pub(super) fn version_of(kv: &KeyValue) -> Result<(String, Kv)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).context("bytes nobody wrote");
    let version = Kv {
        value: text(&kv.value)?,
        create: kv.create_revision,
        modified: kv.mod_revision,
        version: kv.version,
    };
    Ok((text(&kv.key)?, version))
}

/// etcd's own client, a process for each operation.
pub(super) struct Etcdctl {
    /// HOST:PORT, comma-separated.
    pub(super) endpoints: String,
}

impl Caller for Etcdctl {
    fn call(&mut self, request: &Request) -> Result<Outcome> {
        let timeout = format!("--command-timeout={}s", ANSWER.as_secs());
        let with = |arguments: &[&str]| {
            let common = [timeout.as_str(), "-w", "json"];
            etcdctl(&self.endpoints, &[&common[..], arguments].concat())
        };
        let ran = match request {
            Request::Read { key, serializable } => {
                let consistency = if *serializable {
                    "--consistency=s"
                } else {
                    "--consistency=l"
                };
                match key {
                    Some(key) => with(&["get", key, consistency]),
                    None => with(&["get", "", "--prefix", consistency]),
                }
            }
            Request::Write { when, changes } => {
                let only = changes.first_key_value().filter(|_| changes.len() == 1);
                match (when, only) {
                    (None, Some((key, Some(value)))) => with(&["put", key, value]),
                    (None, Some((key, None))) => with(&["del", key]),
                    (when, _) => run(Command::new("sh")
                        .env("ETCDCTL_API", "3")
                        .args(["-c", "printf %s \"$1\" | exec etcdctl $2 txn", "sh"])
                        .arg(script(when.as_ref(), changes))
                        .arg(format!("--endpoints={} {timeout} -w json", self.endpoints))),
                }
            }
        };
        // One that was stopped at the harness's deadline may have been executed too.
        match ran {
            Ok(ran) if ran.code == Some(0) => Ok(Outcome::Done(read_answer(&ran.stdout)?)),
            Ok(_) | Err(_) => Ok(Outcome::Unknown),
        }
    }
}

/// A transaction in the language of `etcdctl txn`.
fn script(
    when: Option<&(String, Condition)>,
    changes: &BTreeMap<String, Option<String>>,
) -> String {
    let mut text = match when {
        Some((key, Condition::Revision(at))) => format!("mod(\"{key}\") = \"{at}\"\n"),
        Some((key, Condition::Value(value))) => format!("value(\"{key}\") = \"{value}\"\n"),
        None => String::new(),
    };
    text.push('\n');
    for (key, value) in changes {
        let line = match value {
            Some(value) => format!("put {key} {value}\n"),
            None => format!("del {key}\n"),
        };
        text.push_str(&line);
    }
    text.push('\n');
    if let Some((key, _)) = when {
        text = format!("{text}get {key}\n");
    }
    text.push('\n');
    text
}

fn read_answer(text: &str) -> Result<Reply> {
    let json: Value = serde_json::from_str(text).with_context(|| format!("etcdctl: {text}"))?;
    let mut reply = Reply {
        revision: number(&json["header"], "revision"),
        succeeded: true,
        deleted: number(&json, "deleted"),
        found: found_in(&json)?,
    };
    if let Value::Array(responses) = &json["responses"] {
        reply.succeeded = json["succeeded"] == Value::Bool(true);
        for response in responses {
            let response = &response["Response"];
            reply.deleted += number(&response["ResponseDeleteRange"], "deleted");
            reply.found.extend(found_in(&response["ResponseRange"])?);
        }
    }
    Ok(reply)
}

fn found_in(json: &Value) -> Result<BTreeMap<String, Kv>> {
    let kvs = json["kvs"].as_array();
    kvs.into_iter().flatten().map(read_version).collect()
}

/// A field that is left out when it is 0.
pub(super) fn number(json: &Value, name: &str) -> i64 {
    json[name].as_i64().unwrap_or(0)
}

/// A key and its version as etcdctl prints them.
pub(super) fn read_version(json: &Value) -> Result<(String, Kv)> {
    let text = |name: &str| -> Result<String> {
        let Some(base64) = json[name].as_str() else {
            bail!("no {name} in {json}");
        };
        Ok(String::from_utf8(STANDARD.decode(base64)?)?)
    };
    let version = Kv {
        value: if json["value"].is_null() {
            String::new()
        } else {
            text("value")?
        },
        create: number(json, "create_revision"),
        modified: number(json, "mod_revision"),
        version: number(json, "version"),
    };
    Ok((text("key")?, version))
}
