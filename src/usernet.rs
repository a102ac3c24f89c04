//! Networks between instances (Lima's mode `user-v2`): one switch for each, a vde_switch that the first instance starts
//! and the last one ends, and the addresses that it has given away. Routes nothing: to the world a guest goes by its
//! own user network.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Error, Result};
use crate::names::{self, Home, Name};
use crate::store;

/// The switch's control directory, in the network's; the QEMU driver knows it under the same name.
const SWITCH: &str = "vde.ctl";
const SWITCH_PID: &str = "vde.pid";
const PROGRAM: &str = "vde_switch";
/// How long a switch may take to come up.
const COMING_UP: Duration = Duration::from_secs(5);
/// Lima's network of this mode, and its addresses.
const NETWORK: &str = "user-v2";
const SUBNET: Ipv4Addr = Ipv4Addr::new(192, 168, 104, 0);
const PREFIX: u8 = 24;
/// Lima keeps the addresses below for itself.
const FIRST: u8 = 5;
const LAST: u8 = 254;

/// Where instances have addresses: `lima-NAME` to address, of all that were ever given one and still exist.
pub type Addresses = BTreeMap<String, Ipv4Addr>;

/// Claims a place in a network for an instance: its switch runs then. The address, and the length of its prefix.
/// Blocks for as long as another instance does the same.
pub fn join(home: &Home, network: &str, instance: &Name) -> Result<(Ipv4Addr, u8)> {
    if network != NETWORK {
        let why = format!("{network} is not supported on Linux, only {NETWORK} is");
        return Err(Error::unsupported("networks[].lima", why));
    }
    let dir = dir(home, network);
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(Error::io(&dir))?;
    let _lock = lock(&dir)?;
    let address = address(home, &dir, instance)?;
    start(&dir)?;
    Ok((address, PREFIX))
}

/// After an instance has come to rest: ends the switches of networks that nobody is in any more.
pub fn leave(home: &Home) -> Result<()> {
    let dir = dir(home, NETWORK);
    if !dir.join(SWITCH_PID).exists() {
        return Ok(());
    }
    let _lock = lock(&dir)?;
    let names = store::list(home)?;
    let is_live = |hostname: &String| {
        let mut found = names.iter().filter(|name| name.hostname() == *hostname);
        found.any(|name| is_live_there(&home.path().join(name.as_str())))
    };
    if addresses(&dir)?.keys().any(is_live) {
        return Ok(());
    }
    stop(&dir)
}

fn is_live_there(instance: &Path) -> bool {
    store::record(instance).is_some_and(|record| record.state.is_live() && record.boot_id == store::boot_id())
}

/// The address of a host name such as `lima-foo` in the networks of this home.
pub fn find(home: &Home, hostname: &str) -> Option<Ipv4Addr> {
    addresses(&dir(home, NETWORK)).ok()?.get(hostname).copied()
}

fn dir(home: &Home, network: &str) -> PathBuf {
    home.path().join(names::NETWORKS_DIR).join(network)
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("limafs.lock");
    let file = File::create(&path).map_err(Error::io(&path))?;
    file.lock().map_err(Error::io(&path))?;
    Ok(file)
}

fn addresses(dir: &Path) -> Result<Addresses> {
    let path = dir.join(names::ADDRESSES);
    let Some(text) = store::read_small(&path)? else { return Ok(Addresses::new()) };
    serde_json::from_slice(&text).map_err(|error| Error::failed(path.display().to_string(), error))
}

/// The address that the instance had before, or the lowest that no other instance has.
fn address(home: &Home, dir: &Path, instance: &Name) -> Result<Ipv4Addr> {
    let mut given = addresses(dir)?;
    let hostname = instance.hostname();
    let there: Vec<String> = store::list(home)?.iter().map(Name::hostname).collect();
    given.retain(|name, _| there.contains(name) || *name == hostname);
    if let Some(address) = given.get(&hostname) {
        return Ok(*address);
    }
    let [a, b, c, _] = SUBNET.octets();
    let mut all = (FIRST..=LAST).map(|last| Ipv4Addr::new(a, b, c, last));
    let free = all.find(|address| !given.values().any(|other| other == address));
    let address = free.ok_or_else(|| Error::busy(NETWORK, "all its addresses are given away"))?;
    given.insert(hostname, address);
    let text = serde_json::to_vec(&given).map_err(|error| Error::failed(names::ADDRESSES, error))?;
    store::replace(&dir.join(names::ADDRESSES), &text, 0o600)?;
    Ok(address)
}

/// Starts the switch unless it runs.
fn start(dir: &Path) -> Result<()> {
    if running(dir).is_some() {
        return Ok(());
    }
    forget(dir);
    let child = Command::new(PROGRAM)
        .args(["--mode", "0600", "--dirmode", "0700", "--daemon", "--sock"])
        .arg(dir.join(SWITCH))
        .arg("--pidfile")
        .arg(dir.join(SWITCH_PID))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Not ended with the hostagent's group.
        .process_group(0)
        .output();
    let output = match child {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = format!("the network {NETWORK} needs {PROGRAM} (apt-get install vde2)");
            return Err(Error::unsupported("networks[].lima", why));
        }
        other => other.map_err(|error| Error::failed(PROGRAM, error))?,
    };
    if !output.status.success() {
        return Err(Error::failed(PROGRAM, String::from_utf8_lossy(&output.stderr).trim()));
    }
    // It writes its pid file after it has let go of whoever started it.
    let deadline = Instant::now() + COMING_UP;
    while running(dir).is_none() {
        if Instant::now() > deadline {
            return Err(Error::Timeout { what: format!("starting {PROGRAM}"), seconds: COMING_UP.as_secs() });
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn stop(dir: &Path) -> Result<()> {
    if let Some(pid) = running(dir) {
        kill_process(pid, Signal::TERM).map_err(|errno| Error::failed(PROGRAM, errno))?;
    }
    forget(dir);
    Ok(())
}

/// The switch of this network, by its pid file and its arguments: a number alone may be another process by now.
fn running(dir: &Path) -> Option<Pid> {
    let text = fs::read_to_string(dir.join(SWITCH_PID)).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok()?)?;
    let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
    let socket = dir.join(SWITCH);
    let is_it = arguments.split(|byte| *byte == 0).any(|word| word == socket.as_os_str().as_encoded_bytes());
    is_it.then_some(pid)
}

/// Removes what a switch that is gone has left.
fn forget(dir: &Path) {
    // Not there is as good.
    let _ = fs::remove_dir_all(dir.join(SWITCH));
    let _ = fs::remove_file(dir.join(SWITCH_PID));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        DirBuilder::new().recursive(true).create(super::dir(&home, NETWORK)).unwrap();
        (dir, home)
    }

    fn given(home: &Home, name: &str) -> String {
        let name = Name::parse(name).unwrap();
        address(home, &dir(home, NETWORK), &name).unwrap().to_string()
    }

    #[test]
    fn an_instance_keeps_its_address_and_one_that_is_gone_gives_it_back() {
        let (_dir, home) = home();
        for name in ["a", "b", "c.d"] {
            store::create(&home, &Name::parse(name).unwrap()).unwrap();
        }
        assert_eq!(
            ["a", "b", "c.d", "a"].map(|name| given(&home, name)),
            [5, 6, 7, 5].map(|last| format!("192.168.104.{last}"))
        );
        assert_eq!(find(&home, "lima-c-d"), Some(Ipv4Addr::new(192, 168, 104, 7)));
        fs::remove_dir(home.path().join("a")).unwrap();
        store::create(&home, &Name::parse("e").unwrap()).unwrap();
        assert_eq!(given(&home, "e"), "192.168.104.5");
        assert_eq!(find(&home, "lima-a"), None);
    }

    #[test]
    fn networks_of_other_modes_are_refused() {
        let (_dir, home) = home();
        let error = join(&home, "shared", &Name::parse("a").unwrap()).unwrap_err();
        assert_eq!(error.errno(), libc::EOPNOTSUPP);
    }

    #[test]
    fn x8_another_process_under_the_number_of_a_switch_is_let_be() {
        let (_dir, home) = home();
        let dir = dir(&home, NETWORK);
        fs::write(dir.join(SWITCH_PID), std::process::id().to_string()).unwrap();
        assert_eq!(running(&dir), None);
        leave(&home).unwrap();
        assert!(!dir.join(SWITCH_PID).exists());
    }
}
