//! Takes an instance's additional disks for it, and gives them back.

use limafs_driver::Config;

use super::Boot;
use crate::disks;
use crate::error::{Error, Result};
use crate::names::Name;

/// Claims every additional disk, or none: those of a start that fails are given back when its hostagent goes.
pub async fn claim(boot: &Boot, config: &Config) -> Result<()> {
    let names: Vec<String> = config.additional_disks.iter().flatten().map(|disk| disk.name.clone()).collect();
    let (home, dir) = (boot.home.clone(), boot.dir.clone());
    blocking(move || {
        for name in names {
            disks::claim(&home, &Name::parse(&name)?, &dir).map_err(|error| match error {
                Error::Missing { what } => Error::Missing { what: format!("additionalDisks: {what}") },
                other => other,
            })?;
        }
        Ok(())
    })
    .await
}

/// A claim that stays is judged by whether this instance runs, so that a failure here harms nobody.
pub async fn release(boot: &Boot) {
    let (home, dir) = (boot.home.clone(), boot.dir.clone());
    if let Err(error) = blocking(move || disks::release(&home, &dir)).await {
        tracing::warn!("{error}");
    }
}

async fn blocking(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::failed("additional disks", error))?
}
