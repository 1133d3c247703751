//! DNS zones in a real group: master files in and out, whole or not at all, and serials that count.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{Cluster, etcdctl};
use serde_json::Value;

use crate::cli::{done, refused};

const ZONE: &str = "example.com";
const FILE: &str = "\
$ORIGIN example.com.
$TTL 300
@     SOA   ns1 hostmaster 2026112201 3600 600 604800 60
      NS    ns1
      NS    ns2.example.net.
ns1   A     192.0.2.1
www   A     192.0.2.10
      A     192.0.2.11
WWW2  CNAME www
";

struct World {
    cluster: Cluster,
    files: u32,
}

impl World {
    fn start() -> Result<Self> {
        let cluster = Cluster::start(1)?;
        Ok(Self { cluster, files: 0 })
    }

    fn at(&self) -> String {
        self.cluster.endpoints()
    }

    fn file(&mut self, text: &str) -> Result<PathBuf> {
        self.files += 1;
        let path = self
            .cluster
            .directory()
            .join(format!("{}.zone", self.files));
        fs::write(&path, text)?;
        Ok(path)
    }

    fn apply(&mut self, text: &str) -> Result<String> {
        let file = self.file(text)?;
        Ok(done(&self.at(), &["zone", "apply", name(&file)?]))
    }

    fn shown(&self) -> String {
        done(&self.at(), &["zone", "show", ZONE])
    }

    /// The serial, by `zone list`.
    fn serial(&self) -> Result<u64> {
        let zones: Value =
            serde_json::from_str(&done(&self.at(), &["-o", "json", "zone", "list"]))?;
        let zones = zones["zones"].as_array().context("zones")?;
        let zone = zones.iter().find(|zone| zone["zone"] == ZONE);
        zone.context("the zone")?["serial"]
            .as_u64()
            .context("a serial")
    }

    /// The changes of the zone, oldest first.
    fn history(&self) -> Result<Vec<Value>> {
        let history = done(&self.at(), &["-o", "json", "zone", "history", ZONE]);
        let history: Value = serde_json::from_str(&history)?;
        Ok(history["changes"].as_array().context("changes")?.clone())
    }

    fn keys(&self, prefix: &str) -> Result<usize> {
        let found = done(
            &self.at(),
            &["-o", "json", "get", "--prefix", "--keys-only", prefix],
        );
        let found: Value = serde_json::from_str(&found)?;
        Ok(found["kvs"].as_array().context("keys")?.len())
    }
}

fn name(file: &Path) -> Result<&str> {
    file.to_str().context("a path in UTF-8")
}

#[test]
fn a_zone_is_applied_shown_changed_and_rolled_back() -> Result<()> {
    let mut world = World::start()?;
    let at = world.at();
    world.apply(FILE)?;
    ensure!(world.serial()? == 2_026_112_201, "the file's");
    let first = world.shown();
    ensure!(
        first.contains("2026112201") && first.contains("WWW2"),
        "{first}"
    );

    let again = world.apply(&first)?;
    ensure!(
        again.is_empty(),
        "what is shown applies to the same zone: {again}"
    );
    ensure!(world.serial()? == 2_026_112_201, "nothing was written");

    let text = FILE
        .replace("192.0.2.11", "192.0.2.12")
        .replace("WWW2", "www2");
    let file = world.file(&text)?;
    let plan = done(&at, &["zone", "apply", name(&file)?, "--dry-run"]);
    for line in ["192.0.2.11", "192.0.2.12", "is written www2"] {
        ensure!(plan.contains(line), "no {line} in {plan}");
    }
    ensure!(world.shown() == first, "--dry-run changes nothing");
    world.apply(&text)?;
    ensure!(world.serial()? == 2_026_112_202, "one commit, one serial");
    ensure!(world.shown().contains("192.0.2.12"), "{}", world.shown());

    let history = world.history()?;
    let revision = history.first().context("the first")?["revision"].to_string();
    let rollback = ["zone", "rollback", ZONE, "--to", &revision];
    done(&at, &rollback);
    let back = world.shown().replace("2026112203", "2026112201");
    ensure!(back == first, "{back}\n{first}");
    let serials: Vec<_> = world
        .history()?
        .iter()
        .map(|change| change["serial"].clone())
        .collect();
    ensure!(
        serials == [2_026_112_201_u64, 2_026_112_202, 2_026_112_203],
        "{serials:?}"
    );

    done(&at, &["zone", "delete", ZONE, "--yes"]);
    ensure!(world.keys("/cfgsvc/names/")? == 0, "no name is left");
    refused(
        &at,
        &["zone", "show", ZONE],
        &["there is no zone `example.com`", "zone list"],
    );
    world.apply(FILE)?;
    ensure!(
        world.serial()? > 2_026_112_203,
        "it does not go back: {}",
        world.serial()?
    );
    Ok(())
}

#[test]
fn what_is_no_zone_is_refused_by_line_and_nothing_is_half_written() -> Result<()> {
    let mut world = World::start()?;
    let at = world.at();
    world.apply(FILE)?;
    let before = world.shown();
    for (bad, lines, word) in [
        (
            "www CNAME ns1\nmail MX 10\nsub NS ns.sub\n",
            &[11][..],
            "nothing was written",
        ),
        ("www CNAME ns1\nsub NS ns.sub\n", &[10, 11], "CNAME"),
    ] {
        let file = world.file(&format!("{FILE}{bad}"))?;
        let file = name(&file)?;
        let mut words: Vec<String> = Vec::new();
        words.extend(lines.iter().map(|line| format!("{file}:{line}:")));
        words.extend([word, "hint"].map(str::to_owned));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        refused(&at, &["zone", "apply", file], &words);
    }
    let nowhere = world.file("@ 60 SOA ns1 h 1 2 3 4 5\n@ 60 NS ns1.example.net.\n")?;
    let ran = crate::cli::cfgctl(&at, &["zone", "apply", name(&nowhere)?]);
    ensure!(
        ran.code == Some(2) && ran.stderr.contains("--zone NAME"),
        "{ran:?}"
    );

    let node = "/cfgsvc/names/example.com/9/www";
    let put = etcdctl(
        &at,
        &["put", node, r#"{"sets":{"A":{"ttl":1,"data":["no"]}}}"#],
    )?;
    ensure!(
        put.code != Some(0) && put.stderr.contains("invalid object"),
        "{put:?}"
    );
    let put = etcdctl(
        &at,
        &["put", "/cfgsvc/zones/example.com", r#"{"generation":9}"#],
    )?;
    ensure!(
        put.code != Some(0) && put.stderr.contains("invalid object"),
        "{put:?}"
    );
    ensure!(world.shown() == before, "nothing has changed");
    Ok(())
}

#[test]
fn a_zone_larger_than_a_transaction_comes_into_force_in_one_commit() -> Result<()> {
    let mut world = World::start()?;
    let mut text = FILE.to_owned();
    for number in 0..1_500 {
        writeln!(text, "host{number} A 198.51.100.{}", number % 250)?;
    }
    world.apply(&text)?;
    ensure!(world.keys("/cfgsvc/names/")? == 1_504, "all names");
    let serial = world.serial()?;
    // Each name differs, and one is gone.
    let text = text
        .replace("198.51.100.", "203.0.113.")
        .replace("host7 ", "other7 ");
    world.apply(&text)?;
    ensure!(
        world.serial()? == serial + 1,
        "{} after {serial}",
        world.serial()?
    );
    ensure!(
        world.history()?.len() == 2,
        "two commits: {:?}",
        world.history()?
    );
    ensure!(
        world.keys("/cfgsvc/names/")? == 1_504,
        "those before are gone"
    );
    let shown = world.shown();
    ensure!(
        shown.contains("other7") && !shown.contains("198.51.100"),
        "{shown}"
    );

    // A name more is a small change again, in the same generation.
    text.lines().last().context("a line")?;
    world.apply(&format!("{text}more A 192.0.2.77\n"))?;
    ensure!(world.serial()? == serial + 2, "{}", world.serial()?);
    ensure!(world.keys("/cfgsvc/names/")? == 1_505, "one more");
    Ok(())
}

#[test]
fn names_follow_a_role_by_the_commit_that_moves_it() -> Result<()> {
    let mut world = World::start()?;
    let at = world.at();
    world.apply(&FILE.replace(
        "www   A     192.0.2.10\n      A     192.0.2.11\nWWW2  CNAME www\n",
        "",
    ))?;
    for (colo, address) in [("akl", "198.51.100.1"), ("wlg", "203.0.113.1")] {
        done(&at, &["colo", "add", colo, "--address", address]);
    }
    refused(
        &at,
        &["zone", "follow", "www", "A", "web", "--zone", ZONE],
        &["role 'web' does not"],
    );
    done(
        &at,
        &[
            "role",
            "create",
            "web",
            "--kind",
            "colo",
            "--candidates",
            "akl,wlg",
        ],
    );
    done(
        &at,
        &[
            "zone", "follow", "www", "a", "web", "--zone", ZONE, "--ttl", "3",
        ],
    );
    // The longest zone that there is holds it.
    done(&at, &["zone", "follow", "api.example.com.", "A", "web"]);
    let shown = world.shown();
    ensure!(shown.contains("; www 3 A follows role web\n"), "{shown}");
    ensure!(shown.contains("; api 5 A follows role web\n"), "{shown}");
    let command = "; cfgctl zone follow www A web --zone example.com --ttl 3\n";
    ensure!(shown.contains(command), "{shown}");
    ensure!(
        world.apply(&shown)?.is_empty(),
        "it applies to the same zone"
    );
    refused(
        &at,
        &["zone", "follow", "www", "A", "web"],
        &["www. is in no zone", "give the whole name, or --zone ZONE"],
    );
    let serial = world.serial()?;
    let revision = |world: &World| -> Result<i64> {
        let got = done(
            &world.at(),
            &["-o", "json", "get", "--prefix", "/cfgsvc/moved/"],
        );
        let got: Value = serde_json::from_str(&got)?;
        got["kvs"][0]["mod_revision"].as_i64().context("a revision")
    };
    done(&at, &["colo", "activate", "wlg", "--role", "web"]);
    ensure!(world.serial()? == serial + 1, "{}", world.serial()?);
    let grant = done(&at, &["-o", "json", "get", "/cfgsvc/grants/web"]);
    let grant: Value = serde_json::from_str(&grant)?;
    let (granted, counted) = (&grant["kvs"][0]["mod_revision"], revision(&world)?);
    ensure!(
        *granted == counted,
        "in one commit: {granted} and {counted}"
    );
    let history = world.history()?;
    let last = history.last().context("a change")?;
    ensure!(
        last["revision"] == *granted && last["serial"] == serial + 1,
        "the failover is in the zone's history: {history:?}"
    );

    let text = format!("{}www A 192.0.2.9\n", world.shown());
    let file = world.file(&text)?;
    let words = ["A follows role 'web'", "unfollow"];
    refused(&at, &["zone", "apply", name(&file)?], &words);
    refused(&at, &["role", "delete", "web"], &["is followed by"]);
    done(&at, &["zone", "unfollow", "www", "A", "--zone", ZONE]);
    world.apply(&text)?;
    ensure!(
        world.shown().contains("; api 5 A follows role web\n"),
        "the other still does"
    );
    let ran = crate::cli::cfgctl(&at, &["zone", "delete", ZONE, "--dry-run"]);
    for words in ["this deletes zone example.com: ", "nothing was written"] {
        ensure!(ran.code == Some(0) && ran.stderr.contains(words), "{ran:?}");
    }
    ensure!(world.keys("/cfgsvc/follows/")? == 1, "nothing was deleted");
    done(&at, &["zone", "delete", ZONE, "--yes"]);
    done(&at, &["role", "delete", "web"]);
    Ok(())
}
