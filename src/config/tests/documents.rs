//! YAML as Lima reads it, and how its faults are told.

use super::*;

fn written(text: &str) -> Config {
    parse(text.as_bytes(), Layer::Written).unwrap_or_else(|error| panic!("{text}\n{error}")).config
}

fn fault(text: &str) -> String {
    load_text(text).unwrap_err().to_string()
}

#[test]
fn faults_of_type_have_line_column_and_field() {
    assert_eq!(
        fault("images: [{location: /}]\nmounts:\n- location: /a\n- location: /b\n  writable: yes\n"),
        "line 5, column 13: mounts[1].writable: invalid boolean \"yes\" (true or false)"
    );
    assert_eq!(fault("cpus: many\nimages: [{location: /}]"), "line 1, column 7: cpus: invalid number \"many\"");
    assert_eq!(fault("images: 5"), "line 1, column 9: images: expected a list, not a number");
    assert_eq!(fault("- 1"), "line 1, column 1: expected a map, not a list");
    assert_eq!(fault("just text"), "line 1, column 1: expected a map, not text");
}

#[test]
fn faults_of_type_and_of_sense_are_told_together_in_order() {
    let faults = fault("memory: lots\nimages:\n- location: [a]\ncpus: x\ntpm: maybe\n");
    let lines: Vec<&str> = faults.lines().collect();
    assert_eq!(
        lines,
        [
            "line 1, column 1: memory: invalid size \"lots\" (such as 4GiB)",
            "line 3, column 13: images[0].location: expected text, not a list",
            "line 4, column 7: cpus: invalid number \"x\"",
            "line 5, column 6: tpm: invalid boolean \"maybe\" (true or false)",
        ]
    );
}

#[test]
fn unknown_keys_are_warnings_with_a_suggestion() {
    let loaded =
        load_text("cpu: 2\nimages:\n- location: /\n  diggest: x\nzzz: {a: 1}\nadditionalDisks: [{name: a, fmt: 1}]\n")
            .unwrap();
    assert_eq!(
        loaded.warnings,
        [
            "line 1, column 1: cpu: unknown key (did you mean cpus?)",
            "line 4, column 3: images[0].diggest: unknown key (did you mean digest?)",
            "line 5, column 1: zzz: unknown key",
            "line 6, column 29: additionalDisks[0].fmt: unknown key",
        ]
    );
}

#[test]
fn a_refused_document_is_told_of_its_unknown_keys_too() {
    let faults = fault("image: [{location: /}]\n");
    assert_eq!(faults, "images must be set\nwarning: line 1, column 1: image: unknown key (did you mean images?)");
}

#[test]
fn options_of_drivers_are_maps() {
    assert_refused("vmOpts: {qemu: 5}", &["line 1, column 10: vmOpts.qemu: expected a map"]);
    accepted("vmOpts: {qemu: ~}");
}

#[test]
fn free_maps_know_every_key() {
    assert_eq!(
        accepted("env: {FOO: 1}\nvmOpts: {mine: {x: [1]}}\nosOpts: {Windows: {a: b}}").warnings,
        Vec::<String>::new()
    );
}

#[test]
fn yaml_itself_is_told_with_its_place() {
    for (text, words) in [
        ("a: 1\na: 2\n", "line 2, column 1: a: duplicate key"),
        ("mounts:\n- location: /a\n  location: /b\n", "line 3, column 3: location: duplicate key"),
        ("env:\n  A: 1\n  A: 2\n", "line 3, column 3: A: duplicate key"),
        ("a: [", "line 1, column 4: unclosed bracket"),
        ("a:\n\t- b", "line 2, column 2: tabs"),
        ("a: *x", "line 1, column 4: "),
        ("a: b: c", "line 1, column 5: "),
        ("cpus: 1\n---\ncpus: 2\n", "line 3, column 1: more than one document"),
        ("a: &a [*a]", "line 1, column 8: "),
        ("{~: a}", "line 1, column 2: a key must be text"),
        ("? [a]\n: b", "line 1, column 3: a key must be text"),
        ("\u{feff}cpu: 'x", "line 1, column 6: unclosed quote"),
    ] {
        let fault = fault(text);
        assert!(fault.starts_with(words), "{text:?}: {fault}");
        assert_eq!(fault.matches("line ").count(), 1, "{fault}");
        assert!(!fault.contains('\n'), "{fault}");
    }
}

#[test]
fn text_that_is_not_utf8_is_told_with_its_place() {
    let error = load_as_foo(b"cpus: 1\nmemory: \xff\n", &host()).unwrap_err();
    assert_eq!(error.to_string(), "line 2, column 9: not valid UTF-8");
    let error = load_as_foo(&vec![b'#'; (1 << 20) + 1], &host()).unwrap_err();
    assert_eq!(error.errno(), libc::EFBIG);
    assert!(matches!(error, Error::TooBig { .. }));
}

#[test]
fn scalars_are_read_as_lima_reads_them() {
    let config = written(
        "cpus: '4'\nmemory: 2147483648\nprovision: [{permissions: 0644}, {permissions: 644}, {permissions: '0755'}]\n\
         param: {a: true, b: 1_000, c: 1.10, d: on, e: ~, f: 22:22, g: 1e3, h: .inf, i: 007, j: 'x', k: !!str 5}\n\
         ssh: {localPort: 0x10}\nmounts: ~\nuser: {name: null}\n",
    );
    assert_eq!((config.cpus, config.memory.as_deref()), (Some(4), Some("2147483648")));
    let permissions: Vec<_> = config.provision.unwrap().into_iter().map(|it| it.permissions.unwrap()).collect();
    assert_eq!(permissions, ["0644", "644", "0755"]);
    let param: Vec<_> = config.param.unwrap().into_values().collect();
    assert_eq!(param, ["true", "1_000", "1.10", "on", "", "22:22", "1e3", ".inf", "007", "x", "5"]);
    assert_eq!(config.ssh.unwrap().local_port, Some(16));
    assert_eq!(config.mounts, None);
    assert_eq!(config.user.unwrap().name, None);
}

#[test]
fn anchors_aliases_and_merge_keys_are_resolved() {
    let config = written("mounts:\n- &a {location: /a, writable: true}\n- *a\n- <<: *a\n  location: /b\n");
    let mounts = config.mounts.unwrap();
    assert_eq!(mounts[0], mounts[1]);
    assert_eq!((mounts[2].location.as_deref(), mounts[2].writable), (Some("/b"), Some(true)));
}

#[test]
fn numbers_keep_their_text_behind_aliases_and_other_alphabets() {
    let config =
        written("env: &e {A: \u{e9}\u{1f440}, B: &n 0644, C: *n, D: 1.10}\r\nparam:\r\n  <<: *e\r\n  E: 1_0\r\n");
    let param: Vec<_> = config.param.unwrap().into_values().collect();
    assert_eq!(param, ["\u{e9}\u{1f440}", "0644", "0644", "1.10", "1_0"]);
}

#[test]
fn a_list_may_have_one_entry_in_short() {
    let urls = |text: &str| written(text).base.unwrap().into_iter().map(|it| it.url).collect::<Vec<_>>();
    assert_eq!(urls("base: template:a"), ["template:a"]);
    assert_eq!(urls("base: {url: a, digest: b}"), ["a"]);
    assert_eq!(urls("base: [a, {url: b}]"), ["a", "b"]);
}

#[test]
fn null_entries_are_empty_entries() {
    assert_eq!(written("portForwards: [~]").port_forwards.unwrap().len(), 1);
    assert_refused("mounts: [~]", &["mounts[0].location must be set"]);
}

#[test]
fn binary_text_is_decoded() {
    let config = written("provision: [{mode: data, content: !!binary aGVsbG8=}]");
    assert_eq!(config.provision.unwrap()[0].content, Some("hello".into()));
}

#[test]
fn d17_bytes_that_are_no_text_are_read_and_shown_as_binary() {
    let text = format!("{IMAGES}provision:\n- mode: data\n  path: /x\n  content: !!binary |\n    gIA\n    A/w==\n");
    let filled = load_text(&text).unwrap().filled;
    let bytes = Some(vec![0x80, 0x80, 0x00, 0xff].into());
    assert_eq!(filled.provision.as_ref().unwrap()[0].content, bytes);
    let again = load_text(&to_yaml(&filled).unwrap()).unwrap().filled;
    assert_eq!(again.provision.unwrap()[0].content, bytes);
    // Behind an alias, too.
    let text = "env: {}\nprobes: [{script: &x !!binary IyH/}, {script: *x}]";
    assert_eq!(written(text).probes.unwrap()[1].script, Some(b"#!\xff".to_vec().into()));
}

#[test]
fn binary_is_no_text_where_only_text_makes_sense() {
    assert_eq!(
        fault("cpus: !!binary gA==\nimages: [{location: /}]"),
        "line 1, column 16: cpus: invalid number 1 bytes of binary"
    );
    assert_eq!(
        fault("memory: !!binary gA==\nimages: [{location: /}]"),
        "line 1, column 18: memory: expected text, not binary"
    );
    assert!(fault("message: !!binary '?'").contains("invalid base64 behind !!binary"));
}
