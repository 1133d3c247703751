//! What the hook may print, and what is heard of the group.

use super::*;

fn named(names: &[&str]) -> Hosts {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn names_are_between_commas_and_space_and_nothing_else_is_a_name() {
    let two = named(&["b1", "c-1.akl"]);
    for text in [
        "b1,c-1.akl",
        " c-1.akl b1\n",
        "b1, c-1.akl,\n",
        "b1\nc-1.akl\nb1",
    ] {
        assert_eq!(hosts(text).as_ref(), Ok(&two), "{text:?}");
    }
    for text in ["", "\n", " , "] {
        assert_eq!(hosts(text), Ok(Hosts::new()), "{text:?}");
    }
    for text in ["b1;c1", "b/1", "b1 B!"] {
        let why = hosts(text).expect_err(text);
        assert!(
            why.starts_with("hook sync printed what is no host"),
            "{why}"
        );
    }
}

#[test]
fn the_newest_word_counts_whichever_way_it_came() {
    let counted = Counted::default();
    let hear = |at, names: &[&str]| {
        counted.hear(at, named(names).into_iter().collect());
        counted.newest().hosts
    };
    assert_eq!(hear((3, 50), &["b1"]), named(&["b1"]));
    assert_eq!(hear((3, 49), &["b1", "c1"]), named(&["b1"]), "it is older");
    assert_eq!(hear((3, 51), &[]), named(&[]));
    assert_eq!(hear((4, 52), &["c1"]), named(&["c1"]));
    assert_eq!(
        hear((3, 60), &["b1"]),
        named(&["c1"]),
        "of an epoch that is over"
    );
}
