//! What hosts see of one another, for people: colos, the matrix, and what the group makes of it.

use crate::Outcome;
use crate::context::Context;
use crate::diagnostics::Exit;
use crate::render::Table;
use cfgsvc_client::{Client, VotesState};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// Most hosts of a matrix; beyond that only what is missed is printed.
const MATRIX_MAX: usize = 24;

/// Widest column: that of the longest name. A longer text, which no member sends, moves what
/// follows it in its row; as a width it would be more than the formatter takes.
const WIDTH_MAX: usize = 253;

/// Prints each role that has a reason to move, and what keeps it.
pub(crate) async fn print_decisions(context: &Context, client: &Client) -> Outcome {
    let votes = client.votes().await?;
    context.print_text(
        || decisions(&votes),
        || json!({ "roles": roles_json(&votes) }),
    )?;
    if votes.roles.is_empty() {
        context
            .printer
            .note("no role has a reason to move by votes");
    }
    if votes.paused {
        context.printer.note("decisions by votes are paused");
    }
    Ok(Exit::Done)
}

fn decisions(votes: &VotesState) -> String {
    let mut table = Table::new(["ROLE", "WOULD GO TO", "WHY"]);
    for role in &votes.roles {
        table.row([role.role.clone(), or_dash(&role.to), role.why.clone()]);
    }
    table.render()
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

fn time(ms: u64) -> String {
    match ms {
        0..=99_999 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        _ => humantime::format_duration(Duration::from_secs(ms / 1_000)).to_string(),
    }
}

/// Colos, hosts with the matrix, and roles that have a reason to move; nothing where no host is.
pub(crate) fn text(votes: &VotesState) -> String {
    if votes.hosts.is_empty() {
        return String::new();
    }
    let mut colos = Table::new(["COLO", "STATE", "FOR", "MEMBER"]);
    for colo in &votes.colos {
        let member = match (colo.member, colo.member_heard) {
            (false, _) => "-",
            (true, true) => "heard",
            (true, false) => "silent",
        };
        let state = colo.state.clone();
        colos.row([
            colo.colo.clone(),
            state,
            time(colo.for_ms),
            member.to_owned(),
        ]);
    }
    let mut text = format!("\n{}\n{}", colos.render(), hosts(votes));
    text.push_str(&checks(votes));
    if !votes.roles.is_empty() {
        let _ = write!(text, "\n{}", decisions(votes));
    }
    text
}

/// Checks of roles that somebody sees fail: for whom, and what the colos say.
fn checks(votes: &VotesState) -> String {
    let mut text = String::new();
    let failing = votes.checks.iter().filter(|check| !check.missed.is_empty());
    for check in failing {
        let (role, state) = (&check.role, &check.state);
        let (missed, evidence) = (check.missed.join(" "), &check.evidence);
        let _ = writeln!(
            text,
            "the check of {role} is {state}, and fails for {missed}: {evidence}"
        );
    }
    text
}

/// Who sees whom: a row for each observer; `.` reached, `x` missed.
fn hosts(votes: &VotesState) -> String {
    let small = votes.hosts.len() <= MATRIX_MAX;
    let mut text = String::new();
    let width = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0).min(WIDTH_MAX);
    let name = width(&mut votes.hosts.iter().map(|host| host.host.len())).max(4);
    let colo = width(&mut votes.hosts.iter().map(|host| host.colo.len())).max(4);
    let _ = write!(text, "{:name$}  {:colo$}  STATE   HEARD   ", "HOST", "COLO");
    for host in votes.hosts.iter().filter(|_| small) {
        let _ = write!(text, "{} ", host.host);
    }
    text.truncate(text.trim_end().len());
    text.push_str(if small { "\n" } else { "  MISSES\n" });
    for host in &votes.hosts {
        let heard = match u64::try_from(host.heard_ms) {
            Ok(ms) => time(ms),
            Err(_) => "-".to_owned(),
        };
        let (own, at, state) = (&host.host, &host.colo, &host.state);
        let _ = write!(text, "{own:name$}  {at:colo$}  {state:6}  {heard:6}  ");
        if small {
            for other in &votes.hosts {
                let sight = if host.missed.contains(&other.host) {
                    "x"
                } else if host.reached.contains(&other.host) {
                    "."
                } else {
                    " "
                };
                let width = other.host.len().min(WIDTH_MAX);
                let _ = write!(text, "{sight:<width$} ");
            }
        } else {
            text.push_str(&host.missed.join(" "));
        }
        if !host.left_out.is_empty() {
            let _ = write!(text, " ({})", host.left_out);
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    for host in votes.hosts.iter().filter(|host| host.state != "up") {
        let _ = writeln!(text, "{} is {}: {}", host.host, host.state, host.evidence);
    }
    text
}

/// The same for programs.
pub(crate) fn json(votes: &VotesState) -> Value {
    let hosts = votes.hosts.iter().map(|host| {
        json!({
            "name": host.host,
            "colo": host.colo,
            "state": host.state,
            "evidence": host.evidence,
            "heard_ms": u64::try_from(host.heard_ms).ok(),
            "left_out": Some(&host.left_out).filter(|why| !why.is_empty()),
            "reached": host.reached,
            "missed": host.missed,
        })
    });
    let colos = votes.colos.iter().map(|colo| {
        json!({
            "name": colo.colo,
            "state": colo.state,
            "for_ms": colo.for_ms,
            "member": colo.member,
            "member_heard": colo.member_heard,
        })
    });
    let checks = votes.checks.iter().map(|check| {
        json!({
            "role": check.role,
            "state": check.state,
            "evidence": check.evidence,
            "reached": check.reached,
            "missed": check.missed,
        })
    });
    json!({
        "checks": checks.collect::<Vec<_>>(),
        "colos": colos.collect::<Vec<_>>(),
        "hosts": hosts.collect::<Vec<_>>(),
        "roles": roles_json(votes),
        "paused": votes.paused,
        "hold_down_ms": votes.hold_down_ms,
        "interval_ms": votes.interval_ms,
    })
}

fn roles_json(votes: &VotesState) -> Vec<Value> {
    let roles = votes.roles.iter().map(|role| {
        json!({
            "role": role.role,
            "to": Some(&role.to).filter(|to| !to.is_empty()),
            "why": role.why,
        })
    });
    roles.collect()
}

#[cfg(test)]
mod tests {
    use cfgsvc_client::{CheckVotes, ColoVotes, HostVotes, RoleVotes};
    use expect_test::expect;

    use super::*;

    fn host(name: &str, heard_ms: i64, sees: (&[&str], &[&str])) -> HostVotes {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        HostVotes {
            host: name.to_owned(),
            colo: if name.starts_with('a') { "akl" } else { "wlg" }.to_owned(),
            state: "up".to_owned(),
            heard_ms,
            reached: owned(sees.0),
            missed: owned(sees.1),
            ..HostVotes::default()
        }
    }

    #[test]
    fn text_that_is_longer_than_any_name_is_printed_too() {
        let long = "a".repeat(70_000);
        let mut a = host(&long, 400, (&["b1"], &[]));
        a.colo.clone_from(&long);
        let votes = VotesState {
            hosts: vec![a, host("b1", 400, (&[], &[&long]))],
            ..VotesState::default()
        };
        let text = text(&votes);
        let rows: Vec<&str> = text.lines().filter(|line| line.contains(" up ")).collect();
        assert_eq!(rows.len(), 2);
        assert!(rows[0].starts_with(&format!("{long}  {long}  up")));
        assert!(rows[1].ends_with(" x"), "what b1 misses is in its row");
    }

    #[test]
    fn person_sees_who_cannot_reach_whom_and_why_nothing_is_done() {
        let mut a1 = host("a1", 9_300, (&[], &["b1", "b2"]));
        a1.state = "down".to_owned();
        a1.evidence =
            "akl says nothing, wlg: 2 of 2 miss it, the group in chc has not heard it".into();
        a1.left_out = "was not heard lately".to_owned();
        let votes = VotesState {
            hosts: vec![
                a1,
                host("b1", 400, (&["b2"], &["a1"])),
                host("b2", -1, (&[], &[])),
            ],
            colos: vec![ColoVotes {
                colo: "akl".to_owned(),
                state: "down".to_owned(),
                for_ms: 1_250,
                member: true,
                member_heard: false,
            }],
            roles: vec![RoleVotes {
                role: "web".to_owned(),
                why: "colo akl is down; it has been so for 1250 of 3000 ms".to_owned(),
                to: String::new(),
            }],
            checks: vec![CheckVotes {
                role: "db/orders".to_owned(),
                state: "up".to_owned(),
                evidence: "akl: 0 of 1 miss it, wlg: 1 of 2 miss it".to_owned(),
                reached: vec!["a2".to_owned(), "b1".to_owned()],
                missed: vec!["b2".to_owned()],
            }],
            ..VotesState::default()
        };
        expect![[r#"

            COLO  STATE  FOR   MEMBER
            akl   down   1.2s  silent

            HOST  COLO  STATE   HEARD   a1 b1 b2
            a1    akl   down    9.3s       x  x   (was not heard lately)
            b1    wlg   up      0.4s    x     .
            b2    wlg   up      -
            a1 is down: akl says nothing, wlg: 2 of 2 miss it, the group in chc has not heard it
            the check of db/orders is up, and fails for b2: akl: 0 of 1 miss it, wlg: 1 of 2 miss it

            ROLE  WOULD GO TO  WHY
            web   -            colo akl is down; it has been so for 1250 of 3000 ms
        "#]]
        .assert_eq(&text(&votes));
        assert_eq!(text(&VotesState::default()), "");
    }
}
