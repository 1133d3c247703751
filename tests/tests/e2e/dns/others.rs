//! Name servers and resolvers of others, as Debian ships them, beside a group: on loopback, at a
//! port of their own, with all that they write in a directory of the test.
//!
//! Why a copy of the program: where `AppArmor` confines the services of packages, it does so by
//! path, and they could not read the configuration of a test.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use cfgsvc_tests::harness::{eventually, run, unused_address};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use rustix::process::{Pid, Signal, kill_process};

use super::server::{PATIENCE, Told, ask, resolve};
use crate::beside::Process;

/// Where Debian has these programs; not in everybody's PATH.
const PROGRAMS: &str = "/usr/sbin";
/// For a program to end in order: it may have processes of its own, which it ends.
const END: Duration = Duration::from_secs(10);

/// A program of others, that ends with the test.
pub(crate) struct Other {
    process: Process,
    /// Which program it is.
    pub(crate) program: &'static str,
    /// Where it answers.
    pub(crate) address: SocketAddr,
    log: PathBuf,
}

/// Where a program will answer, and what is its own.
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    pub(crate) directory: PathBuf,
}

impl Place {
    /// A free address, and an empty directory of this name.
    pub(crate) fn new(above: &Path, name: &str) -> Result<Self> {
        let directory = above.join(name);
        fs::create_dir(&directory)?;
        let address = unused_address()?;
        Ok(Self { address, directory })
    }
}

impl Other {
    /// Starts a program in its directory, with a file of its configuration there.
    pub(crate) fn start(
        program: &'static str,
        place: &Place,
        file: &str,
        configuration: &str,
        arguments: &[&str],
    ) -> Result<Self> {
        let directory = &place.directory;
        fs::write(directory.join(file), configuration)?;
        let copy = directory.join(program);
        let installed = Path::new(PROGRAMS).join(program);
        // Not by this process: a child of another thread would have the copy open for writing, and
        // what is open so does not start.
        run(Command::new("cp").arg(&installed).arg(&copy))?.success()?;
        let log = directory.join("log");
        let out = File::create(&log)?;
        let mut command = Command::new(&copy);
        command.args(arguments).current_dir(directory);
        command.stdin(Stdio::null()).stdout(out.try_clone()?);
        let process = command.stderr(out).spawn();
        let process = process.with_context(|| format!("start {program}"))?;
        Ok(Self {
            process: Process(process),
            program,
            address: place.address,
            log,
        })
    }

    /// All that it has said.
    pub(crate) fn log(&self) -> Result<String> {
        let octets = fs::read(&self.log)?;
        Ok(String::from_utf8_lossy(&octets).into_owned())
    }

    /// Waits until what it has said since `from` octets has a line with all these words.
    pub(crate) fn says(&self, from: usize, words: &[&str]) -> Result<()> {
        let what = format!("{} to say {words:?}", self.program);
        let waited = eventually(PATIENCE, what, || {
            let log = self.log().unwrap_or_default();
            let mut lines = log.get(from..).unwrap_or_default().lines();
            lines.any(|line| words.iter().all(|word| line.contains(word)))
        });
        waited.with_context(|| self.log().unwrap_or_default())
    }

    /// Asks it as a client of a resolver does, once.
    pub(crate) fn resolve(&self, name: &str) -> Result<Told> {
        resolve(self.address, name, RecordType::A)
    }

    /// Asks it as a resolver does, once.
    pub(crate) fn ask(&self, name: &str, rtype: RecordType) -> Result<Told> {
        ask(self.address, name, rtype)
    }

    /// Waits until it says so of a name.
    pub(crate) fn tells(
        &self,
        name: &str,
        rtype: RecordType,
        mut is: impl FnMut(&Told) -> bool,
    ) -> Result<()> {
        let mut last = None;
        let what = format!("{} to say what it must of {name} {rtype}", self.program);
        let waited = eventually(PATIENCE, what, || {
            let told = self.ask(name, rtype);
            let found = told.as_ref().is_ok_and(&mut is);
            last = Some(told);
            found
        });
        waited.with_context(|| format!("it says {last:?}\n{}", self.log().unwrap_or_default()))
    }

    /// Waits until it answers with exactly these data.
    pub(crate) fn answers(&self, name: &str, rtype: RecordType, data: &[&str]) -> Result<()> {
        self.tells(name, rtype, |told| {
            told.rcode == ResponseCode::NoError && told.answer == data
        })
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // In order first, so that it ends what it started; what fails then is killed.
        let ended = kill_process(Pid::from_child(&self.process.0), Signal::TERM).is_ok()
            && eventually(END, "it to end", || {
                matches!(self.process.0.try_wait(), Ok(Some(_)))
            })
            .is_ok();
        if !ended {
            eprintln!("{} did not end in order", self.program);
        }
    }
}
