//! `cfgctl zone key`: the keys that a zone is signed with.
//!
//! Private keys never go to the group. Each change of keys is also a new moment of signing, so that
//! whatever is in the zone from then on is signed alike.

use crate::Outcome;
use crate::args::{ZoneKeyArgs, ZoneKeyCommand};
use crate::confirm::consent;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::placed::{Stored, delete, read, write};
use crate::render::{Table, time};
use cfgdns_sign::{
    Algorithm, Dnskey, PrivateKey, PublicKey, SECRET_OCTETS, file_stem, read_public, write_private,
    write_public,
};
use cfgdns_zone::Rtype;
use cfgsvc_client::Client;
use cfgsvc_core::zones::{KeyRole, SigningKey, SigningObject, ZoneName, keys};
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Draws of a secret: of P-256 one in 2^32 is none.
const DRAWS: usize = 8;

pub(crate) async fn run(context: &Context, command: ZoneKeyCommand) -> Outcome {
    match command {
        ZoneKeyCommand::Generate {
            zone,
            dir,
            algorithm,
            role,
        } => generate(context, &zone, &dir, (algorithm.into(), role.into())),
        ZoneKeyCommand::Add {
            zone,
            file,
            role,
            standby,
            dry_run,
        } => {
            let role = role.map(KeyRole::from);
            add(context, &zone, (&file, role, standby), dry_run).await
        }
        ZoneKeyCommand::List { zone } => list(context, &zone).await,
        ZoneKeyCommand::Use(args) => set(context, args, true).await,
        ZoneKeyCommand::Retire(args) => set(context, args, false).await,
        ZoneKeyCommand::Remove { key, yes } => remove(context, key, yes).await,
        ZoneKeyCommand::Sign {
            zone,
            valid,
            dry_run,
        } => sign(context, &zone, valid, dry_run).await,
    }
}

fn generate(
    context: &Context,
    zone: &ZoneName,
    dir: &Path,
    (algorithm, role): (Algorithm, KeyRole),
) -> Outcome {
    let draw = || PrivateKey::from_secret(algorithm, &rand::random::<[u8; SECRET_OCTETS]>()).ok();
    let key = (0..DRAWS).find_map(|_| draw());
    let key = key.ok_or_else(|| Diagnostic::refused("no secret was drawn; try again"))?;
    let dnskey = key.dnskey(role != KeyRole::Zsk);
    let stem = file_stem(zone.name(), &dnskey);
    let private = dir.join(format!("{stem}.private"));
    let public = dir.join(format!("{stem}.key"));
    create(&private, 0o600, &write_private(&key))?;
    let record = PublicKey {
        zone: zone.name().clone(),
        dnskey: dnskey.clone(),
    };
    create(&public, 0o644, &write_public(&record))?;
    let tag = dnskey.key_tag();
    context.print(
        || {
            let mut table = Table::new(["TAG", "FILE"]);
            table.row([tag.to_string(), private.display().to_string()]);
            table.row([tag.to_string(), public.display().to_string()]);
            table
        },
        || json!({ "tag": tag, "private": private, "public": public }),
    )?;
    let file = public.display();
    context.printer.note(&format!(
        "next: the private key to each name server, then: cfgctl zone key add {zone} {file}"
    ));
    Ok(Exit::Done)
}

/// Makes a file that is not there yet.
fn create(path: &Path, mode: u32, text: &str) -> Result<(), Diagnostic> {
    let failed = |error: std::io::Error| {
        Diagnostic::refused(format!("cannot make {}", path.display())).because(error)
    };
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(failed)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed)
}

async fn add(
    context: &Context,
    zone: &ZoneName,
    (file, role, standby): (&Path, Option<KeyRole>, bool),
    dry_run: bool,
) -> Outcome {
    let failed = || Diagnostic::refused(format!("{}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| failed().because(error))?;
    let public = read_public(&text).map_err(|error| failed().because(error))?;
    if public.zone != *zone.name() {
        return Err(Diagnostic::refused(format!(
            "{} is a key of {}, not of {zone}",
            file.display(),
            public.zone
        )));
    }
    let dnskey = public.dnskey;
    let default = if dnskey.is_secure_entry() {
        KeyRole::Csk
    } else {
        KeyRole::Zsk
    };
    let client = context.client()?;
    let before = read::<SigningObject>(&client, &keys::signing(zone)).await?;
    let mut object = match &before {
        Some(stored) => stored.object.clone(),
        None => SigningObject::new(now_s()),
    };
    object.keys.push(SigningKey {
        dnskey: dnskey.to_data().text(Rtype::DNSKEY, None),
        role: role.unwrap_or(default),
        signs: !standby,
    });
    put(context, &client, (zone, before), object, dry_run).await
}

async fn set(context: &Context, args: ZoneKeyArgs, signs: bool) -> Outcome {
    let client = context.client()?;
    let zone = &args.zone;
    let before = signed(&client, zone).await?;
    let mut object = before.object.clone();
    let place = find(&object, &args)?;
    object.keys[place].signs = signs;
    put(context, &client, (zone, Some(before)), object, args.dry_run).await
}

async fn remove(context: &Context, args: ZoneKeyArgs, yes: bool) -> Outcome {
    let client = context.client()?;
    let zone = &args.zone;
    let before = signed(&client, zone).await?;
    let mut object = before.object.clone();
    let place = find(&object, &args)?;
    object.keys.remove(place);
    if !object.keys.is_empty() {
        return put(context, &client, (zone, Some(before)), object, args.dry_run).await;
    }
    let what = format!(
        "without this key zone {zone} is not signed: while its parent has a DS record, validating \
         resolvers answer nothing of it"
    );
    let _consent = if args.dry_run {
        None
    } else {
        Some(consent(&context.printer, &what, yes)?)
    };
    let what = format!("zone `{zone}` that is signed");
    delete(context, &client, (keys::signing(zone), &what), args.dry_run).await
}

async fn sign(
    context: &Context,
    zone: &ZoneName,
    valid: Option<Duration>,
    dry_run: bool,
) -> Outcome {
    let client = context.client()?;
    let before = signed(&client, zone).await?;
    let mut object = before.object.clone();
    if let Some(valid) = valid {
        object.valid_s = valid.as_secs();
    }
    put(context, &client, (zone, Some(before)), object, dry_run).await
}

/// Writes how a zone is signed from now on.
async fn put(
    context: &Context,
    client: &Client,
    (zone, before): (&ZoneName, Option<Stored<SigningObject>>),
    mut object: SigningObject,
    dry_run: bool,
) -> Outcome {
    // Later than before, also where this machine's clock is behind.
    let last = before.as_ref().map_or(0, |stored| stored.object.at + 1);
    object.at = now_s().max(last);
    let refused = |why: String| Diagnostic::refused(format!("zone `{zone}`: {why}"));
    object.read().map_err(refused)?;
    let before = before.as_ref().map(|stored| &stored.kv);
    write(
        context,
        client,
        (keys::signing(zone), before),
        &object,
        dry_run,
    )
    .await
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

async fn signed(client: &Client, zone: &ZoneName) -> Result<Stored<SigningObject>, Diagnostic> {
    let stored = read(client, &keys::signing(zone)).await?;
    stored.ok_or_else(|| {
        Diagnostic::refused(format!("zone `{zone}` is not signed")).hint(format!(
            "`cfgctl zone key add {zone} FILE` puts its first key there"
        ))
    })
}

/// Where the key is among those of the zone.
fn find(object: &SigningObject, args: &ZoneKeyArgs) -> Result<usize, Diagnostic> {
    let is_it = |key: &SigningKey| key.read().is_ok_and(|key| key.key_tag() == args.tag);
    object.keys.iter().position(is_it).ok_or_else(|| {
        let (zone, tag) = (&args.zone, args.tag);
        Diagnostic::refused(format!("zone `{zone}` has no key with the tag {tag}")).hint(format!(
            "`cfgctl zone key list {zone}` prints those that it has"
        ))
    })
}

async fn list(context: &Context, zone: &ZoneName) -> Outcome {
    let client = context.client()?;
    let SigningObject {
        keys: all,
        at,
        valid_s,
    } = signed(&client, zone).await?.object;
    let wrong = |why: String| Diagnostic::refused(format!("zone `{zone}`: {why}"));
    let read = |key: SigningKey| Ok((key.read().map_err(wrong)?, key));
    let all: Vec<(Dnskey, SigningKey)> = all
        .into_iter()
        .map(read)
        .collect::<Result<_, Diagnostic>>()?;
    let ds = |key: &Dnskey| {
        let ds = key.is_secure_entry().then(|| key.ds(zone.name()));
        ds.map(|ds| ds.text(Rtype::DS, None))
    };
    let role = |key: &SigningKey| match key.role {
        KeyRole::Csk => "csk",
        KeyRole::Ksk => "ksk",
        KeyRole::Zsk => "zsk",
    };
    let table = || {
        let mut table = Table::new(["TAG", "ALGORITHM", "ROLE", "SIGNS", "DS"]);
        for (dnskey, key) in &all {
            table.row([
                dnskey.key_tag().to_string(),
                dnskey.algorithm().mnemonic().to_owned(),
                role(key).to_owned(),
                if key.signs { "yes" } else { "no" }.to_owned(),
                ds(dnskey).unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        table
    };
    context.print(table, || {
        let keys = all.iter().map(|(dnskey, key)| {
            json!({
                "tag": dnskey.key_tag(),
                "algorithm": dnskey.algorithm().number(),
                "role": role(key),
                "signs": key.signs,
                "dnskey": key.dnskey,
                "ds": ds(dnskey),
            })
        });
        json!({
            "zone": zone.to_string(),
            "signed_at": at,
            "good_until": at + valid_s,
            "keys": keys.collect::<Vec<_>>(),
        })
    })?;
    let told = |seconds: u64| time(i64::try_from(seconds * 1_000).unwrap_or(i64::MAX));
    context.printer.note(&format!(
        "signed at {}, good until {}",
        told(at),
        told(at + valid_s)
    ));
    Ok(Exit::Done)
}
