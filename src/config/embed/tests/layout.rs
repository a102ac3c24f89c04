//! The text around what is embedded.

use proptest::prelude::*;

use super::*;

#[test]
fn a_document_that_stands_alone_stays_byte_for_byte() {
    for text in [
        "",
        "# only a comment",
        "cpus:   2   # two\r\n\r\n\tbad: [",
        "\u{feff}base: []\nimages: [{location: /}]",
        "base: ~\nprobes: [{file: {digest: decafbad}, script: '#!x'}]\n",
        "provision: [{file: ''}]\n---\nbase: a\n",
    ] {
        assert_eq!(embedded(text, &[]), text);
    }
}

const COMMENTED: &str = "\
# About this machine.
# A second line.

base: /b # why
# The processors.
cpus: 2 # two

provision:
# First of all.
- mode: system
  # Inside.
  script: |
    #!/bin/sh
    # A comment of the script
    echo # not one of YAML

# Where things are.
images:
  # The big one.
  - location: /a   # here
    arch: x86_64
ssh:
  localPort: 22022 # mine
  # The end of ssh.
user: {name: jane} # in braces
# The end.
";

#[test]
fn d18_comments_and_layout_stay() {
    let base =
        "provision: [{script: z}]\nimages: [{location: /c}]\nssh: {forwardAgent: true}\nuser: {uid: 7}\nmemory: 1GiB\n";
    assert_eq!(
        embedded(COMMENTED, &[("/b", base)]),
        "\
# About this machine.
# A second line.

# The processors.
cpus: 2 # two

provision:
- script: z
# First of all.
- mode: system
  # Inside.
  script: |
    #!/bin/sh
    # A comment of the script
    echo # not one of YAML

# Where things are.
images:
  # The big one.
  - location: /a   # here
    arch: x86_64
  - location: /c
ssh:
  localPort: 22022 # mine
  forwardAgent: true
  # The end of ssh.
# in braces
user:
  name: jane
  uid: 7
memory: 1GiB
# The end.
"
    );
}

#[test]
fn d18_comments_within_braces_move_above() {
    let text =
        "base: /b\nenv: { # one\n  A: 'x #1', # two\n  # three\n}\nprobes:\n  - script: x\n  - file: /f # four\n";
    assert_eq!(
        embedded(text, &[("/b", "env: {B: y}"), ("/f", "a\nb\n")]),
        "# one\n# two\n# three\nenv:\n  A: \"x #1\"\n  B: \"y\"\nprobes:\n  - script: x\n  # four\n  - script: |\n      a\n      b\n"
    );
}

#[test]
fn other_styles_are_rewritten_below_their_first_comment() {
    let base = [("/b", "env: {B: '2'}")];
    assert_eq!(
        embedded("# head\n{base: /b, env: {A: '1'}}\n", &base),
        "# head\nenv:\n  A: '1'\n  B: '2'\n".replace('\'', "\"")
    );
    assert_eq!(
        value(&embedded("x: &x {A: '1'}\nbase: /b\nenv: *x\n", &base)),
        value("x: {A: '1'}\nenv: {A: '1', B: '2'}")
    );
    assert_eq!(value(&embedded("---\nbase: /b\n...\n", &base)), value("env: {B: '2'}"));
    assert_eq!(value(&embedded("\"base\": /b\n\"env\":\n  'A': x", &base)), value("env: {A: x, B: '2'}"));
}

#[test]
fn an_anchor_that_goes_with_its_base_is_resolved() {
    let text = "base: &b /b\nmessage: *b\nenv:\n  A: x\n";
    assert_eq!(value(&embedded(text, &[("/b", "env: {B: y}")])), value("{message: /b, env: {A: x, B: y}}"));
}

/// Parts of documents that are put together at random, in several styles.
const PARTS: &[&str] = &[
    "cpus: 2 # c\n",
    "cpus: 0x4\n",
    "env:\n  A: 0644\n  # c\n  B: 'x'\n",
    "env: {A: 1, C: ~}\n",
    "env: {\n  A: 1, # c\n  D: x\n}\n",
    "env:\n    D: |\n      x\n      # y\n\n",
    "images:\n- location: /a\n\n# c\n",
    "images:\n  - {location: /b}\n  -\n    location: /c\n",
    "images: [{location: /d}]\n",
    "provision:\n- script: |\n    a\n    # b\n  mode: user\n# c\n- script: d\n",
    "provision:\n    -   mode: user\n        script: e\n",
    "mounts:\n- location: /a\n  sshfs:\n    cache: true\n- location: '*'\n  writable: true\n",
    "mounts: &m\n- location: /a\n  mountPoint: /b\n- location: /b\n",
    "vmOpts:\n  qemu:\n    minimumVersion: 8.2.1\n    cpuType:\n      x86_64: max\n",
    "vmOpts: {qemu: {minimumVersion: 9.0.0, x: [1, [2, 3]]}}\n",
    "message: >\n  folded\n  text\n",
    "additionalDisks: [a, {name: b}]\n",
    "additionalDisks:\n- b\n- name: a\n  fsArgs: [x]\n",
];

fn documents() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(PARTS), 0..6).prop_map(|parts| {
        let mut seen = std::collections::BTreeSet::new();
        parts.into_iter().filter(|part| seen.insert(part.split(':').next())).collect()
    })
}

proptest! {
    #[test]
    fn a_text_says_what_its_values_say(child in documents(), base in documents()) {
        let mut expected = value(&child);
        value::merge(&mut expected, value(&base));
        combine::combine(&mut expected);
        for text in [format!("# head\nbase: /b\n{child}"), format!("{child}# tail\nbase:\n- /b")] {
            let text = embedded(&text, &[("/b", &base)]);
            prop_assert_eq!(value(&text), expected.clone(), "{}", text);
            prop_assert!(text.starts_with("# head\n") || text.contains("# tail\n"), "{}", text);
        }
    }
}
