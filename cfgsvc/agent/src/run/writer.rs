//! Writes a role's verdict file: the newest page, durably, again and again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::board::{Board, Part};
use crate::role::core::Event;
use crate::state::{self, FORMAT, VerdictFile};

/// What the file says.
pub(crate) type Page = VerdictFile;

/// Wait before a file that could not be written is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Writes what is sent, numbered, until the sender is gone; tells which number is on disk. Pages
/// that are overtaken before they are written are left out.
pub(crate) async fn write(
    path: PathBuf,
    mut pages: watch::Receiver<(u64, Page)>,
    events: mpsc::Sender<Event>,
    (board, role): (Arc<Board>, String),
) {
    let mut version = pages.borrow().1.version;
    while pages.changed().await.is_ok() {
        loop {
            let (number, mut page) = pages.borrow_and_update().clone();
            version += 1;
            page.format = FORMAT;
            page.version = version;
            page.written_ms = cfgsvc_clock::wall_ms();
            let to = path.clone();
            let written = tokio::task::spawn_blocking(move || {
                let text = serde_json::to_vec_pretty(&page)?;
                state::replace(&to, &text)
            });
            let problem = match written.await {
                Ok(Ok(())) => {
                    board.problem(&role, Part::File, None);
                    // Nobody to tell: the role is left.
                    let _ = events.send(Event::Synced(number)).await;
                    break;
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            let path = path.display();
            let problem = format!("cannot write the verdict {path}: {problem}; what is new waits");
            board.problem(&role, Part::File, Some(problem));
            tokio::time::sleep(AGAIN).await;
        }
    }
}
