//! `ssh.config`: how a user's own ssh, scp, rsync and editors reach the guest. Lima's file, with a pinned host key.

use std::fmt::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::{Login, pin};
use crate::error::{Error, Result};
use crate::names;
use crate::store;

/// Where a user's ssh keeps a connection for the next one.
const CONTROL: &str = "ssh.sock";
const HANG_UP: Duration = Duration::from_secs(5);

/// Writes the file anew; from the first boot on it trusts the pinned key only.
pub fn write(login: &Login) -> Result<()> {
    let is_pinned = pin::read(&login.known_hosts, &login.alias)?.is_set();
    let path = login.known_hosts.with_file_name(names::SSH_CONFIG);
    store::replace(&path, render(login, &path, is_pinned)?.as_bytes(), 0o600)
}

/// Ends the connection that a user's ssh has left open for the next one, as that would use it and hang: the guest at its
/// other end is another one by now.
pub async fn hang_up(dir: &Path) {
    let control = dir.join(CONTROL);
    if !control.exists() {
        return;
    }
    let mut command = Command::new("ssh");
    command.args(["-F", "none", "-O", "exit", "-S"]).arg(&control).arg("guest");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match timeout(HANG_UP, command.status()).await {
        Ok(Ok(status)) if status.success() => {}
        // Nobody listens any more, most likely.
        _ => tracing::debug!("{} was not ended", control.display()),
    }
}

/// The port in an ssh.config: the one of the last boot.
pub fn port(dir: &Path) -> Option<u16> {
    let text = store::read_small(&dir.join(names::SSH_CONFIG)).ok()??;
    let text = String::from_utf8_lossy(&text);
    text.lines().find_map(|line| line.trim().strip_prefix("Port ")?.trim().parse().ok())
}

fn render(login: &Login, path: &Path, is_pinned: bool) -> Result<String> {
    let bad_path = |_| Error::failed(names::SSH_CONFIG, "a path in it has a quote or a line break");
    let control = quoted(&login.known_hosts.with_file_name(CONTROL)).map_err(bad_path)?;
    let mut text = format!(
        "# Reaches the guest: ssh -F {} {}\n# limafs writes this file at each start of the instance; changes are lost.\n\
         # The host key below is the one that the guest had at its first boot.\nHost {}\n",
        path.display(),
        login.alias,
        login.alias
    );
    let mut option = |key: &str, value: &str| writeln!(text, "  {key} {value}");
    let written = (|| {
        option("IdentityFile", &quoted(&login.identity_file)?)?;
        if is_pinned {
            option("StrictHostKeyChecking", "yes")?;
            option("UserKnownHostsFile", &quoted(&login.known_hosts)?)?;
        } else {
            option("StrictHostKeyChecking", "no")?;
            option("UserKnownHostsFile", "/dev/null")?;
            option("NoHostAuthenticationForLocalhost", "yes")?;
        }
        option("HostKeyAlias", &login.alias)?;
        option("PreferredAuthentications", "publickey")?;
        option("Compression", "no")?;
        option("BatchMode", "yes")?;
        option("IdentitiesOnly", "yes")?;
        for (key, value) in &login.options {
            option(key, value)?;
        }
        option("User", &login.user)?;
        option("ControlMaster", "auto")?;
        option("ControlPath", &control)?;
        option("ControlPersist", "yes")?;
        option("Hostname", &login.address)?;
        option("Port", &login.port.to_string())
    })();
    written.map_err(bad_path)?;
    Ok(text)
}

/// A path as ssh_config wants it: in quotes, `%` doubled.
fn quoted(path: &Path) -> std::result::Result<String, std::fmt::Error> {
    let text = path.to_string_lossy();
    match text.contains(['"', '\n', '\r']) {
        true => Err(std::fmt::Error),
        false => Ok(format!("\"{}\"", text.replace('%', "%%"))),
    }
}
