//! Plans: every byte of the input is in one split, limits are refused with a way out.

use expect_test::expect;
use proptest::prelude::*;

use super::*;

fn file(uri: &str, length: u64, splittable: bool) -> InputFile {
    InputFile {
        uri: uri.to_owned(),
        length,
        splittable,
        hosts: Vec::new(),
        version: String::new(),
    }
}

fn shape(split_bytes: u64, reduces: u32) -> Shape {
    Shape {
        split_bytes,
        reduces,
    }
}

#[test]
fn what_is_printed_names_tasks_and_what_is_wrong() {
    let files = [
        file("file:///logs/a.txt", 200 << 20, true),
        file("file:///logs/b.gz", 100 << 20, false),
        file("file:///logs/empty", 0, true),
    ];
    let made = plan(&files, shape(SPLIT_BYTES, 100)).expect("it fits");
    expect![[r#"
        input    300 MiB in 2 files, 1 empty ones left out
        map      5 tasks, splits of up to 64 MiB
        reduce   100 tasks, as many output files
        warning  each map has about 614.3 KiB for each reduce; below 1 MiB fetching costs more than sending: use larger splits or fewer reduces
        warning  1 files cannot be split and are longer than a split, up to 100 MiB: one worker reads each alone
    "#]]
    .assert_eq(&made.to_string());
    let nothing = plan(&[], shape(split_bytes_for(0), 0)).expect("it fits");
    expect![[r#"
        input    0 B in 0 files, 0 empty ones left out
        map      0 tasks, splits of up to 8 MiB
        reduce   none: the maps write the output
        warning  the input is empty
    "#]]
    .assert_eq(&nothing.to_string());
}

#[test]
fn too_many_tasks_are_refused_with_a_split_size_that_will_do() {
    let files = [file("s3://b/huge", 100 << 40, true)];
    let refused = plan(&files, shape(64 << 20, 5_000)).expect_err("too many");
    expect!["1638400 map and 5000 reduce tasks are more than the limit of 250000; use splits of 428 MiB or more"]
        .assert_eq(&refused.to_string());
    let made = plan(&files, shape(428 << 20, 5_000)).expect("that will do");
    assert_eq!(made.maps(), 244_995);
    assert!(plan(&files, shape(427 << 20, 5_000)).is_err());
    let refused = plan(&[], shape(1, 250_001)).expect_err("too many");
    assert!(
        refused
            .to_string()
            .ends_with("join small files, or use fewer reduces")
    );
}

#[test]
fn a_split_of_nothing_and_a_file_without_address_are_refused() {
    assert_eq!(plan(&[], shape(0, 1)), Err(PlanError::NoSplitBytes));
    let nameless = [file("", 1, true)];
    assert_eq!(
        plan(&nameless, shape(1, 1)),
        Err(PlanError::Address { bytes: 0 })
    );
    let long = [file("a", u64::MAX, false), file("b", 1, false)];
    assert_eq!(plan(&long, shape(1, 1)), Err(PlanError::TooLong));
}

#[test]
fn stored_splits_of_another_format_or_order_are_refused() {
    let files: Vec<_> = (0..20_000)
        .map(|n| file(&format!("f/{n:060}"), 10, true))
        .collect();
    // Also where a chunk ends within a split.
    for split_bytes in [4, 1 << 20] {
        let list = plan(&files, shape(split_bytes, 1)).expect("it fits").splits;
        assert_eq!(SplitList::from_chunks(&list.chunks()), Ok(list));
    }
    let list = plan(&files, shape(4, 1)).expect("it fits").splits;
    let mut chunks = list.chunks();
    assert!(chunks.len() > 2);
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk.len() <= crate::limits::VALUE_BYTES_MAX)
    );
    assert_eq!(SplitList::from_chunks(&chunks).as_ref(), Ok(&list));
    chunks.swap(0, 1);
    assert!(matches!(
        SplitList::from_chunks(&chunks),
        Err(SplitError::Gap { chunk: 0, .. })
    ));
    let later = vec![vec![0x08, 0x02]];
    assert_eq!(
        SplitList::from_chunks(&later),
        Err(SplitError::Format { found: 2 })
    );
}

fn files() -> impl Strategy<Value = Vec<InputFile>> {
    let length = prop_oneof![Just(0), 1..200_u64, 1_000..5_000_u64];
    prop::collection::vec((length, any::<bool>()), 0..20).prop_map(|files| {
        let made = files.into_iter().enumerate();
        let made = made.map(|(n, (length, splittable))| file(&format!("f{n}"), length, splittable));
        made.collect()
    })
}

#[test]
fn small_files_are_joined_and_large_ones_cut() {
    let joined = |files: &[InputFile], split_bytes| {
        let made = plan(files, shape(split_bytes, 1)).expect("it fits");
        let split = |index| {
            let split = made.splits.get(index).expect("there is one");
            let parts = split
                .parts()
                .map(|part| format!("{}@{}", part.uri, part.offset));
            parts.collect::<Vec<_>>().join(" ")
        };
        (0..made.maps()).map(split).collect::<Vec<_>>()
    };
    let files = [
        file("a", 3, true),
        file("b", 4, false),
        file("empty", 0, true),
        file("c", 3, true),
        file("long", 25, true),
        file("d", 1, true),
        file("packed", 25, false),
        file("e", 2, true),
        file("f", 2, true),
    ];
    let expected = [
        "a@0 b@0 c@0",
        "long@0",
        "long@10",
        "long@20",
        "d@0",
        "packed@0",
        "e@0 f@0",
    ];
    assert_eq!(joined(&files, 10), expected);
    // There is something to do for all workers.
    let names: Vec<_> = (0..64).map(|n| format!("{n}")).collect();
    let files: Vec<_> = names.iter().map(|name| file(name, 1 << 20, true)).collect();
    assert_eq!(joined(&files, 64 << 20).len(), 32);
    let files: Vec<_> = names.iter().map(|name| file(name, 1 << 10, true)).collect();
    assert_eq!(joined(&files, 64 << 20).len(), 1);
    let files: Vec<_> = (0..2_500).map(|n| file(&format!("{n}"), 1, true)).collect();
    assert_eq!(joined(&files, 64 << 20).len(), 3);
    // One task reads on one machine.
    let mut files = [file("a", 1, true), file("b", 1, true)];
    files[1].hosts = vec![HostName::new("h").expect("short")];
    assert_eq!(joined(&files, 10), ["a@0", "b@0"]);
}

#[test]
fn stored_splits_that_cannot_be_joined_are_refused() {
    let row = |length, joined| SplitRun {
        uri: "a".to_owned(),
        offset: 0,
        length,
        split_bytes: 10,
        hosts: Vec::new(),
        version: String::new(),
        joined,
    };
    let refused = |rows: &[(u64, bool)]| {
        let rows = rows.iter().map(|(length, joined)| row(*length, *joined));
        SplitList::new(rows.collect()).err()
    };
    assert_eq!(refused(&[(10, false), (10, true)]), None);
    assert_eq!(refused(&[(10, true)]), Some(SplitError::Joined { run: 0 }));
    assert_eq!(
        refused(&[(11, false), (1, true)]),
        Some(SplitError::Joined { run: 1 })
    );
    assert_eq!(
        refused(&[(1, false), (11, true)]),
        Some(SplitError::Joined { run: 1 })
    );
}

proptest! {
    #[test]
    fn every_byte_is_in_one_split_in_order(files in files(), split_bytes in 1..300_u64) {
        let made = plan(&files, shape(split_bytes, 3)).expect("it fits");
        let splits = (0..made.maps()).map(|index| made.splits.get(index).expect("there is one"));
        let mut parts = splits.flat_map(|split| split.parts());
        for file in &files {
            let mut at = 0;
            while at < file.length {
                let part = parts.next().expect("there is more");
                prop_assert_eq!((part.uri, part.offset), (file.uri.as_str(), at));
                prop_assert!(part.length > 0);
                prop_assert!(!file.splittable || part.length <= split_bytes);
                prop_assert!(file.splittable || part.length == file.length);
                at += part.length;
            }
            prop_assert_eq!(at, file.length);
        }
        prop_assert_eq!(parts.next(), None);
        prop_assert_eq!(made.splits.get(made.maps()), None);
        for index in 0..made.maps() {
            let split = made.splits.get(index).expect("there is one");
            prop_assert!(split.parts().count() == 1 || split.length() <= split_bytes);
        }
        let ends: u32 = made.splits.runs().map(|(_, count, _)| count).sum();
        prop_assert_eq!(ends, made.maps());
        let stored = SplitList::from_chunks(&made.splits.chunks());
        prop_assert_eq!(stored, Ok(made.splits.clone()));
    }

    #[test]
    fn any_bytes_as_stored_splits_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = SplitList::from_chunks(&[bytes]);
    }
}
