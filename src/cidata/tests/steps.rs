//! What runs in the guest at its boot.

use super::*;

#[test]
fn provision_is_numbered_by_its_place_in_the_whole_list() {
    let data = Provision { path: Some("/etc/x".into()), content: Some("x\n".into()), ..script("data", "") };
    let data = Provision { script: None, ..data };
    let told = told().provision([
        script("boot", "echo boot"),
        script("system", "echo system"),
        data,
        script("dependency", "echo dependency"),
        script("user", "echo user"),
        Provision { mode: None, ..script("", "echo default") },
    ]);
    let cidata = told.render().unwrap();
    let paths: Vec<_> = cidata.entries.iter().filter(|entry| entry.path.starts_with("provision.")).collect();
    let names: Vec<_> = paths.iter().map(|entry| (entry.path.as_str(), entry.mode)).collect();
    let expected = [
        ("provision.data/00000002", 0o600),
        ("provision.dependency/00000003", 0o700),
        ("provision.system/00000001", 0o700),
        ("provision.system/00000005", 0o700),
        ("provision.user/00000004", 0o700),
    ];
    assert_eq!(names, expected);
    let env = text(&cidata, "lima.env");
    for line in ["OVERWRITE=true", "OWNER=root:root", "PATH=/etc/x", "PERMISSIONS=644"] {
        assert!(env.contains(&format!("LIMA_CIDATA_DATAFILE_00000002_{line}\n")), "{env}");
    }
}

#[test]
fn boot_scripts_are_commands_with_the_params_and_no_syntax() {
    let nasty = "cat <<'EOF'\n$(reboot) 'quoted' \"too\" \\n\nEOF\n- yaml: [\n";
    let mut told = told().provision([script("system", "true"), script("boot", nasty)]);
    told.config.param = Some(map(&[("nasty", "' ; reboot # \"\t%")]));
    let commands = told.user_data()["bootcmd"].clone();
    let expected =
        json!(["env", "PARAM_nasty=' ; reboot # \"\t%", "sh", "-c", scripts::STEP, "provision.boot/00000001", nasty]);
    assert_eq!(commands[1], expected);
    assert_eq!(commands[0][3], json!("limafs-early"));
    assert_eq!(commands[0][5], json!("io.limafs.boot.0"));
}

#[test]
fn yq_has_an_expression_a_file_and_a_format_that_the_agent_writes() {
    let item = |path: &str, format: Option<&str>| Provision {
        mode: Some("yq".into()),
        expression: Some(".a-b = 1".into()),
        path: Some(path.into()),
        format: format.map(str::to_owned),
        owner: Some("ada".into()),
        permissions: Some("600".into()),
        ..Provision::default()
    };
    let with = |path: &str, format: Option<&str>| {
        let mut told = told().provision([script("system", "true"), item(path, format)]);
        told.agent = Some(b"\x7fELF".to_vec());
        told
    };
    for (path, format, expected) in [
        ("/a/daemon.json", None, "json"),
        ("/a/daemon.json", Some("auto"), "json"),
        ("/a/daemon.json", Some("yaml"), "yaml"),
        ("/a/override.conf", Some("ini"), "ini"),
        ("/a/config", None, "yaml"),
    ] {
        let told = with(path, format);
        assert_eq!(told.text("provision.yq/00000001"), ".a-b = 1");
        let env = told.text("lima.env");
        let values = [("FORMAT", expected), ("OWNER", "ada"), ("PATH", path), ("PERMISSIONS", "600")];
        for (key, value) in values {
            assert!(env.contains(&format!("LIMA_CIDATA_YQ_PROVISION_00000001_{key}={value}\n")), "{env}");
        }
    }
    for (path, format) in [("/a/b.toml", None), ("/a/b", Some("xml")), ("/a/b.properties", Some("auto"))] {
        let error = with(path, format).render().unwrap_err();
        assert!(error.to_string().starts_with("provision[1].format"), "{error}");
    }
}

#[test]
fn modes_that_are_not_run_are_refused() {
    let error = told().provision([script("system", "true"), script("yq", "x")]).render().unwrap_err();
    assert_eq!(error.errno(), libc::EOPNOTSUPP);
    assert!(error.to_string().starts_with("provision[1].mode: `yq` needs the guest agent"), "{error}");
}

#[test]
fn packages_are_left_to_a_dependency_script_that_says_so() {
    const KEY: &str = "LIMA_CIDATA_SKIP_DEFAULT_DEPENDENCY_RESOLUTION";
    let skipping = Provision { skip_default_dependency_resolution: Some(true), ..script("dependency", "true") };
    assert!(told().provision([script("dependency", "true")]).text("lima.env").contains(&format!("{KEY}=\n")));
    assert!(told().provision([skipping]).text("lima.env").contains(&format!("{KEY}=1\n")));
}

#[test]
fn scripts_of_the_driver_are_on_the_disk() {
    let mut told = told();
    told.scripts = BTreeMap::from([("boot.Linux/10-a.sh".into(), b"a".to_vec()), ("11-b.sh".into(), b"b".to_vec())]);
    assert_eq!(told.text("boot.Linux/10-a.sh"), "a");
    assert_eq!(told.text("boot.Linux/11-b.sh"), "b");
    for path in ["../x", "etc/passwd", "boot.Linux/../x", "boot.Linux/", "boot.Linux/a/b"] {
        told.scripts = BTreeMap::from([(path.into(), Vec::new())]);
        assert_eq!(told.render().unwrap_err().errno(), libc::EINVAL, "{path}");
    }
}

#[test]
fn the_scripts_pass_shellcheck() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cidata/scripts");
    let scripts = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    match std::process::Command::new("shellcheck").arg("--shell=sh").args(scripts).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(error) => eprintln!("SKIPPED: shellcheck cannot be run: {error}"),
    }
}

#[test]
fn d17_bytes_that_are_no_text_are_on_the_disk_as_they_are() {
    let bytes = b"\x7fELF\0\xff".to_vec();
    let data = Provision { path: Some("/x".into()), content: Some(bytes.clone().into()), ..script("data", "") };
    let data = Provision { script: None, ..data };
    let program = Provision { script: Some(bytes.clone().into()), ..script("system", "") };
    let cidata = told().provision([data, program]).render().unwrap();
    for path in ["provision.data/00000000", "provision.system/00000001"] {
        let entry = cidata.entries.iter().find(|entry| entry.path == path).unwrap();
        assert_eq!(entry.bytes, bytes, "{path}");
    }
    let boot = Provision { script: Some(bytes.into()), ..script("boot", "") };
    let error = told().provision([boot]).render().unwrap_err();
    assert_eq!(error.to_string(), "provision[0].script: a boot script is text, use mode system");
}

#[test]
fn the_archive_is_told_by_serial_number_id_and_size() {
    let mut told = told();
    assert!(told.text("lima.env").contains("LIMA_CIDATA_CONTAINERD_USER=\nLIMA_CIDATA_CONTAINERD_SYSTEM=\n"));
    assert!(!told.text("lima.env").contains("LIMAFS_ARCHIVE"));
    told.config.containerd = Some(Containerd { user: Some(true), ..Containerd::default() });
    told.archive = Some(Archive { id: "0123".into(), size: 5 });
    let env = told.text("lima.env");
    assert!(env.contains("LIMA_CIDATA_CONTAINERD_USER=1\nLIMA_CIDATA_CONTAINERD_SYSTEM=\n"), "{env}");
    assert!(
        env.ends_with("LIMAFS_ARCHIVE_SERIAL=limafs-containerd\nLIMAFS_ARCHIVE_ID=0123\nLIMAFS_ARCHIVE_SIZE=5\n"),
        "{env}"
    );
    assert!(ARCHIVE_SERIAL.len() <= 20, "QEMU cuts longer ones");
}
