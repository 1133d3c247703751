//! What a rollback would write.
//!
//! Invariants
//! - a plan fits into one transaction, or there is none.
//! - of what is there now only the revisions are kept: at most 1.5 MiB of values are held.

use crate::diagnostics::Diagnostic;
use crate::merge::{Change, Changes};
use crate::past;
use crate::render::{cell, shell_word};
use bytes::Bytes;
use cfgsvc_client::Client;
use cfgsvc_core::limits::{REQUEST_BYTES_MAX, TXN_OPS_MAX};

/// A key that is to be written or deleted.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) key: Bytes,
    /// Revision of its last change, with which the plan was made; 0: it does not exist.
    pub(super) found: i64,
    /// The lease that it has and keeps; 0 for none.
    pub(super) lease: i64,
    /// The value that comes back; `None`: the key goes.
    pub(super) value: Option<Bytes>,
}

/// All that is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    /// The revision that comes back.
    pub(super) to: i64,
    /// The revision at which the plan was made.
    pub(super) at: i64,
    pub(super) steps: Vec<Step>,
}

impl Plan {
    /// For one key.
    pub(super) async fn of_key(client: &Client, key: &Bytes, to: i64) -> Result<Self, Diagnostic> {
        let now = past::at(client, key, 0).await?;
        let then = past::at(client, key, to).await?;
        if now.kv.is_none() && then.kv.is_none() {
            let (shown, word) = (cell(key), shell_word(key));
            return Err(Diagnostic::refused(format!(
                "key `{shown}` does not exist, and did not at revision {to}"
            ))
            .hint(format!("`cfgctl history {word}` prints its versions")));
        }
        let at = now.revision;
        let change = Change {
            before: then.kv,
            after: now.kv,
        };
        let steps = step(change).into_iter().collect();
        Ok(Self { to, at, steps })
    }

    /// For all keys that begin with `prefix`.
    pub(super) async fn of_prefix(
        client: &Client,
        prefix: &Bytes,
        to: i64,
    ) -> Result<Self, Diagnostic> {
        let mut changes = match Changes::between(client, prefix, to, 0).await {
            Ok(changes) => changes,
            Err(error) => return Err(past::unreadable(client, error).await),
        };
        let at = changes.to();
        if changes.no_keys() {
            return Err(Diagnostic::refused(format!(
                "no key begins with `{}`, and none did at revision {to}",
                cell(prefix)
            )));
        }
        let mut steps = Vec::new();
        let mut bytes = 0;
        loop {
            let change = match changes.next().await {
                Ok(change) => change,
                Err(error) => return Err(past::unreadable(client, error).await),
            };
            let Some(change) = change else {
                return Ok(Self { to, at, steps });
            };
            let Some(step) = step(with_values(client, change, to, at).await?) else {
                continue;
            };
            bytes += step.key.len() + step.value.as_ref().map_or(0, Bytes::len);
            steps.push(step);
            if steps.len() > TXN_OPS_MAX {
                return Err(too_much(prefix, to, &format!("{TXN_OPS_MAX} keys")));
            }
            if bytes > REQUEST_BYTES_MAX {
                let most = format!("{REQUEST_BYTES_MAX} bytes of keys and values");
                return Err(too_much(prefix, to, &most));
            }
        }
    }
}

fn too_much(prefix: &[u8], to: i64, most: &str) -> Diagnostic {
    let (shown, word) = (cell(prefix), shell_word(prefix));
    Diagnostic::refused(format!(
        "what begins with `{shown}` differs from revision {to} by more than {most}, which is the \
         most that one transaction takes: nothing was done"
    ))
    .hint(format!(
        "`cfgctl diff --prefix {word} --rev {to}` lists the keys: roll back longer prefixes, or \
         key by key"
    ))
}

/// A change that was found without values, with them.
async fn with_values(
    client: &Client,
    change: Change,
    to: i64,
    at: i64,
) -> Result<Change, Diagnostic> {
    let before = match change.before {
        Some(kv) => past::at(client, &kv.key, to).await?.kv,
        None => None,
    };
    let after = match (change.after, &before) {
        // Only compared, when there is something to be compared with.
        (Some(kv), Some(_)) => past::at(client, &kv.key, at).await?.kv,
        (after, _) => after,
    };
    Ok(Change { before, after })
}

/// What is to be done so that `after`, which is there now, becomes as `before`.
fn step(change: Change) -> Option<Step> {
    let (key, value) = match (&change.before, &change.after) {
        (Some(then), Some(now)) if then.value == now.value => return None,
        (Some(then), _) => (then.key.clone(), Some(then.value.clone())),
        (None, Some(now)) => (now.key.clone(), None),
        (None, None) => return None,
    };
    let now = change.after.as_ref();
    Some(Step {
        key,
        value,
        found: now.map_or(0, |kv| kv.mod_revision),
        lease: now.map_or(0, |kv| kv.lease),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfgsvc_client::KeyValue;

    fn kv(value: &str, mod_revision: i64, lease: i64) -> KeyValue {
        KeyValue {
            key: "k".into(),
            value: value.to_owned().into(),
            mod_revision,
            lease,
            ..KeyValue::default()
        }
    }

    #[test]
    fn a_step_brings_the_value_back_and_keeps_the_lease_of_now() {
        let of = |before, after| {
            step(Change { before, after }).map(|step| (step.found, step.lease, step.value))
        };
        assert_eq!(
            of(Some(kv("a", 2, 7)), Some(kv("b", 5, 9))),
            Some((5, 9, Some("a".into())))
        );
        assert_eq!(
            of(Some(kv("a", 2, 7)), Some(kv("b", 5, 0))),
            Some((5, 0, Some("a".into())))
        );
        assert_eq!(
            of(Some(kv("a", 2, 7)), None),
            Some((0, 0, Some("a".into())))
        );
        assert_eq!(of(None, Some(kv("b", 5, 9))), Some((5, 9, None)));
        assert_eq!(of(Some(kv("a", 2, 7)), Some(kv("a", 5, 9))), None);
        assert_eq!(of(None, None), None);
    }
}
