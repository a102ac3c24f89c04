//! The user-mode network: gvproxy (of gvisor-tap-vsock, as podman has it), a process beside the VM that outlives us.
//! It is set up with the addresses that Lima's own has, so that guests see the same under every driver.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use limafs_driver::{Error, Result};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use crate::process::Process;
use crate::{names, program};

/// Lima's.
const GATEWAY: &str = "192.168.5.2";
const GUEST: &str = "192.168.5.15";
const START_DEADLINE: Duration = Duration::from_secs(10);
pub(crate) const GVPROXY: &str = "gvproxy";
pub(crate) const FIX: &str = "brew install podman, which brings gvproxy (0.8.8 or later is needed)";
/// Where Homebrew has it beside `$PATH`.
const PLACES: &[&str] = &["/opt/homebrew/opt/podman/libexec/podman", "/usr/local/opt/podman/libexec/podman"];

pub(crate) fn find() -> Result<PathBuf> {
    let beside = || PLACES.iter().map(|dir| Path::new(dir).join(GVPROXY)).find(|path| program::is_program(path));
    let missing = || Error::Missing { what: GVPROXY.into(), fix: FIX.into() };
    program::in_path(GVPROXY).or_else(beside).ok_or_else(missing)
}

/// Starts it and returns when the VM may connect.
pub(crate) async fn start(gvproxy: &Path, dir: &Path, mac: &str) -> Result<Process> {
    clean(dir);
    let (config, log) = (dir.join(names::NET_CONFIG), dir.join(names::NET_LOG));
    fs::write(&config, configuration(dir, mac)).map_err(Error::io(&config))?;
    let words: [OsString; 3] = [gvproxy.into(), "-config".into(), config.into()];
    let process = Process::spawn(&words, identity(dir), &log)?;
    let deadline = Instant::now() + START_DEADLINE;
    while ![names::NET_SOCK, names::NET_SERVICES_SOCK].iter().all(|name| dir.join(name).exists()) {
        let late = Instant::now() >= deadline;
        if late || !process.is_alive() {
            end(&process);
            let why = last_line(&log).unwrap_or(if late { "makes no socket" } else { "ended without a word" }.into());
            return Err(Error::failed(GVPROXY, why));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(process)
}

/// Ends the one of a VM that is gone, and removes what it leaves.
pub(crate) fn clean(dir: &Path) {
    if let Some(process) = Process::find(&identity(dir)) {
        end(&process);
    }
    for name in [names::NET_SOCK, names::NET_SERVICES_SOCK, names::NET_CONFIG] {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("{name} of the dead VM stays: {error}");
            }
            _ => {}
        }
    }
}

/// Opens a connection to a port of the guest's, over gvproxy's own API.
pub(crate) async fn connect(dir: &Path, port: u16) -> Result<UnixStream> {
    let path = dir.join(names::NET_SERVICES_SOCK);
    let mut stream = UnixStream::connect(&path).await.map_err(Error::io(&path))?;
    let request = format!("POST /tunnel?ip={GUEST}&port={port} HTTP/1.1\r\nHost: gvproxy\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(Error::io(&path))?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await.map_err(Error::io(&path))?;
    match &answer {
        b"OK" => Ok(stream),
        _ => Err(Error::failed(GVPROXY, "refused a connection to the guest")),
    }
}

/// The last line of a program's log that says something; what a guest wrote is not in it.
pub(crate) fn last_line(log: &Path) -> Option<String> {
    let bytes = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(4096)..]).into_owned();
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

fn end(process: &Process) {
    if let Err(error) = process.kill() {
        tracing::warn!("{GVPROXY} {}: {error}", process.pid());
    }
}

fn identity(dir: &Path) -> String {
    format!("-config {}", dir.join(names::NET_CONFIG).display())
}

/// JSON, which every YAML reader takes.
fn configuration(dir: &Path, mac: &str) -> String {
    let socket = |scheme: &str, name: &str| format!("{scheme}://{}", dir.join(name).display());
    json!({
        "interfaces": { "vfkit": socket("unixgram", names::NET_SOCK) },
        "services": socket("unix", names::NET_SERVICES_SOCK),
        "stack": {
            "subnet": "192.168.5.0/24",
            "gatewayIP": GATEWAY,
            "deviceIP": GUEST,
            // The host's loopback, seen from the guest.
            "nat": { GATEWAY: "127.0.0.1" },
            "gatewayVirtualIPs": [GATEWAY],
            "dhcpStaticLeases": { GUEST: mac },
        },
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_gets_limas_addresses() {
        let text = configuration(Path::new("/h/foo"), "52:55:55:01:02:03");
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["interfaces"]["vfkit"], "unixgram:///h/foo/net.sock");
        assert_eq!(config["stack"]["dhcpStaticLeases"]["192.168.5.15"], "52:55:55:01:02:03");
        assert_eq!(config["stack"]["nat"]["192.168.5.2"], "127.0.0.1");
    }
}
