//! Takes an instance's places in networks between instances.

use limafs_driver::Config;

use super::Boot;
use crate::cidata::Network;
use crate::error::{Error, Result};
use crate::usernet;

/// Joins every network that lima.yaml names; their switches run then.
pub async fn join(boot: &Boot, config: &Config) -> Result<Vec<Network>> {
    let wanted = config.networks.clone().unwrap_or_default();
    let (home, name) = (boot.home.clone(), boot.name.clone());
    blocking(move || {
        let mut joined: Vec<Network> = Vec::new();
        for network in wanted {
            let (interface, mac) = (network.interface.unwrap_or_default(), network.mac_address.unwrap_or_default());
            if network.vz_nat == Some(true) {
                // The hypervisor's own; drivers without it have refused it by now.
                joined.push(Network { interface, mac, address: String::new() });
                continue;
            }
            let (address, prefix) = usernet::join(&home, network.lima.as_deref().unwrap_or_default(), &name)?;
            let address = format!("{address}/{prefix}");
            if joined.iter().any(|other| other.address == address) {
                return Err(Error::invalid("networks", "an instance can be in a network once"));
            }
            joined.push(Network { interface, mac, address });
        }
        Ok(joined)
    })
    .await
}

/// The VM is gone: a switch that nobody needs any more ends.
pub async fn leave(boot: &Boot) {
    let home = boot.home.clone();
    if let Err(error) = blocking(move || usernet::leave(&home)).await {
        tracing::warn!("{error}");
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::failed("networks", error))?
}
