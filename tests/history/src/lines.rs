//! A history as text: one JSON value on a line, so that it can be searched, cut and read again.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::operation::{Change, History, Operation};
use crate::watch::Watch;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Start(i64),
    Operation(Operation),
    /// The log is known, and follows.
    Log,
    Change(Change),
    Watch(Watch),
}

/// The text of a history.
pub fn to_lines(history: &History) -> Result<String> {
    let mut text = String::new();
    let mut line = |line: Line| -> Result<()> {
        text.push_str(&serde_json::to_string(&line).context("write a line")?);
        text.push('\n');
        Ok(())
    };
    line(Line::Start(history.start))?;
    for operation in &history.operations {
        line(Line::Operation(operation.clone()))?;
    }
    if let Some(log) = &history.log {
        line(Line::Log)?;
        for change in log {
            line(Line::Change(change.clone()))?;
        }
    }
    for watch in &history.watches {
        line(Line::Watch(watch.clone()))?;
    }
    Ok(text)
}

/// The history of a text.
pub fn from_lines(text: &str) -> Result<History> {
    let mut history = History::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = serde_json::from_str(line).with_context(|| format!("line {number}"))?;
        match line {
            Line::Start(revision) => history.start = revision,
            Line::Operation(operation) => history.operations.push(operation),
            Line::Log => history.log = Some(Vec::new()),
            Line::Change(change) => history
                .log
                .as_mut()
                .with_context(|| format!("line {number}: a change before the log"))?
                .push(change),
            Line::Watch(watch) => history.watches.push(watch),
        }
    }
    Ok(history)
}
