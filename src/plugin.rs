//! Instances as machines of docker-machine: a plugin whose machine is an instance of `$LIMA_HOME`, run by a hostagent as
//! the mount runs it, and shown by a mount like any other. Owns nothing: what it knows is what docker-machine keeps.

mod machine;
mod settings;

use std::path::PathBuf;
use std::sync::PoisonError;

use async_trait::async_trait;
use limafs_driver_machine::State;
use limafs_driver_machine::flags::{Flag, Setting};
use limafs_driver_machine::server::{Answer, Plugin};
use serde_json::{Map, Value, json};

use machine::Machine;
use settings::Wishes;

const ADDRESS: &str = "IPAddress";
const NAME: &str = "MachineName";
const PORT: &str = "SSHPort";
const USER: &str = "SSHUser";
const KEY: &str = "SSHKeyPath";
const HOME: &str = "LimaHome";
const DOCUMENT: &str = "LimaYaml";

/// A machine by what docker-machine keeps of it: its own fields, kept as they are, and ours beside them.
#[derive(Default)]
pub struct Limafs {
    kept: std::sync::Mutex<Map<String, Value>>,
}

impl Limafs {
    fn kept<T>(&self, use_it: impl FnOnce(&mut Map<String, Value>) -> T) -> T {
        use_it(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn text(&self, key: &str) -> String {
        self.kept(|kept| kept.get(key).and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    fn machine(&self) -> Answer<Machine> {
        Machine::at(PathBuf::from(self.text(HOME)), &self.text(NAME)).map_err(told)
    }

    /// What is known only of a machine that runs.
    async fn refresh(&self) -> Answer<()> {
        let login = self.machine()?.login().await.map_err(told)?;
        self.kept(|kept| {
            kept.insert(ADDRESS.into(), json!(login.address));
            kept.insert(PORT.into(), json!(login.port));
            kept.insert(USER.into(), json!(login.user));
            kept.insert(KEY.into(), json!(login.key));
        });
        Ok(())
    }

    async fn running(&self) -> Answer<()> {
        match self.state().await? {
            State::Running => self.refresh().await,
            state => Err(format!("the machine is {}", state.word())),
        }
    }
}

#[async_trait]
impl Plugin for Limafs {
    fn driver_name(&self) -> String {
        "limafs".into()
    }

    fn create_flags(&self) -> Vec<Flag> {
        settings::flags()
    }

    async fn set_config(&self, json: &[u8]) -> Answer<()> {
        let config: Map<String, Value> = serde_json::from_slice(json).map_err(told)?;
        self.kept(|kept| kept.extend(config));
        Ok(())
    }

    async fn config(&self) -> Answer<Vec<u8>> {
        self.kept(|kept| serde_json::to_vec(kept)).map_err(told)
    }

    async fn set_flags(&self, given: Vec<(String, Setting)>) -> Answer<()> {
        let wishes = Wishes::of(&given).map_err(told)?;
        let document = wishes.document().map_err(told)?;
        self.kept(|kept| {
            kept.insert(HOME.into(), json!(wishes.home));
            kept.insert(DOCUMENT.into(), json!(document));
        });
        Ok(())
    }

    async fn machine_name(&self) -> Answer<String> {
        Ok(self.text(NAME))
    }

    async fn ip(&self) -> Answer<String> {
        self.running().await?;
        Ok(self.text(ADDRESS))
    }

    /// Docker's port in the guest is the same port of the host, as its guest agent sees it.
    async fn url(&self) -> Answer<String> {
        Ok(format!("tcp://{}:2376", self.ip().await?))
    }

    async fn ssh_hostname(&self) -> Answer<String> {
        self.ip().await
    }

    async fn ssh_port(&self) -> Answer<u16> {
        self.running().await?;
        let port = self.kept(|kept| kept.get(PORT).and_then(Value::as_u64));
        port.and_then(|port| u16::try_from(port).ok()).ok_or_else(|| "the machine has no port for ssh".into())
    }

    async fn ssh_key_path(&self) -> Answer<String> {
        Ok(self.text(KEY))
    }

    async fn ssh_username(&self) -> Answer<String> {
        Ok(self.text(USER))
    }

    async fn state(&self) -> Answer<State> {
        self.machine()?.state().await.map_err(told)
    }

    async fn pre_create_check(&self) -> Answer<()> {
        let machine = self.machine()?;
        machine.check(self.text(DOCUMENT).as_bytes()).await.map_err(told)
    }

    async fn create(&self) -> Answer<()> {
        let machine = self.machine()?;
        machine.create(self.text(DOCUMENT).as_bytes()).await.map_err(told)?;
        machine.start().await.map_err(told)?;
        self.refresh().await
    }

    async fn remove(&self) -> Answer<()> {
        self.machine()?.remove().await.map_err(told)
    }

    async fn start(&self) -> Answer<()> {
        self.machine()?.start().await.map_err(told)?;
        self.refresh().await
    }

    async fn stop(&self) -> Answer<()> {
        self.machine()?.stop().await.map_err(told)
    }

    async fn restart(&self) -> Answer<()> {
        self.machine()?.restart().await.map_err(told)?;
        self.refresh().await
    }

    async fn kill(&self) -> Answer<()> {
        self.machine()?.kill().await.map_err(told)
    }
}

/// Words are all that the other side gets of an error.
fn told(error: impl ToString) -> String {
    error.to_string()
}
