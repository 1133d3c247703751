//! `cfgctl member`, and how members are named on the command line.

use crate::Outcome;
use crate::args::MemberCommand;
use crate::confirm::{Consent, consent};
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::Table;
use cfgsvc_client::{AdminError, CallError, Client, MemberInfo, NewMember, Role};
use serde_json::{Value, json};

/// A member as far as the answering member tells.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) client_addresses: Vec<String>,
    peer_addresses: Vec<String>,
    colo: String,
    role: String,
    last_contact_ms: i64,
}

impl Member {
    fn of(info: MemberInfo) -> Self {
        let role = match info.role() {
            Role::Learner => "learner",
            Role::Follower => "follower",
            Role::Leader => "leader",
            Role::Pending => "pending",
        };
        Self {
            id: info.id,
            name: info.name,
            client_addresses: info.client_addresses,
            peer_addresses: vec![info.peer_address],
            colo: info.colo,
            role: role.to_owned(),
            last_contact_ms: info.last_contact_ms,
        }
    }
}

/// The members; of an etcd, which does not know our own call, as etcd's API tells them.
pub(crate) async fn members(client: &Client) -> Result<Vec<Member>, AdminError> {
    match client.members().await {
        Ok(reply) => Ok(reply.members.into_iter().map(Member::of).collect()),
        Err(AdminError::Call(CallError::Unimplemented { .. })) => {
            let strip = |url: String| url.trim_start_matches("http://").to_owned();
            let members = client
                .etcd_members()
                .await?
                .into_iter()
                .map(|member| Member {
                    id: member.id,
                    name: member.name,
                    client_addresses: member.client_ur_ls.into_iter().map(strip).collect(),
                    peer_addresses: member.peer_ur_ls.into_iter().map(strip).collect(),
                    colo: String::new(),
                    role: if member.is_learner {
                        "learner"
                    } else {
                        "voter"
                    }
                    .to_owned(),
                    last_contact_ms: -1,
                });
            Ok(members.collect())
        }
        Err(error) => Err(error),
    }
}

/// The member with this name, or else with this id.
pub(crate) async fn find(client: &Client, wanted: &str) -> Result<Member, Diagnostic> {
    let members = members(client).await?;
    let id = u64::from_str_radix(wanted.trim_start_matches("0x"), 16).ok();
    let by_name = members.iter().find(|member| member.name == wanted);
    let by_id = || members.iter().find(|member| Some(member.id) == id);
    by_name.or_else(by_id).cloned().ok_or_else(|| {
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        Diagnostic::refused(format!("no member has the name or id `{wanted}`"))
            .hint(format!("the members are {}", names.join(", ")))
    })
}

pub(crate) async fn run(context: &Context, command: MemberCommand) -> Outcome {
    let client = context.client()?;
    match command {
        MemberCommand::List => list(context, &client).await,
        MemberCommand::Add {
            name,
            peer,
            colo,
            learner,
        } => {
            let member = NewMember {
                name,
                peer_address: peer,
                colo,
                learner,
            };
            add(context, &client, member).await
        }
        MemberCommand::Remove { member, yes } => {
            let member = find(&client, &member).await?;
            let (name, id) = (&member.name, member.id);
            let what = format!(
                "this removes member `{name}` (id {id:x}, {}) for good",
                member.peer_addresses.join(", ")
            );
            let consent = consent(&context.printer, &what, yes)?;
            remove(&client, id, consent).await?;
            print_one(context, "REMOVED", &member)
        }
        MemberCommand::Promote { member } => {
            let member = find(&client, &member).await?;
            client.member_promote(member.id).await?;
            print_one(context, "PROMOTED", &member)
        }
    }
}

async fn remove(client: &Client, id: u64, _consent: Consent) -> Result<(), Diagnostic> {
    Ok(client.member_remove(id).await?)
}

fn contact(last_contact_ms: i64) -> String {
    match last_contact_ms {
        ..0 => "-".to_owned(),
        ms => format!("{ms} ms ago"),
    }
}

fn or_dash(texts: &[String]) -> String {
    match texts.join(",") {
        text if text.is_empty() => "-".to_owned(),
        text => text,
    }
}

async fn list(context: &Context, client: &Client) -> Outcome {
    let members = members(client).await?;
    let table = || {
        let headings = [
            "ID",
            "NAME",
            "ROLE",
            "COLO",
            "PEER",
            "CLIENT",
            "LAST CONTACT",
        ];
        let mut table = Table::new(headings);
        for member in &members {
            table.row([
                format!("{:x}", member.id),
                member.name.clone(),
                member.role.clone(),
                or_dash(std::slice::from_ref(&member.colo)),
                or_dash(&member.peer_addresses),
                or_dash(&member.client_addresses),
                contact(member.last_contact_ms),
            ]);
        }
        table
    };
    context.print(table, || {
        let members = members.iter().map(json_member);
        json!({ "members": members.collect::<Vec<_>>() })
    })?;
    Ok(Exit::Done)
}

fn json_member(member: &Member) -> Value {
    json!({
        "id": format!("{:x}", member.id),
        "name": member.name,
        "role": member.role,
        "colo": member.colo,
        "peer_addresses": member.peer_addresses,
        "client_addresses": member.client_addresses,
        "last_contact_ms": (member.last_contact_ms >= 0).then_some(member.last_contact_ms),
    })
}

async fn add(context: &Context, client: &Client, member: NewMember) -> Outcome {
    let added = Member::of(client.member_add(member).await?);
    print_one(context, "ADDED", &added)?;
    let peer = added.peer_addresses.join(",");
    let join = context.endpoints.first();
    context.printer.note(&format!(
        "start it on an empty DIR with `cfgsvcd --name {} --data-dir DIR --listen-peer {peer} \
         --listen-client HOST:PORT --join {}`",
        added.name,
        join.map_or("HOST:PORT", String::as_str)
    ));
    Ok(Exit::Done)
}

fn print_one(context: &Context, heading: &'static str, member: &Member) -> Outcome {
    let table = || {
        let mut table = Table::new([heading, "NAME"]);
        table.row([format!("{:x}", member.id), member.name.clone()]);
        table
    };
    context.print(
        table,
        || json!({ heading.to_lowercase(): format!("{:x}", member.id), "name": member.name }),
    )?;
    Ok(Exit::Done)
}
