//! Medians of what both groups did, and ours over etcd's.

use serde::Serialize;

use crate::group::Kind;
use crate::report::Report;

/// One figure of both.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Pair {
    pub cfgsvc: f64,
    pub etcd: f64,
    /// Ours over etcd's; none when etcd's is zero.
    pub ratio: Option<f64>,
}

/// The figures of one load, medians over its turns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub load: String,
    pub per_second: Pair,
    pub p50_ms: Pair,
    pub p99_ms: Pair,
    /// CPU of all three servers, microseconds a request.
    pub cpu_us: Pair,
    /// Memory of all three servers.
    pub rss_mib: Pair,
}

/// The middle one, or the mean of the two in the middle; none of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(*upper);
    }
    Some(f64::midpoint(values[middle - 1], *upper))
}

impl Pair {
    /// Medians of one figure in the turns of both; none when one of them has no turn.
    pub(crate) fn of<T>(turns: &[(Kind, T)], figure: impl Fn(&T) -> f64) -> Option<Self> {
        let of = |kind| {
            let turns = turns.iter().filter(move |(of, _)| *of == kind);
            median(turns.map(|(_, turn)| figure(turn)))
        };
        let (cfgsvc, etcd) = (of(Kind::Cfgsvc)?, of(Kind::Etcd)?);
        Some(Self {
            cfgsvc,
            etcd,
            ratio: (etcd > 0.0).then(|| cfgsvc / etcd),
        })
    }

    /// `OURS / ETCD'S = RATIO`, with so many digits after the point.
    pub(crate) fn cell(&self, digits: usize) -> String {
        let Self {
            cfgsvc,
            etcd,
            ratio,
        } = self;
        match ratio {
            Some(ratio) => format!("{cfgsvc:.digits$} / {etcd:.digits$} = {ratio:.2}"),
            None => format!("{cfgsvc:.digits$} / {etcd:.digits$}"),
        }
    }
}

impl Row {
    /// The figures of a load; none when one of the two has no turn.
    pub(crate) fn of(load: &str, turns: &[(Kind, Report)]) -> Option<Self> {
        Some(Self {
            load: load.to_owned(),
            per_second: Pair::of(turns, |report| report.per_second)?,
            p50_ms: Pair::of(turns, |report| report.latency_ms.p50)?,
            p99_ms: Pair::of(turns, |report| report.latency_ms.p99)?,
            cpu_us: Pair::of(turns, |report| report.server_cpu_us_per_request)?,
            rss_mib: Pair::of(turns, Report::rss_mib)?,
        })
    }
}

/// The table in Markdown: loads, then single figures.
pub(crate) fn table(rows: &[Row], single: &[(String, Pair)]) -> String {
    let mut cells = vec![
        [
            "load",
            "a second",
            "p50 ms",
            "p99 ms",
            "CPU us a request",
            "memory MiB",
        ]
        .map(str::to_owned),
    ];
    for row in rows {
        cells.push([
            row.load.clone(),
            row.per_second.cell(0),
            row.p50_ms.cell(2),
            row.p99_ms.cell(2),
            row.cpu_us.cell(0),
            row.rss_mib.cell(0),
        ]);
    }
    let mut table = String::from("cfgsvc / etcd = ratio; a second: more is better, else less\n\n");
    push_aligned(&mut table, &cells);
    if !single.is_empty() {
        let mut cells = vec![["what".to_owned(), "figure".to_owned()]];
        let rows = single
            .iter()
            .map(|(what, pair)| [what.clone(), pair.cell(0)]);
        cells.extend(rows);
        table.push('\n');
        push_aligned(&mut table, &cells);
    }
    table
}

/// Rows under their head, padded to the widest cell of each column.
fn push_aligned<const N: usize>(table: &mut String, rows: &[[String; N]]) {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let line = |cells: [String; N]| format!("| {} |\n", cells.join(" | "));
    for (number, row) in rows.iter().enumerate() {
        let padded = |column: usize| format!("{:<1$}", row[column], widths[column]);
        table.push_str(&line(std::array::from_fn(padded)));
        if number == 0 {
            table.push_str(&line(widths.map(|width| "-".repeat(width))));
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::tally::Latencies;

    fn report(per_second: f64, cpu: f64) -> Report {
        Report {
            per_second,
            latency_ms: Latencies {
                p50: 1.5,
                p99: 3.0,
                ..Latencies::default()
            },
            server_cpu_us_per_request: cpu,
            ..Report::default()
        }
    }

    #[test]
    fn medians_are_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn ratios_are_ours_over_theirs_of_medians() {
        let turns = [
            (Kind::Cfgsvc, report(300.0, 100.0)),
            (Kind::Etcd, report(100.0, 200.0)),
            (Kind::Etcd, report(110.0, 200.0)),
            (Kind::Cfgsvc, report(100.0, 100.0)),
            (Kind::Cfgsvc, report(320.0, 100.0)),
            (Kind::Etcd, report(150.0, 200.0)),
        ];
        let row = Row::of("put-64", &turns).expect("both have turns");
        let start = Pair::of(&[(Kind::Cfgsvc, 450.0), (Kind::Etcd, 1_400.0)], |ms| *ms);
        let single = [("start to first write, ms".to_owned(), start.expect("both"))];
        expect![[r#"
            cfgsvc / etcd = ratio; a second: more is better, else less

            | load   | a second         | p50 ms             | p99 ms             | CPU us a request | memory MiB |
            | ------ | ---------------- | ------------------ | ------------------ | ---------------- | ---------- |
            | put-64 | 300 / 110 = 2.73 | 1.50 / 1.50 = 1.00 | 3.00 / 3.00 = 1.00 | 100 / 200 = 0.50 | 0 / 0      |

            | what                     | figure            |
            | ------------------------ | ----------------- |
            | start to first write, ms | 450 / 1400 = 0.32 |
        "#]]
        .assert_eq(&table(&[row], &single));
    }

    #[test]
    fn there_is_no_row_without_both() {
        assert_eq!(Row::of("put", &[(Kind::Cfgsvc, report(1.0, 1.0))]), None);
    }
}
