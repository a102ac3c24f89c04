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
use crate::networks::{self, Mode, Network};
use crate::store;

/// The switch's control directory, in the network's; the QEMU driver knows it under the same name.
const SWITCH: &str = "vde.ctl";
const SWITCH_PID: &str = "vde.pid";
const PROGRAM: &str = "vde_switch";
/// How long a switch may take to come up.
const COMING_UP: Duration = Duration::from_secs(5);
/// Lima's network of this mode, which is there without a networks.yaml, and its addresses.
const NETWORK: &str = "user-v2";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 104, 1);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
/// Lima keeps the addresses below for itself.
const FIRST: u32 = 5;
/// A switch has no more places.
const MOST: u32 = 250;

/// The addresses of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subnet {
    base: u32,
    prefix: u32,
    gateway: Ipv4Addr,
}

/// Where instances have addresses: `lima-NAME` to address, of all that were ever given one and still exist.
pub type Addresses = BTreeMap<String, Ipv4Addr>;

/// Claims a place in a network for an instance: its switch runs then. The address, and the length of its prefix.
/// Blocks for as long as another instance does the same.
pub fn join(home: &Home, network: &str, instance: &Name) -> Result<(Ipv4Addr, u32)> {
    let subnet = subnet(home, network)?;
    let dir = dir(home, network);
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(Error::io(&dir))?;
    let _lock = lock(&dir)?;
    let address = address(home, &dir, subnet, instance)?;
    start(&dir)?;
    Ok((address, subnet.prefix))
}

/// After an instance has come to rest: ends the switches of networks that nobody is in any more.
pub fn leave(home: &Home) -> Result<()> {
    let mut with_switch = all(home).into_iter().filter(|dir| dir.join(SWITCH_PID).exists());
    with_switch.try_for_each(|dir| leave_one(home, &dir))
}

fn leave_one(home: &Home, dir: &Path) -> Result<()> {
    let _lock = lock(dir)?;
    let names = store::list(home)?;
    let is_live = |hostname: &String| {
        let mut found = names.iter().filter(|name| name.hostname() == *hostname);
        found.any(|name| is_live_there(&home.path().join(name.as_str())))
    };
    if addresses(dir)?.keys().any(is_live) {
        return Ok(());
    }
    stop(dir)
}

fn is_live_there(instance: &Path) -> bool {
    store::record(instance).is_some_and(|record| record.state.is_live() && record.boot_id == store::boot_id())
}

/// The address of a host name such as `lima-foo` in the networks of this home.
pub fn find(home: &Home, hostname: &str) -> Option<Ipv4Addr> {
    all(home).iter().find_map(|dir| addresses(dir).ok()?.get(hostname).copied())
}

/// The directories of all networks that somebody was ever in.
fn all(home: &Home) -> Vec<PathBuf> {
    let there = fs::read_dir(home.path().join(names::NETWORKS_DIR)).into_iter().flatten().flatten();
    let mut dirs: Vec<_> = there.map(|entry| entry.path()).filter(|dir| dir.join(names::ADDRESSES).exists()).collect();
    dirs.sort();
    dirs
}

/// The networks of a networks.yaml; without one, what Lima would write into it for this machine.
pub fn defined(text: Option<&[u8]>) -> Result<BTreeMap<String, Network>> {
    let of_lima =
        || Network { mode: Some(Mode::UserV2), gateway: Some(GATEWAY), netmask: Some(NETMASK), ..Network::default() };
    match text {
        Some(text) => Ok(networks::read(text)?.networks),
        None => Ok([(NETWORK.to_owned(), of_lima())].into()),
    }
}

fn subnet(home: &Home, network: &str) -> Result<Subnet> {
    let text = store::read_small(&home.config(names::NETWORKS_YAML))?;
    let Some(found) = defined(text.as_deref())?.remove(network) else {
        let why = format!("{network} is not defined in _config/{}", names::NETWORKS_YAML);
        return Err(Error::invalid("networks[].lima", why));
    };
    if found.mode != Some(Mode::UserV2) {
        let why = format!("{network} is of a mode that is there on macOS only; on Linux it must be user-v2");
        return Err(Error::unsupported("networks[].lima", why));
    }
    let gateway = found.gateway.unwrap_or(GATEWAY);
    let mask = found.netmask.unwrap_or(NETMASK).to_bits();
    Ok(Subnet { base: gateway.to_bits() & mask, prefix: mask.count_ones(), gateway })
}

impl Subnet {
    /// What instances may have.
    fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        let size = (u64::from(u32::MAX) >> self.prefix) as u32;
        let hosts = (FIRST..size.min(FIRST + MOST)).map(move |host| Ipv4Addr::from_bits(self.base + host));
        hosts.filter(move |address| *address != self.gateway)
    }

    fn has(self, address: Ipv4Addr) -> bool {
        self.addresses().any(|other| other == address)
    }
}

fn dir(home: &Home, network: &str) -> PathBuf {
    home.path().join(names::NETWORKS_DIR).join(network)
}

/// The name of the network in a directory.
fn called(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
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
fn address(home: &Home, dir: &Path, subnet: Subnet, instance: &Name) -> Result<Ipv4Addr> {
    let mut given = addresses(dir)?;
    let hostname = instance.hostname();
    let there: Vec<String> = store::list(home)?.iter().map(Name::hostname).collect();
    // Those of a network that was another one before are void.
    given.retain(|name, address| subnet.has(*address) && (there.contains(name) || *name == hostname));
    if let Some(address) = given.get(&hostname) {
        return Ok(*address);
    }
    let free = subnet.addresses().find(|address| !given.values().any(|other| other == address));
    let address = free.ok_or_else(|| Error::busy(called(dir), "all its addresses are given away"))?;
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
            let why = format!("the network {} needs {PROGRAM} (apt-get install vde2)", called(dir));
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
        address(home, &dir(home, NETWORK), subnet(home, NETWORK).unwrap(), &name).unwrap().to_string()
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
        let name = Name::parse("a").unwrap();
        assert_eq!(join(&home, "shared", &name).unwrap_err().errno(), libc::EINVAL, "not defined");
        define(&home, "networks: {shared: {mode: shared, gateway: 10.0.0.1}}\n");
        assert_eq!(join(&home, "shared", &name).unwrap_err().errno(), libc::EOPNOTSUPP);
        assert_eq!(join(&home, NETWORK, &name).unwrap_err().errno(), libc::EINVAL, "no longer defined");
    }

    #[test]
    fn addresses_are_of_the_network_as_it_is_defined() {
        let (_dir, home) = home();
        store::create(&home, &Name::parse("a").unwrap()).unwrap();
        assert_eq!(given(&home, "a"), "192.168.104.5");
        define(&home, "networks: {user-v2: {mode: user-v2, gateway: 10.1.0.5, netmask: 255.255.255.240}}\n");
        assert_eq!(given(&home, "a"), "10.1.0.6");
        let all: Vec<_> = subnet(&home, NETWORK).unwrap().addresses().map(|address| address.octets()[3]).collect();
        assert_eq!(all, [6, 7, 8, 9, 10, 11, 12, 13, 14]);
        define(&home, "networks: {lab: {mode: user-v2, gateway: 10.1.0.5, netmask: 255.255.255.252}}\n");
        let (lab, name) = (subnet(&home, "lab").unwrap(), Name::parse("a").unwrap());
        let error = address(&home, &super::dir(&home, "lab"), lab, &name).unwrap_err();
        assert_eq!(error.to_string(), "lab: all its addresses are given away");
    }

    fn define(home: &Home, text: &str) {
        fs::create_dir_all(home.config("")).unwrap();
        fs::write(home.config(names::NETWORKS_YAML), text).unwrap();
    }

    #[test]
    fn x8_another_process_under_the_number_of_a_switch_is_let_be() {
        let (_dir, home) = home();
        let dir = dir(&home, NETWORK);
        fs::write(dir.join(names::ADDRESSES), "{}").unwrap();
        fs::write(dir.join(SWITCH_PID), std::process::id().to_string()).unwrap();
        assert_eq!(running(&dir), None);
        leave(&home).unwrap();
        assert!(!dir.join(SWITCH_PID).exists());
    }
}
