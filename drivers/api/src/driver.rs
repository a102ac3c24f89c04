//! The driver trait. Its words are Lima 2.2's; `about`, `health`, `attach`, `pause`, `resume`, `reset`, `suspend`,
//! `is_suspended`, `discard_suspended`, `screenshot`, `memory` and `resize` are ours.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{About, Error, Health, Instance, Result};

/// Runs VMs of one kind, one instance per value.
///
/// Called by one task at a time except for `kill`, `snapshots`, `screenshot` and `memory`, which may overlap any other
/// call. Every method must be cancel-safe in this sense: dropping its future leaves the VM either as it was or as the
/// call would have left it.
#[async_trait]
pub trait Driver: Send + Sync {
    /// What this driver is; answered before any `configure`.
    fn info(&self) -> Info;

    /// What the choice of a driver goes by. Touches nothing.
    fn about(&self) -> About {
        About::default()
    }

    /// Whether this machine can run VMs with this driver, found by really trying. Needs no `configure`.
    async fn health(&self) -> Health {
        Health::working(String::new())
    }

    /// Remembers the instance, fills the driver's own defaults into its configuration and refuses what it
    /// cannot run. May be called again at any time; the last one counts for the next `start`.
    async fn configure(&self, instance: Instance) -> Result<Instance>;

    /// Says whether this machine can run the configured instance now (programs, versions, devices).
    async fn validate(&self) -> Result<()>;

    /// Prepares what the driver keeps of an instance. Idempotent; makes no disks.
    async fn create(&self) -> Result<()> {
        Ok(())
    }

    /// Makes `disk` of `image` where there is none yet and grows it to the configured size.
    /// Refuses to shrink. Never loses `image` before `disk` is whole.
    async fn create_disk(&self) -> Result<()>;

    /// Starts the VM and returns as soon as its process runs; the guest boots afterwards.
    async fn start(&self) -> Result<Vm>;

    /// Takes up a VM of this instance that runs already (its hostagent died), or returns `None`.
    /// The VM must be proven to be this instance's: a pid file alone is no proof.
    async fn attach(&self) -> Result<Option<Vm>> {
        Ok(None)
    }

    /// Asks the guest to power down and returns when the VM is gone; after `grace` it is killed.
    async fn stop(&self, grace: Duration) -> Result<()>;

    /// Ends the VM at once and returns when it is gone. Success when there is none.
    async fn kill(&self) -> Result<()>;

    async fn pause(&self) -> Result<()> {
        Err(self.unsupported("pause"))
    }

    async fn resume(&self) -> Result<()> {
        Err(self.unsupported("resume"))
    }

    /// Presses the reset button.
    async fn reset(&self) -> Result<()> {
        Err(self.unsupported("reset"))
    }

    /// Saves the running VM to the instance directory and ends it; the next `start` goes on where it was.
    /// A failure leaves the VM running.
    async fn suspend(&self) -> Result<()> {
        Err(self.unsupported("suspend"))
    }

    /// Whether there is no VM, but what `suspend` has saved of one.
    async fn is_suspended(&self) -> Result<bool> {
        Ok(false)
    }

    /// Gives up what `suspend` has saved: the next `start` boots. Success when there is nothing.
    async fn discard_suspended(&self) -> Result<()> {
        Ok(())
    }

    /// Snapshots of the instance, running or not; oldest first.
    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        Err(self.unsupported("snapshot"))
    }

    /// Takes a snapshot, with the VM's memory when it runs. A `tag` that there is already is refused.
    async fn create_snapshot(&self, _tag: &str) -> Result<()> {
        Err(self.unsupported("snapshot"))
    }

    /// Goes back to a snapshot. A running VM goes on from there when the snapshot has its memory.
    async fn apply_snapshot(&self, _tag: &str) -> Result<()> {
        Err(self.unsupported("snapshot"))
    }

    async fn delete_snapshot(&self, _tag: &str) -> Result<()> {
        Err(self.unsupported("snapshot"))
    }

    /// The display as it is now: a PNG file's bytes.
    async fn screenshot(&self) -> Result<Vec<u8>> {
        Err(self.unsupported("screenshot"))
    }

    /// What the guest makes of its memory.
    async fn memory(&self) -> Result<Memory> {
        Err(self.unsupported("memory statistics"))
    }

    /// Gives the running VM so many CPUs and so many bytes of memory. What the machine cannot change while it
    /// runs is refused whole: then nothing has changed.
    async fn resize(&self, _cpus: u32, _memory: u64) -> Result<()> {
        Err(self.unsupported("resize"))
    }

    /// Whether the guest agent is to be reached over ssh, at its unix socket in the guest.
    async fn forward_guest_agent(&self) -> Result<bool> {
        Ok(true)
    }

    /// Makes `ga.sock` in the instance directory lead to the guest agent, before it returns. Called before each
    /// connection; nothing to do where the agent is reached over ssh.
    async fn guest_agent_conn(&self) -> Result<()> {
        Ok(())
    }

    /// What the driver has to do before the guest's ssh can be reached.
    async fn additional_setup_for_ssh(&self) -> Result<()> {
        Ok(())
    }

    /// Opens the VM's window.
    async fn run_gui(&self) -> Result<()> {
        Err(self.unsupported("gui"))
    }

    /// Sets the password of the VNC display.
    async fn change_display_password(&self, _password: &str) -> Result<()> {
        Err(self.unsupported("display password"))
    }

    /// Where the VNC display really is: a TCP port in decimal.
    async fn display_connection(&self) -> Result<String> {
        Err(self.unsupported("display"))
    }

    /// What `limactl list` shows: `instance` with its `status` as the driver knows it, everything else kept.
    /// An empty `status` lets the host decide by its pid files. Needs no `configure`.
    async fn inspect_status(&self, instance: Instance) -> Result<Instance> {
        Ok(instance)
    }

    /// Removes what `create` made outside the instance directory.
    async fn delete(&self) -> Result<()> {
        Ok(())
    }

    /// Scripts for the guest's boot: `boot.<OS>/<file>` to its bytes.
    async fn boot_scripts(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        Ok(BTreeMap::new())
    }

    /// Host address at which the guest's ssh answers; the port is the instance's `sshLocalPort`. Empty for a VM without
    /// one, which is ready as soon as it runs.
    async fn ssh_address(&self) -> Result<String> {
        Ok("127.0.0.1".into())
    }

    /// Where and as whom to log in to the VM that runs, for a driver that learns it only then
    /// (`Features::dynamic_ssh_address`). `None` where the configuration says it.
    async fn ssh_login(&self) -> Result<Option<SshLogin>> {
        Ok(None)
    }

    fn unsupported(&self, operation: &'static str) -> Error {
        Error::Unsupported { driver: self.info().name, operation }
    }
}

/// A running VM, as `start` and `attach` hand it over. Dropping it leaves the VM running.
#[derive(Debug)]
pub struct Vm {
    pub pid: Option<u32>,
    pub accelerator: Option<Accelerator>,
    /// Ends with [`VmEvent::Exited`]. Bounded; the driver drops `Boot` lines rather than wait.
    pub events: mpsc::Receiver<VmEvent>,
}

/// How a VM that was not made from our cidata is reached by ssh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshLogin {
    pub address: String,
    pub port: u16,
    pub user: String,
}

/// A snapshot of an instance's disk, and of its memory when it ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Snapshot {
    pub tag: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Bytes of the saved VM state; 0 when only the disk was saved.
    pub vm_size: u64,
}

/// A guest's memory, in bytes. What is not known is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// What the VM has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// What the guest could give to a new program without swapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<u64>,
    /// Page cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caches: Option<u64>,
}

/// What executes the guest's instructions, and why it is this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accelerator {
    /// `kvm`, `tcg`, `hvf`, ...
    pub name: String,
    /// Empty when it is the best there is; else why a better one is not used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What a VM does by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmEvent {
    Paused,
    Resumed,
    /// The guest restarted itself or was reset.
    Reset,
    /// The guest is powering down.
    PoweringDown,
    Panicked,
    /// The hypervisor's control channel does not answer; the VM is not known to be dead.
    Unresponsive,
    Responsive,
    /// A line that the guest wrote to the boot channel. Untrusted; at most 1024 bytes of text.
    Boot(String),
    /// The VM is gone. `clean` when the guest or `stop` ended it.
    Exited {
        clean: bool,
        reason: String,
    },
}

/// Lima's `Info`, with its JSON names.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Info {
    pub name: String,
    pub vsock_port: u32,
    pub virtio_port: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance_dir: String,
    pub features: Features,
    /// Name of the virtio-serial port on which the guest reports its boot (`/dev/virtio-ports/NAME`);
    /// empty when the driver has none and readiness must be tried for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub boot_port: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Features {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub can_run_gui: bool,
    #[serde(rename = "dynamicSSHAddress")]
    pub dynamic_ssh_address: bool,
    #[serde(rename = "staticSSHPort")]
    pub static_ssh_port: bool,
    pub skip_socket_forwarding: bool,
    pub no_cloud_init: bool,
    /// Gives the guest the instance's `data_disks`. Not Lima's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub data_disks: bool,
    /// Its VMs are made of images of its own; `images` and `disk` of the configuration mean nothing. Not Lima's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub own_images: bool,
    pub rosetta_enabled: bool,
    pub rosetta_bin_fmt: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supported_image_formats: Vec<String>,
}
