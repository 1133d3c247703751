//! What else may happen to the place of an output between the check and the end of the work.

use super::*;
use tempfile::TempDir;

/// A directory with places for outputs.
struct Room(TempDir);

impl Room {
    fn new() -> Self {
        Self(TempDir::new().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn names(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(name)).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// An output that somebody has put there.
    fn with(self, name: &str) -> Self {
        fs::create_dir(self.path(name)).expect("a directory");
        fs::write(self.path(name).join("old"), "old").expect("a file");
        self
    }

    fn check(&self, name: &str, overwrite: bool) -> Directory {
        Directory::check(&self.path(name), overwrite).expect("it may be there")
    }
}

const WHOLE: [&str; 2] = ["_MANIFEST", "_SUCCESS"];

fn read(path: &Path) -> Vec<u8> {
    fs::read(path.join(MANIFEST)).expect("a manifest")
}

/// One that has no flags, as network file systems.
fn has_no_flags(from: &Path, to: &Path, how: RenameFlags) -> Result<(), Errno> {
    if how.is_empty() {
        rename(from, to, how)
    } else {
        Err(Errno::INVAL)
    }
}

#[test]
fn second_of_two_jobs_has_no_place_and_keeps_its_output() {
    for is_there in [false, true] {
        let room = Room::new();
        if is_there {
            fs::create_dir(room.path("out")).expect("a directory");
        }
        let (mut first, mut second) = (room.check("out", false), room.check("out", false));
        first.publish(b"first").expect("it is free");
        drop(first);
        let error = second.publish(b"second").expect_err("it is taken");
        let kept = second.staging.path.clone();
        drop(second);
        assert_eq!(read(&room.path("out")), b"first");
        assert_eq!(read(&kept), b"second");
        let said = error.to_string();
        assert!(said.contains("File exists"), "{said}");
        assert!(
            said.contains(&format!("whole in {}:", kept.display())),
            "{said}"
        );
        assert_eq!(room.names("").len(), 2);
    }
}

#[test]
fn only_overwrite_replaces_what_has_come_meanwhile() {
    let room = Room::new();
    let mut late = room.check("out", true);
    room.check("out", false).publish(b"first").expect("free");
    late.publish(b"late").expect("it replaces");
    drop(late);
    assert_eq!(read(&room.path("out")), b"late");
    assert_eq!(room.names(""), ["out"]);
}

#[test]
fn output_that_somebody_removes_meanwhile_needs_no_exchange() {
    let room = Room::new().with("out");
    let mut new = room.check("out", true);
    fs::remove_dir_all(room.path("out")).expect("it was there");
    new.publish(b"new").expect("it is free");
    drop(new);
    assert_eq!(room.names("out"), WHOLE);
    assert_eq!(room.names(""), ["out"]);
}

/// The one that removes it may be quicker than the exchange.
#[test]
fn output_that_somebody_removes_at_the_last_moment_needs_no_exchange() {
    let room = Room::new().with("out");
    let removes_first = |from: &Path, to: &Path, how: RenameFlags| {
        if how == RenameFlags::EXCHANGE && to.join("old").exists() {
            std::fs::remove_dir_all(to).expect("it was there");
        }
        rename(from, to, how)
    };
    let new = Directory::check_by(removes_first, &room.path("out"), true);
    let mut new = new.expect("it may be replaced");
    new.publish(b"new").expect("it is free");
    drop(new);
    assert_eq!(room.names("out"), WHOLE);
    assert_eq!(room.names(""), ["out"]);
}

#[test]
fn file_system_that_cannot_exchange_is_refused_before_the_work() {
    let room = Room::new().with("out");
    let check = |name, overwrite| Directory::check_by(has_no_flags, &room.path(name), overwrite);
    let error = check("out", true).err().expect("it cannot be exchanged");
    let said = error.to_string();
    assert!(said.contains("out: this file system cannot"), "{said}");
    assert_eq!(room.names(""), ["out"]);
    // What needs no exchange needs no flags.
    fs::create_dir(room.path("empty")).expect("a directory");
    for (name, overwrite) in [("empty", false), ("new", false), ("newer", true)] {
        let mut new = check(name, overwrite).expect("it needs no exchange");
        new.publish(b"new").expect("it is free");
        drop(new);
        assert_eq!(room.names(name), WHOLE);
    }
    let mut late = check("late", true).expect("it is free");
    let late_place = room.path("late");
    fs::create_dir(&late_place).expect("a directory");
    fs::write(late_place.join("other"), "other").expect("a file");
    let error = late.publish(b"late").expect_err("it cannot be exchanged");
    assert!(error.to_string().contains("it is whole in"), "{error}");
    assert_eq!(room.names("late"), ["other"]);
    assert_eq!(read(&late.staging.path), b"late");
}

#[test]
fn symbolic_link_stays_and_its_directory_is_the_place() {
    let room = Room::new().with("disk");
    let link = |to: &str, name: &str| {
        std::os::unix::fs::symlink(room.path(to), room.path(name)).expect("a link");
    };
    link("disk/out", "out");
    let error = Directory::check(&room.path("out"), false).err();
    let said = error.expect("it points to nothing").to_string();
    assert!(said.contains("out, a symbolic link: "), "{said}");
    fs::create_dir(room.path("disk/out")).expect("a directory");
    // Of a job on many machines, too.
    let place = crate::store::place(&room.path("out")).expect("it is a link");
    let there = fs::canonicalize(room.path("disk/out")).expect("it is there");
    assert_eq!(place, there);
    for (name, overwrite) in [("out/", false), ("out", true), ("out/", true)] {
        let mut new = room.check(name, overwrite);
        assert_eq!(new.staging.path.parent(), Some(&*room.path("disk")));
        new.publish(b"new").expect("it has a place");
        drop(new);
        assert_eq!(room.names("disk/out"), WHOLE);
        assert!(room.path("out").is_symlink());
        assert_eq!(room.names(""), ["disk", "out"]);
        assert_eq!(room.names("disk"), ["old", "out"]);
    }
}

#[test]
fn outputs_with_one_name_come_to_be_under_names_of_their_own() {
    let room = Room::new();
    let both = ["a", "b"].map(|name| {
        fs::create_dir(room.path(name)).expect("a directory");
        room.check(&format!("{name}/out"), false)
    });
    let [a, b] = &both;
    assert!(a.own_name().starts_with(".out."));
    assert_ne!(a.own_name(), b.own_name());
    // What a process has left that was killed is in nobody's way.
    std::mem::forget(room.check("a/out", false));
    drop(room.check("a/out", false));
}
