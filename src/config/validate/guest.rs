//! The guest: its user, name resolution, environment.

use std::net::IpAddr;
use std::path::Path;

use limafs_driver::{Config, User};

use super::{one_line, text};
use crate::config::expand_path;
use crate::config::remarks::Remarks;

pub fn check(config: &Config, faults: &mut Remarks) {
    if let Some(user) = &config.user {
        check_user(config, user, faults);
    }
    let dns = config.dns.as_deref().unwrap_or_default();
    for (index, server) in dns.iter().enumerate().filter(|(_, server)| server.parse::<IpAddr>().is_err()) {
        faults.add(format!("dns[{index}]"), format!("invalid IP address {server:?}"));
    }
    let resolver = config.host_resolver.as_ref().and_then(|resolver| resolver.enabled);
    if resolver == Some(true) && !dns.is_empty() {
        faults.add("dns", "must be empty when hostResolver.enabled is true");
    }
    for name in config.env.iter().flat_map(|env| env.keys()) {
        if name.is_empty() || name.contains(|c: char| c == '=' || c.is_whitespace() || c.is_control()) {
            faults.add(format!("env.{}", name.escape_debug()), "not a name of an environment variable");
        }
    }
    for (name, target) in config.host_resolver.iter().flat_map(|resolver| resolver.hosts.iter().flatten()) {
        let is_host = |word: &str| !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control());
        if !is_host(name) || !is_host(target) {
            let why = format!("must be an IP address or another name, not {target:?}");
            faults.add(format!("hostResolver.hosts.{}", name.escape_debug()), why);
        }
    }
    for (index, file) in config.ca_certs.iter().flat_map(|certs| certs.files.iter().flatten()).enumerate() {
        // Lima takes a relative path as its caller's; a file tree has no caller's directory.
        if expand_path(file, Path::new("/")).is_none() {
            faults.add(format!("caCerts.files[{index}]"), format!("invalid local file path {file:?} (absolute or ~/)"));
        }
    }
    one_line(faults, "timezone", text(&config.timezone));
    one_line(faults, "guestInstallPrefix", text(&config.guest_install_prefix));
}

fn check_user(config: &Config, user: &User, faults: &mut Remarks) {
    match text(&user.name) {
        "" => faults.must_be_set("user.name"),
        "root" => faults.add("user.name", "must not be root"),
        // These would end the word in passwd, in a path or in a shell's list.
        name if name.contains(|c: char| c == ':' || c == '/' || c.is_whitespace() || c.is_control()) => {
            faults.add("user.name", format!("{name:?} must not contain white space, colons or slashes"));
        }
        _ => {}
    }
    if user.uid == Some(0) {
        faults.add("user.uid", "must not be 0");
    }
    let windows = text(&config.os) == "Windows";
    let shell = text(&user.shell);
    if windows {
        let program = shell.rsplit(['/', '\\']).next().unwrap_or_default();
        super::one_of(faults, "user.shell", Some(program), &["cmd.exe", "powershell.exe", "pwsh.exe"]);
    } else if !shell.starts_with('/') {
        faults.add("user.shell", format!("must be an absolute path, not {shell:?}"));
    }
    if !windows && !text(&user.home).starts_with('/') {
        faults.add("user.home", format!("must be an absolute path, not {:?}", text(&user.home)));
    }
    one_line(faults, "user.home", text(&user.home));
    one_line(faults, "user.shell", shell);
    sudo(config, user, faults);
}

fn sudo(config: &Config, user: &User, faults: &mut Remarks) {
    match (user.passwordless_sudo, text(&config.os)) {
        (Some(true), "Darwin") => faults.add("user.passwordlessSudo", "cannot be true in a macOS guest"),
        (Some(false), os) if os != "Darwin" && config.plain != Some(true) => {
            faults.add("user.passwordlessSudo", "false requires plain: true");
        }
        (Some(false), _) if text(&config.vm_type) == "wsl2" => {
            faults.add("user.passwordlessSudo", "cannot be false with vmType wsl2");
        }
        _ => {}
    }
}
