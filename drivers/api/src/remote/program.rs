//! A driver's program, and the one way to run it: after a look at whether it may be.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::{Error, Result, environment};

/// Why a program is not to be run now; `None` when it may be. Looks at the disk.
pub type Fault = fn(&Path) -> Option<String>;

pub(super) struct Program {
    pub path: PathBuf,
    pub fault: Fault,
}

impl Program {
    /// To be spawned at once. Of our environment it gets what drivers may have.
    pub(super) fn command(&self, name: &str) -> Result<Command> {
        if let Some(why) = (self.fault)(&self.path) {
            return Err(Error::failed(format!("driver {name}"), format!("is not run: {why}")));
        }
        let mut command = Command::new(&self.path);
        command.current_dir("/").env_clear().envs(environment());
        Ok(command)
    }
}
