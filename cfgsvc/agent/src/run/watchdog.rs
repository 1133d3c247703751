//! The watchdog device: it resets the machine unless it is written to in time (the kernel's
//! watchdog API). It stands behind everything else: an agent and a guard that both do not run.
//!
//! It is armed while a role is served and disarmed after the last process is gone. It is not fed
//! while a program is there that should be gone. Its time is the driver's (for `softdog` the
//! module's parameter `soft_margin`); if that is longer than the time to stop, it is said.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cfgsvc_clock::Moment;
use fs_err as fs;
use tokio::sync::watch;

use crate::board::{Board, Status};

/// Time between two writes; the shortest time of drivers is a second.
const FEED_EVERY: Duration = Duration::from_millis(250);
/// A program may be so much later than it should before the machine is reset.
const LATE: Duration = Duration::from_secs(1);
/// What ends the watch: without it, closing the device does not (the kernel's "magic close").
const DISARM: &[u8] = b"V";
/// The device that `auto` means.
const DEVICE: &str = "/dev/watchdog";

/// What to do with the device now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing is served: it is not armed.
    Off,
    /// Armed and fed.
    Feed,
    /// Armed, and let run out.
    Starve,
}

fn need<'a>(roles: impl IntoIterator<Item = &'a Status>, now: Moment) -> Need {
    let mut need = Need::Off;
    for gone_by in roles.into_iter().filter_map(|status| status.gone_by) {
        if gone_by + LATE < now {
            return Need::Starve;
        }
        need = Need::Feed;
    }
    need
}

/// The device to use, if any is to be used: by `auto`, `off` or a path.
pub(crate) fn device(setting: &str) -> io::Result<Option<PathBuf>> {
    let path = match setting {
        "off" => return Ok(None),
        "auto" if !Path::new(DEVICE).exists() => {
            tracing::info!("there is no {DEVICE}: a machine that hangs is not reset");
            return Ok(None);
        }
        "auto" => PathBuf::from(DEVICE),
        path => PathBuf::from(path),
    };
    let found = fs::metadata(&path)?;
    let device = path.display();
    if let Some(timeout) = timeout(&found) {
        tracing::info!(%device, ?timeout, "a watchdog is there for the time of serving");
    } else {
        tracing::info!(%device, "a watchdog of unknown time is there for the time of serving");
    }
    Ok(Some(path))
}

/// The device's time, as sysfs has it.
fn timeout(device: &std::fs::Metadata) -> Option<Duration> {
    use std::os::unix::fs::MetadataExt;
    let number = device.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let text = fs::read_to_string(format!("/sys/dev/char/{major}:{minor}/timeout")).ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// The device, and a file that is there while it is armed, for the next agent.
#[derive(Debug)]
pub(crate) struct Watchdog {
    pub(crate) device: PathBuf,
    pub(crate) mark: PathBuf,
}

impl Watchdog {
    /// Disarms what a former agent left armed: nothing that it served is left when this one begins.
    pub(crate) fn disarm_left(&self) -> io::Result<()> {
        if self.mark.exists() {
            open(&self.device)?.write_all(DISARM)?;
            fs::remove_file(&self.mark)?;
        }
        Ok(())
    }

    fn arm(&self) -> io::Result<fs::File> {
        fs::write(&self.mark, "")?;
        open(&self.device)
    }

    fn disarm(&self, device: &mut fs::File) -> io::Result<()> {
        device.write_all(DISARM)?;
        fs::remove_file(&self.mark)
    }

    /// Arms, feeds and disarms the device by what is on the board, until `ends` is true: once more
    /// then. What is served still, by a guard alone, leaves it armed.
    pub(crate) async fn feed(self, board: Arc<Board>, mut ends: watch::Receiver<bool>) {
        let mut armed: Option<fs::File> = None;
        let mut said = false;
        loop {
            let over = *ends.borrow_and_update();
            let need = need(board.all().values(), Moment::now());
            let done = match (need, armed.as_mut()) {
                (Need::Off, None) | (Need::Starve, _) => Ok(()),
                (Need::Off, Some(open)) => self.disarm(open),
                (Need::Feed, Some(open)) => open.write_all(b"\0"),
                (Need::Feed, None) => self.arm().map(|open| armed = Some(open)),
            };
            if need == Need::Off {
                armed = None;
            }
            match done {
                Ok(()) => said = false,
                Err(error) if !said => {
                    let device = self.device.display();
                    tracing::error!(%device, %error, "cannot use the watchdog");
                    said = true;
                }
                Err(_) => {}
            }
            if over {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(FEED_EVERY) => {}
                changed = ends.changed() => if changed.is_err() { return },
            }
        }
    }
}

fn open(device: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).open(device)?;
    rustix::io::fcntl_setfd(file.as_fd(), rustix::io::FdFlags::CLOEXEC)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::since_boot(Duration::from_secs(seconds))
    }

    fn role(gone_by: Option<u64>) -> Status {
        Status {
            gone_by: gone_by.map(at),
            ..Status::default()
        }
    }

    #[test]
    fn it_is_fed_while_all_programs_are_in_time_and_off_without_any() {
        assert_eq!(need([], at(5)), Need::Off);
        assert_eq!(need([&role(None)], at(5)), Need::Off);
        let [in_time, late] = [role(Some(9)), role(Some(3))];
        assert_eq!(need([&role(None), &in_time], at(5)), Need::Feed);
        assert_eq!(need([&late, &in_time], at(5)), Need::Starve);
        assert_eq!(need([&in_time, &late], at(5)), Need::Starve);
    }

    /// A plain file in the place of the device: what was written to it stays there.
    fn watchdog(dir: &Path) -> Watchdog {
        let (device, mark) = (dir.join("device"), dir.join("armed"));
        fs::write(&device, "").expect("writable");
        Watchdog { device, mark }
    }

    #[tokio::test]
    async fn whoever_ends_in_order_leaves_it_disarmed_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let dog = watchdog(dir.path());
        let (device, mark) = (dog.device.clone(), dog.mark.clone());
        let board = Arc::new(Board::default());
        let serve = |gone_by| board.change("r", |status| status.gone_by = gone_by);
        serve(Some(Moment::now() + Duration::from_hours(1)));
        let (end, ends) = watch::channel(false);
        let task = tokio::spawn(dog.feed(Arc::clone(&board), ends));
        while !mark.exists() || fs::read(&device).expect("a file").is_empty() {
            tokio::task::yield_now().await;
        }
        serve(None);
        end.send_replace(true);
        task.await.expect("it ends");
        let written = fs::read(&device).expect("a file");
        assert!(written.ends_with(b"V") && !mark.exists(), "{written:?}");
    }

    #[test]
    fn what_a_killed_agent_left_armed_is_disarmed_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        let dog = watchdog(dir.path());
        dog.disarm_left().expect("nothing is left");
        assert!(fs::read(&dog.device).expect("a file").is_empty());
        drop(dog.arm().expect("armed"));
        dog.disarm_left().expect("disarmed");
        assert_eq!(fs::read(&dog.device).expect("a file"), b"V");
        assert!(!dog.mark.exists());
    }
}
