//! Who has a port of the host: what /proc shows to this user. Blocks; reads only.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

use super::rules::Proto;

/// `pid 123 nginx`; `None` when it is another user's process, or gone by now.
pub fn of(proto: Proto, address: SocketAddr) -> Option<String> {
    let tables: &[&str] = match proto {
        Proto::Tcp => &["/proc/net/tcp", "/proc/net/tcp6"],
        Proto::Udp => &["/proc/net/udp", "/proc/net/udp6"],
    };
    let inode = tables.iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        text.lines().skip(1).find_map(|line| inode_of(line, proto, address))
    })?;
    let (pid, name) = process_with(&format!("socket:[{inode}]"))?;
    Some(format!("pid {pid} {name}"))
}

/// The inode of a line that stands in the way of the address.
fn inode_of(line: &str, proto: Proto, address: SocketAddr) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (ip, port) = fields.get(1)?.split_once(':')?;
    let listens = proto == Proto::Udp || *fields.get(3)? == "0A";
    if !listens || u16::from_str_radix(port, 16).ok()? != address.port() {
        return None;
    }
    let ip = ip_of(ip)?;
    let in_the_way = ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified();
    in_the_way.then(|| fields.get(9)?.parse().ok()).flatten()
}

/// Words of 32 bits, each in the machine's own order.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    if hex.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut bytes = [0; 16];
    for at in 0..4 {
        bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
    }
    Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical())
}

fn process_with(link: &str) -> Option<(u32, String)> {
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let is_it = |entry: fs::DirEntry| {
            fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str().as_bytes() == link.as_bytes())
        };
        if descriptors.flatten().any(is_it) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some((pid, name.trim().chars().filter(|c| !c.is_control()).collect()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_as_the_kernel_writes_it() {
        let listens = "0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1";
        let connected = listens.replace(" 0A ", " 01 ");
        let at = |text: &str| text.parse().unwrap();
        #[cfg(target_endian = "little")]
        {
            assert_eq!(inode_of(listens, Proto::Tcp, at("127.0.0.1:8080")), Some(4711));
            assert_eq!(inode_of(listens, Proto::Tcp, at("0.0.0.0:8080")), Some(4711));
            assert_eq!(inode_of(listens, Proto::Tcp, at("127.0.0.2:8080")), None);
        }
        assert_eq!(inode_of(listens, Proto::Tcp, at("127.0.0.1:8081")), None);
        assert_eq!(inode_of(&connected, Proto::Tcp, at("127.0.0.1:8080")), None);
        for spoilt in ["", "0:", "0: xyz 0 0A", "0: 0100007F:1F90 0 0A"] {
            assert_eq!(inode_of(spoilt, Proto::Tcp, at("127.0.0.1:8080")), None, "{spoilt}");
        }
    }
}
