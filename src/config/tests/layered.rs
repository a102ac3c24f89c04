//! lima.yaml between `_config/override.yaml` and `_config/default.yaml`.

use super::*;

fn load_between(overrides: &str, text: &str, defaults: &str) -> Result<Loaded> {
    let (name, host) = (Name::parse("foo").unwrap(), host());
    let layer = |text: &str| (!text.is_empty()).then(|| text.as_bytes().into());
    let layers = Layers { overrides: layer(overrides), defaults: layer(defaults) };
    load(format!("{IMAGES}{text}").as_bytes(), &Context { layers, ..context(&name, &host) })
}

fn filled(overrides: &str, text: &str, defaults: &str) -> Config {
    load_between(overrides, text, defaults).unwrap_or_else(|error| panic!("{error}")).filled
}

fn faults(overrides: &str, text: &str, defaults: &str) -> Vec<String> {
    match load_between(overrides, text, defaults).unwrap_err() {
        Error::Document(lines) => lines,
        error => panic!("{error}"),
    }
}

#[test]
fn d19_override_counts_more_than_the_document_and_that_more_than_default() {
    let all = filled("cpus: 3\n", "cpus: 2\nmemory: 2GiB\n", "cpus: 1\nmemory: 1GiB\ndisk: 5GiB\n");
    assert_eq!((all.cpus, all.memory.as_deref(), all.disk.as_deref()), (Some(3), Some("2GiB"), Some("5GiB")));
}

#[test]
fn d19_scripts_come_in_the_order_override_document_default() {
    let all = filled("provision: [{script: o}]", "provision: [{script: y}, {script: z}]", "provision: [{script: d}]");
    let scripts: Vec<_> = all.provision.unwrap().into_iter().filter_map(|it| it.script).collect();
    assert_eq!(scripts, ["o", "y", "z", "d"]);
}

#[test]
fn d12_mounts_are_one_for_each_place_in_the_guest() {
    let mounts = filled(
        "mounts: [{location: /o, mountPoint: /b}]",
        "mounts: [{location: ~/b, mountPoint: /b, writable: true}, {location: /c}, {location: '{{.Home}}'}]",
        "mounts: [{location: '~', sshfs: {cache: false}}, {location: /d, mountPoint: /b, 9p: {msize: 1MiB}}]",
    )
    .mounts
    .unwrap();
    let places: Vec<_> =
        mounts.iter().map(|it| (it.location.as_deref().unwrap(), it.mount_point.as_deref().unwrap())).collect();
    assert_eq!(places, [("/home/jane", "/home/jane"), ("/o", "/b"), ("/c", "/c")]);
    assert_eq!(mounts[0].sshfs.as_ref().unwrap().cache, Some(false));
    assert_eq!((mounts[1].writable, mounts[1].nine_p.as_ref().unwrap().msize.as_deref()), (Some(true), Some("1MiB")));
}

#[test]
fn d13_networks_are_one_for_each_interface_and_nameless_ones_stay_apart() {
    let networks = filled(
        "networks: [{socket: /s, interface: a}]",
        "networks: [{lima: x, interface: a, metric: 7}, {lima: y}]",
        "networks: [{lima: z}, {lima: w, interface: a, macAddress: '52:55:55:00:00:01'}]",
    )
    .networks
    .unwrap();
    let kinds: Vec<_> = networks.iter().map(|it| (it.lima.as_deref(), it.socket.as_deref())).collect();
    assert_eq!(kinds, [(Some("z"), None), (None, Some("/s")), (Some("y"), None)]);
    assert_eq!((networks[1].metric, networks[1].mac_address.as_deref()), (Some(7), Some("52:55:55:00:00:01")));
    assert_eq!(networks[2].interface.as_deref(), Some("lima2"));
}

#[test]
fn b30_two_networks_of_one_document_never_share_an_interface() {
    let text = "networks: [{lima: x, interface: a}, {lima: y, interface: a}]";
    let lines = faults("", text, "networks: [{lima: w, interface: a}]");
    assert_eq!(lines, ["lima.yaml: line 2, column 47: networks[1].interface: \"a\" is used by networks[0] already"]);
}

#[test]
fn a_fault_names_the_file_that_it_is_in() {
    assert_eq!(faults("cpus: [", "", ""), ["_config/override.yaml: line 1, column 7: unclosed bracket '['"]);
    assert_eq!(
        faults("mountType: nfs\ncpus: x", "memory: lots", "disk: much\nuser: {shell: sh}"),
        [
            "lima.yaml: line 2, column 1: memory: invalid size \"lots\" (such as 4GiB)",
            "_config/override.yaml: line 1, column 1: mountType: must be one of reverse-sshfs, 9p, virtiofs, wsl2, not \"nfs\"",
            "_config/override.yaml: line 2, column 7: cpus: invalid number \"x\"",
            "_config/default.yaml: line 1, column 1: disk: invalid size \"much\" (such as 4GiB)",
            "_config/default.yaml: line 2, column 8: user.shell: must be an absolute path, not \"sh\"",
        ]
    );
}

#[test]
fn a_fault_in_a_list_has_its_index_there() {
    let bad = "provision: [{script: a}, {mode: data, path: b}]";
    assert_eq!(
        faults(bad, bad, bad),
        [
            "lima.yaml: line 2, column 39: provision[1].path: must be an absolute path, not \"b\"",
            "_config/override.yaml: line 1, column 39: provision[1].path: must be an absolute path, not \"b\"",
            "_config/default.yaml: line 1, column 39: provision[1].path: must be an absolute path, not \"b\"",
        ]
    );
    let text = "mounts: [{location: /a}, {location: /b, mountPoint: c}]";
    assert_eq!(
        faults("mounts: [{location: /b, mountPoint: /etc}]", text, "mounts: [{location: /a}, {location: d}]"),
        [
            "lima.yaml: line 2, column 41: mounts[1].mountPoint: must be an absolute path, not \"c\"",
            "_config/override.yaml: line 1, column 25: mounts[0].mountPoint: must not be a system path such as /etc or /usr, not \"/etc\"",
            "_config/default.yaml: line 1, column 27: mounts[1].location: must be an absolute path, not \"d\"",
        ]
    );
}

#[test]
fn a_list_that_cannot_be_read_is_not_missing_too() {
    let (name, host) = (Name::parse("foo").unwrap(), host());
    let error = load(b"images: 5", &context(&name, &host)).unwrap_err();
    assert_eq!(error.to_string(), "lima.yaml: line 1, column 9: images: expected a list, not a number");
    // Another document's list may be enough.
    assert_eq!(
        faults("probes: 5", "", ""),
        ["_config/override.yaml: line 1, column 9: probes: expected a list, not a number"]
    );
}

#[test]
fn images_may_come_from_default_alone() {
    let (name, host) = (Name::parse("foo").unwrap(), host());
    let layers = Layers { defaults: Some(IMAGES.as_bytes().into()), ..Layers::default() };
    let loaded = load(b"cpus: 1", &Context { layers, ..context(&name, &host) }).unwrap();
    assert_eq!(loaded.filled.images.unwrap().len(), 1);
    assert_eq!(loaded.written.images, None);
}

#[test]
fn texts_know_the_documents_params_and_the_guest_knows_all() {
    let all = filled("param: {a: o}", "param: {a: y}\nprovision: [{script: '{{.Param.a}} $PARAM_a'}]", "param: {b: d}");
    assert_eq!(all.provision.unwrap()[0].script, Some("y $PARAM_a".into()));
    assert_eq!(
        all.param.unwrap().into_iter().collect::<Vec<_>>(),
        [("a".into(), "o".into()), ("b".into(), "d".into())]
    );
}

#[test]
fn a_base_outside_of_the_document_is_not_used_and_said_so() {
    let loaded = load_between("", "", "cpu: 1\nbase: template:x").unwrap();
    assert_eq!(
        loaded.warnings,
        [
            "_config/default.yaml: line 1, column 1: cpu: unknown key (did you mean cpus?)",
            "_config/default.yaml: line 2, column 1: base: is not used here",
        ]
    );
    assert_eq!(loaded.filled.base, None);
}

#[test]
fn b26_a_mount_location_is_a_directory_or_nothing_yet() {
    let (name, host) = (Name::parse("foo").unwrap(), host());
    let layers = Layers { overrides: Some(b"mounts: [{location: /file}]".as_slice().into()), ..Layers::default() };
    let context = Context { layers, ..context(&name, &host) };
    let text = format!("{IMAGES}mounts: [{{location: /dir}}, {{location: /none}}, {{location: '~'}}]");
    let told = |path: &Path| match path.to_str() {
        Some("/none") => None,
        path => Some(path == Some("/dir")),
    };
    assert_eq!(
        check_host(text.as_bytes(), &context, told, |_| None).unwrap_err().to_string(),
        "lima.yaml: line 2, column 48: mounts[2].location: \"/home/jane\" is not a directory\n\
         _config/override.yaml: line 1, column 11: mounts[0].location: \"/file\" is not a directory"
    );
    check_host(text.as_bytes(), &context, |_| Some(true), |_| None).unwrap();
}
