//! The clocks of a host: its rate, its sleep and its wall clock, as a library in its processes says
//! them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cfgsvc_clock::Moment;
use cfgsvc_tests::harness::Cluster;

use crate::nemesis::clock_environment;

const SOURCE: &str = include_str!("host_clock.c");

/// Compiles the library into `dir`.
pub(crate) fn library(dir: &Path) -> Result<PathBuf> {
    let (source, library) = (dir.join("host_clock.c"), dir.join("host_clock.so"));
    fs::write(&source, SOURCE)?;
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output()
        .context("run cc")?;
    let said = String::from_utf8_lossy(&built.stderr);
    ensure!(built.status.success(), "cc: {said}");
    Ok(library)
}

/// The clocks of one host.
#[derive(Debug)]
pub(crate) struct HostClock {
    library: PathBuf,
    file: PathBuf,
    rate_ppm: i64,
    slept: Duration,
}

impl HostClock {
    /// Clocks that run faster than true ones by so many parts per million.
    pub(crate) fn new(library: &Path, file: PathBuf, rate_ppm: i64) -> Result<Self> {
        let numbers = [rate_ppm, 0, 0].map(i64::to_ne_bytes);
        fs::write(&file, numbers.concat())?;
        Ok(Self {
            library: library.to_owned(),
            file,
            rate_ppm,
            slept: Duration::ZERO,
        })
    }

    /// For the environment of the host's processes.
    pub(crate) fn environment(&self) -> [(&'static str, &Path); 2] {
        [
            ("LD_PRELOAD", &self.library),
            ("CFGSVC_HOST_CLOCK", &self.file),
        ]
    }

    /// What the host's lease clock shows at a true moment, nanoseconds: it counts sleep.
    pub(super) fn shows(&self, at: Moment) -> i128 {
        let nanos = i128::from(at.nanos());
        nanos + nanos * i128::from(self.rate_ppm) / 1_000_000
    }

    fn set(&self, number: u64, to: i64) -> Result<()> {
        let file = fs::File::options().write(true).open(&self.file)?;
        file.write_all_at(&to.to_ne_bytes(), number * 8)?;
        Ok(())
    }

    /// It has slept for so long.
    pub(crate) fn slept(&mut self, by: Duration) -> Result<()> {
        self.slept += by;
        self.set(1, i64::try_from(self.slept.as_nanos())?)
    }

    /// Its wall clock is off by so much.
    pub(super) fn set_wall(&self, seconds: i64) -> Result<()> {
        self.set(2, seconds * 1_000_000_000)
    }
}

/// The members of a group that does not run yet get clocks that run faster by so much, before those
/// that faults set.
pub(super) fn skew(cluster: &mut Cluster, rate_ppm: i64) -> Result<()> {
    let directory = cluster.directory().to_owned();
    let library = library(&directory)?;
    let clock = HostClock::new(&library, directory.join("group.clock"), rate_ppm)?;
    for member in 0..cluster.count() {
        let mut all = clock_environment(cluster, member);
        for (name, path) in clock.environment() {
            let path = path.to_string_lossy();
            match all.iter_mut().find(|(other, _)| other == name) {
                Some((_, later)) => *later = format!("{path}:{later}"),
                None => all.push((name.to_owned(), path.into_owned())),
            }
        }
        cluster.set_environment(member, all)?;
    }
    Ok(())
}
