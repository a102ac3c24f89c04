//! Making the home's ssh key known to a machine, which knows only the one that its plugin made. Done by the ssh program
//! with that key, which is RSA: everything else then goes with the key that all instances have.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use limafs_driver::{Error, Result};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::hosted::Hosted;

const LIMIT: Duration = Duration::from_secs(20);
const WHAT: &str = "introducing the ssh key _config/user to the machine";
/// Run by the machine's shell, with the key as standard input. The file may lack the end of its last line.
const ADD: &str = "umask 077; mkdir -p .ssh && read -r key && { grep -qxF \"$key\" .ssh/authorized_keys 2>/dev/null || \
                   printf '\\n%s\\n' \"$key\" >>.ssh/authorized_keys; }";

/// Where and as whom a machine is reached.
pub struct Place {
    pub address: String,
    pub port: u16,
    pub user: String,
}

/// What the plugin says of it. A plugin does not get to write options of ssh.
pub async fn place(hosted: &Hosted) -> Result<Place> {
    let address = hosted.text("GetSSHHostname").await?;
    let port = hosted.int("GetSSHPort").await?;
    let user = hosted.text("GetSSHUsername").await?;
    let is_plain = |text: &str, more: &str| {
        let is_fine = |char: char| char.is_ascii_alphanumeric() || more.contains(char);
        text.starts_with(|char: char| char.is_ascii_alphanumeric() || char == '_' || char == ':')
            && text.len() <= 255
            && text.chars().all(is_fine)
    };
    if !is_plain(&address, ".-:_%") {
        return Err(Error::failed("the machine's ssh address", format!("{address:?} is none")));
    }
    if !is_plain(&user, ".-_") {
        return Err(Error::failed("the machine's ssh user", format!("{user:?} is no user's name")));
    }
    let port = u16::try_from(port).ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| Error::failed("the machine's ssh port", "is no port"))?;
    Ok(Place { address, port, user })
}

/// Adds the home's key to the machine's user. A plugin without a key of its own has machines that know ours already.
pub async fn introduce(hosted: &Hosted) -> Result<()> {
    let key = hosted.text("GetSSHKeyPath").await?;
    if key.is_empty() || !Path::new(&key).exists() {
        return Ok(());
    }
    let place = place(hosted).await?;
    let public = hosted.dir.with_file_name("_config").join("user.pub");
    let line = std::fs::read(&public).map_err(Error::io(&public))?;
    let mut child = command(&key, &place).spawn().map_err(|error| Error::failed(WHAT, format!("ssh: {error}")))?;
    let doing = async {
        if let Some(mut stdin) = child.stdin.take() {
            // One that hung up says why on standard error.
            let _ = stdin.write_all(&line).await;
        }
        child.wait_with_output().await
    };
    let late = |_| Error::Timeout { what: WHAT.into(), seconds: LIMIT.as_secs() };
    let output = timeout(LIMIT, doing).await.map_err(late)?.map_err(|error| Error::failed(WHAT, error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::failed(WHAT, last_line(&output.stderr))),
    }
}

fn command(key: &str, place: &Place) -> Command {
    let mut command = Command::new("ssh");
    command.args(["-F", "/dev/null", "-i", key, "-p", &place.port.to_string(), "-l", &place.user]);
    for option in [
        "IdentitiesOnly=yes",
        "BatchMode=yes",
        "PreferredAuthentications=publickey",
        // The host key is pinned by the first session of ours.
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "ConnectTimeout=10",
        "LogLevel=ERROR",
    ] {
        command.args(["-o", option]);
    }
    command.args(["--", &place.address, ADD]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("ssh failed");
    line.chars().filter(|char| !char.is_control()).take(200).collect()
}
