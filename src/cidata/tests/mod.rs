use limafs_driver::{CaCerts, Containerd, Disk, Mount, NineP, Provision, StringMap, User, mount_tag};
use serde_json::{Value, json};

use super::*;

mod driver;
mod steps;

struct Told {
    config: Config,
    keys: Vec<String>,
    keep_host_keys: bool,
    networks: Vec<Network>,
    dns: Option<(u16, u16)>,
    boot_port: String,
    virtio_port: String,
    vsock_port: u32,
    features: Features,
    scripts: BTreeMap<String, Vec<u8>>,
    ca_files: Vec<String>,
    agent: Option<Vec<u8>>,
    archive: Option<Archive>,
    env: BTreeMap<String, String>,
}

fn told() -> Told {
    let user = User {
        name: Some("ada".into()),
        comment: Some("Ada: \"Countess\", #1".into()),
        home: Some("/home/ada.guest".into()),
        shell: Some("/bin/bash".into()),
        uid: Some(1000),
        passwordless_sudo: Some(true),
    };
    Told {
        config: Config { os: Some("Linux".into()), user: Some(user), ..Config::default() },
        keys: vec!["ssh-ed25519 AAAA lima".into()],
        keep_host_keys: false,
        networks: vec![],
        dns: None,
        boot_port: "io.limafs.boot.0".into(),
        virtio_port: String::new(),
        vsock_port: 0,
        features: Features::default(),
        scripts: BTreeMap::new(),
        ca_files: Vec::new(),
        agent: None,
        archive: None,
        env: BTreeMap::new(),
    }
}

impl Told {
    fn render(&self) -> Result<Cidata> {
        let name = Name::parse("foo.bar").unwrap();
        render(&Guest {
            name: &name,
            config: &self.config,
            ssh_keys: &self.keys,
            keep_host_keys: self.keep_host_keys,
            mac: "52:55:55:01:02:03",
            networks: &self.networks,
            dns: self.dns,
            boot_port: &self.boot_port,
            virtio_port: &self.virtio_port,
            vsock_port: self.vsock_port,
            features: &self.features,
            boot_scripts: &self.scripts,
            ca_files: &self.ca_files,
            agent: self.agent.as_deref(),
            archive: self.archive.as_ref(),
            host_env: &self.env,
        })
    }

    fn text(&self, path: &str) -> String {
        text(&self.render().unwrap(), path)
    }

    fn user_data(&self) -> Value {
        serde_yaml::from_str(&self.text("user-data")).unwrap()
    }

    fn provision(mut self, items: impl IntoIterator<Item = Provision>) -> Self {
        self.config.provision = Some(items.into_iter().collect());
        self
    }
}

#[test]
fn a_disk_of_ours_is_known_from_one_of_lima() {
    let ours = told().render().unwrap();
    assert!(is_ours(&*iso(&ours.entries, None).unwrap()).unwrap());
    let meta = Entry::text("meta-data", "instance-id: iid-1795280298\nlocal-hostname: lima-foo\n");
    let env = Entry::text("lima.env", "LIMA_CIDATA_NAME=foo\nLIMA_CIDATA_USER=ada\n");
    assert!(!is_ours(&*iso(&[env, meta], None).unwrap()).unwrap());
}

#[test]
fn the_agent_is_on_the_disk_but_for_plain_guests_and_another_one_is_no_other_instance() {
    let mut told = told();
    let without = told.render().unwrap();
    told.agent = Some(b"\x7fELF".to_vec());
    let with = told.render().unwrap();
    assert_eq!(with.iid, without.iid);
    let agent = with.entries.iter().find(|entry| entry.path == "lima-guestagent").unwrap();
    assert_eq!((agent.mode, &*agent.bytes), (0o700, &b"\x7fELF"[..]));
    assert!(with.entries.is_sorted_by_key(|entry| &entry.path));
    told.config.plain = Some(true);
    assert!(told.render().unwrap().entries.iter().all(|entry| entry.path != "lima-guestagent"));
}

fn text(cidata: &Cidata, path: &str) -> String {
    let entry = cidata.entries.iter().find(|entry| entry.path == path);
    String::from_utf8(entry.unwrap_or_else(|| panic!("no {path}")).bytes.clone()).unwrap()
}

fn script(mode: &str, script: &str) -> Provision {
    Provision { mode: Some(mode.into()), script: Some(script.into()), ..Provision::default() }
}

fn map(pairs: &[(&str, &str)]) -> StringMap {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

#[test]
fn meta_data_has_the_id_and_the_host_name() {
    let cidata = told().render().unwrap();
    let meta: Value = serde_yaml::from_str(&text(&cidata, "meta-data")).unwrap();
    assert_eq!(meta, json!({ "instance-id": cidata.iid, "local-hostname": "lima-foo-bar" }));
    assert!(cidata.iid.starts_with("iid-") && cidata.iid.len() == 20, "{}", cidata.iid);
    assert!(text(&cidata, "lima.env").contains(&format!("LIMA_CIDATA_IID={}\n", cidata.iid)));
}

#[test]
fn the_id_is_the_same_while_nothing_changed() {
    assert_eq!(told().render().unwrap(), told().render().unwrap());
}

#[test]
fn the_id_changes_with_whatever_the_guest_is_told() {
    let id = |change: fn(&mut Told)| {
        let mut told = told();
        change(&mut told);
        told.render().unwrap().iid
    };
    let ids = [
        id(|_| {}),
        id(|told| told.keys.push("ssh-ed25519 BBBB other".into())),
        id(|told| told.config.timezone = Some("Europe/Berlin".into())),
        id(|told| told.config.provision = Some(vec![script("system", "true")])),
        id(|told| told.config.param = Some(map(&[("x", "1")]))),
        id(|told| told.scripts = BTreeMap::from([("10-driver.sh".into(), b"true".to_vec())])),
        id(|told| told.config.dns = Some(vec!["1.1.1.1".into()])),
    ];
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
}

#[test]
fn pinned_host_keys_are_kept_under_the_same_id() {
    let pinned = Told { keep_host_keys: true, ..told() };
    assert_eq!(pinned.render().unwrap().iid, told().render().unwrap().iid);
    assert_eq!(pinned.user_data()["ssh_deletekeys"], json!(false));
    assert_eq!(told().user_data().get("ssh_deletekeys"), None);
}

#[test]
fn user_data_makes_exactly_one_user() {
    assert!(told().text("user-data").starts_with("#cloud-config\n"));
    let user = json!({
        "name": "ada",
        "uid": 1000,
        "homedir": "/home/ada.guest",
        "shell": "/bin/bash",
        "lock_passwd": true,
        "ssh_authorized_keys": ["ssh-ed25519 AAAA lima"],
        "gecos": "Ada  \"Countess\", #1",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
    });
    assert_eq!(told().user_data()["users"], json!([user]));
}

#[test]
fn a_user_without_passwordless_sudo_gets_no_sudo_rule() {
    let mut told = told();
    told.config.user.as_mut().unwrap().passwordless_sudo = Some(false);
    assert_eq!(told.user_data()["users"][0].get("sudo"), None);
    assert!(told.text("lima.env").contains("LIMA_CIDATA_PASSWORDLESS_SUDO=\n"));
}

#[test]
fn guests_other_than_linux_are_refused() {
    let mut told = told();
    told.config.os = Some("FreeBSD".into());
    assert_eq!(told.render().unwrap_err().errno(), libc::EOPNOTSUPP);
}

#[test]
fn values_that_would_break_a_line_are_refused() {
    let changes: [fn(&mut Told); 5] = [
        |told| told.config.env = Some(map(&[("A", "1\nLD_PRELOAD=/tmp/x")])),
        |told| told.config.param = Some(map(&[("a", "1\nPARAM_b=2")])),
        |told| told.config.env = Some(map(&[("A;reboot", "1")])),
        |told| told.config.user.as_mut().unwrap().home = Some("/home/a\nb".into()),
        |told| told.config.timezone = Some("UTC\n".into()),
    ];
    for change in changes {
        let mut told = told();
        change(&mut told);
        let error = told.render().unwrap_err();
        assert_eq!(error.errno(), libc::EINVAL, "{error}");
    }
}

#[test]
fn the_guest_is_told_where_its_name_server_is() {
    let lines = |told: &Told| {
        let text = told.text("lima.env");
        text.lines().filter(|line| line.contains("DNS_LOCAL_PORT")).map(str::to_owned).collect::<Vec<_>>()
    };
    let with = Told { dns: Some((5300, 5301)), ..told() };
    assert_eq!(lines(&with), ["LIMA_CIDATA_UDP_DNS_LOCAL_PORT=5300", "LIMA_CIDATA_TCP_DNS_LOCAL_PORT=5301"]);
    assert_eq!(lines(&told()), ["LIMA_CIDATA_UDP_DNS_LOCAL_PORT=", "LIMA_CIDATA_TCP_DNS_LOCAL_PORT="]);
}

#[test]
fn a_network_is_in_the_environment_and_in_network_config() {
    let network =
        Network { interface: "lima0".into(), mac: "52:55:55:AA:bb:cc".into(), address: "192.168.104.5/24".into() };
    let told = Told { networks: vec![network], ..told() };
    let env = told.text("lima.env");
    for line in ["NETS=1", "NET_0_INTERFACE=lima0", "NET_0_MAC=52:55:55:aa:bb:cc", "NET_0_ADDRESS=192.168.104.5/24"] {
        assert!(env.lines().any(|found| found == format!("LIMA_CIDATA_{line}")), "{line}: {env}");
    }
    let config: Value = serde_yaml::from_str(&told.text("network-config")).unwrap();
    assert_eq!(config["ethernets"]["lima0"]["addresses"][0], "192.168.104.5/24");
    assert_eq!(config["ethernets"]["eth0"]["dhcp4"], true);
}

#[test]
fn a_network_that_hands_out_addresses_is_left_to_do_so() {
    let network = Network { interface: "lima0".into(), mac: "52:55:55:aa:bb:cc".into(), address: String::new() };
    let mut told = Told { networks: vec![network], ..told() };
    let card = |told: &Told| {
        let config: Value = serde_yaml::from_str(&told.text("network-config")).unwrap();
        config["ethernets"]["lima0"].clone()
    };
    assert_eq!((&card(&told)["dhcp4"], &card(&told)["addresses"]), (&json!(true), &Value::Null));
    assert_eq!(card(&told)["dhcp4-overrides"]["route-metric"], 100);
    told.config.networks = Some(vec![limafs_driver::Network { metric: Some(300), ..Default::default() }]);
    assert_eq!(card(&told)["dhcp4-overrides"]["route-metric"], 300);
}

#[test]
fn env_and_param_are_plain_lines() {
    let mut told = told();
    told.config.env = Some(map(&[("B", "two words"), ("A", "$(x)'\"")]));
    told.config.param = Some(map(&[("p", "`x`")]));
    assert_eq!(told.text("etc_environment"), "A=$(x)'\"\nB=two words\n");
    assert_eq!(told.text("param.env"), "PARAM_p=`x`\n");
}

#[test]
fn e25_proxies_of_the_host_win_and_are_seen_from_the_guest() {
    let mut told = told();
    told.config.env =
        Some(map(&[("HTTP_PROXY", "http://yaml:1"), ("https_proxy", "http://yaml:2"), ("FTP_PROXY", "")]));
    told.env = map(&[("http_proxy", "http://u:p@localhost:3128/x"), ("NO_PROXY", "localhost"), ("SECRET", "s")]);
    let expected = "HTTPS_PROXY=http://yaml:2\nHTTP_PROXY=http://u:p@192.168.5.2:3128/x\nNO_PROXY=localhost\n\
                    http_proxy=http://u:p@192.168.5.2:3128/x\nhttps_proxy=http://yaml:2\nno_proxy=localhost\n";
    assert_eq!(told.text("etc_environment"), expected);
    told.config.propagate_proxy_env = Some(false);
    assert!(told.text("etc_environment").contains("http_proxy=http://yaml:1\n"));
}

#[test]
fn e25_only_a_proxy_on_the_hosts_loopback_is_at_the_gateway() {
    for (url, seen) in [
        ("http://127.0.0.53:3128", "http://192.168.5.2:3128"),
        ("http://[::1]:3128/", "http://192.168.5.2:3128/"),
        ("LOCALHOST:1", "192.168.5.2:1"),
        ("http://localhost.example:1", "http://localhost.example:1"),
        ("http://10.0.0.1:1", "http://10.0.0.1:1"),
        ("http://[fe80::1]:1", "http://[fe80::1]:1"),
    ] {
        let mut told = told();
        told.env = map(&[("http_proxy", url)]);
        assert_eq!(told.text("etc_environment"), format!("HTTP_PROXY={seen}\nhttp_proxy={seen}\n"), "{url}");
    }
}

#[test]
fn mounts_of_virtiofs_become_fstab_entries() {
    let mut told = told();
    told.config.mount_type = Some("virtiofs".into());
    let mount = Mount { location: Some("/srv".into()), mount_point: Some("/mnt/srv".into()), ..Mount::default() };
    told.config.mounts = Some(vec![Mount { writable: Some(true), ..mount }]);
    let tag = mount_tag("/srv", "/mnt/srv");
    assert_eq!(told.user_data()["mounts"], json!([[tag, "/mnt/srv", "virtiofs", "rw,nofail", "0", "0"]]));
    assert!(told.text("lima.env").contains("LIMA_CIDATA_MOUNTS=1\nLIMA_CIDATA_MOUNTS_0_MOUNTPOINT=/mnt/srv\n"));
}

#[test]
fn mounts_of_9p_have_the_options_of_lima_yaml() {
    let mut told = told();
    told.config.mount_type = Some("9p".into());
    let nine_p = NineP { msize: Some("64KiB".into()), cache: Some("none".into()), ..NineP::default() };
    let mount = Mount { location: Some("/a,b".into()), ..Mount::default() };
    let other = Mount { writable: Some(true), nine_p: Some(nine_p), mount_point: Some("/x y".into()), ..mount.clone() };
    told.config.mounts = Some(vec![mount, other]);
    let [tag, blank] = ["/a,b", "/x y"].map(|point| mount_tag("/a,b", point));
    let options = "ro,trans=virtio,version=9p2000.L,msize=131072,cache=fscache";
    // The other has a blank in its name, of which cloud-init would make two fields.
    let fstab = json!([[tag, "/a,b", "9p", format!("{options},nofail"), "0", "0"]]);
    assert_eq!(told.user_data()["mounts"], fstab);
    let env = told.text("lima.env");
    let other = "rw,trans=virtio,version=9p2000.L,msize=65536,cache=none";
    for (index, tag, options) in [(0, tag, options), (1, blank, other)] {
        let lines = format!("LIMAFS_MOUNT_{index}_TAG={tag}\nLIMAFS_MOUNT_{index}_OPTIONS={options}\n");
        assert!(env.contains(&lines), "{env}");
    }
}

#[test]
fn additional_disks_are_told_in_their_order() {
    let mut told = told();
    let swap = Disk { name: "s".into(), fs_type: Some("swap".into()), ..Disk::default() };
    let args = Some(vec!["-i".to_owned(), "size=512".to_owned()]);
    let xfs = Disk { name: "d-1".into(), fs_type: Some("xfs".into()), fs_args: args, format: Some(false) };
    told.config.additional_disks = Some(vec![swap, xfs]);
    let env = told.text("lima.env");
    let lines: Vec<_> = env.lines().filter_map(|line| line.strip_prefix("LIMA_CIDATA_DISK")).collect();
    let expected = [
        "S=2",
        "_0_NAME=s",
        "_0_DEVICE=vdb",
        "_0_FORMAT=true",
        "_0_FSTYPE=swap",
        "_0_FSARGS=",
        "_1_NAME=d-1",
        "_1_DEVICE=vdc",
        "_1_FORMAT=false",
        "_1_FSTYPE=xfs",
        "_1_FSARGS=-i size=512",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn the_network_has_one_card_found_by_its_address() {
    let mut told = told();
    told.config.dns = Some(vec!["1.1.1.1".into()]);
    let network: Value = serde_yaml::from_str(&told.text("network-config")).unwrap();
    let card = &network["ethernets"]["eth0"];
    assert_eq!(card["match"]["macaddress"], json!("52:55:55:01:02:03"));
    assert_eq!(card["set-name"], json!("eth0"));
    assert_eq!(card["nameservers"]["addresses"], json!(["1.1.1.1"]));
}

#[test]
fn certificates_of_files_come_before_those_that_are_written_out() {
    assert_eq!(told().user_data().get("ca_certs"), None);
    let mut told = told();
    told.ca_files = vec!["FILE\n".into()];
    told.config.ca_certs = Some(CaCerts { certs: Some(vec!["PEM\n".into()]), ..CaCerts::default() });
    assert_eq!(told.user_data()["ca_certs"], json!({ "remove_defaults": false, "trusted": ["FILE\n", "PEM\n"] }));
    assert_eq!(told.text("ca-certs/lima-0000.crt"), "FILE\n");
    assert_eq!(told.text("ca-certs/lima-0001.crt"), "PEM\n");
    assert!(told.text("lima.env").contains("LIMAFS_CA_REMOVE_DEFAULTS=\n"));
}
