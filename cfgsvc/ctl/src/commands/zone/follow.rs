//! `cfgctl zone follow` and `unfollow`.

use crate::Outcome;
use crate::args::{Followed, ZoneFollowArgs};
use crate::context::Context;
use crate::diagnostics::Diagnostic;
use crate::placed::{delete, read, read_all, write};
use cfgdns_zone::Name;
use cfgsvc_client::Client;
use cfgsvc_core::zones::{Follow, FollowType, Settings, ZoneName, keys};

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

/// The command that has a name follow as it does.
pub(crate) fn command(
    zone: &ZoneName,
    name: &str,
    (rtype, follow): (FollowType, &Follow),
) -> String {
    let Follow {
        role,
        ttl,
        names,
        port,
        weights,
    } = follow;
    let mut words: Vec<String> = ["cfgctl", "zone", "follow"].map(str::to_owned).into();
    words.extend([quoted(name), rtype.to_string(), role.to_string()]);
    words.extend(["--zone".to_owned(), quoted(&zone.to_string())]);
    words.extend(["--ttl".to_owned(), ttl.to_string()]);
    if let Some(names) = names {
        words.extend(["--names".to_owned(), quoted(names)]);
    }
    if let Some(port) = port {
        words.extend(["--port".to_owned(), port.to_string()]);
    }
    for (address, weight) in weights {
        words.extend(["--weight".to_owned(), format!("{address}={weight}")]);
    }
    words.join(" ")
}

/// A word for a shell. Names have no control characters as text.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
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
        Diagnostic::refused(format!("{name} is in no zone")).hint(
            "give the whole name, or --zone ZONE; `cfgctl zone list` prints those that there are",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_name_follows_is_shown_as_the_command_that_makes_it() {
        let follow = |text: &str| serde_json::from_str::<Follow>(text).expect("a follow");
        let zone: ZoneName = "example.com".parse().expect("a zone");
        let shown = |name, rtype, text| command(&zone, name, (rtype, &follow(text)));
        assert_eq!(
            shown(
                "@",
                FollowType::A,
                r#"{"role":"web","weights":{"192.0.2.1":3,"192.0.2.2":0}}"#
            ),
            "cfgctl zone follow @ A web --zone example.com --ttl 5 --weight 192.0.2.1=3 \
             --weight 192.0.2.2=0"
        );
        assert_eq!(
            shown(
                "_a._tcp",
                FollowType::Srv,
                r#"{"role":"db/orders","ttl":2,"names":"hosts","port":3306}"#
            ),
            "cfgctl zone follow _a._tcp SRV db/orders --zone example.com --ttl 2 --names hosts \
             --port 3306"
        );
        assert_eq!(
            shown("*.it's", FollowType::A, r#"{"role":"web"}"#),
            r"cfgctl zone follow '*.it'\''s' A web --zone example.com --ttl 5"
        );
    }
}
