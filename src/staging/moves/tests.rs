use std::time::{Duration, UNIX_EPOCH};

use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Applies what a rename or removal comes to.
fn apply(moves: &mut Moves, edits: Vec<Edit>) {
    for edit in edits {
        match edit {
            Edit::SetMove(new) => moves.set(new),
            Edit::EndMove { source } => moves.end(&source),
            other => panic!("{other:?}"),
        }
    }
}

fn rename(moves: &mut Moves, old: &str, new: &str, when: u64) {
    let edits = moves.renamed(old, new, at(when)).unwrap();
    apply(moves, edits);
}

fn lowers(moves: &Moves, path: &str) -> Vec<String> {
    let lowers = moves.lowers(path).into_iter();
    lowers.map(|lower| lower.prefix).collect()
}

fn table(moves: &Moves) -> Vec<(String, String)> {
    let pairs = moves.by_source.values();
    pairs
        .map(|found| (found.source.to_string(), found.target.to_string()))
        .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = pairs.iter();
    pairs
        .map(|(source, target)| ((*source).into(), (*target).into()))
        .collect()
}

#[test]
fn objects_show_under_the_new_name_and_the_old_one_is_free() {
    let mut moves = Moves::default();
    rename(&mut moves, "p/a/", "p/b/", 1);
    assert_eq!(moves.shown_at("p/a/x/1"), "p/b/x/1");
    assert_eq!(moves.shown_at("p/b/1"), "p/b/1");
    assert_eq!(moves.shown_at("p/ab/1"), "p/ab/1");
    assert_eq!(lowers(&moves, "p/b/"), ["p/b/", "p/a/"]);
    assert_eq!(lowers(&moves, "p/b/x/"), ["p/b/x/", "p/a/x/"]);
    assert_eq!(lowers(&moves, "p/a/"), [""; 0]);
    assert_eq!(lowers(&moves, "p/"), ["p/"]);
    assert!(moves.covers(&Key::new("p/a/").unwrap()));
}

#[test]
fn renames_compose() {
    let mut moves = Moves::default();
    rename(&mut moves, "a/", "b/", 1);
    rename(&mut moves, "b/", "c/", 2);
    assert_eq!(table(&moves), pairs(&[("a/", "c/"), ("b/", "c/")]));
    assert_eq!(moves.from(&Key::new("a/").unwrap()).unwrap().since, at(1));
    // A folder in it, a folder above it.
    rename(&mut moves, "c/x/", "y/", 3);
    assert_eq!(moves.shown_at("a/x/1"), "y/1");
    assert_eq!(moves.shown_at("a/z/1"), "c/z/1");
    rename(&mut moves, "c/", "d/e/", 4);
    rename(&mut moves, "d/", "f/", 5);
    assert_eq!(moves.shown_at("a/z/1"), "f/e/z/1");
    assert_eq!(moves.shown_at("a/x/1"), "y/1");
    // What somebody put below "d/" meanwhile shows as well.
    assert_eq!(lowers(&moves, "f/e/x/"), ["f/e/x/", "d/e/x/"]);
    // And back.
    let mut moves = Moves::default();
    rename(&mut moves, "a/", "b/", 1);
    rename(&mut moves, "b/x/", "c/", 2);
    rename(&mut moves, "b/", "a/", 3);
    assert_eq!(moves.shown_at("a/1"), "a/1");
    assert_eq!(moves.shown_at("a/x/1"), "c/1");
    assert_eq!(lowers(&moves, "a/"), ["a/", "b/"]);
}

#[test]
fn two_folders_change_names_by_a_third() {
    let mut moves = Moves::default();
    rename(&mut moves, "a/", "t/", 1);
    rename(&mut moves, "b/", "a/", 2);
    rename(&mut moves, "t/", "b/", 3);
    assert_eq!(moves.shown_at("a/1"), "b/1");
    assert_eq!(moves.shown_at("b/1"), "a/1");
    assert_eq!(lowers(&moves, "a/"), ["b/"]);
    assert_eq!(lowers(&moves, "b/"), ["a/", "t/"]);
}

#[test]
fn the_old_name_made_anew_has_nothing_of_the_old_folder() {
    let mut moves = Moves::default();
    rename(&mut moves, "a/", "b/", 1);
    rename(&mut moves, "a/", "c/", 2);
    assert_eq!(moves.shown_at("a/1"), "b/1");
    assert_eq!(lowers(&moves, "c/"), ["c/"]);
}

#[test]
fn what_lay_in_a_removed_folder_stays() {
    let mut moves = Moves::default();
    rename(&mut moves, "a/", "b/", 1);
    let edits = moves.removed("b/x/", at(2));
    apply(&mut moves, edits);
    assert_eq!(moves.shown_at("a/x/1"), "a/x/1");
    assert_eq!(lowers(&moves, "b/x/"), ["b/x/"]);
    assert_eq!(lowers(&moves, "b/"), ["b/", "a/"]);
    let edits = moves.removed("b/", at(3));
    apply(&mut moves, edits);
    assert!(moves.is_empty(), "{moves:?}");
}

#[test]
fn an_empty_folder_on_its_way_is_replaced_by_one_that_was_made_under_its_old_name() {
    let mut moves = Moves::default();
    rename(&mut moves, "a/", "b/", 1);
    rename(&mut moves, "a/y/", "b/x/", 2);
    assert_eq!(moves.shown_at("a/x/1"), "a/x/1");
    assert_eq!(moves.shown_at("a/y/1"), "b/y/1");
    assert_eq!(lowers(&moves, "b/x/"), ["b/x/"]);
}

#[test]
fn folders_whose_objects_lie_aside_of_every_listing_are_told() {
    let mut moves = Moves::default();
    rename(&mut moves, "a/", "b/", 1);
    assert_eq!(
        moves.elsewhere(""),
        [("b".to_owned(), Key::new("a/").unwrap())]
    );
    rename(&mut moves, "c/", "a/", 2);
    rename(&mut moves, "b/x/", "a/x/", 3);
    // Back where they lie, in a folder that is another one by now.
    assert_eq!(moves.shown_at("a/x/1"), "a/x/1");
    assert_eq!(lowers(&moves, "a/"), ["c/"]);
    let aside = moves.elsewhere("a/");
    let names: Vec<_> = aside
        .iter()
        .map(|(name, key)| (name.as_str(), key.as_str()))
        .collect();
    assert_eq!(names, [("x", "a/x/"), ("x", "b/x/")]);
    assert_eq!(moves.elsewhere("b/"), []);
}

#[test]
fn a_move_ends_with_those_in_its_source() {
    let mut moves = Moves::default();
    rename(&mut moves, "a/x/", "b/", 1);
    rename(&mut moves, "a/", "c/", 2);
    let inner = Key::new("a/x/").unwrap();
    assert_eq!(moves.carried_out(&inner), []);
    let outer: Vec<&str> = moves
        .outermost()
        .map(|found| found.source.as_str())
        .collect();
    assert_eq!(outer, ["a/"]);
    let edits = moves.carried_out(&Key::new("a/").unwrap());
    apply(&mut moves, edits);
    assert!(moves.is_empty() && moves.by_target.is_empty());
}

#[test]
fn both_spellings_of_a_prefix_are_one() {
    let mut moves = Moves::default();
    rename(&mut moves, "cafe\u{301}/", "b/", 1);
    assert_eq!(moves.shown_at("café/x"), "b/x");
    assert_eq!(moves.shown_at("cafe\u{301}/x/y"), "b/x/y");
    assert_eq!(lowers(&moves, "b/x/"), ["b/x/", "cafe\u{301}/x/"]);
}

#[test]
fn each_object_shows_where_a_listing_looks_for_it() {
    let names = ["a/", "b/", "c/", "a/x/", "b/x/", "c/x/", "a/x/y/", "b/x/y/"];
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % below
    };
    for _ in 0..500 {
        let mut moves = Moves::default();
        for when in 0..8 {
            let (old, new) = (names[random(names.len())], names[random(names.len())]);
            if !new.starts_with(old) {
                rename(&mut moves, old, new, when);
            }
            for folder in names {
                let shown = moves.shown_at(folder).into_owned();
                assert!(
                    lowers(&moves, &shown).contains(&folder.to_owned()),
                    "{folder} shows at {shown}: {moves:?}"
                );
            }
        }
    }
}

#[test]
fn a_move_concerns_the_names_at_both_ends() {
    let mut moves = Moves::default();
    rename(&mut moves, "p/a/", "p/b/", 1);
    let concern = |key: &str| moves.concern(&Key::new(key).unwrap());
    assert!(concern("p/a/x") && concern("p/b/x") && concern("p/b/sub/x"));
    assert!(!concern("p/x") && !concern("p/c/x"));
}
