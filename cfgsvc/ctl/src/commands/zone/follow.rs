//! `cfgctl zone follow` and `unfollow`.

use crate::Outcome;
use crate::args::{Followed, ZoneFollowArgs};
use crate::context::Context;
use crate::diagnostics::Diagnostic;
use crate::placed::{delete, read, read_all, write};
use cfgdns_zone::Name;
use cfgsvc_client::Client;
use cfgsvc_core::zones::{Follow, Settings, ZoneName, keys};

pub(crate) async fn run(context: &Context, args: ZoneFollowArgs) -> Outcome {
    let client = context.client()?;
    let (zone, name) = place(&client, &args.what).await?;
    let follow = Follow {
        role: args.role,
        ttl: args.ttl,
        names: args.names,
        port: args.port,
        weights: args.weights.into_iter().collect(),
    };
    let key = keys::follow(&zone, &name, args.what.rtype);
    let before = read::<Follow>(&client, &key).await?;
    let before = before.as_ref().map(|stored| &stored.kv);
    write(context, &client, (key, before), &follow, args.dry_run).await
}

pub(crate) async fn end(context: &Context, what: Followed, dry_run: bool) -> Outcome {
    let client = context.client()?;
    let (zone, name) = place(&client, &what).await?;
    let key = keys::follow(&zone, &name, what.rtype);
    let what = format!("zone name `{name} {}` that follows a role", what.rtype);
    delete(context, &client, (key, &what), dry_run).await
}

/// The zone and the name that are meant.
async fn place(client: &Client, what: &Followed) -> Result<(ZoneName, Name), Diagnostic> {
    let text = what.name.as_bytes();
    // Without a zone that it is relative to, a name is absolute, whether it ends with a dot or not.
    let root = Name::root();
    let origin = what.zone.as_ref().map_or(&root, ZoneName::name);
    let name = Name::parse(text, Some(origin))
        .map_err(|error| Diagnostic::usage(format!("name `{}`", what.name)).because(error))?;
    if let Some(zone) = &what.zone {
        return Ok((zone.clone(), name));
    }
    let zones: Vec<(String, Settings)> = read_all(client, "/cfgsvc/zones/").await?;
    let zones = zones
        .iter()
        .filter_map(|(zone, _)| zone.parse::<ZoneName>().ok());
    let holds = zones.filter(|zone| name.is_at_or_below(zone.name()));
    let longest = holds.max_by_key(|zone| zone.name().label_count());
    longest.map(|zone| (zone, name.clone())).ok_or_else(|| {
        Diagnostic::refused(format!("{name} is in no zone"))
            .hint("`cfgctl zone list` prints the zones that there are")
    })
}
