//! Cases B and C, those that a document alone decides.

use super::*;

const HEX: &str = "69f3f1b2b1e3c1d7a4f0b8a9c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8";

#[test]
fn b02_the_minimum_version_is_compared() {
    accepted("minimumLimaVersion: 1.1.0");
    accepted("minimumLimaVersion: 2.2.0");
    assert_refused("minimumLimaVersion: 99.0.0", &["line 1, column 1: minimumLimaVersion: requires"]);
    assert_refused("minimumLimaVersion: invalid", &["minimumLimaVersion", "semver"]);
    assert_refused("vmOpts: {qemu: {minimumVersion: old}}", &["vmOpts.qemu.minimumVersion", "semver"]);
}

/// The faults of one image; its own line replaces the usual one.
fn assert_image_refused(image: &str, words: &[&str]) {
    let faults = load_text(&format!("images:\n- {{{image}}}\n")).unwrap_err().to_string();
    assert!(faults.lines().any(|line| words.iter().all(|word| line.contains(word))), "{image}\n{faults}");
}

#[test]
fn b03_digest_without_algorithm_is_refused() {
    let image = format!("location: /, digest: {HEX}");
    assert_image_refused(&image, &["line 2, column 17: images[0].digest: invalid checksum digest format"]);
}

#[test]
fn b04_digest_with_unknown_algorithm_is_refused() {
    let image = format!("location: /, digest: 'sha001:{HEX}'");
    assert_image_refused(&image, &["images[0].digest: unsupported digest algorithm"]);
    assert_image_refused("location: /, digest: 'sha256:00'", &["images[0].digest", "length"]);
    assert!(load_text(&format!("images: [{{location: /, digest: 'sha256:{HEX}'}}]")).is_ok());
}

#[test]
fn image_locations_are_urls_or_paths_without_a_caller() {
    for location in ["/a.img", "~/a.img", "https://h/a.img", "file:///a.img"] {
        assert!(load_text(&format!("images: [{{location: '{location}'}}]")).is_ok(), "{location}");
    }
    for location in ["a.img", "~you/a.img", "./a"] {
        assert_image_refused(&format!("location: {location}"), &["images[0].location: invalid local file path"]);
    }
    assert_image_refused("arch: x86_64", &["images[0].location must be set"]);
    assert_image_refused("location: /, arch: x86", &["images[0].arch: must be one of"]);
}

#[test]
fn control_characters_cannot_leave_their_field() {
    for (text, field) in [
        ("mounts: [{location: \"/a\\nb\"}]", "mounts[0].location"),
        ("user: {home: \"/a\\nb\"}", "user.home"),
        ("user: {name: \"a\\nb\"}", "user.name"),
        ("timezone: \"a\\rb\"", "timezone"),
        ("portForwards: [{guestSocket: \"/a\\0\", hostSocket: b}]", "portForwards[0].guestSocket"),
        ("provision: [{mode: data, path: \"/a\\nb\"}]", "provision[0].path"),
        ("env: {\"A\\nB\": x}", "env."),
    ] {
        assert_refused(text, &[field]);
    }
    assert_eq!(accepted("user: {comment: \"a\\nb\"}").filled.user.unwrap().comment.as_deref(), Some("ab"));
}

#[test]
fn b05_a_probe_is_a_script_with_an_interpreter() {
    accepted("probes: [{script: '#!foo'}]");
    assert_refused("probes: [{script: foo}]", &["probes[0].script: must start with '#!'"]);
}

#[test]
fn b06_both_faults_of_a_probe_are_told() {
    let faults = refused("probes: [{file: {digest: decafbad}}]");
    assert!(faults.contains("probes[0].file.digest") && faults.contains("must start with '#!'"), "{faults}");
}

#[test]
fn b07_the_modes_with_a_script_are_accepted() {
    for mode in ["boot", "user", "system", "dependency"] {
        accepted(&format!("provision: [{{mode: {mode}, script: x}}]"));
    }
    accepted("provision: [{script: x}]");
}

#[test]
fn b08_both_faults_of_a_provision_are_told() {
    let faults = refused("provision: [{mode: invalid}]");
    assert!(faults.contains("provision[0].mode: must be one of system, user, boot"), "{faults}");
    assert!(faults.contains("provision[0].script: must not be empty"), "{faults}");
}

#[test]
fn b09_data_has_a_path_and_octal_permissions() {
    accepted("provision: [{mode: data, path: /tmp, content: hello}]");
    accepted("provision: [{mode: data, path: /tmp, content: hello, permissions: 0755}]");
    assert_refused("provision: [{mode: data, content: hello}]", &["provision[0].path must be set"]);
    assert_refused("provision: [{mode: data, path: /x, permissions: 9}]", &["provision[0].permissions", "octal"]);
    assert_refused(
        "provision: [{script: x, content: y}]",
        &["provision[0].content: can only be set when mode is data"],
    );
}

#[test]
fn b10_yq_has_an_absolute_path_and_an_expression() {
    accepted("provision: [{mode: yq, expression: .a=1, path: /x}]");
    assert_refused("provision: [{mode: yq, expression: .a=1, path: tmp}]", &["provision[0].path", "absolute"]);
    assert_refused("provision: [{mode: yq, expression: .a=1}]", &["provision[0].path must be set"]);
    assert_refused("provision: [{mode: yq, path: /x}]", &["provision[0].expression must be set"]);
    assert_refused("provision: [{mode: yq, path: /x, expression: a, format: doc}]", &["provision[0].format"]);
}

#[test]
fn b11_a_disk_may_be_named_in_short() {
    let disks = accepted("additionalDisks: [disk1]").filled.additional_disks.unwrap();
    assert_eq!((disks[0].name.as_str(), disks[0].format), ("disk1", Some(true)));
    assert_refused("additionalDisks: [{name: ''}]", &["additionalDisks[0].name: identifier must not be empty"]);
}

#[test]
fn a_disk_is_named_once_and_has_a_file_system_of_one_word() {
    accepted("additionalDisks: [{name: a, fsType: swap}, {name: b, fsType: xfs, fsArgs: ['-i', 'size=512']}]");
    assert_refused("additionalDisks: [a, b, a]", &["additionalDisks[2].name: \"a\" is there already"]);
    assert_refused("additionalDisks: [{name: a, fsType: ../x}]", &["additionalDisks[0].fsType: must be a word"]);
    assert_refused("additionalDisks: [{name: a, fsArgs: [\"a\\nb\"]}]", &["additionalDisks[0].fsArgs: must not"]);
}

#[test]
fn b12_a_disk_cannot_climb_out() {
    for name in ["../../x", "a/b", "..", ".x", "/abs", "a..b", "_x"] {
        assert_refused(&format!("additionalDisks: [{{name: {name}}}]"), &["additionalDisks[0].name: identifier"]);
    }
}

#[test]
fn b13_b14_param_names_are_words() {
    for name in ["name", "NAME", "Name_123"] {
        accepted(&format!("param: {{{name}: x}}\nprovision: [{{script: 'echo $PARAM_{name}'}}]"));
    }
    for name in ["_Name", "3Name", "Last.Name"] {
        let text = format!("param: {{{name}: x}}\nprovision: [{{script: 'echo $PARAM_{name}'}}]");
        assert_refused(&text, &["line 1, column 9", "regex", name]);
    }
}

#[test]
fn b15_b16_param_values_are_printable() {
    let text = |value: &str| format!("param: {{a: \"{value}\"}}\nprovision: [{{script: 'echo $PARAM_a'}}]");
    for value in ["", "foo bar", "foo\\tbar", "\u{bd} \u{2192} \u{1f440}"] {
        accepted(&text(value));
    }
    for value in ["a\\nb", "a\\rb", "a\\0b", "a\\u2028b"] {
        assert_refused(&text(value), &["param.a", "unprintable"]);
    }
}

#[test]
fn b17_an_unused_param_is_refused() {
    let words = ["param.x: not used in any provision, probe, copyToHost, or portForward"];
    assert_refused("param: {x: 1}", &words);
    assert_refused("param: {x: 1}\nprovision: [{script: 'echo $PARAM_xy {{.Param.xz}} .Param.x'}]", &words);
    accepted("param: {internal_netplanOptional: 'true'}");
}

#[test]
fn b18_a_param_is_used_in_paths_too() {
    for text in [
        "mounts: [{location: '/a/{{.Param.x}}'}]",
        "mounts: [{location: /a, mountPoint: '/b/{{ .Param.x }}'}]",
        "copyToHost: [{guest: /a, host: '/b/{{.Param.x}}'}]",
        "portForwards: [{guestSocket: '/run/{{.Param.x}}.sock', hostSocket: a.sock}]",
        "probes: [{script: '#!/bin/sh {{if .Param.x}}a{{end}}'}]",
    ] {
        accepted(&format!("param: {{x: y}}\n{text}"));
    }
}

#[test]
fn b20_all_faults_are_told_at_once() {
    let text = "os: windows\narch: unsupported_arch\nprovision:\n- mode: invalid\n- mode: data\n";
    let faults = load_text(text).unwrap_err().to_string();
    for words in [
        "line 1, column 1: os: must be one of Linux",
        "line 2, column 1: arch: must be one of x86_64",
        "images must be set",
        "line 4, column 3: provision[0].mode",
        "provision[0].script",
        "provision[1].path must be set",
    ] {
        assert!(faults.contains(words), "{words}\n{faults}");
    }
}

#[test]
fn b21_a_disk_grows_and_never_shrinks() {
    let filled = |disk: &str| accepted(&format!("disk: {disk}")).filled;
    assert!(check_change(&filled("100GiB"), &filled("200GiB")).is_ok());
    assert!(check_change(&filled("100GiB"), &filled("102400MiB")).is_ok());
    let why = check_change(&filled("100GiB"), &filled("50GiB")).unwrap_err().to_string();
    assert_eq!(why, "disk: shrinking the disk (100GiB -> 50GiB) is not supported");
    assert!(check_change(&accepted("").filled, &accepted("vmType: vz").filled).is_err());
}

#[test]
fn b22_the_shell_is_absolute() {
    accepted("user: {shell: /bin/bash}");
    assert_refused("user: {shell: bash}", &["user.shell", "absolute"]);
}

#[test]
fn b23_mount_locations_are_absolute_or_in_the_home() {
    accepted("mounts: [{location: /foo}]");
    let mounts = accepted("mounts: [{location: ~/foo}]").filled.mounts.unwrap();
    assert_eq!(mounts[0].location.as_deref(), Some("/home/jane/foo"));
    assert_eq!(mounts[0].mount_point.as_deref(), Some("/home/jane/foo"));
    assert_refused("mounts: [{location: .}]", &["line 1, column 11: mounts[0].location", "absolute"]);
    assert_refused("mounts: [{location: ~you/foo}]", &["mounts[0].location", "unexpandable"]);
    assert_refused("mounts: [{writable: true}]", &["mounts[0].location must be set"]);
}

#[test]
fn b24_the_guests_own_directories_are_no_mount_points() {
    for point in ["/", "/etc", "/usr", "/bin", "/dev", "/home", "/opt", "/sbin", "/tmp", "/var", "/usr/", "/a/../etc"] {
        let text = format!("mounts: [{{location: /foo, mountPoint: {point}}}]");
        assert_refused(&text, &["mounts[0].mountPoint", "system path"]);
    }
    assert_refused("mounts: [{location: /tmp}]", &["mounts[0].mountPoint", "system path"]);
}

#[test]
fn b25_the_guests_home_is_no_mount_point() {
    assert_refused("mounts: [{location: /foo, mountPoint: ~/x}]", &["mounts[0].mountPoint", "~"]);
    assert_refused("mounts: [{location: /foo, mountPoint: '{{.Home}}'}]", &["reserved internal home"]);
    assert_refused("mounts: [{location: /foo, mountPoint: /home/jane.guest/}]", &["reserved internal home"]);
}

#[test]
fn b27_a_password_for_sudo_needs_a_plain_guest() {
    assert_refused("user: {passwordlessSudo: false}", &["user.passwordlessSudo", "requires plain: true"]);
    accepted("user: {passwordlessSudo: false}\nplain: true");
}

#[test]
fn b28_a_network_is_of_one_kind() {
    assert_refused("networks: [{lima: x, socket: y}]", &["networks[0]", "mutually exclusive"]);
    assert_refused("networks: [{interface: x}]", &["networks[0]", "must be set"]);
    accepted("networks: [{lima: user-v2}]");
}

#[test]
fn b29_a_mac_address_has_six_bytes() {
    accepted("networks: [{lima: x, macAddress: '10:20:30:40:50:60'}]");
    for address in ["10:20:30:40:50", "10:20:30:40:50:6g", "102030405060"] {
        assert_refused(
            &format!("networks: [{{lima: x, macAddress: '{address}'}}]"),
            &["networks[0].macAddress", "6 bytes"],
        );
    }
}

#[test]
fn b30_interfaces_have_linux_names() {
    for name in ["a234567890123456", "a b", "a/b", "eth0"] {
        assert_refused(&format!("networks: [{{lima: x, interface: '{name}'}}]"), &["networks[0].interface"]);
    }
    assert_refused("networks: [{lima: x, interface: a}, {lima: y, interface: a}]", &["networks[1].interface", "used"]);
}

#[test]
fn b31_dns_is_the_resolvers_or_the_documents() {
    assert_refused("hostResolver: {enabled: true}\ndns: [1.1.1.1]", &["line 2, column 1: dns: must be empty"]);
    accepted("hostResolver: {enabled: false}\ndns: [1.1.1.1, '::1']");
    assert_refused("hostResolver: {enabled: false}\ndns: [one]", &["dns[0]", "IP"]);
}

#[test]
fn b32_sizes_and_counts_are_positive() {
    assert_refused("cpus: 0", &["line 1, column 1: cpus"]);
    assert_refused("cpus: -2", &["cpus"]);
    assert_refused("memory: lots", &["memory: invalid size \"lots\""]);
    assert_refused("disk: -1", &["disk: invalid size"]);
    assert_refused("disk: 0", &["disk"]);
    accepted("memory: 512MiB\ndisk: 10g\ncpus: 2");
}

#[test]
fn b33_a_mount_type_may_be_unsupported() {
    assert_refused("mountType: 9p\nmountTypesUnsupported: [9p]", &["mountType", "must not be one of"]);
    assert_refused("mountType: nfs", &["mountType", "must be one of"]);
    let filled = accepted("mountTypesUnsupported: [9p]").filled;
    assert_eq!(filled.mount_type.as_deref(), Some("reverse-sshfs"));
}

#[test]
fn b34_a_tpm_needs_its_processor() {
    assert_refused("tpm: true\narch: s390x", &["tpm"]);
    accepted("tpm: true");
}

#[test]
fn b35_a_base_is_never_stored() {
    let fault = load_text("base: template:default").unwrap_err().to_string();
    assert_eq!(
        fault,
        "line 1, column 1: base must be empty in a stored document; write it through the tree, which merges what it names"
    );
    assert_refused("base: [{url: a}, b]", &["base must be empty"]);
    accepted("base: []");
}

#[test]
fn b39_kernel_and_image_are_of_one_processor() {
    let words = ["images[0].kernel.arch", "unexpected architecture"];
    assert_image_refused("location: /, arch: x86_64, kernel: {location: /k, arch: aarch64}", &words);
    assert!(load_text("images: [{location: /, arch: aarch64, kernel: {location: /k}}]").is_ok());
}

#[test]
fn b40_a_playbook_is_a_file_of_the_host() {
    assert_refused("provision: [{mode: ansible, playbook: site.yml}]", &["provision[0].playbook", "absolute"]);
    assert_refused("provision: [{mode: ansible}]", &["provision[0].playbook"]);
    assert!(load_text("images: [{location: /}]\nprovision: [{mode: ansible, playbook: /site.yml}]").is_ok());
}

fn assert_rule_refused(rule: &str, words: &[&str]) {
    assert_refused(&format!("portForwards: [{{{rule}}}]"), words);
}

#[test]
fn c01_to_c03_ports_are_in_range_and_not_22() {
    assert_rule_refused("guestPort: 22", &["portForwards[0].guestPort: must not be 22"]);
    assert_rule_refused("hostPort: 65536", &["portForwards[0].hostPort: must be < 65536"]);
    assert_rule_refused("guestPort: -1", &["portForwards[0].guestPort: must be > 0"]);
}

#[test]
fn c04_c05_ranges_run_forward_and_are_equally_long() {
    assert_rule_refused("guestPortRange: [10, 5]", &["portForwards[0].guestPortRange", "backwards"]);
    assert_rule_refused("guestPortRange: [100, 109], hostPortRange: [200, 208]", &["same number of ports"]);
    assert_rule_refused("guestPortRange: [1]", &["portForwards[0].guestPortRange: expected a list of 2, not of 1"]);
    accepted("portForwards: [{guestPortRange: [100, 109], hostPortRange: [200, 209]}]");
}

#[test]
fn c06_must_be_zero_is_for_the_unspecified_address() {
    assert_rule_refused("guestIPMustBeZero: true, guestIP: 127.0.0.1", &["guestIPMustBeZero"]);
    assert_rule_refused("guestIP: localhost", &["portForwards[0].guestIP", "IP address"]);
}

#[test]
fn c07_to_c09_sockets_are_short_absolute_and_single() {
    assert_rule_refused("guestSocket: run/x, hostSocket: x", &["portForwards[0].guestSocket", "absolute"]);
    let long = format!("guestSocket: /x, hostSocket: /{}", "a".repeat(107));
    assert_rule_refused(&long, &["portForwards[0].hostSocket", "108"]);
    assert_rule_refused("guestPortRange: [100, 109], hostSocket: x.sock", &["portForwards[0].hostSocket", "range"]);
    assert_rule_refused("guestSocket: /x, guestPort: 3, hostSocket: y", &["guestPort: must be 0"]);
    accepted("portForwards: [{guestPort: 5000, hostSocket: x.sock}, {guestSocket: /run/d.sock, hostPort: 1000}]");
}

#[test]
fn c10_to_c12_protocols_reversals_and_the_ssh_port() {
    assert_rule_refused("proto: icmp", &["portForwards[0].proto"]);
    assert_rule_refused("reverse: true, guestSocket: /x, hostPort: 1", &["portForwards[0].reverse"]);
    assert_refused("ssh: {localPort: 22}", &["ssh.localPort: must not be 22"]);
    accepted("ssh: {localPort: 60022}");
}
