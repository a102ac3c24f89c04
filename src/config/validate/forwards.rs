//! Port forwards.

use std::net::IpAddr;

use limafs_driver::{Config, PortForward};

use super::{one_line, one_of, port, text};
use crate::config::remarks::Remarks;
use crate::names::UNIX_PATH_MAX;

pub fn check(config: &Config, faults: &mut Remarks) {
    for (index, rule) in config.port_forwards.iter().flatten().enumerate() {
        let field = format!("portForwards[{index}]");
        addresses(&field, rule, faults);
        ports(&field, rule, faults);
        sockets(&field, rule, faults);
        one_of(faults, &format!("{field}.proto"), rule.proto.as_deref(), &["tcp", "udp", "any"]);
    }
    if let Some(local) = config.ssh.as_ref().and_then(|ssh| ssh.local_port).filter(|local| *local != 0) {
        port(faults, "ssh.localPort".into(), local);
    }
}

fn addresses(field: &str, rule: &PortForward, faults: &mut Remarks) {
    for (name, address) in [("guestIP", &rule.guest_ip), ("hostIP", &rule.host_ip)] {
        if text(address).parse::<IpAddr>().is_err() {
            faults.add(format!("{field}.{name}"), format!("invalid IP address {:?}", text(address)));
        }
    }
    if rule.guest_ip_must_be_zero == Some(true) && text(&rule.guest_ip) != "0.0.0.0" {
        faults.add(format!("{field}.guestIPMustBeZero"), "can only be true when guestIP is 0.0.0.0");
    }
}

fn ports(field: &str, rule: &PortForward, faults: &mut Remarks) {
    let (Some(guest), Some(host)) = (rule.guest_port_range, rule.host_port_range) else { return };
    one_side(field, ["guestPort", "guestSocket"], rule.guest_port, guest, has(&rule.guest_socket), faults);
    let inherited = rule.host_port.unwrap_or(0) == 0 && host == guest;
    if !inherited {
        one_side(field, ["hostPort", "hostSocket"], rule.host_port, host, has(&rule.host_socket), faults);
        // Checked numbers only: a difference of two of these cannot overflow.
        let sane = |[first, last]: [i64; 2]| (0..=65535).contains(&first) && (first..=65535).contains(&last);
        let any_socket = has(&rule.guest_socket) || has(&rule.host_socket);
        if !any_socket && sane(guest) && sane(host) && guest[1] - guest[0] != host[1] - host[0] {
            faults.add(format!("{field}.hostPortRange"), "must have the same number of ports as guestPortRange");
        }
    }
}

fn one_side(
    field: &str,
    [name, socket_name]: [&str; 2],
    single: Option<i64>,
    range: [i64; 2],
    socket: bool,
    faults: &mut Remarks,
) {
    if let Some(single) = single.filter(|single| *single != 0) {
        let field = format!("{field}.{name}");
        if socket {
            faults.add(&field, format!("must be 0 when {socket_name} is set"));
        } else if single != range[0] {
            faults.add(&field, format!("must match {name}Range[0]"));
        }
        return port(faults, field, single);
    }
    for (end, number) in range.into_iter().enumerate() {
        port(faults, format!("{field}.{name}Range[{end}]"), number);
    }
    if range[1] < range[0] {
        faults.add(format!("{field}.{name}Range"), format!("[{}, {}] runs backwards", range[0], range[1]));
    }
}

fn sockets(field: &str, rule: &PortForward, faults: &mut Remarks) {
    let (guest, host) = (text(&rule.guest_socket), text(&rule.host_socket));
    let single = |range: Option<[i64; 2]>| range.is_none_or(|[first, last]| first == last);
    for (name, socket, other_socket, other_range) in
        [("guestSocket", guest, host, rule.host_port_range), ("hostSocket", host, guest, rule.guest_port_range)]
    {
        if socket.is_empty() {
            continue;
        }
        one_line(faults, &format!("{field}.{name}"), socket);
        if !socket.starts_with('/') {
            faults.add(format!("{field}.{name}"), format!("must be an absolute path, not {socket:?}"));
        }
        if other_socket.is_empty() && !single(other_range) {
            faults.add(format!("{field}.{name}"), "can be forwarded to one port or one socket only, not to a range");
        }
    }
    if host.len() >= UNIX_PATH_MAX {
        faults.add(format!("{field}.hostSocket"), format!("must have less than {UNIX_PATH_MAX} bytes"));
    }
    if rule.reverse == Some(true) && (guest.is_empty() || host.is_empty()) {
        faults.add(format!("{field}.reverse"), "must be false unless guestSocket and hostSocket are set");
    }
}

fn has(socket: &Option<String>) -> bool {
    !text(socket).is_empty()
}
