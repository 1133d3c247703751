//! `cfgctl export`: keys become files, and never outside the directory.
//!
//! All keys are checked before the first file is written; their values come
//! page by page then. Directories are opened one by one,
//! relative to the one before and without following links, so that a link that somebody has put
//! under DIR cannot lead out of it. A file is written under a temporary name and then renamed.

use crate::Outcome;
use crate::args::ExportArgs;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{Table, cell};
use bytes::Bytes;
use cfgsvc_client::{Client, Get, KvError};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RawMode, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

const DIR_MODE: RawMode = 0o755;
const FILE_MODE: RawMode = 0o644;
/// Begin of the name of a file that is being written; the process id follows, so that two exports
/// never write the same one.
const TEMPORARY: &str = ".cfgctl-export.";

pub(crate) async fn run(context: &Context, args: ExportArgs) -> Outcome {
    let client = context.client()?;
    let (keys, revision) = keys(&client, &args).await?;
    check_all(&args.prefix, &keys)?;
    std::fs::create_dir_all(&args.dir).map_err(|error| {
        Diagnostic::refused(format!("cannot make {}", args.dir.display())).because(error)
    })?;
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, &args.dir, flags, Mode::empty()).map_err(|error| {
        Diagnostic::refused(format!("cannot open {}", args.dir.display())).because(error)
    })?;
    let failed = |key: &[u8]| {
        let text = format!(
            "cannot write key `{}` under {}",
            cell(key),
            args.dir.display()
        );
        move |error: WriteError| {
            let diagnostic = Diagnostic::refused(text).because(&error);
            match error {
                WriteError::Exists => diagnostic.hint("replace files with `--force`"),
                WriteError::Link => diagnostic.hint("links are not followed: remove it"),
                WriteError::Io(_) => diagnostic,
            }
        }
    };
    if !args.force {
        for key in &keys {
            check_free(&root, &path_of(&args.prefix, key)?).map_err(failed(key))?;
        }
    }
    // The same keys as before, since it is the same revision.
    let values = Get::prefix(args.prefix.clone()).revision(revision);
    let mut pages = client.get_pages(values).await.map_err(broken_off)?;
    while let Some(kvs) = pages.next().await.map_err(broken_off)? {
        for kv in &kvs {
            let path = path_of(&args.prefix, &kv.key)?;
            write(&root, &path, &kv.value, args.force).map_err(failed(&kv.key))?;
        }
    }
    let table = || {
        let mut table = Table::new(["FILES", "REVISION"]);
        table.row([keys.len().to_string(), revision.to_string()]);
        table
    };
    context.print(
        table,
        || json!({ "files": keys.len(), "revision": revision }),
    )?;
    Ok(Exit::Done)
}

/// All keys, without their values, and the revision at which they were read.
async fn keys(client: &Client, args: &ExportArgs) -> Result<(Vec<Bytes>, i64), Diagnostic> {
    let mut pages = client
        .get_pages(Get::prefix(args.prefix.clone()).keys_only())
        .await?;
    let mut keys = Vec::new();
    while let Some(kvs) = pages.next().await.map_err(broken_off)? {
        keys.extend(kvs.into_iter().map(|kv| kv.key));
    }
    if keys.is_empty() {
        let prefix = cell(&args.prefix);
        return Err(Diagnostic::refused(format!(
            "no key begins with `{prefix}`"
        )));
    }
    Ok((keys, pages.revision()))
}

/// A later page is missing.
fn broken_off(error: KvError) -> Diagnostic {
    let compacted = matches!(error, KvError::Compacted { .. });
    let diagnostic = Diagnostic::from(error);
    if compacted {
        return diagnostic.hint("it was compacted while it was read: repeat it with `--force`");
    }
    diagnostic
}

/// The parts of a path below the directory; at least one, none of them special.
type Parts<'a> = Vec<&'a [u8]>;

/// Which file a key becomes.
fn path_of<'a>(prefix: &[u8], key: &'a [u8]) -> Result<Parts<'a>, Diagnostic> {
    parts(prefix, key).map_err(|why| {
        Diagnostic::refused(format!("key `{}` cannot be a file: {why}", cell(key)))
            .hint("nothing was written; export a longer prefix that leaves this key out")
    })
}

/// Refuses the whole export if one key cannot be a file.
fn check_all(prefix: &[u8], keys: &[Bytes]) -> Result<(), Diagnostic> {
    let mut paths: BTreeMap<Parts<'_>, &Bytes> = BTreeMap::new();
    for key in keys {
        if paths.insert(path_of(prefix, key)?, key).is_some() {
            let text = format!("key `{}` and another one would be the same file", cell(key));
            return Err(Diagnostic::refused(text));
        }
    }
    for (path, key) in &paths {
        let above = (1..path.len()).find(|length| paths.contains_key(&path[..*length]));
        if above.is_some() {
            return Err(Diagnostic::refused(format!(
                "key `{}` lies under another key, which cannot be a file and a directory",
                cell(key)
            )));
        }
    }
    Ok(())
}

/// The key without the prefix, as parts of a path. A key that is the prefix itself is named by its
/// last part.
fn parts<'a>(prefix: &[u8], key: &'a [u8]) -> Result<Parts<'a>, &'static str> {
    let rest = key.get(prefix.len()..).unwrap_or_default();
    let rest = rest
        .strip_prefix(b"/")
        .filter(|_| !prefix.ends_with(b"/"))
        .unwrap_or(rest);
    let rest = match rest {
        [] => key.rsplit(|byte| *byte == b'/').next().unwrap_or_default(),
        rest => rest,
    };
    let parts: Parts<'a> = rest.split(|byte| *byte == b'/').collect();
    for part in &parts {
        match *part {
            b"" => return Err("a part of its path is empty"),
            b"." | b".." => return Err("a part of its path is `.` or `..`"),
            part if part.contains(&0) => return Err("it holds a NUL byte"),
            part if part.len() > 255 => return Err("a part of its path is longer than 255 bytes"),
            part if part.starts_with(TEMPORARY.as_bytes()) => {
                return Err("the name is used for writing");
            }
            _ => {}
        }
    }
    Ok(parts)
}

#[derive(Debug)]
enum WriteError {
    Exists,
    Link,
    Io(std::io::Error),
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exists => f.write_str("the file exists"),
            Self::Link => f.write_str("a part of its path is a link or a file"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for WriteError {}

impl From<Errno> for WriteError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::LOOP | Errno::NOTDIR => Self::Link,
            errno => Self::Io(errno.into()),
        }
    }
}

fn open_dir(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// Whether the file can be written without replacing anything.
fn check_free(root: &OwnedFd, path: &[&[u8]]) -> Result<(), WriteError> {
    let mut dir = root.try_clone().map_err(WriteError::Io)?;
    let (name, above) = path.split_last().ok_or(WriteError::Exists)?;
    for part in above {
        dir = match open_dir(&dir, part) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
    }
    match statat(&dir, *name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
        Ok(_) => Err(WriteError::Exists),
    }
}

fn write(root: &OwnedFd, path: &[&[u8]], value: &[u8], force: bool) -> Result<(), WriteError> {
    let mut dir = root.try_clone().map_err(WriteError::Io)?;
    let (name, above) = path.split_last().ok_or(WriteError::Exists)?;
    for part in above {
        match mkdirat(&dir, *part, Mode::from_raw_mode(DIR_MODE)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        dir = open_dir(&dir, part)?;
    }
    let temporary = format!("{TEMPORARY}{}", std::process::id());
    // Left by an export with the same process id that was killed.
    match unlinkat(&dir, &temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let done = place(&dir, &temporary, name, value, force);
    if done.is_err() {
        // The first error is the one that counts.
        let _ = unlinkat(&dir, &temporary, AtFlags::empty());
    }
    done
}

fn place(
    dir: &OwnedFd,
    temporary: &str,
    name: &[u8],
    value: &[u8],
    force: bool,
) -> Result<(), WriteError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, temporary, flags, Mode::from_raw_mode(FILE_MODE))?;
    File::from(file).write_all(value).map_err(WriteError::Io)?;
    if !force && statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(WriteError::Exists);
    }
    renameat(dir, temporary, dir, name)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_that_leave_the_directory_are_refused() {
        for key in [
            "p/../x",
            "p/a/../../x",
            "p//etc",
            "p/.",
            "p/a\0b",
            "p/a/",
            "p/.cfgctl-export.7",
        ] {
            assert!(parts(b"p/", key.as_bytes()).is_err(), "{key:?}");
        }
        assert_eq!(parts(b"p", b"p/a/b"), Ok(vec![&b"a"[..], b"b"]));
        assert_eq!(parts(b"p/a", b"p/a"), Ok(vec![&b"a"[..]]));
    }

    proptest! {
        #[test]
        fn no_part_of_a_path_is_special_whatever_the_key(
            key in prop::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..20),
        ) {
            if let Ok(parts) = parts(b"", &key) {
                prop_assert!(!parts.is_empty());
                for part in parts {
                    prop_assert!(!part.is_empty() && part != b"." && part != b"..");
                    prop_assert!(!part.contains(&b'/') && !part.contains(&0));
                }
            }
        }
    }
}
