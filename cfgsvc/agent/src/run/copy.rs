//! The local copy of the configuration, for programs that start while the group is away.
//!
//! Why so: a program's settings are better old than missing; who may serve is not, and is never
//! taken from here. So every answer says whether the group confirms the copy now, and the file,
//! which cannot know that, says of which revision it is and that it is not confirmed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use cfgsvc_client::{Client, Freshness, KeyValue, Mirror};
use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::state;

/// A confirmation of the copy is good for so long.
const CONFIRMED: Duration = Duration::from_secs(10);
/// Time between two writes of the file.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Wait after the file could not be written.
const FAILED_PAUSE: Duration = Duration::from_secs(30);
/// Largest file, bytes.
const COPY_BYTES_MAX: usize = 64 << 20;
const FORMAT: u32 = 1;

/// The file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct CopyFile {
    format: u32,
    /// Always false: what is in a file was so once.
    confirmed: bool,
    /// Milliseconds since 1970, for people.
    written_ms: i64,
    copies: Vec<CopyOf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct CopyOf {
    prefix: String,
    revision: i64,
    keys: Vec<CopiedKey>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CopiedKey {
    key: Text,
    value: Text,
    mod_revision: i64,
    version: i64,
}

/// Bytes, as text where they are text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Text {
    Utf8(String),
    Base64(String),
}

impl Text {
    fn of(bytes: &Bytes) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Utf8(text.to_owned()),
            Err(_) => Self::Base64(BASE64_STANDARD.encode(bytes)),
        }
    }

    fn bytes(&self) -> Result<Bytes, base64::DecodeError> {
        match self {
            Self::Utf8(text) => Ok(Bytes::from(text.clone())),
            Self::Base64(text) => BASE64_STANDARD.decode(text).map(Bytes::from),
        }
    }
}

/// A key of the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) value: Bytes,
    pub(crate) mod_revision: i64,
    /// The copy's.
    pub(crate) revision: i64,
    /// By the group, not long ago.
    pub(crate) confirmed: bool,
}

/// One prefix, from the file, until the group has been heard.
#[derive(Clone, Debug, Default)]
struct Old {
    revision: i64,
    keys: BTreeMap<Bytes, (Bytes, i64)>,
}

/// All copies of this agent.
#[derive(Debug)]
pub(crate) struct Copies {
    mirrors: Vec<(String, Mirror)>,
    old: Mutex<BTreeMap<String, Old>>,
    path: PathBuf,
}

impl Copies {
    /// Begins to follow the prefixes, with what the file has for the time being. One that cannot be
    /// read is no reason not to serve: it is made again.
    pub(crate) fn new(client: &Client, prefixes: &[String], path: PathBuf) -> Self {
        let mut old = read(&path).unwrap_or_else(|error| {
            tracing::error!(%error, "goes on without the last copy of the configuration");
            BTreeMap::new()
        });
        old.retain(|prefix, _| prefixes.contains(prefix));
        let mirrors = prefixes.iter().map(|prefix| {
            let mirror = client.mirror(prefix.clone().into_bytes(), CONFIRMED);
            (prefix.clone(), mirror)
        });
        Self {
            mirrors: mirrors.collect(),
            old: Mutex::new(old),
            path,
        }
    }

    /// The key, from the first copy that has it.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Found> {
        let of_prefix = |(prefix, _): &&(String, Mirror)| key.starts_with(prefix.as_bytes());
        self.mirrors
            .iter()
            .filter(of_prefix)
            .find_map(|(prefix, mirror)| {
                let (found, freshness) = mirror.look(key);
                match freshness {
                    Freshness::Never if mirror.confirmed_revision() == 0 => self.old(prefix, key),
                    Freshness::Never => {
                        found.map(|kv| of_mirror(kv, mirror.confirmed_revision(), false))
                    }
                    Freshness::Fresh { revision, .. } => {
                        found.map(|kv| of_mirror(kv, revision, true))
                    }
                    Freshness::Stale { revision, .. } => {
                        found.map(|kv| of_mirror(kv, revision, false))
                    }
                }
            })
    }

    fn old(&self, prefix: &str, key: &[u8]) -> Option<Found> {
        let old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
        let old = old.get(prefix)?;
        let (value, mod_revision) = old.keys.get(key)?.clone();
        Some(Found {
            value,
            mod_revision,
            revision: old.revision,
            confirmed: false,
        })
    }

    /// Writes the file when a copy has changed, until the task is dropped.
    pub(crate) async fn keep(&self) {
        let mut written = None;
        let mut pause = WRITE_EVERY;
        loop {
            tokio::time::sleep(pause).await;
            pause = WRITE_EVERY;
            // A prefix that has not been loaded would take the place of what is known of it.
            let mut mirrors = self.mirrors.iter();
            if mirrors.any(|(_, mirror)| mirror.confirmed_revision() == 0) {
                continue;
            }
            let now = self.prints();
            if written.as_ref() == Some(&now) {
                continue;
            }
            match self.write().await {
                Ok(()) => written = Some(now),
                Err(error) => {
                    let path = self.path.display();
                    tracing::error!(%path, %error, "cannot write the copy of the configuration");
                    pause = FAILED_PAUSE;
                }
            }
        }
    }

    /// What tells one copy from another: how many keys there are, and the newest change of one.
    /// The group's revision moves on whatever is written anywhere.
    fn prints(&self) -> Vec<(usize, i64)> {
        let print = |(_, mirror): &(String, Mirror)| {
            let (keys, _) = mirror.snapshot();
            let newest = keys.values().map(|kv| kv.mod_revision).max();
            (keys.len(), newest.unwrap_or(0))
        };
        self.mirrors.iter().map(print).collect()
    }

    async fn write(&self) -> io::Result<()> {
        let copies = self.mirrors.iter().map(|(prefix, mirror)| {
            let (keys, _) = mirror.snapshot();
            CopyOf {
                prefix: prefix.clone(),
                revision: mirror.confirmed_revision(),
                keys: keys.values().map(copied).collect(),
            }
        });
        let file = CopyFile {
            format: FORMAT,
            confirmed: false,
            written_ms: cfgsvc_clock::wall_ms(),
            copies: copies.collect(),
        };
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || {
            let text = serde_json::to_vec(&file)?;
            if text.len() > COPY_BYTES_MAX {
                return Err(io::Error::other(format!(
                    "the copy has {} bytes, at most {COPY_BYTES_MAX}: give a longer --copy prefix",
                    text.len()
                )));
            }
            state::replace(&path, &text)
        });
        written.await.map_err(io::Error::other)?
    }
}

fn of_mirror(kv: KeyValue, revision: i64, confirmed: bool) -> Found {
    Found {
        value: kv.value,
        mod_revision: kv.mod_revision,
        revision,
        confirmed,
    }
}

fn copied(kv: &KeyValue) -> CopiedKey {
    CopiedKey {
        key: Text::of(&kv.key),
        value: Text::of(&kv.value),
        mod_revision: kv.mod_revision,
        version: kv.version,
    }
}

/// What the file has; nothing when there is none.
fn read(path: &Path) -> io::Result<BTreeMap<String, Old>> {
    let damaged = |problem: String| {
        let path = path.display();
        io::Error::other(format!("{path} is damaged: {problem}"))
    };
    let text = match fs::metadata(path) {
        Ok(found) if found.len() > COPY_BYTES_MAX as u64 => {
            return Err(damaged(format!(
                "{} bytes, at most {COPY_BYTES_MAX}",
                found.len()
            )));
        }
        Ok(_) => fs::read(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let file: CopyFile =
        serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if file.format != FORMAT {
        return Err(damaged(format!(
            "format {}, expected {FORMAT}",
            file.format
        )));
    }
    let mut copies = BTreeMap::new();
    for copy in file.copies {
        let mut old = Old {
            revision: copy.revision,
            keys: BTreeMap::new(),
        };
        for kv in copy.keys {
            let wrong = |error: base64::DecodeError| damaged(error.to_string());
            let (key, value) = (
                kv.key.bytes().map_err(wrong)?,
                kv.value.bytes().map_err(wrong)?,
            );
            old.keys.insert(key, (value, kv.mod_revision));
        }
        copies.insert(copy.prefix, old);
    }
    Ok(copies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_text_or_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("copy.json");
        assert!(read(&path).expect("none is no error").is_empty());
        let keys = [("a", &b"plain"[..]), ("b", &[0xff, 0, 1])];
        let keys = keys.map(|(key, value)| CopiedKey {
            key: Text::of(&Bytes::from(key)),
            value: Text::of(&Bytes::copy_from_slice(value)),
            mod_revision: 7,
            version: 1,
        });
        let file = CopyFile {
            format: FORMAT,
            copies: vec![CopyOf {
                prefix: String::new(),
                revision: 9,
                keys: keys.into(),
            }],
            ..CopyFile::default()
        };
        state::replace(&path, &serde_json::to_vec(&file).expect("plain")).expect("writable");
        let copies = read(&path).expect("readable");
        let old = copies.get("").expect("there");
        assert_eq!(old.revision, 9);
        let value = old.keys.get(&b"b"[..]).map(|(value, _)| value.as_ref());
        assert_eq!(value, Some(&[0xff, 0, 1][..]));
        state::replace(&path, b"{").expect("writable");
        let error = read(&path).expect_err("damaged").to_string();
        assert!(error.contains("is damaged"), "{error}");
    }
}
