//! Figures and texts as people read them.
//!
//! Invariant: what comes from a job, a worker or the group reaches a terminal without control
//! characters, so that it cannot move the cursor or say what was not said.

use std::fmt::{Display, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Octets with a unit of 1024: `1.5 GiB`.
pub(crate) fn octets(octets: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if octets < 1024 {
        return format!("{octets} B");
    }
    let mut value = octets as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // As it is rounded: 1024.0 KiB is 1 MiB.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A time, with the two units that matter: `1 h 02 min`.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {:02} s", seconds % 60),
        3600..86_400 => format!("{hours} h {:02} min", minutes % 60),
        _ => format!("{days} d {:02} h", hours % 24),
    }
}

/// Since 1970, ms.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// How long ago that was; a clock that is ahead makes it none.
pub(crate) fn since_ms(then_ms: u64) -> Duration {
    Duration::from_millis(now_ms().saturating_sub(then_ms))
}

/// A text for one line of a terminal.
pub(crate) fn line(text: &str) -> String {
    text.split(|at: char| at.is_control())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A text for a terminal: lines and tabs stay, other control characters are shown as what they are.
pub(crate) fn lines(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for at in text.chars() {
        if at.is_control() && at != '\n' && at != '\t' {
            shown.extend(at.escape_default());
        } else {
            shown.push(at);
        }
    }
    shown
}

/// Adds to a text.
pub(crate) fn add(text: &mut String, what: impl Display) {
    // A String takes all.
    let _ = write!(text, "{what}");
}

/// Rows in columns, the first of them the heads. What is a number stands to the right, but for the
/// first column: names of jobs may have digits alone.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let is_number = |cell: &str| cell.starts_with(|at: char| at.is_ascii_digit());
    let columns: [(usize, bool); N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        let width = cells.max().unwrap_or(0).max(heads[column].chars().count());
        (
            width,
            column > 0 && rows.iter().all(|row| is_number(&row[column])),
        )
    });
    let mut text = String::new();
    let heads = heads.map(str::to_owned);
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for (cell, (width, is_right)) in row.iter().zip(columns) {
            let pad = " ".repeat(width - cell.chars().count());
            let (before, after) = if is_right { (&*pad, "") } else { ("", &*pad) };
            line.push_str(before);
            line.push_str(cell);
            line.push_str(after);
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_have_the_unit_that_is_read_most_easily() {
        for (count, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 << 20, "1.5 GiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(octets(count), shown);
        }
    }

    #[test]
    fn times_have_two_units() {
        for (ms, shown) in [
            (0, "0.0 s"),
            (1_240, "1.2 s"),
            (59_999, "59 s"),
            (61_000, "1 min 01 s"),
            (3_720_000, "1 h 02 min"),
            (93_600_000, "1 d 02 h"),
        ] {
            assert_eq!(time(Duration::from_millis(ms)), shown);
        }
        assert_eq!(since_ms(u64::MAX), Duration::ZERO);
        assert!(since_ms(0) > Duration::from_hours(24));
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        let hostile = "a\u{1b}[2Jb\r\nc\u{9b}31m\u{7}";
        assert_eq!(line(hostile), "a [2Jb c 31m");
        assert_eq!(lines("a\tb\n\u{1b}[2J"), "a\tb\n\\u{1b}[2J");
        assert!(!lines(hostile).contains(['\u{1b}', '\u{9b}', '\r', '\u{7}']));
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let rows = [
            ["7".to_owned(), "9".to_owned(), "x".to_owned()],
            ["1äng".to_owned(), "100".to_owned(), String::new()],
        ];
        let shown = table(["K", "N", "LAST"], &rows);
        assert_eq!(shown, "K       N  LAST\n7       9  x\n1äng  100\n");
        assert_eq!(table(["A", "B"], &[]), "A  B\n");
    }
}
