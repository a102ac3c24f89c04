//! What cloud-init itself reads: meta-data, user-data, network-config.
//! Built as values and written by a serializer, so that no text of a user can become syntax.

use serde_json::{Map, Value, json};

use super::scripts::{EARLY, START, WATCH};
use super::{Entry, Guest, certificates, env, mounts, one_line, provision, required};
use crate::error::{Error, Result};

/// Where cloud-init looks for what it runs at every boot; Lima's file, so that either tool replaces the other's.
const PER_BOOT: &str = "/var/lib/cloud/scripts/per-boot/00-lima.boot.sh";

pub fn entries(guest: &Guest, iid: &str) -> Result<[Entry; 3]> {
    let meta = json!({ "instance-id": iid, "local-hostname": guest.name.hostname() });
    Ok([
        Entry::text("meta-data", yaml(&meta)?),
        Entry::text("network-config", yaml(&network_config(guest))?),
        Entry::text("user-data", format!("#cloud-config\n{}", yaml(&user_data(guest, iid)?)?)),
    ])
}

/// For the driver's own scripts, where no cloud-init makes the user.
pub fn authorized_keys(guest: &Guest) -> Entry {
    Entry::text("ssh_authorized_keys", guest.ssh_keys.iter().map(|key| format!("{key}\n")).collect::<String>())
}

fn user_data(guest: &Guest, iid: &str) -> Result<Value> {
    let config = guest.config;
    let mut data = Map::new();
    data.insert("growpart".into(), json!({ "mode": "auto", "devices": ["/"] }));
    if config.upgrade_packages == Some(true) {
        let upgrade = ["package_update", "package_upgrade", "package_reboot_if_required"];
        data.extend(upgrade.map(|key| (key.into(), json!(true))));
    }
    insert_list(&mut data, "mounts", mounts::fstab(config)?);
    if let Some(zone) = config.timezone.as_deref().filter(|zone| !zone.is_empty()) {
        data.insert("timezone".into(), json!(one_line("timezone", zone)?));
    }
    // No `default` among them: the distribution's own user is not made.
    data.insert("users".into(), json!([user(guest)?]));
    data.insert(
        "write_files".into(),
        json!([
            { "path": PER_BOOT, "owner": "root:root", "permissions": "0755", "content": START }
        ]),
    );
    if guest.keep_host_keys {
        data.insert("ssh_deletekeys".into(), json!(false));
    }
    let dns = config.dns.as_deref().unwrap_or_default();
    if !dns.is_empty() {
        data.insert("manage_resolv_conf".into(), json!(true));
        data.insert("resolv_conf".into(), json!({ "nameservers": dns }));
    }
    data.extend(ca_certs(guest).map(|certs| ("ca_certs".into(), certs)));
    let mut commands = vec![early(guest, iid)?];
    commands.extend(provision::bootcmds(config)?);
    data.insert("bootcmd".into(), json!(commands));
    Ok(Value::Object(data))
}

fn user(guest: &Guest) -> Result<Value> {
    let user = guest.config.user.clone().unwrap_or_default();
    let mut made = json!({
        "name": required("user.name", user.name.as_deref())?,
        "uid": user.uid.ok_or_else(|| Error::invalid("user.uid", "is not set"))?,
        "homedir": required("user.home", user.home.as_deref())?,
        "shell": required("user.shell", user.shell.as_deref())?,
        "lock_passwd": true,
        "ssh_authorized_keys": guest.ssh_keys,
    });
    if let Some(comment) = user.comment.as_deref().filter(|comment| !comment.is_empty()) {
        // A colon would be the end of the field in /etc/passwd.
        made["gecos"] = json!(one_line("user.comment", comment)?.replace(':', " "));
    }
    if user.passwordless_sudo.unwrap_or(true) {
        made["sudo"] = json!("ALL=(ALL) NOPASSWD:ALL");
    }
    Ok(made)
}

/// The first `bootcmd`: all that it needs comes as arguments, because the disk is not mounted yet.
fn early(guest: &Guest, iid: &str) -> Result<Value> {
    let user = guest.config.user.clone().unwrap_or_default();
    let name = required("user.name", user.name.as_deref())?;
    let home = required("user.home", user.home.as_deref())?;
    let environment = env::environment(guest)?;
    Ok(json!(["sh", "-c", EARLY, "limafs-early", iid, guest.boot_port, name, home, WATCH, environment]))
}

fn ca_certs(guest: &Guest) -> Option<Value> {
    let certs = certificates::all(guest);
    let remove = certificates::removes_defaults(guest.config);
    (remove || !certs.is_empty()).then(|| json!({ "remove_defaults": remove, "trusted": certs }))
}

fn network_config(guest: &Guest) -> Value {
    let mut card = json!({
        "match": { "macaddress": guest.mac },
        "set-name": "eth0",
        "dhcp4": true,
        "dhcp-identifier": "mac",
        "dhcp4-overrides": { "route-metric": 200 },
    });
    let dns = guest.config.dns.as_deref().unwrap_or_default();
    if !dns.is_empty() {
        card["nameservers"] = json!({ "addresses": dns });
    }
    let mut cards = Map::from_iter([("eth0".to_owned(), card)]);
    for (index, network) in guest.networks.iter().enumerate() {
        let mut card = json!({
            "match": { "macaddress": network.mac },
            "set-name": network.interface,
            "dhcp4": network.address.is_empty(),
            "addresses": [network.address],
            // Nobody is to wait for it: the guest's way out is eth0.
            "optional": true,
        });
        if network.address.is_empty() {
            let wanted = guest.config.networks.as_ref().and_then(|networks| networks.get(index)?.metric);
            card.as_object_mut().map(|card| card.remove("addresses"));
            card["dhcp4-overrides"] = json!({ "route-metric": wanted.unwrap_or(100) });
        }
        cards.insert(network.interface.clone(), card);
    }
    json!({ "version": 2, "ethernets": cards })
}

fn insert_list(data: &mut Map<String, Value>, key: &str, list: Vec<Value>) {
    if !list.is_empty() {
        data.insert(key.into(), Value::Array(list));
    }
}

/// Quoted rather than folded: every reader of YAML 1.1 and 1.2 gets the same text back.
fn yaml(value: &Value) -> Result<String> {
    let options = serde_yaml::ser_options! { prefer_block_scalars: false };
    serde_yaml::to_string_with_options(value, options).map_err(|error| Error::failed("cloud-config", error))
}
