//! Bases: how they are merged, in which order, and where they may be.

use super::*;

#[test]
fn d01_d02_what_is_missing_comes_from_the_base() {
    assert_built("", "vmType: qemu", "vmType: qemu");
    assert_built("vmType: vz", "{arch: aarch64, vmType: qemu}", "{vmType: vz, arch: aarch64}");
    assert_built(
        "ssh: {localPort: 1}",
        "ssh: {localPort: 2, forwardX11: true}",
        "ssh: {localPort: 1, forwardX11: true}",
    );
    assert_built("x-mine: {a: [1]}", "x-mine: {a: [2], b: 1.10}", "x-mine: {a: [1, 2], b: 1.10}");
}

#[test]
fn an_explicit_null_keeps_the_base_out_and_an_empty_list_does_not() {
    assert_built("cpus: ~\nimages: []", "cpus: 2\nimages: [{location: /a}]", "cpus: ~\nimages: [{location: /a}]");
    assert_built("mounts: ~", "mounts: [{location: /a}]", "mounts: ~");
}

#[test]
fn d03_mount_types_are_listed_once() {
    assert_built(
        "mountTypesUnsupported: [9p, reverse-sshfs]",
        "mountTypesUnsupported: [9p, virtiofs]",
        "mountTypesUnsupported: [9p, reverse-sshfs, virtiofs]",
    );
}

#[test]
fn d04_d05_the_higher_minimum_version_counts() {
    assert_built("minimumLimaVersion: 0.8.0", "minimumLimaVersion: 1.0.2", "minimumLimaVersion: 1.0.2");
    assert_built("minimumLimaVersion: 1.10.0", "minimumLimaVersion: 1.9.2", "minimumLimaVersion: 1.10.0");
    let qemu = |version: &str| format!("vmOpts: {{qemu: {{minimumVersion: {version}}}}}");
    assert_built(&qemu("8.2.1"), &qemu("9.1.0"), &qemu("9.1.0"));
}

#[test]
fn d06_d07_name_servers_are_the_childs_unless_it_has_none() {
    assert_built("dns: [1.1.1.1]", "dns: [8.8.8.8, 1.2.3.4]", "dns: [1.1.1.1]");
    assert_built("dns: []", "dns: [8.8.8.8, 1.2.3.4]", "dns: [8.8.8.8, 1.2.3.4]");
}

#[test]
fn d08_scripts_of_bases_come_first_and_other_entries_last() {
    assert_built(
        "provision:\n- script: c",
        "provision: [{script: a}, {script: b}]",
        "provision: [{script: a}, {script: b}, {script: c}]",
    );
    assert_built("probes:\n  - script: c", "probes: [{script: a}]", "probes: [{script: a}, {script: c}]");
    assert_built("images:\n- location: /a", "images: [{location: /b}]", "images: [{location: /a}, {location: /b}]");
}

#[test]
fn d09_disks_of_a_name_are_one() {
    let text = embedded(
        "base: /b\nadditionalDisks: [disk1]",
        &[("/b", "additionalDisks: [disk2, {name: disk1, format: true}]")],
    );
    let disks = config(&text).additional_disks.unwrap();
    let disks: Vec<_> = disks.iter().map(|disk| (disk.name.as_str(), disk.format)).collect();
    assert_eq!(disks, [("disk1", Some(true)), ("disk2", None)]);
}

#[test]
fn d11_an_entry_for_all_completes_those_before_it() {
    assert_built(
        "additionalDisks: [mine]",
        "additionalDisks: [{name: '*', format: true}]",
        "additionalDisks: [{name: mine, format: true}]",
    );
    assert_built(
        "mounts: [{location: /a, writable: false}, {location: /b}]",
        "mounts: [{location: '*', writable: true}, {location: /c}]",
        "mounts: [{location: /a, writable: false}, {location: /b, writable: true}, {location: /c}]",
    );
}

#[test]
fn d12_mounts_are_combined_by_their_place_in_the_guest() {
    assert_built(
        "mounts: [{location: /a, mountPoint: /x}, {location: /a, sshfs: {cache: false}}]",
        "mounts: [{location: /b, mountPoint: /x, writable: true}, {location: /a, sshfs: {cache: true, followSymlinks: true}}, {location: /c}]",
        "mounts: [{location: /a, mountPoint: /x, writable: true}, {location: /a, sshfs: {cache: false, followSymlinks: true}}, {location: /c}]",
    );
}

#[test]
fn d13_networks_are_combined_by_interface() {
    assert_built(
        "networks: [{lima: a, interface: x}, {lima: b}]",
        "networks: [{socket: /s, interface: x, macAddress: m}, {lima: b}, {interface: '*', metric: 5}, {lima: c}]",
        "networks: [{lima: a, interface: x, macAddress: m, metric: 5}, {lima: b, metric: 5}, {lima: b, metric: 5}, {lima: c}]",
    );
}

#[test]
fn d14_a_loop_is_found_and_named() {
    let why = refused("base: /a", &[("/a", "base: /b"), ("/b", "base: [/c]"), ("/c", "base: {url: /a}")]);
    assert_eq!(why, "base: loop: /a -> /b -> /c -> /a");
    assert_eq!(refused("base: /a", &[("/a", "base: a"), ("/b", "")]), "base: loop: /a -> /a");
    let why = refused("base: [/a, /b]", &[("/a", "base: /c"), ("/b", "base: /c"), ("/c", "")]);
    assert_eq!(why, "base: /c is included twice");
}

#[test]
fn d15_bases_are_merged_depth_first() {
    let files = [
        ("/1", "base: /3\nadditionalDisks: [d1]\nprovision: [{script: 's1'}]"),
        ("/2", "additionalDisks: [d2]\nprovision: [{script: 's2'}]"),
        ("/3", "additionalDisks: [d3]\nprovision: [{script: 's3'}]"),
    ];
    let text = embedded("base:\n- /1\n- /2\nadditionalDisks:\n- d0\nprovision:\n- script: s0\n", &files);
    let config = config(&text);
    let disks: Vec<_> = config.additional_disks.unwrap().into_iter().map(|disk| disk.name).collect();
    assert_eq!(disks, ["d0", "d1", "d3", "d2"]);
    let scripts: Vec<_> = config.provision.unwrap().into_iter().filter_map(|it| it.script).collect();
    assert_eq!(scripts, ["s2", "s3", "s1", "s0"]);
    assert_eq!(config.base, None);
}

#[test]
fn d16_a_digest_goes_with_the_request() {
    let step = embed(b"base: {url: https://h/b, digest: 'sha256:00'}", None, Path::new("/"), &Library::new()).unwrap();
    let request = Request { place: Place::Url("https://h/b".into()), digest: Some("sha256:00".into()) };
    assert_eq!(step, Step::Fetch(request.clone()));
    // The same bytes without a digest are no answer.
    let library = Library::from([(Request { digest: None, ..request.clone() }, b"cpus: 1".to_vec())]);
    let step = embed(b"base: {url: https://h/b, digest: 'sha256:00'}", None, Path::new("/"), &library).unwrap();
    assert_eq!(step, Step::Fetch(request));
}

#[test]
fn the_homes_base_comes_before_the_documents() {
    let files: [(&str, &[u8]); 2] =
        [("/c/base.yaml", b"cpus: 1\nmemory: 1GiB"), ("/b", b"cpus: 2\ndisk: 2GiB\nmemory: 2GiB")];
    let text = embedded_as(Some("/c/base.yaml"), "base: /b\ndisk: 3GiB\n", &files).unwrap();
    assert_eq!(value(&text), value("{disk: 3GiB, cpus: 1, memory: 1GiB}"));
    assert_eq!(value(&embedded_as(Some("/c/base.yaml"), "", &files).unwrap()), value("{cpus: 1, memory: 1GiB}"));
}

/// What `base: BASE` asks for, in a document of the user or in one at `within`.
fn asked(base: &str, within: Option<&str>) -> String {
    let base = format!("base: {{url: '{base}', digest: x}}");
    let library = |within: &str| {
        let step = embed(
            format!("base: {{url: '{within}', digest: x}}").as_bytes(),
            None,
            Path::new("/home/jane"),
            &Library::new(),
        );
        let Step::Fetch(request) = step.unwrap() else { panic!("{within}") };
        Library::from([(request, base.clone().into_bytes())])
    };
    let (text, library) = match within {
        Some(within) => (format!("base: {{url: '{within}', digest: x}}"), library(within)),
        None => (base.clone(), Library::new()),
    };
    match embed(text.as_bytes(), None, Path::new("/home/jane"), &library) {
        Ok(Step::Fetch(request)) => request.to_string(),
        Ok(done) => panic!("{done:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn locators_are_paths_templates_urls_and_repositories() {
    for (base, place) in [
        ("/a/b.yaml", "/a/b.yaml"),
        ("/a/../b c", "/b c"),
        ("~/b", "/home/jane/b"),
        ("file:///a", "/a"),
        ("template:a", "template:a"),
        ("template://_images/ubuntu-24.04.yaml", "template:_images/ubuntu-24.04"),
        ("https://h/a?b", "https://h/a?b"),
        ("http://h/a", "http://h/a"),
        ("github:o", "https://raw.githubusercontent.com/o/o/HEAD/.lima.yaml"),
        ("github:o/r", "https://raw.githubusercontent.com/o/r/HEAD/.lima.yaml"),
        ("github:o/r/d/", "https://raw.githubusercontent.com/o/r/HEAD/d/.lima.yaml"),
        ("github:o//d/f@v1", "https://raw.githubusercontent.com/o/o/v1/d/f.yaml"),
        ("github:o/r/f.yml@a/b", "https://raw.githubusercontent.com/o/r/a/b/f.yml"),
    ] {
        assert_eq!(asked(base, None), place, "{base}");
    }
}

#[test]
fn locators_in_a_base_are_beside_it() {
    for (within, base, place) in [
        ("/a/b", "c", "/a/c"),
        ("/a/b", "./d/c.yaml", "/a/d/c.yaml"),
        ("template:x", "c", "template:c"),
        ("template:_d/x", "c.sh", "template:_d/c.sh"),
        ("https://h/a/b?x=/y", "c", "https://h/a/c"),
        ("github:o/r/d/x@b", "e/f.sh", "https://raw.githubusercontent.com/o/r/b/d/e/f.sh"),
        ("https://h/a", "template:x", "template:x"),
    ] {
        assert_eq!(asked(base, Some(within)), place, "{base} in {within}");
    }
}

#[test]
fn s14_a_document_from_the_network_reaches_nothing_here() {
    for within in ["https://h/a", "github:o/r/x"] {
        for base in ["/etc/passwd", "file:///etc/passwd", "~/x"] {
            assert!(asked(base, Some(within)).contains("cannot name files of this host"), "{base} in {within}");
        }
        assert!(asked("http://h/b", Some(within)).contains("http within https"), "{within}");
    }
    for base in [
        "../x",
        "a/../../x",
        "template:../x",
        "template:a/../b",
        "github:o/r/../../x",
        "github:o/r/x@../y",
        "github:o/r/x?y",
    ] {
        for within in [None, Some("/a/b"), Some("https://h/a")] {
            assert!(asked(base, within).starts_with("locator "), "{base} in {within:?}");
        }
    }
    assert!(refused("base: http://h/a", &[]).contains("needs a digest"));
}

#[test]
fn what_is_no_locator_is_refused() {
    for base in ["-", "ftp://h/x", "~you/x", "template:", "github:", "oci:x", "https://h/a b"] {
        assert!(asked(base, None).starts_with("locator "), "{base}");
    }
    assert!(asked("x.yaml", None).contains("is relative"));
}

#[test]
fn s14_links_and_redirects_stay_in_the_repository_and_the_organisation() {
    let raw = |path: &str| format!("https://raw.githubusercontent.com/{path}");
    let follow = |base: &str, files: &[(String, &str)]| {
        let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
        embedded_as(None, &format!("base: {base}"), &files)
            .map(|text| value(&text)["cpus"].clone())
            .map_err(|error| error.to_string())
    };
    let link = [(raw("o/r/HEAD/a/x.yaml"), "../b/y.yaml"), (raw("o/r/HEAD/b/y.yaml"), "cpus: 2\n")];
    assert_eq!(follow("github:o/r/a/x", &link), Ok(2.into()));
    let redirect = [(raw("o/o/v1/x.yaml"), "github:o/r/y\n"), (raw("o/r/v1/y.yaml"), "cpus: 3\n")];
    assert_eq!(follow("github:o//x@v1", &redirect), Ok(3.into()));
    for (from, to) in
        [("o/r/HEAD/x.yaml", "../../y"), ("o/o/HEAD/x.yaml", "github:p/r/y"), ("o/o/HEAD/x.yaml", "github:o/r/y@b")]
    {
        let base = if from.starts_with("o/o") { "github:o//x" } else { "github:o/r/x" };
        assert!(follow(base, &[(raw(from), to)]).unwrap_err().contains("points to"), "{to}");
    }
    let round = [(raw("o/r/HEAD/x.yaml"), "y.yaml"), (raw("o/r/HEAD/y.yaml"), "x.yaml")];
    assert!(follow("github:o/r/x", &round).unwrap_err().contains("loop of links"));
}

#[test]
fn s14_there_is_an_end_to_what_is_fetched() {
    let names: Vec<String> = (0..40).map(|n| format!("/{n}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    assert_eq!(refused(&format!("base: [{}]", names.join(", ")), &files), "lima.yaml: is made of more than 32 files");
    assert!(embedded(&format!("base: [{}]", names[..32].join(", ")), &files).len() < 10);
}

#[test]
fn faults_of_a_base_name_it() {
    assert_eq!(refused("base: /b", &[("/b", "cpus: [")]), "/b: line 1, column 7: unclosed bracket '['");
    assert_eq!(refused("base: /b", &[("/b", "cpus: x")]), "/b: line 1, column 7: cpus: invalid number \"x\"");
    let why = refused("base: template:b\ncpus: x", &[("template:b", "cpus: 1")]);
    assert_eq!(why, "lima.yaml: line 2, column 7: cpus: invalid number \"x\"");
}
