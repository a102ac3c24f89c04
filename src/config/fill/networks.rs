//! Additional networks.

use limafs_driver::{Config, Network, mac_address};

use super::default;
use crate::config::Context;
use crate::config::layers::{Sources, Stack};
use crate::names::LIMA_YAML;

/// Combines and fills the networks; returns of which entries each was made.
pub fn fill(config: &mut Config, context: &Context, stack: &Stack) -> Sources {
    let (mut networks, sources) = combine(config.networks.take().unwrap_or_default(), stack);
    for (index, network) in networks.iter_mut().enumerate() {
        let Network { mac_address: mac, interface, metric, .. } = network;
        if is_unset(mac) {
            let unique = format!("{}#{index}", context.dir.join(LIMA_YAML).display());
            *mac = Some(mac_address(&context.host.machine_id, &unique));
        }
        if is_unset(interface) {
            *interface = Some(format!("lima{index}"));
        }
        default(metric, 100);
    }
    config.networks = Some(networks);
    sources
}

/// One network for all documents that name its interface. Two of the same document are left for validation to refuse.
fn combine(entries: Vec<Network>, stack: &Stack) -> (Vec<Network>, Sources) {
    let layer = |index: usize| stack.layer_from_below("networks", index).map(|(layer, _)| layer);
    let (mut networks, mut sources): (Vec<Network>, Sources) = Default::default();
    for (index, entry) in entries.into_iter().enumerate() {
        let same = |network: &Network| !is_unset(&entry.interface) && network.interface == entry.interface;
        let of_another = |at: &usize| sources[*at].iter().all(|source: &usize| layer(*source) != layer(index));
        match networks.iter().position(same).filter(of_another) {
            Some(at) => {
                update(&mut networks[at], entry);
                sources[at].push(index);
            }
            None => {
                networks.push(entry);
                sources.push(vec![index]);
            }
        }
    }
    (networks, sources)
}

fn update(network: &mut Network, higher: Network) {
    let Network { lima, socket, vz_nat, mac_address, interface: _, metric } = higher;
    // A network is of one kind: naming another one takes the former back.
    if !is_unset(&lima) || !is_unset(&socket) || vz_nat == Some(true) {
        (network.lima, network.socket, network.vz_nat) = (lima, socket, vz_nat);
    }
    if !is_unset(&mac_address) {
        network.mac_address = mac_address;
    }
    network.metric = metric.or(network.metric);
}

fn is_unset(text: &Option<String>) -> bool {
    text.as_deref().is_none_or(str::is_empty)
}
