//! How the fake VM behaves, as tests tell it.

use std::path::PathBuf;

use limafs_driver::{Error, Info, Instance, Result};
use serde::Deserialize;

/// How the fake VM behaves; the default is well.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Behaviour {
    /// `start` fails with these words.
    pub fail_start: Option<String>,
    /// `start` never returns; nothing runs yet.
    pub hang_start: bool,
    /// `validate` fails with these words.
    pub fail_validate: Option<String>,
    /// The VM ends by itself after so many milliseconds, not cleanly.
    pub die_after_ms: Option<u64>,
    /// The VM powers itself off after so many milliseconds.
    pub power_off_after_ms: Option<u64>,
    /// `stop` gets no answer and ends in a kill.
    pub ignore_powerdown: bool,
    pub refuse_pause: bool,
    /// `suspend` fails with these words; the VM runs on.
    pub fail_suspend: Option<String>,
    /// What is saved cannot be gone on with, for this reason.
    pub fail_resume: Option<String>,
    /// A snapshot is not taken for as long as this is told.
    pub hang_snapshot: bool,
    /// One cannot be taken, for this reason.
    pub fail_snapshot: Option<String>,
    /// The bytes of the display; without them there is none.
    pub screen: Option<String>,
    /// The display never comes.
    pub hang_screen: bool,
    /// What the guest says of its memory: available bytes.
    pub available: Option<u64>,
    /// A running VM can be given so many processors.
    pub most_cpus: u32,
    /// What the driver says that it is, once it knows the instance. Its name stays.
    pub info: Info,
    /// Where the guest's ssh is said to be while the VM runs; none is a guest without ssh.
    pub ssh_address: String,
    /// Is the port of ssh when the instance is configured with none.
    pub ssh_port: u16,
    /// `run_gui` fails with these words.
    pub refuse_window: Option<String>,
    /// Lines for the boot channel, sent at the start.
    pub boot: Vec<String>,
    /// A file that `create` makes and `delete` removes.
    pub keeps: Option<PathBuf>,
}

/// What the configuration says.
pub(crate) fn behaviour(instance: &Instance) -> Result<Behaviour> {
    match instance.config.vm_opts.as_ref().and_then(|options| options.get("fake")) {
        None => Ok(Behaviour::default()),
        Some(value) => {
            serde_json::from_value(value.clone()).map_err(|error| Error::invalid("vmOpts.fake", error.to_string()))
        }
    }
}
