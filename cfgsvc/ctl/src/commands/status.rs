//! `cfgctl status`: every member that is known, by the command line or by the group, is asked.

use super::member::members;
use super::votes;
use crate::Outcome;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{Table, size};
use cfgsvc_client::{AdminError, CallError, Cause, Client, Status, VotesState};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::Duration;

/// Longest wait for the leader to say who sees whom.
const VOTES_MAX: Duration = Duration::from_secs(1);

/// One member's answer.
pub(crate) struct Report {
    pub(crate) endpoint: String,
    pub(crate) name: Option<String>,
    pub(crate) status: Result<Status, AdminError>,
}

impl Report {
    fn id(&self) -> Option<u64> {
        let header = self.status.as_ref().ok()?.header.as_ref()?;
        Some(header.member_id)
    }

    /// Whether the member says that it leads.
    pub(crate) fn leads(&self) -> bool {
        match &self.status {
            Ok(status) => status.leader != 0 && self.id() == Some(status.leader),
            Err(_) => false,
        }
    }

    fn role(&self) -> &'static str {
        match &self.status {
            Ok(status) if status.is_learner => "learner",
            Ok(_) if self.leads() => "leader",
            Ok(status) if status.leader == 0 => "no leader",
            Ok(_) => "follower",
            Err(_) => "-",
        }
    }

    /// What is wrong with the member.
    fn problem(&self) -> String {
        match &self.status {
            Ok(status) => status.errors.join("; "),
            Err(error) => {
                let source = std::error::Error::source(error);
                let cause = source
                    .map(|source| format!(": {source}"))
                    .unwrap_or_default();
                format!("{error}{cause}")
            }
        }
    }
}

/// Asks the endpoints of the command line, and the members that one of them names.
pub(crate) async fn reports(context: &Context, client: &Client) -> Vec<Report> {
    let mut targets: Vec<(String, Option<String>)> = Vec::new();
    // Without the list there are still the endpoints, whose errors tell more than this one's.
    for member in members(client).await.unwrap_or_default() {
        let given = member
            .client_addresses
            .iter()
            .find(|one| context.endpoints.contains(one));
        // Without an address it has not started yet: it is shown, as one that cannot be asked.
        let address = given.or(member.client_addresses.first()).cloned();
        targets.push((address.unwrap_or_else(|| "-".into()), Some(member.name)));
    }
    for endpoint in &context.endpoints {
        if targets.iter().all(|(address, _)| address != endpoint) {
            targets.push((endpoint.clone(), None));
        }
    }
    let ask = targets.into_iter().map(|(endpoint, name)| async move {
        let unreachable = |why: String| {
            Err(AdminError::Call(CallError::Unreachable {
                endpoints: endpoint.clone(),
                source: Cause(why),
            }))
        };
        let status = match client.at(&endpoint) {
            _ if endpoint == "-" => unreachable("it has told the group no client address".into()),
            Ok(client) => client.status().await,
            Err(error) => unreachable(error.to_string()),
        };
        Report {
            endpoint,
            name,
            status,
        }
    });
    let mut reports = join_all(ask).await;
    // An endpoint that is another address of a member that is named already.
    let named: Vec<u64> = reports
        .iter()
        .filter(|one| one.name.is_some())
        .filter_map(Report::id)
        .collect();
    reports.retain(|one| one.name.is_some() || one.id().is_none_or(|id| !named.contains(&id)));
    reports
}

pub(crate) async fn run(context: &Context) -> Outcome {
    let client = context.client()?;
    let reports = reports(context, &client).await;
    let newest = reports.iter().filter_map(|one| one.status.as_ref().ok());
    let newest = newest.map(|status| status.raft_index).max().unwrap_or(0);
    if reports.iter().all(|one| one.status.is_err()) {
        let mut reports = reports;
        let Some(first) = reports.pop() else {
            return Err(Diagnostic::refused("no member is known"));
        };
        return Err(first
            .status
            .map_or_else(Into::into, |_| Diagnostic::quiet(Exit::Refused)));
    }
    let votes = votes_of(&client, &reports).await;
    let (votes, silent) =
        votes.map_or_else(|why| (VotesState::default(), Some(why)), |at| (at, None));
    let text = || table(&reports, newest).render() + &votes::text(&votes);
    context.print_text(text, || {
        let mut all = json(&reports, newest);
        if let (Value::Object(all), Value::Object(votes)) = (&mut all, votes::json(&votes)) {
            all.extend(votes);
        }
        all
    })?;
    for report in &reports {
        let problem = report.problem();
        if !problem.is_empty() {
            let name = report.name.as_deref().unwrap_or(&report.endpoint);
            context.printer.note(&format!("warning: {name}: {problem}"));
        }
    }
    if let Some(why) = silent {
        let note = format!("warning: who sees whom is not known: {why}");
        context.printer.note(&note);
    }
    Ok(Exit::Done)
}

/// The member that leads: of two that say so, the one of the later term.
fn leader(reports: &[Report]) -> Option<&Report> {
    let leaders = reports.iter().filter(|one| one.leads());
    leaders.max_by_key(|one| one.status.as_ref().map_or(0, |status| status.raft_term))
}

/// Who sees whom, by the leader itself: the first member of the command line may be cut off from
/// it. Nothing without one, which the members tell.
async fn votes_of(client: &Client, reports: &[Report]) -> Result<VotesState, String> {
    let Some(leader) = leader(reports) else {
        return Ok(VotesState::default());
    };
    let at = client
        .at(&leader.endpoint)
        .map_err(|error| error.to_string())?;
    match tokio::time::timeout(VOTES_MAX, at.votes()).await {
        Ok(votes) => votes.map_err(|error| error.to_string()),
        Err(_) => Err(format!(
            "{} has not answered within {VOTES_MAX:?}",
            leader.endpoint
        )),
    }
}

fn table(reports: &[Report], newest: u64) -> Table {
    let mut table = Table::new([
        "ENDPOINT", "ID", "NAME", "ROLE", "TERM", "REVISION", "INDEX", "LAG", "SIZE", "VERSION",
        "ERRORS",
    ]);
    let dash = || "-".to_owned();
    for report in reports {
        let name = report.name.clone().unwrap_or_else(dash);
        let Ok(status) = &report.status else {
            let mut row = std::array::from_fn(|_| dash());
            row[0].clone_from(&report.endpoint);
            row[2] = name;
            "unreachable".clone_into(&mut row[10]);
            table.row::<11>(row);
            continue;
        };
        let revision = status.header.as_ref().map_or(0, |header| header.revision);
        table.row([
            report.endpoint.clone(),
            report.id().map_or_else(dash, |id| format!("{id:x}")),
            name,
            report.role().to_owned(),
            status.raft_term.to_string(),
            revision.to_string(),
            status.raft_index.to_string(),
            lag(status, newest).to_string(),
            size(u64::try_from(status.db_size).unwrap_or(0)),
            status.version.clone(),
            if status.errors.is_empty() {
                dash()
            } else {
                status.errors.len().to_string()
            },
        ]);
    }
    table
}

/// Log entries that the member has yet to apply, seen from the newest that any member knows.
fn lag(status: &Status, newest: u64) -> u64 {
    newest.saturating_sub(status.raft_applied_index)
}

fn json(reports: &[Report], newest: u64) -> Value {
    let members = reports.iter().map(|report| match &report.status {
        Err(_) => json!({
            "endpoint": report.endpoint,
            "name": report.name,
            "reachable": false,
            "errors": [report.problem()],
        }),
        Ok(status) => json!({
            "endpoint": report.endpoint,
            "name": report.name,
            "reachable": true,
            "id": report.id().map(|id| format!("{id:x}")),
            "role": report.role(),
            "term": status.raft_term,
            "revision": status.header.as_ref().map(|header| header.revision),
            "index": status.raft_index,
            "applied_index": status.raft_applied_index,
            "lag": lag(status, newest),
            "size_bytes": status.db_size,
            "version": status.version,
            "errors": status.errors,
        }),
    });
    json!({ "members": members.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(endpoint: &str, (id, leader): (u64, u64), raft_term: u64) -> Report {
        let mut status = Status::default();
        status.header.get_or_insert_default().member_id = id;
        Report {
            endpoint: endpoint.to_owned(),
            name: None,
            status: Ok(Status {
                leader,
                raft_term,
                ..status
            }),
        }
    }

    #[test]
    fn leader_of_the_latest_term_is_asked_not_one_that_was_cut_off() {
        let reports = [
            report("old", (1, 1), 3),
            report("follower", (2, 3), 4),
            report("new", (3, 3), 4),
        ];
        assert_eq!(leader(&reports).map(|one| &one.endpoint[..]), Some("new"));
        assert!(leader(&reports[1..2]).is_none());
    }
}
