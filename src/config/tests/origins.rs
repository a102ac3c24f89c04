//! effective.yaml with the origins of its values.

use proptest::prelude::*;

use super::*;

const OVERRIDE: &str = "cpus: 3
env: {BOTH: o}
vmOpts:
  qemu: {minimumVersion: 8.0.0}
mounts:
- location: /elsewhere
  mountPoint: /srv
- location: /b
provision:
- script: |
    echo o
    echo p
networks:
- interface: eth7
  macAddress: ''
";

const WRITTEN: &str = "images:
- location: /y.img
arch: default
cpus: 2
memory: 2GiB
env: {BOTH: y, OWN.DOT: own}
hostResolver: {enabled: false}
dns: []
additionalDisks: [data]
cpuType: {x86_64: max}
mounts:
- location: /srv
  writable: true
caCerts:
  files: [/both.pem, /y.pem]
provision:
- mode: user
  script: echo y
networks:
- lima: user-v2
  interface: eth7
  macAddress: '52:55:55:00:00:01'
mountTypesUnsupported: [9p, virtiofs]
";

const DEFAULT: &str = "images:
- location: /d.img
cpus: 1
dns:
- 192.0.2.3
mounts:
- location: /d
  mountPoint: /b
  sshfs: {cache: false}
caCerts: {files: [/both.pem]}
portForwards:
- guestPort: 81
mountTypesUnsupported: [9p]
";

fn told(overrides: &str, written: &str, defaults: &str) -> Vec<(String, String)> {
    let (name, host) = (Name::parse("foo").unwrap(), host());
    let layer = |text: &str| (!text.is_empty()).then(|| text.as_bytes().into());
    let layers = Layers { overrides: layer(overrides), defaults: layer(defaults) };
    let context = Context { layers, ..context(&name, &host) };
    let loaded = load(written.as_bytes(), &context).unwrap_or_else(|error| panic!("{error}"));
    let with_origins = yaml_with_origins(written.as_bytes(), &context).unwrap();
    assert_only_comments(&to_yaml(&loaded.filled).unwrap(), &with_origins)
}

/// The origins of all lines with these words, in order.
fn of<'a>(told: &'a [(String, String)], line: &str) -> Vec<&'a str> {
    told.iter().filter(|(known, _)| known == line).map(|(_, origin)| origin.as_str()).collect()
}

#[test]
fn each_value_names_the_file_and_line_that_it_comes_from() {
    let told = told(OVERRIDE, WRITTEN, DEFAULT);
    for (line, origins) in [
        ("cpus: 3", &["_config/override.yaml:1"][..]),
        ("memory: 2GiB", &["lima.yaml:5"]),
        ("disk: 100GiB", &["built in"]),
        ("arch: x86_64", &["built in"; 4]),
        ("BOTH: o", &["_config/override.yaml:2"]),
        ("OWN.DOT: own", &["lima.yaml:6"]),
        ("minimumVersion: \"8.0.0\"", &["_config/override.yaml:4"]),
        ("x86_64: max", &["lima.yaml:10"]),
        ("- location: /y.img", &["lima.yaml:2"]),
        ("- location: /d.img", &["_config/default.yaml:2"]),
        ("- \"192.0.2.3\"", &["_config/default.yaml:5"]),
        ("- name: data", &["lima.yaml:9"]),
        ("format: true", &["built in"]),
        ("- mode: user", &["lima.yaml:17"]),
        ("script: |", &["_config/override.yaml:10"]),
        ("script: echo y", &["lima.yaml:18"]),
        ("- guestIPMustBeZero: false", &["built in"]),
        ("guestPort: 81", &["_config/default.yaml:12"]),
        ("- 9p", &["lima.yaml:23"]),
        ("- virtiofs", &["lima.yaml:23"]),
        ("- /both.pem", &["_config/default.yaml:10"]),
        ("- /y.pem", &["lima.yaml:15"]),
        ("certs: []", &["built in"]),
        ("copyToHost: []", &["built in"]),
    ] {
        assert_eq!(of(&told, line), origins, "{line}");
    }
}

#[test]
fn a_value_of_entries_that_were_combined_names_the_one_that_wrote_it() {
    let told = told(OVERRIDE, WRITTEN, DEFAULT);
    for (line, origins) in [
        ("- location: /b", &["_config/override.yaml:8"][..]),
        // The place of an entry that names none is that of its location, whatever a lower one says.
        ("mountPoint: /b", &["built in"]),
        ("cache: false", &["_config/default.yaml:9"]),
        ("- location: /elsewhere", &["_config/override.yaml:6"]),
        ("mountPoint: /srv", &["_config/override.yaml:7"]),
        ("writable: true", &["lima.yaml:13"]),
        ("- lima: user-v2", &["lima.yaml:20"]),
        ("interface: eth7", &["_config/override.yaml:14"]),
        ("macAddress: \"52:55:55:00:00:01\"", &["lima.yaml:22"]),
    ] {
        assert_eq!(of(&told, line), origins, "{line}");
    }
}

#[test]
fn what_plain_decides_comes_from_plain() {
    let text = "images: [{location: /}]\nplain: true\ntimezone: UTC\nmounts: [{location: /a}]\ncontainerd: {user: true}\n\
                portForwards:\n- guestPort: 80\n- guestPort: 90\n  static: true\n";
    let told = told("", text, "portForwards:\n- guestPort: 70\n- {guestPort: 71, static: true}\n");
    for (line, origin) in [
        ("timezone: \"\"", "lima.yaml:2"),
        ("mounts: []", "lima.yaml:2"),
        ("user: false", "lima.yaml:2"),
        ("guestPort: 90", "lima.yaml:8"),
        ("guestPort: 71", "_config/default.yaml:3"),
    ] {
        assert_eq!(of(&told, line), [origin], "{line}");
    }
}

proptest! {
    #[test]
    fn no_value_is_read_as_another_for_the_comments(
        texts in proptest::collection::vec(prop_oneof![".*", "[ \n\ta#|>:'\"-]{0,40}", "([ \t]*[a-c#]{0,3}\n){0,6}"], 1..5),
        keys in proptest::collection::vec("[a-zA-Z#.: -]{1,200}", 1..3),
    ) {
        let map: std::collections::BTreeMap<_, _> = keys.iter().zip(&texts).collect();
        let document = serde_json::json!({
            "images": [{"location": "/", "variant": texts[0]}],
            "caCerts": {"certs": texts},
            "hostResolver": {"hosts": map},
            "vmOpts": {"own": [texts, [[map]], 1.5, null]},
            "probes": [{"script": format!("#!/bin/sh\n{}", texts[0])}],
        });
        let (name, host) = (Name::parse("foo").unwrap(), host());
        // JSON is YAML but for control characters, which it does not escape all.
        let escaped = |c: char| if matches!(c, ' '..='~') { c.to_string() } else { format!("\\U{:08x}", u32::from(c)) };
        let text: String = document.to_string().chars().map(escaped).collect();
        let context = context(&name, &host);
        // What is refused elsewhere (a template that does not end) is as good for this.
        let filled = assemble(text.as_bytes(), &context).unwrap().filled;
        assert_only_comments(&to_yaml(&filled).unwrap(), &yaml_with_origins(text.as_bytes(), &context).unwrap());
    }
}
