//! Documents and bases made to hurt. The bounds in time are far above what is needed, for slow machines.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::tests::worked;

#[test]
fn s14_bases_have_a_size_in_all() {
    let big = format!("# {}\n", "x".repeat(900_000));
    let names: Vec<String> = (0..10).map(|n| format!("/{n}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), big.as_str())).collect();
    let why = refused(&format!("base: [{}]", names.join(", ")), &files);
    assert_eq!(why, "what lima.yaml is built upon: larger than 4194304 bytes");
}

#[test]
fn many_entries_are_combined_or_refused_soon() {
    let all = "additionalDisks:\n".to_owned() + &"- {name: '*', fsType: x}\n- {name: a}\n".repeat(1_600);
    let names: Vec<String> = (0..8).map(|n| format!("/{n}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), all.as_str())).collect();
    let start = worked();
    let done = embedded("base: /0\nadditionalDisks: [a]\n", &files);
    assert_eq!(value(&done), value("additionalDisks: [{name: a, fsType: x}]"));
    let why = refused(&format!("base: [{}]", names.join(", ")), &files);
    assert!(why.contains("too many values"), "{why}");
    assert!(worked() - start < Duration::from_secs(30), "{:?}", worked() - start);
}

#[test]
fn an_alias_bomb_in_a_base_is_refused_soon() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 9].join(", ")));
    }
    let start = worked();
    assert!(refused("base: /b", &[("/b", &bomb)]).starts_with("/b: "));
    assert!(worked() - start < Duration::from_secs(30), "{:?}", worked() - start);
}

#[test]
fn other_line_ends_are_kept_or_rewritten() {
    let base = [("/b", "cpus: 2\nprovision: [{script: a}]")];
    let expected = value("{memory: 1GiB, provision: [{script: a}, {script: b}], cpus: 2}");
    for ends in ["\n", "\r\n", "\r"] {
        let text = ["base: /b", "memory: 1GiB", "provision:", "- script: b", ""].join(ends);
        assert_eq!(value(&embedded(&text, &base)), expected, "{ends:?}");
    }
}

/// Words of which documents and their bases are made.
const WORDS: &[&str] = &[
    "base: /b\n",
    "\nbase:\n- /b\n",
    "cpus",
    "env",
    "images",
    "location",
    "provision",
    "script",
    "file: /f",
    "mode: user",
    "mounts",
    "additionalDisks",
    "'*'",
    ": ",
    ":",
    "- ",
    "\n",
    "\n  ",
    "\n    ",
    "\n- ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "&a ",
    "*a",
    "<<: *a",
    "'",
    "\"",
    "|\n  ",
    ">-\n    ",
    "0644",
    "1.10",
    "~",
    "x",
    " # c",
    "#",
    "!!binary aGk=",
    "---\n",
    "...\n",
    "\r",
    "\r\n",
    "\t",
    "\u{e9}",
    "\u{2028}",
    "? ",
];

fn words() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(WORDS), 0..40).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_words_are_embedded_or_refused(child in words(), base in words()) {
        let text = format!("base: /b\n{child}");
        let files: [(&str, &[u8]); 2] = [("/b", base.as_bytes()), ("/f", b"#!/bin/sh\n")];
        if let Ok(done) = embedded_as(None, &text, &files) && done != text {
            let done = value(&done);
            prop_assert!(done.get("base").is_none(), "{}", done);
            for (key, own) in value(&text).as_object().unwrap() {
                prop_assert!(key == "base" || !done[key].is_null() || own.is_null(), "{} in {}", key, done);
            }
        }
    }
}
