//! What an attempt writes into a bucket: each file in one request if it is small, else in parts.

use super::{JobObjects, UPLOADS};
use crate::Result;
use crate::store::objects::conditions;
use crate::store::runtime::Pending;
use crate::store::upload::{PART, PARTS_MAX};
use crate::store::{ObjectError, Part, Parts};
use bytes::Bytes;
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{Error, MultipartId, PutPayload};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// The files of an attempt: what is finished is complete, before the attempt says so.
pub(crate) struct AttemptObjects {
    job: Arc<JobObjects>,
    attempt: String,
    /// What the main output is called before the attempt's own part.
    main: String,
    completed: Arc<Mutex<Vec<String>>>,
}

impl AttemptObjects {
    pub(crate) fn new(job: JobObjects, attempt: String, main: String) -> Self {
        Self {
            job: Arc::new(job),
            attempt,
            main,
            completed: Arc::default(),
        }
    }

    /// Deletes what is complete, of an attempt that has failed.
    pub(crate) fn discard(&self) -> Result<()> {
        let completed = self.completed.lock();
        let completed = std::mem::take(&mut *completed.unwrap_or_else(PoisonError::into_inner));
        self.job.delete(&completed)
    }
}

impl Parts for AttemptObjects {
    /// The main output has no name of its own.
    fn create(&self, name: &str) -> Result<Box<dyn Part>> {
        let name = if name.is_empty() { &self.main } else { name };
        let name = self.job.named(name, &self.attempt);
        let upload = Upload::new(Arc::clone(&self.job), name, &self.attempt)?;
        let completed = Arc::clone(&self.completed);
        Ok(Box::new(AttemptPart { upload, completed }))
    }
}

struct AttemptPart {
    upload: Upload,
    completed: Arc<Mutex<Vec<String>>>,
}

impl Write for AttemptPart {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.upload.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.upload.flush()
    }
}

impl Part for AttemptPart {
    fn finish(mut self: Box<Self>) -> Result<u64> {
        let octets = self.upload.complete()?;
        let name = self.upload.name.clone();
        self.upload.job.must_be_open(&name)?;
        let mut completed = self
            .completed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        completed.push(name);
        Ok(octets)
    }
}

/// An upload in parts, whose number is kept in the bucket so that others can end it.
struct Begun {
    number: MultipartId,
    mark: String,
    parts: Vec<PartId>,
    flying: Option<Pending<object_store::Result<PartId>>>,
}

/// An object that is being written: in one request if it is small.
pub(super) struct Upload {
    job: Arc<JobObjects>,
    name: String,
    path: Path,
    url: String,
    mark: String,
    buffer: Vec<u8>,
    octets: u64,
    begun: Option<Begun>,
}

impl Upload {
    pub(super) fn new(
        job: Arc<JobObjects>,
        name: String,
        attempt: &str,
    ) -> Result<Self, ObjectError> {
        let path = job.path(&name)?;
        let mark = job.own(&format!("{UPLOADS}/{attempt}/{name}"));
        Ok(Self {
            url: job.objects.url(path.as_ref()),
            job,
            name,
            path,
            mark,
            buffer: Vec::new(),
            octets: 0,
            begun: None,
        })
    }

    fn failed(&self, error: &Error) -> ObjectError {
        conditions(&self.url, error)
    }

    fn begin(&self) -> Result<Begun> {
        let (uploads, path) = (self.job.objects.uploads(), self.path.clone());
        let number = self
            .job
            .objects
            .run(async move { uploads.create_multipart(&path).await });
        let number = number.map_err(|error| self.failed(&error))?;
        let marked = self.job.put(&self.mark, number.clone().into());
        let begun = Begun {
            number,
            mark: self.mark.clone(),
            parts: Vec::new(),
            flying: None,
        };
        match marked {
            Ok(()) => Ok(begun),
            Err(error) => {
                self.end(begun);
                Err(error)
            }
        }
    }

    /// Ends an upload that will not be completed. What cannot be ended now is ended with the job.
    fn end(&self, mut begun: Begun) {
        // What is on its way would begin anew what is ended.
        let landed = begun.flying.take().map(Pending::wait);
        drop(landed);
        let (uploads, path) = (self.job.objects.uploads(), self.path.clone());
        let number = begun.number;
        let ended = self
            .job
            .objects
            .run(async move { uploads.abort_multipart(&path, &number).await });
        if ended.is_ok() {
            // A mark that is left says to end what is ended, which does no harm.
            let _ = self.job.delete(&[begun.mark]);
        }
    }

    /// Waits for the part that is on its way.
    fn land(&mut self) -> Result<(), ObjectError> {
        let url = &self.url;
        let Some(begun) = &mut self.begun else {
            return Ok(());
        };
        if let Some(flying) = begun.flying.take() {
            let part = flying.wait().map_err(|error| conditions(url, &error))?;
            begun.parts.push(part);
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        self.land()?;
        if self.begun.is_none() {
            self.begun = Some(self.begin()?);
        }
        let Some(begun) = &mut self.begun else {
            return Ok(());
        };
        let at = begun.parts.len();
        if at == PARTS_MAX as usize {
            return Err(ObjectError {
                url: self.url.clone(),
                found: format!("more than {PARTS_MAX} parts of {PART} octets"),
                next: "use more reduces, or smaller splits",
            }
            .into());
        }
        let part = std::mem::take(&mut self.buffer);
        self.octets += part.len() as u64;
        let (uploads, path) = (self.job.objects.uploads(), self.path.clone());
        let number = begun.number.clone();
        let put = async move {
            let part = PutPayload::from(part);
            uploads.put_part(&path, &number, at, part).await
        };
        begun.flying = Some(self.job.objects.start(put));
        Ok(())
    }

    /// Ends it: the object is there; its octets.
    pub(super) fn complete(&mut self) -> Result<u64> {
        if self.begun.is_none() {
            let octets = Bytes::from(std::mem::take(&mut self.buffer));
            self.octets = octets.len() as u64;
            self.job.put(&self.name, octets)?;
            return Ok(self.octets);
        }
        if !self.buffer.is_empty() {
            self.send()?;
        }
        self.land()?;
        let Some(begun) = &mut self.begun else {
            return Ok(self.octets);
        };
        let parts = std::mem::take(&mut begun.parts);
        let (uploads, path) = (self.job.objects.uploads(), self.path.clone());
        let number = begun.number.clone();
        let done = self
            .job
            .objects
            .run(async move { uploads.complete_multipart(&path, &number, parts).await });
        if let Err(error) = done {
            // It may be that only the answer was lost: the name is nobody else's.
            let found = self.job.objects.head(&self.path)?;
            if found.is_none_or(|object| object.size != self.octets) {
                return Err(self.failed(&error).into());
            }
        }
        if let Some(begun) = self.begun.take() {
            self.job.delete(&[begun.mark])?;
        }
        Ok(self.octets)
    }
}

impl Write for Upload {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let room = (PART - self.buffer.len()).min(octets.len());
        self.buffer.extend_from_slice(&octets[..room]);
        if self.buffer.len() == PART {
            self.send().map_err(io::Error::other)?;
        }
        Ok(room)
    }

    /// What is less than a part cannot be sent before the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(begun) = self.begun.take() {
            self.end(begun);
        }
    }
}
