//! `cfgctl zone key`: the keys that a zone is signed with.
//!
//! Private keys never go to the group. Each change of keys is also a new moment of signing, so that
//! whatever is in the zone from then on is signed alike.

use super::roll::{self, Step, Times, algorithm};
use super::stored::Stored as Zone;
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
use cfgsvc_client::{Client, Compare, Delete, Is, Keys, Op, Txn};
use cfgsvc_core::zones::{KeyRole, SigningKey, SigningObject, ZoneName, keys};
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

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
            files,
            role,
            standby,
            dry_run,
        } => {
            let role = role.map(KeyRole::from);
            add(context, &zone, (&files, role, standby), dry_run).await
        }
        ZoneKeyCommand::List { zone } => list(context, &zone).await,
        ZoneKeyCommand::Use(args) => set(context, args, true).await,
        ZoneKeyCommand::Retire(args) => set(context, args, false).await,
        ZoneKeyCommand::Remove {
            zone,
            tags,
            yes,
            dry_run,
        } => remove(context, (&zone, &tags), (yes, dry_run)).await,
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
    let draw = || {
        let mut secret = Zeroizing::new([0; SECRET_OCTETS]);
        rand::fill(&mut secret[..]);
        PrivateKey::from_secret(algorithm, &secret).ok()
    };
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

/// The public key in a file.
fn public_key(zone: &ZoneName, file: &Path) -> Result<Dnskey, Diagnostic> {
    let failed = || Diagnostic::refused(format!("{}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| failed().because(error))?;
    let public = read_public(&text).map_err(|error| failed().because(error))?;
    if public.zone == *zone.name() {
        return Ok(public.dnskey);
    }
    Err(Diagnostic::refused(format!(
        "{} is a key of {}, not of {zone}",
        file.display(),
        public.zone
    )))
}

/// Puts keys into a zone, in one commit: a pair of a key signing key and a zone signing key signs
/// only together.
async fn add(
    context: &Context,
    zone: &ZoneName,
    (files, role, standby): (&[PathBuf], Option<KeyRole>, bool),
    dry_run: bool,
) -> Outcome {
    let read_key = |file: &PathBuf| public_key(zone, file);
    let new = files.iter().map(read_key).collect::<Result<Vec<_>, _>>()?;
    let client = context.client()?;
    let before = read::<SigningObject>(&client, &keys::signing(zone)).await?;
    let mut object = match &before {
        Some(stored) => stored.object.clone(),
        None => SigningObject::new(now_s()),
    };
    let there = object.keys.iter().filter_map(|key| key.read().ok());
    let there: Vec<Dnskey> = there.chain(new.iter().cloned()).collect();
    let since = Some(now_s());
    for dnskey in &new {
        let is_pair = there
            .iter()
            .any(|other| other.algorithm() == dnskey.algorithm() && !other.is_secure_entry());
        let role = match (dnskey.is_secure_entry(), role) {
            // It signs the zone and nothing else, whatever others in the same commit do.
            (false, Some(_)) if new.len() > 1 => KeyRole::Zsk,
            (_, Some(role)) => role,
            (true, None) if is_pair => KeyRole::Ksk,
            (true, None) => KeyRole::Csk,
            (false, None) => KeyRole::Zsk,
        };
        object.keys.push(SigningKey {
            dnskey: dnskey.to_data().text(Rtype::DNSKEY, None),
            role,
            signs: !standby,
            since,
        });
    }
    let times = times(&client, zone).await?;
    warn(context, &object, times);
    put(context, &client, (zone, before), object, dry_run).await
}

/// How long lives on what the zone says.
async fn times(client: &Client, zone: &ZoneName) -> Result<Option<Times>, Diagnostic> {
    Ok(Times::of(&Zone::read(client, zone, 0).await?))
}

/// Says when signatures are good for less time than the zone asks for.
fn warn(context: &Context, object: &SigningObject, times: Option<Times>) {
    if let Some(why) = times.and_then(|times| times.too_short(object.valid_s)) {
        context.printer.note(&format!("warning: {why}"));
    }
}

/// Consent to a step before its time; none is needed afterwards.
async fn in_time(
    context: &Context,
    (client, zone): (&Client, &ZoneName),
    (object, step, places): (&SigningObject, Step, &[usize]),
    (yes, dry_run): (bool, bool),
) -> Result<(), Diagnostic> {
    let Some(times) = times(client, zone).await? else {
        return Ok(());
    };
    let Some(wait) = roll::wait(&object.keys, (step, places), &times, now_s()) else {
        return Ok(());
    };
    let what = format!(
        "too early, wait until {}: {}; validating resolvers may not believe the zone until then",
        told(wait.until),
        wait.why
    );
    if dry_run {
        context.printer.note(&what);
        return Ok(());
    }
    consent(&context.printer, &what, yes).map(drop)
}

async fn set(context: &Context, args: ZoneKeyArgs, signs: bool) -> Outcome {
    let client = context.client()?;
    let zone = &args.zone;
    let before = signed(&client, zone).await?;
    let mut object = before.object.clone();
    let place = find(zone, &object, args.tag)?;
    if object.keys[place].signs == signs {
        let what = if signs { "signs" } else { "signs nothing" };
        let tag = args.tag;
        let note = format!("key {tag} {what} already, nothing was written");
        context.printer.note(&note);
        return Ok(Exit::Done);
    }
    let step = if signs { Step::Use } else { Step::Retire };
    let consents = (args.yes, args.dry_run);
    in_time(
        context,
        (&client, zone),
        (&object, step, &[place]),
        consents,
    )
    .await?;
    object.keys[place].signs = signs;
    object.keys[place].since = Some(now_s());
    put(context, &client, (zone, Some(before)), object, args.dry_run).await
}

async fn remove(
    context: &Context,
    (zone, tags): (&ZoneName, &[u16]),
    (yes, dry_run): (bool, bool),
) -> Outcome {
    let client = context.client()?;
    let before = signed(&client, zone).await?;
    let mut object = before.object.clone();
    let each = tags.iter().map(|tag| find(zone, &object, *tag));
    let places = each.collect::<Result<Vec<_>, _>>()?;
    let (go, stay): (Vec<_>, Vec<_>) =
        (0..object.keys.len()).partition(|place| places.contains(place));
    if stay.is_empty() {
        return unsign(context, &client, (zone, &before), (yes, dry_run)).await;
    }
    for place in &go {
        let key = &object.keys[*place];
        let same = |other: &&usize| algorithm(&object.keys[**other]) == algorithm(key);
        if key.signs && stay.iter().any(|other| same(&other)) {
            let tag = key.read().map_or(0, |key| key.key_tag());
            let what = format!("key {tag} of zone `{zone}` signs");
            return Err(Diagnostic::refused(what).hint(format!(
                "`cfgctl zone key retire {zone} {tag}` leaves it in the zone for those who have \
                 its signatures; it is removed when these are gone (RFC 6781 4.1)"
            )));
        }
    }
    let step = (&object, Step::Remove, &go[..]);
    in_time(context, (&client, zone), step, (yes, dry_run)).await?;
    object.keys = stay
        .iter()
        .map(|place| object.keys[*place].clone())
        .collect();
    put(context, &client, (zone, Some(before)), object, dry_run).await
}

/// Takes the last keys out of a zone.
async fn unsign(
    context: &Context,
    client: &Client,
    (zone, before): (&ZoneName, &Stored<SigningObject>),
    (yes, dry_run): (bool, bool),
) -> Outcome {
    let key = keys::signing(zone);
    if dry_run {
        let what = format!("zone `{zone}` that is signed");
        return delete(context, client, (key, &what), true).await;
    }
    let what = format!(
        "without a key zone {zone} is not signed: while its parent has a DS record, validating \
         resolvers answer nothing of it"
    );
    let _consent = consent(&context.printer, &what, yes)?;
    // What was asked about, and nothing that somebody has done since.
    let asked = Compare::mod_revision(Keys::One(key.clone()), Is::Equal, before.kv.mod_revision);
    let txn = Txn::new()
        .when(asked)
        .then(Op::Delete(Delete::new(Keys::One(key))));
    let reply = client.txn(txn).await?;
    if !reply.succeeded {
        let what = format!("the keys of zone `{zone}` were changed meanwhile: nothing was done");
        return Err(Diagnostic::refused(what).hint(format!(
            "`cfgctl zone key list {zone}` prints what they are now"
        )));
    }
    let note = format!(
        "zone {zone} is not signed since revision {}",
        reply.revision
    );
    context.printer.note(&note);
    Ok(Exit::Done)
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
    warn(context, &object, times(&client, zone).await?);
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
    // Whatever it was before: a clock far ahead may have written it. The group refuses this one
    // where it is ahead of the group's.
    object.at = now_s();
    let refused = |why: String| Diagnostic::refused(format!("zone `{zone}`: {why}"));
    object.check(None).map_err(refused)?;
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

/// A moment, s since 1970, for people.
fn told(seconds: u64) -> String {
    let ms = i64::try_from(seconds.saturating_mul(1_000));
    time(ms.unwrap_or(i64::MAX))
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
fn find(zone: &ZoneName, object: &SigningObject, tag: u16) -> Result<usize, Diagnostic> {
    let is_it = |key: &SigningKey| key.read().is_ok_and(|key| key.key_tag() == tag);
    object.keys.iter().position(is_it).ok_or_else(|| {
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
        let mut table = Table::new(["TAG", "ALGORITHM", "ROLE", "SIGNS", "SINCE", "DS"]);
        for (dnskey, key) in &all {
            table.row([
                dnskey.key_tag().to_string(),
                dnskey.algorithm().mnemonic().to_owned(),
                role(key).to_owned(),
                if key.signs { "yes" } else { "no" }.to_owned(),
                key.since.map_or_else(|| "-".to_owned(), told),
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
                "since": key.since,
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
    context.printer.note(&format!(
        "signed at {}, good until {}",
        told(at),
        told(at + valid_s)
    ));
    Ok(Exit::Done)
}
