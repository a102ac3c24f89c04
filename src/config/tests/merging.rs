//! One document on top of another.

use proptest::prelude::*;

use super::super::merge::merge;
use super::*;

fn config(text: &str) -> Config {
    parse(text.as_bytes(), Layer::Written).unwrap_or_else(|error| panic!("{text}\n{error}")).config
}

fn assert_merged(high: &str, low: &str, expected: &str) {
    assert_eq!(merge(config(high), config(low)), config(expected), "{high}\non\n{low}");
}

#[test]
fn d19_the_higher_scalar_wins() {
    assert_merged("", "vmType: qemu", "vmType: qemu");
    assert_merged("vmType: vz", "{arch: aarch64, vmType: qemu}", "{arch: aarch64, vmType: vz}");
    assert_merged("cpus: ~", "cpus: 2", "cpus: 2");
    assert_merged("plain: false", "plain: true", "plain: false");
    assert_merged("message: ''", "message: x", "message: ''");
    assert_merged(
        "ssh: {localPort: 1}",
        "ssh: {localPort: 2, forwardX11: true}",
        "ssh: {localPort: 1, forwardX11: true}",
    );
    assert_merged("user: {name: a}", "user: {name: b, uid: 7}", "user: {name: a, uid: 7}");
    assert_merged(
        "video: {vnc: {}}",
        "video: {display: x, vnc: {display: y}}",
        "video: {display: x, vnc: {display: y}}",
    );
    assert_merged("minimumLimaVersion: 1.0.0", "minimumLimaVersion: 2.0.0", "minimumLimaVersion: 1.0.0");
}

#[test]
fn d19_lists_are_joined_with_the_higher_first() {
    for (list, [a, b]) in [
        ("images", ["{location: /a}", "{location: /b}"]),
        ("additionalDisks", ["a", "{name: a, format: false}"]),
        ("provision", ["{script: a}", "{script: b}"]),
        ("probes", ["{script: a}", "{script: b}"]),
        ("portForwards", ["{guestPort: 1}", "{guestPort: 2}"]),
        ("copyToHost", ["{guest: /a}", "{guest: /b}"]),
        ("mountTypesUnsupported", ["9p", "virtiofs"]),
    ] {
        assert_merged(&format!("{list}: [{a}]"), &format!("{list}: [{b}]"), &format!("{list}: [{a}, {b}]"));
    }
    assert_merged(
        "firmware: {images: [{location: /a}]}",
        "firmware: {legacyBIOS: true, images: [{location: /b}]}",
        "firmware: {legacyBIOS: true, images: [{location: /a}, {location: /b}]}",
    );
    assert_merged(
        "containerd: {archives: [{location: /a}]}",
        "containerd: {user: true, archives: [{location: /b}]}",
        "containerd: {user: true, archives: [{location: /a}, {location: /b}]}",
    );
}

#[test]
fn d19_mounts_and_networks_are_joined_with_the_lower_first() {
    assert_merged("mounts: [{location: /a}]", "mounts: [{location: /b}]", "mounts: [{location: /b}, {location: /a}]");
    assert_merged("networks: [{lima: a}]", "networks: [{lima: b}]", "networks: [{lima: b}, {lima: a}]");
}

#[test]
fn d03_mount_types_are_listed_once() {
    assert_merged(
        "mountTypesUnsupported: [9p, reverse-sshfs]",
        "mountTypesUnsupported: [9p, virtiofs]",
        "mountTypesUnsupported: [9p, reverse-sshfs, virtiofs]",
    );
}

#[test]
fn d06_d07_name_servers_replace_each_other_unless_there_are_none() {
    assert_merged("dns: [1.1.1.1]", "dns: [8.8.8.8, 1.2.3.4]", "dns: [1.1.1.1]");
    assert_merged("dns: []", "dns: [8.8.8.8]", "dns: [8.8.8.8]");
}

#[test]
fn d19_maps_are_merged_by_key_and_not_below() {
    assert_merged("env: {A: 1, B: 2}", "env: {B: 3, C: 4}", "env: {A: 1, B: 2, C: 4}");
    assert_merged("param: {a: x}", "param: {a: y, b: z}", "param: {a: x, b: z}");
    assert_merged(
        "hostResolver: {hosts: {a: b}}",
        "hostResolver: {ipv6: true, hosts: {c: d}}",
        "hostResolver: {ipv6: true, hosts: {a: b, c: d}}",
    );
    assert_merged(
        "vmOpts: {qemu: {minimumVersion: 8.2.1}}",
        "vmOpts: {qemu: {cpuType: {x86_64: max}}, vz: {a: b}}",
        "vmOpts: {qemu: {minimumVersion: 8.2.1}, vz: {a: b}}",
    );
}

#[test]
fn d19_certificates_are_listed_once_with_the_lower_first() {
    assert_merged(
        "caCerts: {removeDefaults: false, files: [/b, /c]}",
        "caCerts: {removeDefaults: true, files: [/a, /b], certs: [x]}",
        "caCerts: {removeDefaults: false, files: [/a, /b, /c], certs: [x]}",
    );
}

/// Documents of a few lines, so that two of them often have the same.
fn documents() -> impl Strategy<Value = Config> {
    const LINES: &[&str] = &[
        "cpus: 1",
        "cpus: 2",
        "vmType: qemu",
        "ssh: {localPort: 1}",
        "ssh: {forwardAgent: true}",
        "video: {vnc: {display: a}}",
        "video: {display: b, vnc: {}}",
        "env: {A: 1, B: 2}",
        "env: {B: 3}",
        "vmOpts: {qemu: {a: 1}, vz: {}}",
        "vmOpts: {qemu: {b: 1}}",
        "images: [{location: /a}]",
        "mounts: [{location: /a}]",
        "mounts: [{location: /b}, {location: /a, writable: true}]",
        "networks: [{lima: a, interface: x}]",
        "networks: [{socket: /a, interface: x}]",
        "provision: [{script: a}, {script: b}]",
        "provision: [{script: c}]",
        "mountTypesUnsupported: [9p, 9p, virtiofs]",
        "mountTypesUnsupported: [virtiofs, a]",
        "dns: []",
        "dns: [1.1.1.1]",
        "dns: [2.2.2.2]",
        "caCerts: {files: [/a, /b]}",
        "caCerts: {files: [/b, /c], removeDefaults: true}",
        "firmware: {images: [{location: /f}]}",
        "containerd: {user: true, archives: [{location: /g}]}",
        "hostResolver: {hosts: {a: b}}",
        "user: {name: a}",
        "rosetta: {enabled: true}",
    ];
    prop::collection::vec(prop::sample::select(LINES), 0..8).prop_map(|lines| {
        // A later line for the same key would make the document a bad one.
        let mut seen = std::collections::BTreeSet::new();
        let lines = lines.into_iter().filter(|line| seen.insert(line.split(':').next()));
        config(&lines.collect::<Vec<_>>().join("\n"))
    })
}

proptest! {
    #[test]
    fn merging_is_associative(a in documents(), b in documents(), c in documents()) {
        let left = merge(merge(a.clone(), b.clone()), c.clone());
        prop_assert_eq!(left, merge(a, merge(b, c)));
    }

    #[test]
    fn nothing_changes_nothing(a in documents()) {
        let filled = |config: Config| Config { dns: config.dns.filter(|it| !it.is_empty()), ..config };
        let unique = merge(a.clone(), Config::default());
        prop_assert_eq!(filled(merge(Config::default(), a)), filled(unique));
    }
}
