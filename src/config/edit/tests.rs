use proptest::prelude::*;

use super::*;

/// What becomes of a text when its `memory` is set to 8GiB.
fn edited(text: &str) -> String {
    set(text, "memory", "8GiB").unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn assert_refused(text: &str, words: &str) {
    let error = set(text, "memory", "8GiB").unwrap_err();
    assert_eq!(error.errno(), libc::EINVAL);
    assert!(error.to_string().contains(words), "{text:?}: {error}");
}

#[test]
fn a_value_is_replaced_where_it_stands() {
    for (before, after) in [
        ("memory: 4GiB\n", "memory: 8GiB\n"),
        ("memory: 4GiB", "memory: 8GiB"),
        ("cpus: 2\nmemory:   4GiB   # enough\ndisk: 1GiB\n", "cpus: 2\nmemory:   8GiB   # enough\ndisk: 1GiB\n"),
        ("memory : 4GiB\n", "memory : 8GiB\n"),
        ("memory: \"4GiB\"\n", "memory: \"8GiB\"\n"),
        ("memory: '4GiB' # q\n", "memory: '8GiB' # q\n"),
        ("\"memory\": 4GiB\n", "\"memory\": 8GiB\n"),
        ("'memory': 4GiB\n", "'memory': 8GiB\n"),
        ("memory: 1073741824\n", "memory: 8GiB\n"),
        ("---\nmemory: 4GiB\n...\n", "---\nmemory: 8GiB\n...\n"),
        ("# a\n--- # b\nmemory: 4GiB\n", "# a\n--- # b\nmemory: 8GiB\n"),
        ("  cpus: 1\n  memory: 4GiB\n", "  cpus: 1\n  memory: 8GiB\n"),
        ("\u{feff}memory: 4GiB\n", "\u{feff}memory: 8GiB\n"),
        ("message: \u{e9}\u{4e16}\nmemory: 4GiB # \u{e9}\n", "message: \u{e9}\u{4e16}\nmemory: 8GiB # \u{e9}\n"),
    ] {
        assert_eq!(edited(before), after);
    }
}

#[test]
fn line_ends_of_windows_stay() {
    assert_eq!(edited("cpus: 2\r\nmemory: 4GiB\r\n"), "cpus: 2\r\nmemory: 8GiB\r\n");
    assert_eq!(edited("cpus: 2\r\nmemory: 4GiB # x\r\n"), "cpus: 2\r\nmemory: 8GiB # x\r\n");
    assert_eq!(edited("cpus: 2\r\nmemory:\r\n"), "cpus: 2\r\nmemory: 8GiB\r\n");
    assert_eq!(edited("cpus: 2\r\n"), "cpus: 2\r\nmemory: 8GiB\r\n");
}

#[test]
fn null_and_nothing_are_values_too() {
    for (before, after) in [
        ("memory: null\n", "memory: 8GiB\n"),
        ("memory: ~ # none\n", "memory: 8GiB # none\n"),
        ("memory:\ncpus: 2\n", "memory: 8GiB\ncpus: 2\n"),
        ("memory:   # none\n", "memory: 8GiB   # none\n"),
        ("memory:", "memory: 8GiB"),
        ("memory: \"\"\n", "memory: \"8GiB\"\n"),
        ("{memory: , cpus: 2}\n", "{memory: 8GiB , cpus: 2}\n"),
    ] {
        assert_eq!(edited(before), after);
    }
}

#[test]
fn a_missing_key_comes_behind_the_others() {
    for (before, after) in [
        ("cpus: 2\n", "cpus: 2\nmemory: 8GiB\n"),
        ("cpus: 2", "cpus: 2\nmemory: 8GiB\n"),
        ("cpus: 2\n# end\n", "cpus: 2\n# end\nmemory: 8GiB\n"),
        ("cpus: 2\n...\n# behind\n", "cpus: 2\nmemory: 8GiB\n...\n# behind\n"),
        ("cpus: 2\n...", "cpus: 2\nmemory: 8GiB\n..."),
        ("  cpus: 2\n  disk: 1GiB\n", "  cpus: 2\n  disk: 1GiB\n  memory: 8GiB\n"),
        ("provision:\n- script: |\n    a\n", "provision:\n- script: |\n    a\nmemory: 8GiB\n"),
        ("message: |+\n  a\n\n", "message: |+\n  a\n\nmemory: 8GiB\n"),
        ("message: a\n  b\n", "message: a\n  b\nmemory: 8GiB\n"),
        ("mounts:\n", "mounts:\nmemory: 8GiB\n"),
        ("x: {memory: 4GiB}\n", "x: {memory: 4GiB}\nmemory: 8GiB\n"),
        ("", "memory: 8GiB\n"),
        ("# nothing\n", "# nothing\nmemory: 8GiB\n"),
        ("---\n", "---\nmemory: 8GiB\n"),
    ] {
        assert_eq!(edited(before), after);
    }
}

#[test]
fn flow_style_stays_flow_style() {
    for (before, after) in [
        ("{memory: 4GiB}\n", "{memory: 8GiB}\n"),
        ("{cpus: 2, memory: '4GiB' }\n", "{cpus: 2, memory: '8GiB' }\n"),
        ("{\"memory\":\"4GiB\"}", "{\"memory\":\"8GiB\"}"),
        ("{cpus: 2}\n", "{memory: 8GiB, cpus: 2}\n"),
        ("{ cpus: 2, }\n", "{ memory: 8GiB, cpus: 2, }\n"),
        ("{ # flow\n  cpus: 2 # two\n}\n", "{ memory: 8GiB, # flow\n  cpus: 2 # two\n}\n"),
        ("{}\n", "{memory: 8GiB}\n"),
        ("--- {}\n", "--- {memory: 8GiB}\n"),
    ] {
        assert_eq!(edited(before), after);
    }
}

#[test]
fn an_anchor_stays_but_not_what_others_refer_to() {
    assert_eq!(edited("memory: &m 4GiB # x\n"), "memory: &m 8GiB # x\n");
    assert_refused("memory: &m 4GiB\ndisk: *m\n", "more than this value");
    assert_refused("disk: &m 4GiB\nmemory: *m\n", "is an alias");
    assert_refused("x: &x {memory: 4GiB}\n<<: *x\n", "edit lima.yaml itself");
}

#[test]
fn what_is_not_plain_is_refused_and_not_guessed() {
    assert_refused("memory: |\n  4GiB\n", "several lines");
    assert_refused("memory: >-\n  4GiB\n", "several lines");
    assert_refused("memory: 4\n  GiB\n", "several lines");
    assert_refused("memory: \"4\n  GiB\"\n", "several lines");
    assert_refused("memory: [4GiB]\n", "not one value");
    assert_refused("memory: {a: 4GiB}\n", "not one value");
    assert_refused("memory: !!str 4GiB\n", "edit lima.yaml itself");
    assert_refused("? memory\n: 4GiB\n", "KEY: VALUE");
    assert_refused("memory: &m\n", "edit lima.yaml itself");
    assert_refused("- memory\n", "is no map");
    assert_refused("null\n", "edit lima.yaml itself");
}

#[test]
fn a_text_that_is_no_document_is_refused_with_its_place() {
    assert_refused("memory: [\n", "line ");
    assert_refused("memory: 1GiB\nmemory: 2GiB\n", "duplicate key");
}

#[test]
fn a_value_that_reads_otherwise_is_quoted_or_refused() {
    assert_eq!(set("memory: 1\n", "memory", "4 GiB").unwrap(), "memory: \"4 GiB\"\n");
    assert_eq!(set("memory: 1\n", "memory", "010").unwrap(), "memory: \"010\"\n");
    assert_eq!(set("memory: 1\n", "memory", "null").unwrap(), "memory: \"null\"\n");
    for value in ["a\"b", "a'b", "a\nb", "a\\b"] {
        assert_eq!(set("memory: 1\n", "memory", value).unwrap_err().errno(), libc::EINVAL, "{value:?}");
    }
}

/// Lines of a document that say nothing of `memory`.
fn other_lines() -> impl Strategy<Value = Vec<String>> {
    let lines = [
        "",
        "# memory: 1GiB",
        "   # indented",
        "minimumLimaVersion: \"1.0\"  # quoted",
        "message: |\n  memory: 1GiB\n  {{.Name}}",
        "mounts: [{location: /tmp, writable: true}]  # flow",
        "provision:\n- mode: system\n  script: |\n    #!/bin/sh\n    true",
        "param:\n  memory: 'not this one'",
        "x-a: &a {memory: 1GiB}\nx-b: *a",
        "cpus:   2",
        "vmOpts: {}",
    ];
    let all: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    let len = all.len();
    (Just(all).prop_shuffle(), 0..len).prop_map(|(lines, count)| lines.into_iter().take(count).collect())
}

/// Lines that say it.
const OWN: &[&str] = &[
    "memory: 4GiB",
    "memory:    \"4GiB\"   # c",
    "memory: '4GiB'",
    "memory: &m 4GiB",
    "memory:",
    "memory: ~  # none",
    "\"memory\" : 12345678",
];

/// A document with one of the lines in it.
fn document_with(own: impl Strategy<Value = Option<&'static str>>) -> impl Strategy<Value = String> {
    let head = prop::sample::select(vec!["", "---\n", "# top\n", "# top\n--- # start\n"]);
    let tail = prop::sample::select(vec!["", "\n", "\n# end\n", "\n...\n", "\n\n"]);
    (head, other_lines(), own, any::<prop::sample::Index>(), tail, any::<bool>()).prop_map(
        |(head, mut lines, own, at, tail, windows)| {
            if let Some(own) = own {
                lines.insert(at.index(lines.len() + 1), own.to_owned());
            }
            let text = format!("{head}{}{tail}", lines.join("\n"));
            if windows { text.replace('\n', "\r\n") } else { text }
        },
    )
}

fn document() -> impl Strategy<Value = String> {
    document_with(prop::option::of(prop::sample::select(OWN)))
}

/// What two texts have in front and behind in common, in bytes.
fn common(a: &str, b: &str) -> (usize, usize) {
    let front = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let rest = a.len().min(b.len()) - front;
    (front, a.bytes().rev().zip(b.bytes().rev()).take(rest).take_while(|(a, b)| a == b).count())
}

proptest! {
    #[test]
    fn one_stretch_within_a_line_changes_and_is_read_back(text in document(), gib in 1u32..5000) {
        let value = format!("{gib}GiB");
        let new = match set(&text, "memory", &value) {
            Ok(new) => new,
            // A block scalar that ends with the text has no line end to be told from one with it.
            Err(error) => {
                prop_assert!(!text.contains("\nmemory") && error.to_string().contains("more than"), "{text:?}: {error}");
                return Ok(());
            }
        };
        let (front, back) = common(&text, &new);
        prop_assert!(!text[front..text.len() - back].contains(['\n', '#', ':']), "{:?} became {:?}", text, new);
        prop_assert!(new[front..new.len() - back].lines().count() <= 2, "{:?} became {:?}", text, new);
        let memory = parse(new.as_bytes(), Layer::Written).unwrap().config.memory;
        prop_assert_eq!(memory.as_deref(), Some(value.as_str()));
        prop_assert_eq!(set(&new, "memory", &value).unwrap(), new);
    }

    #[test]
    fn a_value_that_is_set_back_leaves_the_text_as_it_was(text in document_with(prop::sample::select(&OWN[..4]).prop_map(Some))) {
        let new = set(&text, "memory", "8GiB").unwrap();
        prop_assert_eq!(set(&new, "memory", "4GiB").unwrap(), text);
    }

    #[test]
    fn any_text_is_edited_or_refused(text in "[ \\-{},:#&*!|>'\"a\n\r\tmemory\u{e9}~?.]{0,60}", key in "[a-z]{1,3}|memory") {
        if let Ok(new) = set(&text, &key, "8GiB") {
            prop_assert!(new.contains("8GiB"));
        }
    }
}
