//! The user that is made in the guest: the host's, where that is possible.

use limafs_driver::Config;

use super::default;
use crate::config::Context;
use crate::config::expand::Expander;
use crate::config::remarks::Remarks;
use crate::host::Host;

/// Stands for a host user that no guest can have: root, or a name that useradd refuses.
const FALLBACK: &str = "lima";

/// Lima never runs as root; limafs may, and the guest's user is then an ordinary one.
const FALLBACK_UID: u32 = 1000;

pub fn fill(config: &mut Config, context: &Context, warnings: &mut Remarks) {
    let host = context.host;
    let os = config.os.clone().unwrap_or_default();
    let user = config.user.get_or_insert_default();
    default(&mut user.name, name(host));
    default(&mut user.uid, if host.user.uid == 0 { FALLBACK_UID } else { host.user.uid });
    let comment = if host.user.uid == 0 { "" } else { &host.user.comment };
    let comment = user.comment.take().unwrap_or_else(|| comment.to_owned());
    user.comment = Some(comment.chars().filter(|c| !c.is_control()).collect());
    let shell = match os.as_str() {
        "Darwin" => "/bin/zsh",
        "FreeBSD" => "/bin/sh",
        "Windows" => "cmd.exe",
        _ => "/bin/bash",
    };
    default(&mut user.shell, shell.into());
    default(&mut user.passwordless_sudo, os != "Darwin");
    let homes = if os == "Darwin" { "/Users" } else { "/home" };
    let written = user.home.take();
    user.home = Some(format!("{homes}/{}.guest", user.name.as_deref().unwrap_or(FALLBACK)));
    if let Some(written) = written {
        let home = Expander::new(config, context).guest("user.home", &written, warnings);
        config.user.get_or_insert_default().home = Some(home);
    }
}

fn name(host: &Host) -> String {
    let name = &host.user.name;
    let fits = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte));
    // `admin` is a group in the guests of Ubuntu, and useradd then refuses the user.
    if fits && host.user.uid != 0 && name != "root" && name != "admin" { name.clone() } else { FALLBACK.into() }
}
