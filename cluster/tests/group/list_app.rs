//! The simplest state machine that shows order: it keeps a list of what was applied.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cluster::{App, AppEntry, CallError, LeaderService, View};
use cluster_core::store::{Direction, KeyRange, Overlay, StateEngine};
use futures_util::future::BoxFuture;

/// Appends each command under the next number and answers with that number.
#[derive(Debug, Default)]
pub(crate) struct ListApp {
    length: u64,
}

fn key(number: u64) -> Vec<u8> {
    format!("list/{number:020}").into_bytes()
}

impl App for ListApp {
    fn load(&mut self, view: &dyn View) -> io::Result<()> {
        self.length = items(view)?.len() as u64;
        Ok(())
    }

    fn apply(&mut self, state: &mut Overlay<'_>, entry: &AppEntry) -> io::Result<Bytes> {
        state.put(key(self.length), entry.command.clone());
        self.length += 1;
        Ok(Bytes::from(self.length.to_string()))
    }

    fn published(&mut self, _index: u64) {}
}

/// The list in a view.
pub(crate) fn items(view: &dyn View) -> io::Result<Vec<String>> {
    let mut items = Vec::new();
    view.scan(
        &KeyRange::prefix("list/"),
        Direction::Ascending,
        &mut |_, value| {
            items.push(String::from_utf8_lossy(value).into_owned());
            ControlFlow::Continue(())
        },
    )?;
    Ok(items)
}

/// The list in a database.
pub(crate) fn items_of(engine: &dyn StateEngine) -> Vec<String> {
    let mut found = Vec::new();
    engine
        .read(&mut |view| {
            found = items(view)?;
            Ok(())
        })
        .expect("the database is readable");
    found
}

/// Echoes what it is asked, with the term.
pub(crate) struct Echo;

impl LeaderService for Echo {
    fn call(&self, term: u64, request: Bytes) -> BoxFuture<'_, Result<Bytes, CallError>> {
        Box::pin(async move {
            assert!(term > 0);
            Ok(request)
        })
    }
}
