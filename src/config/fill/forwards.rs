//! Port forwards and files copied to the host.

use limafs_driver::{Config, CopyToHost, PortForward};

use super::default;
use crate::config::Context;
use crate::config::expand::Expander;
use crate::config::remarks::Remarks;

const ALL_PORTS: [i64; 2] = [1, 65535];
const LOOPBACK: &str = "127.0.0.1";
const ANY_ADDRESS: &str = "0.0.0.0";

pub fn fill(config: &mut Config, context: &Context, expand: &Expander, warnings: &mut Remarks) {
    for (index, rule) in config.port_forwards.get_or_insert_default().iter_mut().enumerate() {
        addresses(rule);
        ports(rule);
        for switch in [&mut rule.reverse, &mut rule.ignore, &mut rule.is_static] {
            default(switch, false);
        }
        if let Some(socket) = &mut rule.guest_socket {
            *socket = expand.guest(&format!("portForwards[{index}].guestSocket"), socket, warnings);
        }
        if let Some(socket) = rule.host_socket.as_mut().filter(|socket| !socket.is_empty()) {
            let path = expand.host(&format!("portForwards[{index}].hostSocket"), socket, warnings);
            // `join` keeps an absolute path as it is.
            *socket = context.dir.join("sock").join(path).to_string_lossy().into_owned();
        }
    }
    for (index, copy) in config.copy_to_host.get_or_insert_default().iter_mut().enumerate() {
        let CopyToHost { guest, host, skip_if_missing, delete_on_stop } = copy;
        if let Some(path) = guest {
            *path = expand.guest(&format!("copyToHost[{index}].guest"), path, warnings);
        }
        if let Some(path) = host {
            *path = expand.host(&format!("copyToHost[{index}].host"), path, warnings);
        }
        default(skip_if_missing, false);
        default(delete_on_stop, false);
    }
}

fn addresses(rule: &mut PortForward) {
    default(&mut rule.proto, "any".into());
    let must_be_zero = rule.guest_ip_must_be_zero == Some(true);
    let guest = rule.guest_ip.get_or_insert_with(|| if must_be_zero { ANY_ADDRESS } else { LOOPBACK }.into());
    let unspecified = guest == ANY_ADDRESS;
    default(&mut rule.guest_ip_must_be_zero, unspecified);
    default(&mut rule.host_ip, LOOPBACK.into());
}

/// A port is a range of one; a rule with neither is for all ports; the host's ports are the guest's.
fn ports(rule: &mut PortForward) {
    let one_or = |port: Option<i64>, all: [i64; 2]| port.filter(|port| *port != 0).map_or(all, |port| [port, port]);
    if rule.guest_port_range.is_none_or(|range| range == [0, 0]) {
        rule.guest_port_range = Some(one_or(rule.guest_port, ALL_PORTS));
    }
    if rule.host_port_range.is_none_or(|range| range == [0, 0]) {
        rule.host_port_range = Some(one_or(rule.host_port, rule.guest_port_range.unwrap_or(ALL_PORTS)));
    }
}
