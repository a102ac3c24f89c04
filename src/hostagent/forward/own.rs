//! A driver's own way to the guest agent, where it has one: nobody encrypts there, and no other process of the guest
//! copies what is sent. It is a socket in the instance directory, as in Lima.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use limafs_driver::Driver;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::names;

pub struct Own {
    driver: Arc<dyn Driver>,
    socket: PathBuf,
}

impl Own {
    pub fn new(driver: Arc<dyn Driver>, dir: &Path) -> Self {
        Self { driver, socket: dir.join(names::GUEST_AGENT_SOCK) }
    }

    /// Connects within `limit`; `None` where the agent is to be reached over ssh. That the connection is there says
    /// nothing of the agent.
    pub async fn dial(&self, limit: Duration) -> Result<Option<UnixStream>, String> {
        let dialing = async {
            if self.driver.forward_guest_agent().await.map_err(|error| error.to_string())? {
                return Ok(None);
            }
            self.driver.guest_agent_conn().await.map_err(|error| error.to_string())?;
            let connected = UnixStream::connect(&self.socket).await;
            connected.map(Some).map_err(|error| format!("{}: {error}", names::GUEST_AGENT_SOCK))
        };
        timeout(limit, dialing).await.unwrap_or_else(|_| Err("the driver does not answer".into()))
    }
}
