//! Rules of Lima's schema that have no case of their own, and expressions (cases I).

use super::*;

#[test]
fn i07_an_expression_sees_its_file_alone() {
    let yq = |expression: &str| format!("provision: [{{mode: yq, path: /x, expression: '{expression}'}}]");
    for (expression, word) in [
        (".a = env(HOME)", "env"),
        (".a = strenv(HOME)", "strenv"),
        (".a |= envsubst", "envsubst"),
        (".a = load(\"/etc/passwd\")", "load"),
        (".a = load_str(\"/etc/passwd\")", "load_str"),
        ("system(\"id\")", "system"),
        (".a = $__loc__", "$__loc__"),
        ("\"x\" | env", "env"),
        ("\"\\\"\" + env(HOME)", "env"),
        ("\"\\\\\" + env(HOME)", "env"),
        ("\"\\(env(HOME))\"", "env"),
    ] {
        assert_refused(&yq(expression), &["provision[0].expression", &format!("{word} is disabled")]);
    }
    for expression in [".env = 1", ".system.load += 2", ".a = \"env(HOME)\"", ".environment", ".a[\"load\"] = \"\\\"\""]
    {
        accepted(&yq(expression));
    }
}

#[test]
fn s15_texts_have_no_environment_and_no_files() {
    for text in ["{{env \"HOME\"}}", "{{readFile \"/etc/passwd\"}}", "{{.Env.HOME}}{{nosuch}}"] {
        let loaded = accepted(&format!("provision: [{{script: '{text}'}}]"));
        assert_eq!(loaded.filled.provision.unwrap()[0].script, Some(text.into()));
        assert!(loaded.warnings[0].contains("variables stay as they are"), "{:?}", loaded.warnings);
    }
}

#[test]
fn cpu_types_are_by_processor() {
    accepted("vmOpts: {qemu: {cpuType: {x86_64: 'max,-avx', aarch64: ~}}}");
    assert_refused("vmOpts: {qemu: {cpuType: {i386: max}}}", &["vmOpts.qemu.cpuType.i386: must be one of x86_64"]);
    assert_refused("vmOpts: {qemu: {cpuType: {x86_64: [a]}}}", &["vmOpts.qemu.cpuType.x86_64: expected text"]);
    assert_refused("vmOpts: {qemu: {cpuType: max}}", &["vmOpts.qemu.cpuType: expected a map"]);
    assert_refused("cpuType: {i386: max}", &["vmOpts.qemu.cpuType.i386"]);
}

#[test]
fn options_of_vz_are_its_own() {
    accepted("vmOpts: {vz: {diskImageFormat: asif, rosetta: {enabled: true, binfmt: ~}}}");
    assert_refused("vmOpts: {vz: {diskImageFormat: qcow2}}", &["vmOpts.vz.diskImageFormat: must be one of raw, asif"]);
    assert_refused("vmOpts: {vz: {rosetta: {enabled: 'on'}}}", &["vmOpts.vz.rosetta.enabled: must be true or false"]);
}

#[test]
fn what_a_driver_lacks_is_refused() {
    assert_refused("vmType: vz\nfirmware: {images: [{location: /x}]}", &["firmware.images", "vz"]);
    assert_refused("vmType: vz\ntpm: true", &["tpm: cannot be used with vmType vz"]);
    assert_refused("vmType: vz\nmountType: 9p", &["mountType: must be one of reverse-sshfs, virtiofs with vmType vz"]);
    assert_refused("vmType: qemu\nmountType: wsl2", &["mountType", "vmType qemu", "\"wsl2\""]);
    accepted("vmType: wsl2");
    accepted("vmType: mine\nmountType: 9p");
    for word in ["reverse-sshfs", "9p", "virtiofs"] {
        accepted(&format!("mountType: {word}"));
    }
}

#[test]
fn words_of_a_disk_are_on_one_line() {
    accepted("additionalDisks: [{name: a, fsType: xfs, fsArgs: ['-i', 'size=512']}]");
    assert_refused("additionalDisks: [{name: a, fsType: \"x\\ny\"}]", &["additionalDisks[0].fsType"]);
    assert_refused("additionalDisks: [{name: a, fsArgs: [b, \"x\\0\"]}]", &["additionalDisks[0].fsArgs"]);
}

#[test]
fn hosts_are_names_for_addresses_or_names() {
    accepted("hostResolver: {hosts: {a: 1.2.3.4, b.c: a, d: '::1'}}");
    assert_refused("hostResolver: {hosts: {a: 'b c'}}", &["hostResolver.hosts.a", "IP address or another name"]);
    assert_refused("hostResolver: {hosts: {a: ''}}", &["hostResolver.hosts.a"]);
}

#[test]
fn certificates_are_files_without_a_caller() {
    accepted("caCerts: {files: [/a.pem, ~/b.pem]}");
    assert_refused("caCerts: {files: [/a.pem, b.pem]}", &["caCerts.files[1]: invalid local file path \"b.pem\""]);
}

#[test]
fn windows_needs_qemu_and_a_program_as_shell() {
    accepted("os: Windows\nuser: {shell: 'C:\\Windows\\powershell.exe'}");
    assert_refused("os: Windows\narch: s390x", &["os: Windows needs vmType qemu"]);
    assert_refused("os: Windows\nuser: {shell: /bin/bash}", &["user.shell: must be one of cmd.exe"]);
}

#[test]
fn b06_a_file_that_was_not_put_in_place_is_refused() {
    let faults = refused("provision: [{file: {url: /x, digest: y}}]");
    assert!(faults.contains("provision[0].file.url: must be empty"), "{faults}");
    assert!(faults.contains("provision[0].script: must not be empty"), "{faults}");
}

#[test]
fn b27_a_password_for_sudo_is_not_for_wsl2_and_none_is_not_for_macos() {
    assert_refused("user: {passwordlessSudo: false}\nplain: true\nvmType: wsl2", &["user.passwordlessSudo", "wsl2"]);
    assert_refused("os: Darwin\nuser: {passwordlessSudo: true}", &["user.passwordlessSudo", "macOS"]);
    accepted("os: Darwin");
}
