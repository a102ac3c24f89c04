//! What a document becomes.

use super::*;

#[test]
fn a_filled_document_round_trips() {
    let text = "vmOpts: {qemu: {cpuType: {x86_64: max}}}\ncpus: 2\nmounts: [{location: '~', writable: true}]\n\
        param: {a: 'on', b: '007'}\nenv: {X: '~', Y: '1_000', Z: '0644', U: 'null', '1': ' '}\n\
        provision:\n- script: |\n    #!/bin/sh\n    echo $PARAM_a\n\n- mode: data\n  path: /x\n  permissions: 0755\n  content: \"$PARAM_b\\n\"\n\
        portForwards: [{guestPort: 80, hostPort: 8080}, {guestSocket: /run/x, hostSocket: x}]\n\
        networks: [{lima: user-v2}]\nadditionalDisks: [a]\nmessage: \"a\\nb\"\n";
    let filled = accepted(text).filled;
    let yaml = to_yaml(&filled).unwrap();
    assert!(!yaml.contains("null\n") && !yaml.contains(": ~\n"), "{yaml}");
    assert_eq!(load_text(&yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}")).filled, filled);
    assert_eq!(to_yaml(&filled).unwrap(), yaml);
}

#[test]
fn the_machine_is_limas_default() {
    let filled = accepted("").filled;
    assert_eq!(filled.vm_type.as_deref(), Some("qemu"));
    assert_eq!(
        (filled.cpus, filled.memory.as_deref(), filled.disk.as_deref()),
        (Some(4), Some("4GiB"), Some("100GiB"))
    );
    assert_eq!(filled.images.unwrap()[0].arch.as_deref(), Some("x86_64"));
    assert_eq!(filled.mount_type.as_deref(), Some("9p"));
    assert_eq!(filled.timezone.as_deref(), Some("Europe/Berlin"));
}

#[test]
fn the_user_is_the_hosts() {
    let user = accepted("").filled.user.unwrap();
    assert_eq!((user.name.as_deref(), user.uid, user.comment.as_deref()), (Some("jane"), Some(501), Some("Jane Roe")));
    assert_eq!((user.home.as_deref(), user.shell.as_deref()), (Some("/home/jane.guest"), Some("/bin/bash")));
    let user = accepted("user: {name: bob, home: '/srv/{{.User}}-{{.UID}}'}").filled.user.unwrap();
    assert_eq!(user.home.as_deref(), Some("/srv/bob-501"));
    assert_refused("user: {name: root}", &["user.name: must not be root"]);
    assert_refused("user: {uid: 0}", &["user.uid: must not be 0"]);
}

#[test]
fn for_root_the_guests_user_is_lima() {
    let mut root = host();
    root.user = HostUser { name: "root".into(), uid: 0, home: "/root".into(), comment: "root".into() };
    let user = load_as_foo(IMAGES.as_bytes(), &root).unwrap().filled.user.unwrap();
    assert_eq!((user.name.as_deref(), user.uid), (Some("lima"), Some(1000)));
    assert_eq!(user.home.as_deref(), Some("/home/lima.guest"));
}

#[test]
fn a_host_user_that_no_guest_can_have_becomes_lima() {
    for host_name in ["Jane.Roe", "admin", "0x", "a b", ""] {
        let mut host = host();
        host.user.name = host_name.into();
        let user = load_as_foo(IMAGES.as_bytes(), &host).unwrap().filled.user.unwrap();
        assert_eq!((user.name.as_deref(), user.uid), (Some("lima"), Some(501)), "{host_name}");
    }
}

#[test]
fn long_lines_stay_whole_in_yaml() {
    let line = "word ".repeat(60);
    let yaml = to_yaml(&accepted(&format!("provision: [{{script: '{line}end'}}]")).filled).unwrap();
    assert!(yaml.contains(&format!("{line}end")), "{yaml}");
}

#[test]
fn d21_an_empty_rule_forwards_all_of_loopback() {
    let rule = accepted("portForwards: [{}]").filled.port_forwards.unwrap().remove(0);
    assert_eq!((rule.guest_ip.as_deref(), rule.guest_ip_must_be_zero), (Some("127.0.0.1"), Some(false)));
    assert_eq!((rule.guest_port_range, rule.host_port_range), (Some([1, 65535]), Some([1, 65535])));
    assert_eq!((rule.proto.as_deref(), rule.host_ip.as_deref()), (Some("any"), Some("127.0.0.1")));
}

#[test]
fn ports_of_a_rule_follow_each_other() {
    let text =
        "portForwards: [{guestIP: 0.0.0.0, guestPort: 80}, {guestIPMustBeZero: true, guestPort: '80', hostPort: 8080}]";
    let rules = accepted(text).filled.port_forwards.unwrap();
    assert_eq!((rules[0].guest_ip_must_be_zero, rules[0].host_port_range), (Some(true), Some([80, 80])));
    assert_eq!((rules[1].guest_ip.as_deref(), rules[1].host_port_range), (Some("0.0.0.0"), Some([8080, 8080])));
}

#[test]
fn d20_a_mac_address_is_of_the_path_and_index() {
    let networks = accepted("networks: [{lima: a}, {lima: b}]").filled.networks.unwrap();
    assert!(networks[0].mac_address.as_deref().unwrap().starts_with("52:55:55:"));
    assert_ne!(networks[0].mac_address, networks[1].mac_address);
    assert_eq!((networks[1].interface.as_deref(), networks[1].metric), (Some("lima1"), Some(100)));
}

#[test]
fn variables_are_those_of_the_guest_or_of_the_host() {
    let text = "param: {X: y}\n\
        mounts: [{location: '{{.Home}}/{{.Param.X}}', mountPoint: '{{.Home}}/m'}]\n\
        provision: [{script: '{{.Name}} {{.Hostname}} {{.User}} {{.UID}} {{.Home}} {{if eq .Param.X \"y\"}}on{{end}} {{.Param.N}}'}]\n\
        portForwards: [{guestSocket: '/run/user/{{.UID}}/x', hostSocket: '{{.Dir}}/sock/x'}, {guestSocket: /a, hostSocket: b}]\n\
        copyToHost: [{guest: '{{.Home}}/a', host: '{{.GlobalTempDir}}/{{.Instance}}'}]";
    let filled = accepted(text).filled;
    let mount = &filled.mounts.unwrap()[0];
    assert_eq!(mount.location.as_deref(), Some("/home/jane/y"));
    assert_eq!(mount.mount_point.as_deref(), Some("/home/jane.guest/m"));
    let script = filled.provision.unwrap().remove(0).script.unwrap();
    assert_eq!(script, "foo lima-foo jane 501 /home/jane.guest on <no value>");
    let rules = filled.port_forwards.unwrap();
    assert_eq!(rules[0].guest_socket.as_deref(), Some("/run/user/501/x"));
    assert_eq!(rules[0].host_socket.as_deref(), Some("/h/foo/sock/x"));
    assert_eq!(rules[1].host_socket.as_deref(), Some("/h/foo/sock/b"));
    assert_eq!(filled.copy_to_host.unwrap()[0].host.as_deref(), Some("/tmp/foo"));
}

#[test]
fn a_text_that_cannot_be_expanded_stays_with_a_warning() {
    let loaded = accepted("provision:\n- script: 'docker ps --format {{json}}'");
    assert_eq!(loaded.filled.provision.unwrap()[0].script, Some("docker ps --format {{json}}".into()));
    let warning = &loaded.warnings[0];
    assert!(warning.starts_with("line 2, column 3: provision[0].script: variables stay as they are"), "{warning}");
}

#[test]
fn the_message_is_a_template_of_the_instance() {
    let text = "message: |\n  export X={{.Dir}}/sock/{{.Instance.Name}} {{.SSHLocalPort}} {{.Status}} {{.LimaHome}} {{.CPUs}}\n";
    let filled = accepted(text).filled;
    let name = Name::parse("foo").unwrap();
    let host = host();
    let context = context(&name, &host);
    assert_eq!(message(&filled, &context, 60022).unwrap(), "export X=/h/foo/sock/foo 60022 Running /h 4\n");
    assert_eq!(message(&accepted("").filled, &context, 1).unwrap(), "");
    let loaded = accepted("message: '{{bad}}'");
    assert!(loaded.warnings[0].starts_with("line 1, column 1: message: template line 1: "), "{:?}", loaded.warnings);
    assert!(message(&loaded.filled, &context, 1).is_err());
}

#[test]
fn a_plain_guest_keeps_only_static_forwards() {
    let text = "plain: true\nmounts: [{location: /x}]\ncontainerd: {user: true}\n\
        portForwards: [{guestPort: 80, hostPort: 9090, static: true}, {guestPort: 9080}]";
    let filled = accepted(text).filled;
    assert_eq!((filled.mounts.unwrap().len(), filled.timezone.as_deref()), (0, Some("")));
    assert_eq!(filled.port_forwards.unwrap().len(), 1);
    assert_eq!(filled.containerd.unwrap().user, Some(false));
}

#[test]
fn d22_containerd_is_for_the_user_of_linux_on_two_architectures() {
    let user = |text: &str| accepted(text).filled.containerd.unwrap().user;
    for (text, expected) in [
        ("", true),
        ("arch: aarch64", true),
        ("arch: riscv64", false),
        ("os: FreeBSD", false),
        ("containerd: {user: false}", false),
        ("arch: s390x\ncontainerd: {user: true, archives: [{location: /a}]}", true),
    ] {
        assert_eq!(user(text), Some(expected), "{text}");
    }
    assert!(accepted("containerd: {user: true}").warnings.is_empty());
    let own = accepted("containerd: {archives: [{location: /a}]}").filled.containerd.unwrap().archives.unwrap();
    assert_eq!((own.len(), own[0].arch.as_deref()), (1, Some("x86_64")));
    let default = accepted("containerd: {archives: []}").filled.containerd.unwrap().archives.unwrap();
    assert_eq!(default.iter().filter_map(|it| it.arch.as_deref()).collect::<Vec<_>>(), ["x86_64", "aarch64"]);
    assert!(default.iter().all(|it| it.digest.is_some()));
}

#[test]
fn deprecated_fields_are_moved_and_warned_of() {
    let loaded = accepted(
        "cpuType: {x86_64: max, aarch64: a}\nvmOpts: {qemu: {cpuType: {aarch64: b}}}\nrosetta: {enabled: true}",
    );
    let options = serde_json::to_value(loaded.filled.vm_opts.unwrap()).unwrap();
    assert_eq!(options["qemu"]["cpuType"], serde_json::json!({"aarch64": "b", "x86_64": "max"}));
    assert_eq!(options["vz"]["rosetta"]["enabled"], true);
    assert_eq!(loaded.warnings[0], "line 1, column 1: cpuType: deprecated, use vmOpts.qemu.cpuType");
    assert!(accepted("cpuType: {}\nrosetta: {enabled: ~}").warnings.is_empty());
    assert_eq!(loaded.warnings[1], "line 3, column 1: rosetta: deprecated, use vmOpts.vz.rosetta");
}

#[test]
fn the_driver_is_the_written_one_else_the_chosen_one_else_limas() {
    let driver = |text: &str, chosen: Option<&str>| {
        let aliases = [("qemu2".to_owned(), "qemu".to_owned())].into();
        let host = Host { drivers: drivers::Names { chosen: chosen.map(str::to_owned), aliases }, ..host() };
        let loaded = load_as_foo(format!("{text}\n{IMAGES}").as_bytes(), &host).unwrap();
        (loaded.filled.vm_type.unwrap(), loaded.names_driver)
    };
    assert_eq!(driver("", None), ("qemu".into(), false));
    assert_eq!(driver("", Some("best")), ("best".into(), false));
    assert_eq!(driver("vmType: default", Some("best")), ("best".into(), false));
    assert_eq!(driver("vmType: mine", Some("best")), ("mine".into(), true));
    assert_eq!(driver("vmType: qemu2", Some("best")), ("qemu".into(), true));
}

#[test]
fn a_driver_that_is_not_there_is_told_by_line_and_column() {
    let (name, host) = (Name::parse("foo").unwrap(), host());
    let lacks = |driver: &str| Some(format!("there is no driver {driver:?} (qemu)"));
    let check = |text: &str| check_host(format!("{IMAGES}{text}").as_bytes(), &context(&name, &host), |_| None, lacks);
    let told = check("vmType: vbox\n").unwrap_err().to_string();
    assert_eq!(told, "lima.yaml: line 2, column 1: vmType: there is no driver \"vbox\" (qemu)");
    // Nobody has written the one that is missing.
    check("").unwrap();
}
