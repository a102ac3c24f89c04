//! Documents made to hurt. The bounds in time are far above what is needed, for slow machines.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn assert_refused_soon(text: &str) {
    let start = worked();
    let error = load_text(text).err().map(|error| error.to_string());
    assert!(worked() - start < Duration::from_secs(30), "{:?}", worked() - start);
    let error = error.expect("refused");
    assert!(error.len() < 10_000, "{} bytes of error", error.len());
}

#[test]
fn an_alias_bomb_is_refused_soon() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let items = vec![format!("*a{}", level - 1); 9].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    assert_refused_soon(&text);
}

#[test]
fn a_long_scalar_by_many_aliases_is_refused_soon() {
    assert_refused_soon(&format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 20_000].join(",")));
    assert_refused_soon(&format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 900].join(",")));
}

#[test]
fn deep_nesting_is_refused_soon() {
    for text in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000), "? ".repeat(50_000)] {
        assert_refused_soon(&text);
        assert_refused_soon(&format!("vmOpts: {{qemu: {text}"));
    }
    let balanced = format!("vmOpts: {{x: {}{}}}", "[".repeat(60), "]".repeat(60));
    assert_refused_soon(&balanced);
}

#[test]
fn many_entries_are_refused_soon() {
    assert_refused_soon(&format!("dns: [{}]", "a,".repeat(500_000)));
    assert_refused_soon(&"mounts: [{location: /a}]\n".repeat(10_000));
    let keys: String = (0..40_000).map(|n| format!("k{n}: {{}}\n")).collect();
    assert_refused_soon(&keys);
}

#[test]
fn long_words_do_not_make_long_sentences() {
    let long = "x".repeat(500_000);
    assert_refused_soon(&format!("os: {long}"));
    assert_refused_soon(&format!("{long}: 1"));
    assert_refused_soon(&format!("images: [{{{long}: 1}}]"));
    assert_refused_soon(&format!("cpus: {long}"));
    let key = "k".repeat(900);
    assert_refused_soon(&format!("{key}: 1\n{key}: 2\n"));
}

#[test]
fn many_faults_are_told_soon() {
    let keys: String = (0..9_000).map(|n| format!("k{n}: 1\n")).collect();
    let start = worked();
    let warnings = load_text(&format!("{keys}{IMAGES}")).unwrap().warnings;
    assert!(worked() - start < Duration::from_secs(30), "{:?}", worked() - start);
    assert!(warnings.len() <= 100, "{}", warnings.len());
    assert_refused_soon(&format!("{IMAGES}dns: [{}]", "a,".repeat(9_000)));
    assert_refused_soon(&format!("{IMAGES}dns: [{}]", "[],".repeat(9_000)));
}

#[test]
fn a_template_in_every_script_ends_soon() {
    let script = "provision:\n".to_owned()
        + &"- script: '{{range .Param}}{{range $.Param}}{{range $.Param}}{{end}}{{end}}{{end}}{{.Param.p1}}'\n"
            .repeat(3_000);
    let params: String = (0..100).map(|n| format!("  p{n}: x\n")).collect();
    let uses: String = (0..100).map(|n| format!(" PARAM_p{n}")).collect();
    let text = format!("{script}- script: x {uses}\nparam:\n{params}{IMAGES}");
    let start = worked();
    let warnings = load_text(&text).unwrap().warnings;
    assert!(warnings[0].contains("too many steps"), "{warnings:?}");
    assert!(worked() - start < Duration::from_secs(30), "{:?}", worked() - start);
}

/// Words of which lima.yaml and YAML are made, so that random texts reach beyond the first line.
const WORDS: &[&str] = &[
    "cpus",
    "mounts",
    "images",
    "location",
    "param",
    "provision",
    "script",
    "portForwards",
    "guestPortRange",
    "base",
    "env",
    "vmOpts",
    "additionalDisks",
    ": ",
    ":",
    "- ",
    "\n",
    "\n  ",
    "\n- ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "&a ",
    "*a",
    "<<: ",
    "'",
    "\"",
    "|\n  ",
    "1",
    "-1",
    "0644",
    "~",
    "/",
    "true",
    "4GiB",
    "x",
    "#",
    "!!binary ",
    "---\n",
    "{{.Name}}",
    "{{",
    "\u{e9}",
    "\t",
];

proptest! {
    #[test]
    fn any_text_loads_or_is_refused(text in ".*") {
        let _ = load_text(&text);
    }

    #[test]
    fn any_bytes_load_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = load_as_foo(&bytes, &host());
    }

    #[test]
    fn any_words_load_or_are_refused(words in prop::collection::vec(prop::sample::select(WORDS), 0..60)) {
        let text = words.concat();
        if let Ok(loaded) = load_text(&format!("{IMAGES}{text}")) {
            let yaml = to_yaml(&loaded.written).unwrap();
            prop_assert!(parse(yaml.as_bytes(), Layer::Written).is_ok(), "{yaml}");
        }
    }

    #[test]
    fn any_values_of_free_maps_round_trip(env in prop::collection::btree_map("[A-Z]{1,3}", prop_oneof![".*", "[ \n\r\ta-c0-9:#|>'\"~-]{0,20}"], 0..4)) {
        let config = Config { env: Some(env.clone()), ..Config::default() };
        let yaml = to_yaml(&config).unwrap();
        prop_assert_eq!(parse(yaml.as_bytes(), Layer::Written).unwrap().config.env.unwrap_or_default(), env, "{}", yaml);
    }
}
