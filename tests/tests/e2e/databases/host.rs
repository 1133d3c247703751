//! A database host: its server, its agent, and the ways to them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cfgsvc_tests::harness::{Network, Ran, binary_path, eventually, run, unused_address};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::ROLE;
use super::engine::Engine;

/// For what must happen soon.
const SOON: Duration = Duration::from_secs(30);
/// The numbers of the host and of everybody else in its network.
const SELF: usize = 0;
const OTHERS: usize = 1;
/// Of a disk that is filled: room for a store, a copy that is made of the other one's, and what is
/// set aside, of as many rounds as the gate has and more.
const SMALL_DISK: &str = "2g";
/// Lines of a log in an error.
const TAIL: usize = 25;

/// Where the hosts of a trial are: copies of programs and hooks, for a user who cannot read the
/// clone.
pub(super) struct Place {
    pub(super) engine: Engine,
    /// The data of each host is on a disk of its own, which can be filled.
    small_disks: bool,
    root: PathBuf,
    kept: Option<TempDir>,
}

impl Place {
    pub(super) fn new(engine: Engine, small_disks: bool) -> Result<Self> {
        let kept = tempfile::Builder::new().prefix("cfgsvc-db-").tempdir()?;
        let root = kept.path().to_owned();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
        for program in ["cfgagent", "cfgctl"] {
            fs::copy(binary_path(program)?, root.join(program))?;
        }
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../deploy")
            .join(engine.directory());
        run(Command::new("cp")
            .arg("-r")
            .arg(from)
            .arg(root.join("hooks")))?
        .success()?;
        run(Command::new("chmod")
            .arg("-R")
            .arg("a+rX")
            .arg(root.join("hooks")))?
        .success()?;
        Ok(Self {
            engine,
            small_disks,
            root,
            kept: Some(kept),
        })
    }

    /// All went well: nothing of it is of use.
    pub(super) fn done(&mut self) {
        self.kept = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(kept) = self.kept.take() {
            eprintln!("what the hosts left is in {}", kept.keep().display());
        }
    }
}

pub(super) struct Host {
    engine: Engine,
    name: String,
    colo: String,
    number: usize,
    dir: PathBuf,
    root: PathBuf,
    settings: PathBuf,
    /// Where its server listens, and where it is reached from elsewhere.
    server: SocketAddr,
    door: SocketAddr,
    network: Network,
    endpoints: String,
    small_disk: bool,
    agent: Option<Child>,
}

impl Host {
    pub(super) fn new(
        place: &Place,
        (name, colo): (&str, &str),
        number: usize,
        members: &[SocketAddr],
    ) -> Result<Self> {
        let (server, door) = (unused_address()?, unused_address()?);
        // Its own questions go out to the members, all others come in to its server.
        let network = Network::new(Arc::new(|_| Some(SELF)))?;
        let mut endpoints = Vec::new();
        for member in members {
            let listen = unused_address()?;
            network.link(listen, *member, OTHERS)?;
            endpoints.push(listen.to_string());
        }
        network.link(door, server, OTHERS)?;
        Ok(Self {
            engine: place.engine,
            name: name.to_owned(),
            colo: colo.to_owned(),
            number,
            dir: place.root.join(name),
            root: place.root.clone(),
            settings: place.root.join(format!("{name}.env")),
            server,
            door,
            network,
            endpoints: endpoints.join(","),
            small_disk: place.small_disks,
            agent: None,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn port(&self) -> u16 {
        self.server.port()
    }

    pub(super) fn door(&self) -> u16 {
        self.door.port()
    }

    fn command(&self, program: &Path) -> Command {
        let user = self.engine.user();
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={user}"))
            .arg(format!("--regid={user}"))
            .arg("--init-groups")
            .arg(program)
            .env("CFGSVC_DB_ENV", &self.settings)
            .env("HOME", &self.dir)
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        command
    }

    /// An empty instance.
    pub(super) fn set_up(&self) -> Result<()> {
        let user = self.engine.user();
        fs::create_dir(&self.dir)?;
        // Not where the data is: a full disk keeps no agent from saying that it does not serve.
        fs::create_dir(self.state_dir())?;
        if self.small_disk {
            let options = format!("size={SMALL_DISK},mode=755");
            let mount = ["-t", "tmpfs", "-o", &options, "cfgsvc-test"];
            run(Command::new("mount").args(mount).arg(&self.dir))?.success()?;
        }
        let settings = self
            .engine
            .settings(&self.dir, self.server.port(), self.number);
        fs::write(&self.settings, settings)?;
        if self.engine == Engine::MariaDb {
            let local = "[mariadbd]\nbind_address = 127.0.0.1\nmax_connections = 100\n\
                         innodb_buffer_pool_size = 16M\ninnodb_log_file_size = 8M\n";
            fs::write(self.dir.join("local.cnf"), local)?;
        }
        let owner = format!("{user}:{user}");
        run(Command::new("chown")
            .arg("-R")
            .arg(&owner)
            .arg(&self.dir)
            .arg(self.state_dir())
            .arg(&self.settings))?
        .success()?;
        let setup = self.root.join("hooks/setup");
        run(self.command(&setup).arg(&self.name))?.success()?;
        Ok(())
    }

    fn state_dir(&self) -> PathBuf {
        self.root.join(format!("{}.agent", self.name))
    }

    fn filler(&self) -> PathBuf {
        self.dir.join("fill")
    }

    /// The disk of its data has no byte left.
    pub(super) fn fill_disk(&self) -> Result<()> {
        ensure!(self.small_disk, "the disk of {} is everybody's", self.name);
        let mut file = File::create(self.filler())?;
        let piece = vec![0; 64 << 10];
        loop {
            match file.write_all(&piece) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("fill a disk"),
            }
        }
    }

    /// It has space again.
    pub(super) fn free_disk(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("free a disk")
    }

    /// Lets the other one replicate from here, or no more.
    pub(super) fn set_replication(&self, allowed: bool) -> Result<()> {
        let words = self.engine.replication(&self.dir, self.port(), allowed);
        let (program, arguments) = words.split_first().context("a program")?;
        run(self.command(Path::new(program)).args(arguments))?.success()?;
        Ok(())
    }

    pub(super) fn start_agent(&mut self) -> Result<()> {
        ensure!(self.agent.is_none(), "the agent of {} runs", self.name);
        let log = self.root.join(format!("{}.log", self.name));
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = self.command(&self.root.join("cfgagent"));
        command
            .args([
                "run", "--host", &self.name, "--colo", &self.colo, "--role", ROLE,
            ])
            .args([
                "--endpoints",
                &self.endpoints,
                "--address",
                &self.door.to_string(),
            ])
            .args([
                "--http",
                "off",
                "--watchdog",
                "off",
                "--check-timeout",
                "1s",
            ])
            .arg("--hook-dir")
            .arg(self.root.join("hooks/hooks"))
            .arg("--state-dir")
            .arg(self.state_dir())
            .stdout(Stdio::null())
            .stderr(log);
        self.agent = Some(command.spawn().context("start cfgagent")?);
        Ok(())
    }

    pub(super) fn log_tail(&self) -> String {
        let log = self.root.join(format!("{}.log", self.name));
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.len().saturating_sub(TAIL);
        format!("--- {}\n{}\n", self.name, lines[tail..].join("\n"))
    }

    /// The processes of this host: all that were given its settings, or work in its directory.
    fn processes(&self) -> Result<Vec<Pid>> {
        let mark = format!("CFGSVC_DB_ENV={}\0", self.settings.display());
        let mut found = Vec::new();
        for process in fs::read_dir("/proc")? {
            let process = process?.path();
            // Those that are gone meanwhile, or a kernel's.
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            let marked = environment
                .windows(mark.len())
                .any(|part| part == mark.as_bytes());
            let within = fs::read_link(process.join("cwd"));
            let ours = marked || within.is_ok_and(|cwd| cwd.starts_with(&self.dir));
            let id = process
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            if let (true, Some(pid)) = (ours, id.and_then(Pid::from_raw)) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    /// The processes of its server.
    fn server(&self) -> Result<Vec<Pid>> {
        let program = self.engine.program();
        let mut servers = Vec::new();
        for pid in self.processes()? {
            let exe = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()));
            if exe.is_ok_and(|exe| exe.file_name().is_some_and(|name| name == program)) {
                servers.push(pid);
            }
        }
        Ok(servers)
    }

    /// Sends a signal to every process of the server.
    pub(super) fn signal_server(&self, signal: Signal) -> Result<()> {
        let servers = self.server()?;
        ensure!(!servers.is_empty(), "{} has no server", self.name);
        for pid in servers {
            send(pid, signal)?;
        }
        Ok(())
    }

    /// A server that was stopped, if it was not killed meanwhile.
    pub(super) fn continue_server(&self) -> Result<()> {
        for pid in self.server()? {
            send(pid, Signal::CONT)?;
        }
        Ok(())
    }

    pub(super) fn kill_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("the agent does not run")?;
        agent.kill()?;
        agent.wait()?;
        Ok(())
    }

    /// The host loses power.
    pub(super) fn kill_all(&mut self) -> Result<()> {
        for pid in self.processes()? {
            send(pid, Signal::KILL)?;
        }
        if let Some(mut agent) = self.agent.take() {
            agent.wait()?;
        }
        // What was forked meanwhile.
        eventually(SOON, "all processes of a host to be gone", || {
            let left = self.processes().unwrap_or_default();
            left.iter().all(|pid| send(*pid, Signal::KILL).is_ok()) && left.is_empty()
        })
    }

    /// What it asks does not arrive, if `both`, and what it is answered does not either.
    pub(super) fn cut(&self, both: bool) {
        self.network.cut_one_way(OTHERS, SELF);
        if both {
            self.network.cut_one_way(SELF, OTHERS);
        }
    }

    pub(super) fn heal(&self) {
        self.network.heal();
    }

    /// What its server has, by number: the epoch, and the port of the server that wrote it.
    pub(super) fn rows(&self) -> Result<BTreeMap<u64, (i64, u16)>> {
        let mut client = self.engine.client(self.server.port());
        let file = self.root.join("rows.sql");
        fs::write(&file, self.engine.rows())?;
        let said = client.stdin(File::open(file)?).output()?;
        ensure!(
            said.status.success(),
            "the rows of {}: {}",
            self.name,
            said.status
        );
        let mut rows = BTreeMap::new();
        for line in String::from_utf8(said.stdout)?.lines() {
            let parts: Vec<&str> = line.split('|').collect();
            let [id, epoch, port] = parts[..] else {
                bail!("a row is {line:?}");
            };
            rows.insert(id.parse()?, (epoch.parse()?, port.parse()?));
        }
        Ok(rows)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Said by nobody when the test has failed already; what is left is seen by the next look.
        if let Err(error) = self.kill_all() {
            eprintln!("{}: {error:#}", self.name);
        }
        if self.small_disk {
            // What a person looks for after a failure; it is not there for both engines.
            for log in ["error.log", "log"] {
                let to = self.root.join(format!("{}.{log}", self.name));
                let copy = run(Command::new("cp").arg("-r").arg(self.dir.join(log)).arg(to));
                drop(copy);
            }
            let gone = run(Command::new("umount").arg("--lazy").arg(&self.dir));
            if let Err(error) = gone.and_then(Ran::success) {
                eprintln!("{} may still be mounted: {error:#}", self.dir.display());
            }
        }
    }
}

/// To one that may be gone.
fn send(pid: Pid, signal: Signal) -> Result<()> {
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("send a signal"),
    }
}
