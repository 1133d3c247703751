//! An object, read from an octet on, by requests of bounded size: the next one is under way while
//! the last one's octets are used.

use super::objects::{conditions, has_changed};
use super::runtime::{Pending, Runtime};
use super::{InputFile, ObjectError};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

/// Octets of a request.
const CHUNK: u64 = 4 << 20;
/// Octets that are asked for beyond the end of a split, for the record that lies across it.
const BEYOND: u64 = 64 << 10;

/// What a request gives: octets, and of what version of the object.
type Octets = object_store::Result<(bytes::Bytes, Option<String>)>;

pub(super) struct ObjectReader {
    store: Arc<dyn ObjectStore>,
    runtime: Arc<Runtime>,
    path: Path,
    url: String,
    version: Option<String>,
    /// What was asked for last ends here.
    asked: u64,
    /// Most of what is read ends before this.
    until: u64,
    length: u64,
    chunk: bytes::Bytes,
    next: Option<(u64, Pending<Octets>)>,
}

impl ObjectReader {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        runtime: Arc<Runtime>,
        path: Path,
        file: &InputFile,
        range: Range<u64>,
    ) -> Self {
        Self {
            store,
            runtime,
            path,
            url: file.name.clone(),
            version: file.version.clone(),
            asked: range.start.min(file.length),
            until: range.end.min(file.length),
            length: file.length,
            chunk: bytes::Bytes::new(),
            next: None,
        }
    }

    /// Asks for what comes next: its octets, and when they are there.
    fn ask(&mut self) -> (u64, Pending<Octets>) {
        let most = match self.until.saturating_sub(self.asked) {
            0 => BEYOND,
            left => left.saturating_add(BEYOND).min(CHUNK),
        };
        let end = self.asked.saturating_add(most).min(self.length);
        let range = self.asked..end;
        self.asked = end;
        let octets = range.end - range.start;
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: self.version.clone(),
            ..GetOptions::default()
        };
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        let request = async move {
            let got = store.get_opts(&path, options).await?;
            let version = got.meta.e_tag.clone();
            Ok((got.bytes().await?, version))
        };
        (octets, self.runtime.start(request))
    }

    fn fetch(&mut self) -> Result<(), ObjectError> {
        let (octets, pending) = match self.next.take() {
            Some(next) => next,
            None => self.ask(),
        };
        let got = pending.wait();
        let (chunk, version) = got.map_err(|error| conditions(&self.url, &error))?;
        // Not every server heeds the condition.
        if version.is_some() && self.version.is_some() && version != self.version {
            return Err(has_changed(&self.url));
        }
        if chunk.len() as u64 != octets {
            return Err(ObjectError {
                url: self.url.clone(),
                found: format!("{} octets instead of {octets}", chunk.len()),
                next: "the server must answer requests of ranges",
            });
        }
        self.chunk = chunk;
        if self.asked < self.until {
            self.next = Some(self.ask());
        }
        Ok(())
    }
}

impl Read for ObjectReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() && !to.is_empty() {
            if self.next.is_none() && self.asked == self.length {
                return Ok(0);
            }
            self.fetch()?;
        }
        let octets = self.chunk.len().min(to.len());
        to[..octets].copy_from_slice(&self.chunk.split_to(octets));
        Ok(octets)
    }
}
