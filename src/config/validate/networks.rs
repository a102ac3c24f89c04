//! Additional networks.

use std::collections::BTreeMap;

use limafs_driver::{Config, Network};

use super::{identifier, text};
use crate::config::remarks::Remarks;

/// IFNAMSIZ of Linux, with its terminating NUL.
const INTERFACE_MAX: usize = 16;

pub fn check(config: &Config, faults: &mut Remarks) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, network) in config.networks.iter().flatten().enumerate() {
        let field = format!("networks[{index}]");
        kind(&field, network, faults);
        mac_address(&field, text(&network.mac_address), faults);
        if network.metric.is_some_and(|metric| !(0..=i64::from(u32::MAX)).contains(&metric)) {
            faults.add(format!("{field}.metric"), "must be from 0 to 4294967295");
        }
        let interface = text(&network.interface);
        check_interface(&field, interface, faults);
        if let Some(other) = seen.insert(interface, index) {
            faults.add(format!("{field}.interface"), format!("{interface:?} is used by networks[{other}] already"));
        }
    }
}

fn kind(field: &str, network: &Network, faults: &mut Remarks) {
    let (lima, socket) = (text(&network.lima), text(&network.socket));
    let kinds = [!lima.is_empty(), !socket.is_empty(), network.vz_nat == Some(true)];
    match kinds.iter().filter(|set| **set).count() {
        0 => faults.add(field, "one of lima, socket, vzNAT must be set"),
        1 => {}
        _ => faults.add(field, "lima, socket and vzNAT are mutually exclusive"),
    }
    if !lima.is_empty() {
        identifier(faults, format!("{field}.lima"), lima);
    }
}

fn mac_address(field: &str, address: &str, faults: &mut Remarks) {
    let bytes: Vec<&str> = address.split([':', '-']).collect();
    let hex = bytes.iter().all(|byte| byte.len() == 2 && byte.chars().all(|c| c.is_ascii_hexdigit()));
    if bytes.len() != 6 || !hex {
        faults
            .add(format!("{field}.macAddress"), format!("must be 6 bytes such as 52:55:55:12:34:56, not {address:?}"));
    }
}

fn check_interface(field: &str, name: &str, faults: &mut Remarks) {
    let why = if name.len() >= INTERFACE_MAX {
        format!("must have less than {INTERFACE_MAX} bytes")
    } else if name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
        "must not contain white space or slashes".into()
    } else if name == "eth0" {
        "must not be eth0, which is the guest's first network".into()
    } else {
        return;
    };
    faults.add(format!("{field}.interface"), why);
}
