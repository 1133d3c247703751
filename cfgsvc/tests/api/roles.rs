//! Roles over real connections: who is told what, when, and what is refused in which words.

use std::time::Duration;

use cfgsvc_clock::Moment;
use cfgsvc_proto::etcd::LeaseRevokeRequest;
use cfgsvc_proto::v1::plan_request::Write;
use cfgsvc_proto::v1::renew_response::State;
use cfgsvc_proto::v1::verdict::Kind;
use cfgsvc_proto::v1::{
    AttendRequest, CheckRequest, MoveRequest, PlanRequest, RenewRequest, RoleResponse, ShowRequest,
    StartRequest, Verdict, VerdictResponse, VerdictsRequest, YieldRequest,
};
use tonic::{Code, Status, Streaming};

use crate::harness::{Clients, Server, put, soon};

/// One host's agent, by hand.
struct Host {
    clients: Clients,
    name: &'static str,
    lease: i64,
    verdicts: Streaming<VerdictResponse>,
}

fn attend(name: &str) -> AttendRequest {
    AttendRequest {
        role: "db".to_owned(),
        host: name.to_owned(),
        colo: "akl".to_owned(),
        addresses: vec![format!("{name}:3306")],
        instance: format!("state of {name}"),
        boot: "boot".to_owned(),
        attempt: Moment::now().nanos(),
        ..AttendRequest::default()
    }
}

impl Host {
    async fn attends(clients: &Clients, name: &'static str) -> Self {
        let mut clients = clients.clone();
        let came = clients
            .roles
            .attend(attend(name))
            .await
            .expect("it attends");
        let lease = came.into_inner().lease;
        let request = VerdictsRequest {
            role: "db".to_owned(),
            host: name.to_owned(),
            lease,
        };
        let verdicts = clients.roles.verdicts(request).await.expect("a stream");
        Self {
            clients,
            name,
            lease,
            verdicts: verdicts.into_inner(),
        }
    }

    /// The next verdict that is told.
    async fn told(&mut self) -> Verdict {
        let next = soon("a verdict", self.verdicts.message()).await;
        let response = next.expect("no error").expect("no end");
        response.verdict.expect("a verdict")
    }

    async fn told_kind(&mut self) -> Kind {
        self.told().await.kind()
    }

    async fn starts(&mut self, epoch: i64) -> Result<RoleResponse, Status> {
        let request = StartRequest {
            role: "db".to_owned(),
            host: self.name.to_owned(),
            lease: self.lease,
            epoch,
            position: String::new(),
            attempt: Moment::now().nanos(),
            identity: String::new(),
            life: String::new(),
        };
        let answer = self.clients.roles.start(request).await?;
        Ok(answer.into_inner())
    }

    async fn yields(&mut self, leave: bool) -> RoleResponse {
        let request = YieldRequest {
            role: "db".to_owned(),
            host: self.name.to_owned(),
            lease: self.lease,
            position: String::new(),
            leave,
            attempt: Moment::now().nanos(),
        };
        let answer = self.clients.roles.r#yield(request).await;
        answer.expect("it yields").into_inner()
    }

    async fn renewed(&mut self) -> State {
        let leases = vec![self.lease];
        let answer = self
            .clients
            .roles
            .renew(RenewRequest { leases, row: None })
            .await;
        let states = answer.expect("an answer").into_inner().states;
        State::try_from(states[0]).expect("a state")
    }
}

fn to(host: &str) -> MoveRequest {
    MoveRequest {
        role: "db".to_owned(),
        to: host.to_owned(),
        ..MoveRequest::default()
    }
}

async fn ready(spec: &str) -> (Server, Clients) {
    let server = Server::start().await;
    let clients = server.clients();
    put(&clients, "/cfgsvc/colos/akl", b"{}").await;
    put(&clients, "/cfgsvc/roles/db", spec.as_bytes()).await;
    (server, clients)
}

#[tokio::test]
async fn hosts_are_told_of_a_hand_over_as_it_happens() {
    let (_server, clients) = ready(r#"{"candidates":["h1","h2"]}"#).await;
    let mut first = Host::attends(&clients, "h1").await;
    let granted = first.told().await;
    assert!(
        granted.may_start && granted.kind() == Kind::Fenced,
        "{granted:?}"
    );
    let mut second = Host::attends(&clients, "h2").await;
    assert_eq!(second.told_kind().await, Kind::Standby);
    first
        .starts(granted.epoch)
        .await
        .expect("it was granted so");
    assert_eq!(first.told_kind().await, Kind::Serve);

    let mut operator = clients.clone();
    let moved = operator.roles.r#move(to("h2")).await.expect("it can");
    assert!(moved.into_inner().closing, "h1 serves");
    let asked = first.told().await;
    assert!(asked.hands_over, "{asked:?}");
    assert_eq!(first.renewed().await, State::Closing);
    assert_eq!(second.renewed().await, State::Renewed);
    let refused = second
        .starts(granted.epoch)
        .await
        .expect_err("not its epoch");
    assert_eq!(refused.code(), Code::FailedPrecondition);

    let handed = first.yields(false).await;
    assert_eq!((handed.holder.as_str(), handed.closing), ("h2", false));
    assert!(handed.epoch > granted.epoch);
    assert_eq!(first.renewed().await, State::Renewed);
    let granted = second.told().await;
    assert_eq!((granted.may_start, granted.epoch), (true, handed.epoch));
    second
        .starts(handed.epoch)
        .await
        .expect("it was granted so");
    assert_eq!(second.told_kind().await, Kind::Serve);
    let follows = first.told().await;
    assert_eq!(follows.kind(), Kind::Standby);
    assert_eq!(
        (follows.holder.as_str(), follows.addresses.as_slice()),
        ("h2", &["h2:3306".to_owned()][..])
    );

    let check = |epoch| CheckRequest {
        role: "db".to_owned(),
        epoch,
    };
    let newest = operator
        .roles
        .check(check(handed.epoch))
        .await
        .expect("an answer")
        .into_inner();
    assert!(newest.current && newest.holder == "h2");
    let older = operator
        .roles
        .check(check(handed.epoch - 1))
        .await
        .expect("an answer");
    assert!(!older.into_inner().current);
}

#[tokio::test]
async fn a_holder_that_is_silent_loses_the_role_when_its_lease_is_over() {
    let (_server, clients) = ready(r#"{"term_ms":1000,"stop_ms":300}"#).await;
    let mut first = Host::attends(&clients, "h1").await;
    let epoch = first.told().await.epoch;
    first.starts(epoch).await.expect("it was granted so");
    assert_eq!(first.told_kind().await, Kind::Serve);
    let mut second = Host::attends(&clients, "h2").await;
    assert_eq!(second.told_kind().await, Kind::Standby);
    // The second alone renews.
    let granted = loop {
        assert_eq!(second.renewed().await, State::Renewed);
        let told = tokio::time::timeout(Duration::from_millis(100), second.told()).await;
        if let Ok(verdict) = told {
            break verdict;
        }
    };
    assert!(granted.may_start && granted.epoch > epoch, "{granted:?}");
    let over = first.told().await;
    assert!(
        over.not_attending && over.kind() == Kind::Fenced,
        "{over:?}"
    );
    assert_eq!(first.renewed().await, State::Gone);
}

#[tokio::test]
async fn an_agent_that_begins_again_takes_its_own_place_and_another_waits() {
    let (_server, clients) = ready("{}").await;
    let mut first = Host::attends(&clients, "h1").await;
    let epoch = first.told().await.epoch;
    first.starts(epoch).await.expect("it was granted so");
    let mut twin = attend("h1");
    twin.instance = "another directory".to_owned();
    let mut other = clients.clone();
    let refused = other.roles.attend(twin).await.expect_err("h1 attends");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("another agent attends"),
        "{refused:?}"
    );

    let mut again = Host::attends(&clients, "h1").await;
    let granted = again.told().await;
    assert!(granted.may_start && granted.epoch > epoch, "{granted:?}");
    assert_eq!(first.renewed().await, State::Gone);
    again.starts(epoch).await.expect_err("that one is over");
    again.starts(granted.epoch).await.expect("in its own epoch");
}

#[tokio::test]
async fn a_plan_shows_what_would_change_and_changes_nothing() {
    let (_server, clients) = ready("{}").await;
    let mut first = Host::attends(&clients, "h1").await;
    let epoch = first.told().await.epoch;
    first.starts(epoch).await.expect("it was granted so");
    let _second = Host::attends(&clients, "h2").await;
    let mut operator = clients.clone();
    let plan = |write, verdicts_only| PlanRequest {
        write: Some(write),
        verdicts_only,
    };
    let short = plan(Write::Move(to("h2")), true);
    let short = operator.roles.plan(short).await.expect("it can");
    let short = short.into_inner();
    assert!(short.events.is_empty() && !short.verdicts.is_empty());
    let request = plan(Write::Move(to("h2")), false);
    let planned = operator.roles.plan(request).await.expect("it can");
    let refused = operator
        .roles
        .plan(plan(Write::Move(to("h9")), false))
        .await;
    let plan = planned.into_inner();
    let verdicts: Vec<_> = plan
        .verdicts
        .iter()
        .map(|change| {
            let kind = |verdict: &Option<Verdict>| verdict.as_ref().map(Verdict::kind);
            (
                change.host.as_str(),
                kind(&change.before),
                kind(&change.after),
            )
        })
        .collect();
    assert_eq!(verdicts, [("h1", Some(Kind::Serve), Some(Kind::Fenced))]);
    let keys: Vec<_> = plan
        .events
        .iter()
        .filter_map(|event| event.kv.as_ref())
        .collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert_eq!(keys[0].key.as_ref(), b"/cfgsvc/grants/db");

    let refused = refused.expect_err("h9 does not attend");
    assert!(
        refused
            .message()
            .contains("cfgsvc: nobody can take the role so"),
        "{refused:?}"
    );
    let role = "db".to_owned();
    let shown = operator
        .roles
        .show(ShowRequest { role })
        .await
        .expect("an answer")
        .into_inner();
    let grant = &shown.roles[0].grant;
    assert!(
        grant.contains(r#""holder":"h1""#) && !grant.contains("next"),
        "{grant}"
    );
}

#[tokio::test]
async fn the_group_alone_writes_who_holds_and_ends_the_leases_of_roles() {
    let (_server, clients) = ready("{}").await;
    let first = Host::attends(&clients, "h1").await;
    let mut other = clients.clone();
    let id = first.lease;
    let refused = other.lease.lease_revoke(LeaseRevokeRequest { id }).await;
    let refused = refused.expect_err("it is a role's");
    assert!(
        refused
            .message()
            .contains("cfgsvc: lease belongs to a role"),
        "{refused:?}"
    );
    for (key, value, text) in [
        ("/cfgsvc/grants/db", "{}", "cfgsvc: key is reserved"),
        (
            "/cfgsvc/roles/db",
            r#"{"term_ms":1}"#,
            "cfgsvc: invalid object",
        ),
        (
            "/cfgsvc/roles/db",
            r#"{"kind":"colo"}"#,
            "cfgsvc: invalid object",
        ),
        (
            "/cfgsvc/hosts/h7",
            r#"{"colo":"nowhere"}"#,
            "cfgsvc: invalid object",
        ),
    ] {
        let request = cfgsvc_proto::etcd::PutRequest {
            key: key.as_bytes().to_vec().into(),
            value: value.as_bytes().to_vec().into(),
            ..Default::default()
        };
        let refused = other.kv.put(request).await.expect_err("it is refused");
        assert!(refused.message().contains(text), "{key}: {refused:?}");
    }
}
