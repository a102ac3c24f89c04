//! What the guest is told depends on who runs it.

use super::*;

fn away() -> Features {
    Features { dynamic_ssh_address: true, ..Features::default() }
}

fn directory() -> Features {
    Features { no_cloud_init: true, ..Features::default() }
}

fn with(features: Features) -> Told {
    Told { features, ..told() }
}

#[test]
fn the_agent_is_told_where_its_host_listens() {
    let env = told().text("lima.env");
    assert!(env.contains("LIMA_CIDATA_VSOCK_PORT=0\nLIMA_CIDATA_VIRTIO_PORT=\n"), "{env}");
    let told = Told { vsock_port: 2222, virtio_port: "io.lima-vm.guest_agent.0".into(), ..told() };
    let env = told.text("lima.env");
    assert!(env.contains("LIMA_CIDATA_VSOCK_PORT=2222\nLIMA_CIDATA_VIRTIO_PORT=io.lima-vm.guest_agent.0\n"), "{env}");
}

#[test]
fn rosetta_is_for_guests_that_are_not_plain() {
    let mut told = with(Features { rosetta_enabled: true, ..Features::default() });
    let words = "LIMA_CIDATA_ROSETTA_ENABLED=true\nLIMA_CIDATA_ROSETTA_BINFMT=false\n";
    assert!(told.text("lima.env").contains(words), "{}", told.text("lima.env"));
    told.config.plain = Some(true);
    assert!(told.text("lima.env").contains(&words.replace("true", "false")), "{}", told.text("lima.env"));
}

#[test]
fn a_guest_in_a_network_of_somebody_else_s_is_told_no_address_of_the_host() {
    for features in [away(), directory()] {
        let mut told = with(features);
        told.env = [("http_proxy", "http://127.0.0.1:3128"), ("https_proxy", "http://proxy.test:3128")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let env = told.text("lima.env");
        for key in ["SLIRP_DNS", "SLIRP_GATEWAY", "SLIRP_IP_ADDRESS"] {
            assert!(env.contains(&format!("LIMA_CIDATA_{key}=\n")), "{env}");
        }
        let environment = told.text("etc_environment");
        assert!(environment.contains("https_proxy=http://proxy.test:3128\n"), "{environment}");
        assert!(!environment.contains("http_proxy=http://127") && !environment.contains(GATEWAY), "{environment}");
    }
    assert!(told().text("lima.env").contains("LIMA_CIDATA_SLIRP_GATEWAY=192.168.5.2\n"));
}

#[test]
fn without_cloud_init_the_keys_and_the_boot_scripts_are_files() {
    let boot = || script("boot", "echo boot");
    let told = with(directory()).provision([script("system", "true"), boot()]);
    assert_eq!(told.text("ssh_authorized_keys"), "ssh-ed25519 AAAA lima\n");
    assert_eq!(told.text("provision.boot/00000001"), "echo boot");
    assert!(told.text("lima.env").contains("LIMA_CIDATA_NO_CLOUD_INIT=1\n"));
    let usual = super::told().provision([boot()]).render().unwrap();
    let mut paths = usual.entries.iter().map(|entry| entry.path.as_str());
    assert!(!paths.any(|path| path == "ssh_authorized_keys" || path.starts_with("provision.boot/")));
}

/// Runs 06-etc-hosts.sh upon a file of its own.
fn hosts(gateway: &str, before: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), before).unwrap();
    let script = include_str!("../scripts/06-etc-hosts.sh").replace("/etc/hosts", file.path().to_str().unwrap());
    let mut shell = std::process::Command::new("sh");
    let status = shell.args(["-c", &script]).env("LIMA_CIDATA_SLIRP_GATEWAY", gateway).status().unwrap();
    assert!(status.success());
    std::fs::read_to_string(file.path()).unwrap()
}

#[test]
fn the_host_is_named_where_it_can_be_found_and_no_longer_where_it_cannot() {
    let (own, host) = ("127.0.0.1 localhost\n", "192.168.5.2 host.lima.internal\n");
    assert_eq!(hosts("192.168.5.2", own), format!("{own}{host}"));
    assert_eq!(hosts("192.168.5.2", &format!("{own}{host}")), format!("{own}{host}"));
    assert_eq!(hosts("", &format!("{own}{host}")), own);
    assert_eq!(hosts("", own), own);
}
