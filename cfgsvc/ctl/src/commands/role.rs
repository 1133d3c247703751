//! `cfgctl role`.

use super::follow;
use crate::Outcome;
use crate::args::{DataArg, FailoverArg, KindArg, MoveArgs, OrNone, RoleArgs, RoleCommand};
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::placed::{delete, print_plan, read, verdict_json, verdict_name, write};
use crate::render::Table;
use cfgsvc_client::{Client, EventKind, MoveTo, Moved, Refusal, RoleState, WatchOptions, Write};
use cfgsvc_core::placement::objects::{Data, Failover, Kind};
use cfgsvc_core::placement::{Grant, Name, RoleName, Spec, keys};
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) async fn run(context: &Context, command: RoleCommand) -> Outcome {
    let client = context.client()?;
    match command {
        RoleCommand::Create(args) => create(context, &client, args).await,
        RoleCommand::List => list(context, &client).await,
        RoleCommand::Show { role, watch } => show(context, &client, &role, watch).await,
        RoleCommand::Grant { role, to, how } => {
            let held = holder(&client, &role).await?;
            if held.as_deref().is_some_and(|held| held != to.as_str()) {
                let held = held.unwrap_or_default();
                return Err(
                    Diagnostic::refused(format!("role `{role}` is held by `{held}`")).hint(
                        format!("`cfgctl role switch {role} {to}` gives it to another"),
                    ),
                );
            }
            go(context, &client, &goal(&role, to.as_str(), &how), &how).await
        }
        RoleCommand::Switch { role, to, how } => {
            if holder(&client, &role).await?.is_none() {
                return Err(Diagnostic::refused(format!("nobody holds role `{role}`"))
                    .hint(format!("`cfgctl role grant {role} {to}` gives it")));
            }
            go(context, &client, &goal(&role, to.as_str(), &how), &how).await
        }
        RoleCommand::Release { role, how } => {
            go(context, &client, &goal(&role, "", &how), &how).await
        }
        RoleCommand::Pause { role, dry_run } => {
            pause(context, &client, &role, (true, dry_run)).await
        }
        RoleCommand::Resume { role, dry_run } => {
            pause(context, &client, &role, (false, dry_run)).await
        }
        RoleCommand::Check { role, epoch } => check(context, &client, &role, epoch).await,
        RoleCommand::Delete { role, dry_run } => {
            let what = format!("role `{role}`");
            delete(context, &client, (keys::role(&role), &what), dry_run).await
        }
    }
}

fn goal(role: &RoleName, to: &str, how: &MoveArgs) -> MoveTo {
    MoveTo {
        role: role.to_string(),
        to: to.to_owned(),
        epoch: how.epoch,
        accept_loss: how.accept_loss,
    }
}

/// Who holds a role that exists.
async fn holder(client: &Client, role: &RoleName) -> Result<Option<String>, Diagnostic> {
    let role = one(client, role).await?;
    Ok(grant_of(&role)?.holder.map(String::from))
}

pub(crate) async fn one(client: &Client, role: &RoleName) -> Result<RoleState, Diagnostic> {
    let roles = client.roles(role.as_str()).await?;
    let none = || Diagnostic::refused(format!("there is no role `{role}`"));
    roles.into_iter().next().ok_or_else(none)
}

pub(crate) fn grant_of(role: &RoleState) -> Result<Grant, Diagnostic> {
    serde_json::from_str(&role.grant).map_err(|error| odd("grant", error))
}

pub(crate) fn spec_of(role: &RoleState) -> Result<Spec, Diagnostic> {
    serde_json::from_str(&role.spec).map_err(|error| odd("role", error))
}

fn odd(what: &str, error: serde_json::Error) -> Diagnostic {
    Diagnostic::refused(format!("the answer's {what} is not what it should be"))
        .because(error)
        .hint("the group may be of a later version than this cfgctl")
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn create(context: &Context, client: &Client, args: RoleArgs) -> Outcome {
    let key = keys::role(&args.role);
    let before = read::<Spec>(client, &key).await?;
    let mut spec = before
        .as_ref()
        .map_or_else(|| Spec::of(Kind::Host), |stored| stored.object.clone());
    if let Some(kind) = args.kind {
        spec.kind = match kind {
            KindArg::Host => Kind::Host,
            KindArg::Colo => Kind::Colo,
        };
    }
    if let Some(failover) = args.failover {
        spec.failover = match failover {
            FailoverArg::Auto => Failover::Auto,
            FailoverArg::Manual => Failover::Manual,
        };
    }
    if let Some(data) = args.data {
        spec.data = match data {
            DataArg::None => Data::None,
            DataArg::Number => Data::Number,
            DataArg::Gtid => Data::Gtid,
            DataArg::Lsn => Data::Lsn,
        };
    }
    spec.term_ms = args.term.map_or(spec.term_ms, ms);
    spec.stop_ms = args.stop.map_or(spec.stop_ms, ms);
    spec.lock_delay_ms = args.lock_delay.map_or(spec.lock_delay_ms, ms);
    spec.rate_ppm = args.rate_ppm.unwrap_or(spec.rate_ppm);
    spec.candidates = args.candidates.unwrap_or(spec.candidates);
    spec.sync = args.sync.unwrap_or(spec.sync);
    spec.same_colo = args.same_colo.unwrap_or(spec.same_colo);
    spec.max_lag = args.max_lag.map_or(spec.max_lag, OrNone::into_option);
    spec.check = args.check.map_or(spec.check, OrNone::into_option);
    spec.follows = args.follows.map_or(spec.follows, OrNone::into_option);
    let before = before.as_ref().map(|stored| &stored.kv);
    write(context, client, (key, before), &spec, args.dry_run).await
}

async fn pause(
    context: &Context,
    client: &Client,
    role: &RoleName,
    (paused, dry_run): (bool, bool),
) -> Outcome {
    let key = keys::role(role);
    let stored = read::<Spec>(client, &key)
        .await?
        .ok_or_else(|| missing(role))?;
    let mut spec = stored.object;
    spec.paused = paused;
    write(context, client, (key, Some(&stored.kv)), &spec, dry_run).await
}

fn missing(role: &RoleName) -> Diagnostic {
    Diagnostic::refused(format!("there is no role `{role}`"))
        .hint("`cfgctl role list` prints those that there are")
}

/// Whether an epoch is the newest; the exit code says it too.
async fn check(context: &Context, client: &Client, role: &RoleName, epoch: i64) -> Outcome {
    let found = client.check_epoch(role.as_str(), epoch).await?;
    let holder = Some(&found.holder).filter(|holder| !holder.is_empty());
    context.print(
        || {
            let mut table = Table::new(["ROLE", "EPOCH", "HOLDER", "CURRENT"]);
            let current = if found.current { "yes" } else { "no" };
            table.row([
                role.to_string(),
                found.epoch.to_string(),
                holder.map_or("-", String::as_str).to_owned(),
                current.to_owned(),
            ]);
            table
        },
        || {
            json!({
                "role": role.as_str(),
                "epoch": found.epoch,
                "holder": holder,
                "current": found.current,
            })
        },
    )?;
    Ok(if found.current {
        Exit::Done
    } else {
        Exit::Refused
    })
}

/// Moves a role, and waits until who held it has stopped and the next one has begun; of a colo's,
/// also until what follows it is served there.
pub(crate) async fn go(context: &Context, client: &Client, to: &MoveTo, how: &MoveArgs) -> Outcome {
    if how.dry_run {
        let planned = client.plan(&Write::Move(to.clone())).await?;
        return print_plan(context, &planned);
    }
    let until = tokio::time::Instant::now() + how.wait;
    let moved = client.move_role(to).await?;
    if moved.closing {
        context
            .printer
            .note(&format!("waiting until `{}` has stopped", moved.holder));
    }
    let mut grant = Grant::default();
    let over = handed_over(client, to, &moved, &mut grant);
    let over = tokio::time::timeout_at(until, over).await;
    let kind = over.unwrap_or_else(|_| Err(not_over(to, &grant, how.wait)))?;
    let held = grant.holder.as_ref().map_or("", |holder| holder.as_str());
    let mut all = vec![(to.role.clone(), grant.clone())];
    let mut came = Ok(());
    if kind == Kind::Colo && held == to.to && !held.is_empty() {
        let from = moved.header.as_ref().map_or(0, |header| header.revision);
        let mut waits = Vec::new();
        let arrived = follow::arrived(context, client, (&to.role, held, from), &mut waits);
        match tokio::time::timeout_at(until, arrived).await {
            Ok(arrived) => all.extend(arrived?),
            Err(_) => came = Err(follow::not_arrived(&waits, held, how.wait)),
        }
    }
    print_moved(context, kind, &all)?;
    came?;
    // A lock that is taken from its holder goes to the next who waits for it.
    let lock_released = to.to.is_empty() && to.role.starts_with("locks/");
    if held != to.to && !lock_released {
        let to = &to.to;
        return Err(
            Diagnostic::refused(format!("the role went to `{held}`, not to `{to}`"))
                .hint("it went away, or somebody else moved the role meanwhile"),
        );
    }
    Ok(Exit::Done)
}

/// The role that was moved, and those that came along.
fn print_moved(context: &Context, kind: Kind, all: &[(String, Grant)]) -> Result<(), Diagnostic> {
    let holder = |grant: &Grant| grant.holder.clone().map(String::from);
    let object = |(name, grant): &(String, Grant)| {
        let held = holder(grant).unwrap_or_default();
        json!({ "role": name, "holder": held, "epoch": grant.epoch })
    };
    context.print(
        || {
            let mut table = Table::new(["ROLE", "HOLDER", "EPOCH"]);
            for (name, grant) in all {
                let held = holder(grant).unwrap_or_else(|| "-".to_owned());
                table.row([name.clone(), held, grant.epoch.to_string()]);
            }
            table
        },
        || {
            let mut first = all.first().map_or(Value::Null, object);
            if kind == Kind::Colo {
                first["followers"] = all.iter().skip(1).map(object).collect();
            }
            first
        },
    )
}

/// What is not done of a move.
fn not_over(to: &MoveTo, grant: &Grant, wait: Duration) -> Diagnostic {
    let wait = humantime::format_duration(wait);
    let (role, epoch) = (&to.role, grant.epoch);
    if epoch == 0 {
        return Diagnostic::refused(format!(
            "the group has not said within {wait} who holds role `{role}`"
        ))
        .hint(format!(
            "the move is done or under way: `cfgctl role show {role}`"
        ));
    }
    let holder = grant
        .holder
        .as_ref()
        .map_or("nobody", |holder| holder.as_str());
    if grant.closing() {
        return Diagnostic::refused(format!("`{holder}` has not stopped within {wait}")).hint(
            format!(
                "it is still asked to, and its lease is not renewed: `cfgctl role show {role}`"
            ),
        );
    }
    let hint = match &grant.left {
        Some(left) => format!(
            "the last holder stopped at {left}: it may lack the rest, see `cfgctl role show \
             {role}`; `cfgctl role switch {role} {holder} --accept-loss` gives that up"
        ),
        None => format!("its agent says why: `cfgctl role show {role}`, and its log"),
    };
    Diagnostic::refused(format!(
        "`{holder}` holds the role at epoch {epoch}, and has not begun within {wait}"
    ))
    .hint(hint)
}

/// Waits until the move is done: `grant` is then the role's, and before it the newest known. Says
/// who can hold it.
async fn handed_over(
    client: &Client,
    to: &MoveTo,
    moved: &Moved,
    grant: &mut Grant,
) -> Result<Kind, Diagnostic> {
    let key = format!("/cfgsvc/grants/{}", to.role);
    let from = moved.header.as_ref().map_or(0, |header| header.revision);
    // What comes after the move, and then what is so: nothing between the two is missed.
    let mut watch = client
        .watch(WatchOptions::new(key.into_bytes()).from_revision(from + 1))
        .await?;
    let mut kind = Kind::Lock;
    // A lock that nobody uses any more is forgotten.
    let roles = match client.roles(&to.role).await {
        Err(error) if error.refusal() == Some(Refusal::RoleNotFound) => Vec::new(),
        roles => roles?,
    };
    if let Some(role) = roles.first() {
        kind = spec_of(role)?.kind;
        *grant = grant_of(role)?;
    }
    loop {
        let held = grant.holder.as_ref().map(Name::as_str);
        // Of a colo, nobody need be there; and a lock has nothing to begin.
        let begins = kind == Kind::Host && held == Some(to.to.as_str());
        if !grant.closing() && (!begins || grant.serving > 0) {
            return Ok(kind);
        }
        let ended = || Diagnostic::refused("the watch of the role ended without a reason");
        for event in watch.next().await.ok_or_else(ended)??.events {
            *grant = match event.kind {
                EventKind::Delete => Grant::default(),
                EventKind::Put => {
                    serde_json::from_slice(&event.kv.value).map_err(|error| odd("grant", error))?
                }
            };
        }
    }
}

async fn list(context: &Context, client: &Client) -> Outcome {
    let roles = client.roles("").await?;
    let mut rows = Vec::new();
    for role in &roles {
        rows.push((role, spec_of(role)?, grant_of(role)?));
    }
    let table = || {
        let mut table = Table::new([
            "ROLE", "KIND", "HOLDER", "EPOCH", "SERVES", "THERE", "STATE",
        ]);
        for (role, spec, grant) in &rows {
            table.row([
                role.name.clone(),
                kind_name(spec.kind).to_owned(),
                grant
                    .holder
                    .as_ref()
                    .map_or("-".to_owned(), ToString::to_string),
                grant.epoch.to_string(),
                grant.serving.to_string(),
                role.attending.len().to_string(),
                state(spec, grant),
            ]);
        }
        table
    };
    context.print(table, || {
        let roles = rows
            .iter()
            .map(|(role, spec, grant)| json_role(role, spec, grant));
        json!({ "roles": roles.collect::<Vec<_>>() })
    })?;
    Ok(Exit::Done)
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Host => "host",
        Kind::Colo => "colo",
        Kind::Lock => "lock",
    }
}

fn state(spec: &Spec, grant: &Grant) -> String {
    let mut words = vec![
        match spec.failover {
            Failover::Auto => "auto",
            Failover::Manual => "manual",
        }
        .to_owned(),
    ];
    if spec.paused {
        words.push("paused".to_owned());
    }
    if let Some(next) = &grant.next {
        words.push(format!("goes to {next}"));
    }
    if spec.sync && grant.epoch != 0 {
        let synced: Vec<&str> = grant.synced.keys().map(Name::as_str).collect();
        words.push(match synced[..] {
            [] => "nobody in sync".to_owned(),
            _ => format!("in sync: {}", synced.join(" ")),
        });
    }
    if let (Some(reached), Some(_)) = (&grant.reached, spec.max_lag) {
        words.push(format!("was at {reached}"));
    }
    if grant.lost != 0 {
        words.push("holder lost".to_owned());
    }
    if let Some(followed) = &spec.follows {
        words.push(format!("follows {followed}"));
    }
    if grant.restored {
        words.push("restored: give it anew".to_owned());
    }
    if grant.vacate {
        words.push("is given up".to_owned());
    }
    words.join(", ")
}

fn json_role(role: &RoleState, spec: &Spec, grant: &Grant) -> Value {
    let attending = role.attending.iter().map(|there| {
        json!({
            "host": there.host,
            "colo": there.colo,
            "serving": there.serving,
            "position": there.position,
            "verdict": there.verdict.as_ref().map(verdict_json),
        })
    });
    json!({
        "name": role.name,
        "spec": spec,
        "grant": grant,
        "attending": attending.collect::<Vec<_>>(),
    })
}

async fn show(context: &Context, client: &Client, role: &RoleName, watch: bool) -> Outcome {
    // Before the first look, so that nothing between the two is missed.
    let mut changes = None;
    if watch {
        let reply = client
            .get(cfgsvc_client::Get::new("\0").count_only())
            .await?;
        let options = WatchOptions::prefix("/cfgsvc/").from_revision(reply.revision + 1);
        changes = Some(client.watch(options).await?);
    }
    let mut shown = None;
    loop {
        let now = one(client, role).await?;
        if shown.as_ref() != Some(&now) {
            print_role(context, &now)?;
        }
        shown = Some(now);
        let Some(changes) = &mut changes else {
            return Ok(Exit::Done);
        };
        loop {
            let next = changes.next().await;
            let next =
                next.ok_or_else(|| Diagnostic::refused("the watch ended without a reason"))?;
            if next?
                .events
                .iter()
                .any(|event| concerns(&event.kv.key, role))
            {
                break;
            }
        }
    }
}

/// Whether a key is about a role.
fn concerns(key: &[u8], role: &RoleName) -> bool {
    use cfgsvc_core::placement::keys::Place;
    match Place::of(key) {
        Some(Ok(Place::Role(name) | Place::Grant(name) | Place::Attending(name, _))) => {
            name == *role
        }
        Some(
            Ok(Place::Colo(_) | Place::Host(_) | Place::Failover | Place::Leader | Place::Dns(_))
            | Err(_),
        )
        | None => false,
    }
}

fn print_role(context: &Context, role: &RoleState) -> Result<(), Diagnostic> {
    let (spec, grant) = (spec_of(role)?, grant_of(role)?);
    let text = || {
        let mut table = Table::new(["ROLE", "HOLDER", "EPOCH", "TERM", "STATE"]);
        let holder = grant.holder.as_ref();
        table.row([
            role.name.clone(),
            holder.map_or("-".to_owned(), ToString::to_string),
            grant.epoch.to_string(),
            humantime::format_duration(Duration::from_millis(spec.term_ms)).to_string(),
            state(&spec, &grant),
        ]);
        let mut hosts = Table::new(["HOST", "COLO", "VERDICT", "POSITION", "REASON"]);
        for there in &role.attending {
            let verdict = there.verdict.clone().unwrap_or_default();
            hosts.row([
                there.host.clone(),
                there.colo.clone(),
                verdict_name(&verdict).to_owned(),
                there.position.clone(),
                verdict.reason,
            ]);
        }
        let hosts = if role.attending.is_empty() {
            String::new()
        } else {
            format!("\n{}", hosts.render())
        };
        table.render() + &hosts
    };
    context.print_text(text, || json_role(role, &spec, &grant))
}
