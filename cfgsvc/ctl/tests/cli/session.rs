//! Runs command lines against an etcd or a member of the test's own, and writes down what they
//! print.

use anyhow::{Context, Result};
use cfgsvc_tests::harness::{Cluster, Etcd};
use expect_test::Expect;
use std::any::Any;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// What a time is printed as, so that transcripts are the same each time.
const TIME: &str = "2000-01-01T00:00:00.000Z";

/// A server, a directory to work in, and words to be replaced in what is printed.
pub(crate) struct Session {
    /// What runs behind the endpoint, until it is dropped.
    _server: Option<Box<dyn Any>>,
    endpoint: String,
    /// Times in what is printed are those of the run.
    times: bool,
    dir: TempDir,
    names: Vec<(String, &'static str)>,
}

impl Session {
    /// With an etcd.
    pub(crate) fn start() -> Result<Self> {
        let etcd = Etcd::start()?;
        Self::with(etcd.endpoint(), Box::new(etcd))
    }

    /// With a group of one cfgsvcd, which keeps what etcd does not: the history.
    pub(crate) fn start_group() -> Result<Self> {
        let cluster = Cluster::start(1)?;
        let session = Self::with(cluster.endpoints(), Box::new(cluster))?;
        Ok(Self {
            times: true,
            ..session
        })
    }

    fn with(endpoint: String, server: Box<dyn Any>) -> Result<Self> {
        let mut session = Self::without_group()?;
        session.names.push((endpoint.clone(), "MEMBER"));
        Ok(Self {
            _server: Some(server),
            endpoint,
            ..session
        })
    }

    /// With nobody who listens.
    pub(crate) fn without_group() -> Result<Self> {
        let dir = TempDir::new()?;
        let path = dir
            .path()
            .to_str()
            .context("the directory has a plain name")?
            .to_owned();
        Ok(Self {
            _server: None,
            endpoint: "127.0.0.1:1".to_owned(),
            times: false,
            dir,
            names: vec![(path, "DIR")],
        })
    }

    /// The directory in which commands run.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where its server answers.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Writes `text` for `word` in everything that is printed from now on.
    pub(crate) fn call(&mut self, word: impl Into<String>, text: &'static str) {
        self.names.push((word.into(), text));
    }

    /// A command line of the program under test, ready to run.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cfgctl"));
        command
            .args(args)
            .current_dir(self.dir())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("CFGCTL_ENDPOINTS", &self.endpoint)
            .env("COLUMNS", "100")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command line without input.
    pub(crate) fn run(&self, args: &[&str]) -> Result<Output> {
        self.command(args).output().context("run cfgctl")
    }

    /// Runs a command line with bytes on standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> Result<Output> {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("it is piped")?
            .write_all(input)?;
        Ok(child.wait_with_output()?)
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn data(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::ensure!(output.status.success(), "cfgctl {args:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What was printed, as it stands in the tests.
    fn transcript(&self, output: &Output) -> Result<String> {
        let mut text = String::new();
        for line in String::from_utf8(output.stdout.clone())?.lines() {
            text.push_str(line);
            text.push('\n');
        }
        for line in String::from_utf8(output.stderr.clone())?.lines() {
            text.push_str(format!("| {line}").trim_end());
            text.push('\n');
        }
        let code = output.status.code().context("it was not killed")?;
        if code != 0 {
            writeln!(text, "exit {code}")?;
        }
        Ok(self.named(text))
    }

    fn named(&self, mut text: String) -> String {
        for (word, name) in &self.names {
            text = text.replace(word, name);
        }
        if self.times {
            return without_times(text);
        }
        text
    }

    /// Runs command lines, one a line, words apart by blanks (`''` is an empty one), and compares
    /// what they print: standard output as it is, standard error behind `|`.
    pub(crate) fn check(&self, lines: &str, expected: Expect) -> Result<()> {
        let mut text = String::new();
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let args: Vec<&str> = line
                .split_whitespace()
                .map(|word| if word == "''" { "" } else { word })
                .collect();
            writeln!(text, "$ cfgctl {line}")?;
            text.push_str(&self.transcript(&self.run(&args)?)?);
        }
        expected.assert_eq(&self.named(text));
        Ok(())
    }

    /// The same for one command line with input.
    pub(crate) fn check_with(&self, args: &[&str], input: &[u8], expected: Expect) -> Result<()> {
        let output = self.run_with(args, input)?;
        expected.assert_eq(&self.transcript(&output)?);
        Ok(())
    }
}

/// Every time in `text` becomes the same one.
fn without_times(text: String) -> String {
    let is_time = |place: &str| {
        place.bytes().zip(TIME.bytes()).all(|(sign, wanted)| {
            sign == wanted || (wanted.is_ascii_digit() && sign.is_ascii_digit())
        })
    };
    let places: Vec<usize> = (0..text.len())
        .filter(|at| text.get(*at..at + TIME.len()).is_some_and(is_time))
        .collect();
    let mut fixed = text;
    for at in places {
        fixed.replace_range(at..at + TIME.len(), TIME);
    }
    fixed
}
