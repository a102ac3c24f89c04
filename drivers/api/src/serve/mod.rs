//! The main of a driver that is a program of its own, as Lima 2.2 starts it and as Lima 2.0 and 2.1 did.
//! Knows a driver by its trait alone.

mod extra;
mod flags;
mod host;
mod life;
mod lima;
mod listen;
mod log;
mod once;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use self::flags::Command;
use self::host::Host;
use crate::wire::names;
use crate::{Driver, Error, Result};

/// Lima 2.1: without a host in this time, a server is one too many.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of a command line that is not understood; as in Go.
const USAGE: u8 = 2;

/// Does all that the program of a driver has to do, from its arguments to its exit code.
///
/// The program has to be called `lima-driver-NAME`; its whole `main` is
/// `limafs_driver::serve(MyDriver::new())`. What is traced goes to standard error.
pub fn serve(driver: impl Driver + 'static) -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    match flags::parse(arguments) {
        Ok(Command::Help) => {
            eprint!("{}", flags::HELP);
            ExitCode::SUCCESS
        }
        Ok(command) => run(&program, command, Arc::new(driver)),
        Err(fault) => {
            eprint!("{}: {fault}\n{}", program.display(), flags::HELP);
            ExitCode::from(USAGE)
        }
    }
}

fn run(program: &OsString, command: Command, driver: Arc<dyn Driver>) -> ExitCode {
    // No file of ours, and no socket even before it has its mode, is another user's.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    log::start(if let Command::Serve { instance_dir } = &command { Some(instance_dir.clone()) } else { None });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(Error::io("tokio"));
    let done = runtime.and_then(|runtime| {
        let done = runtime.block_on(perform(program, command, driver));
        // A thread that hangs on a disk is no reason to stay.
        runtime.shutdown_background();
        done
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn perform(program: &OsString, command: Command, driver: Arc<dyn Driver>) -> Result<()> {
    match command {
        Command::Serve { instance_dir } => {
            let name = names::of_program(program).unwrap_or_else(|| driver.info().name);
            serve_at(&names::socket(&instance_dir, &name), driver).await
        }
        Command::Announce => {
            let name = format!("lima-driver-{}-{}.sock", driver.info().name, std::process::id());
            announce(&std::env::temp_dir().join(name), driver).await
        }
        Command::InspectStatus => once::inspect_status(&*driver).await,
        Command::PreDriverAction => once::pre_driver_action(&*driver).await,
        Command::Report => once::report(&*driver).await,
        Command::Help => Ok(()),
    }
}

async fn serve_at(socket: &Path, driver: Arc<dyn Driver>) -> Result<()> {
    let door = listen::bind(socket)?;
    tracing::info!("driver {} serves at {}", driver.info().name, socket.display());
    listen::serve(door, Host::new(driver), None).await
}

async fn announce(socket: &Path, driver: Arc<dyn Driver>) -> Result<()> {
    let door = listen::bind(socket)?;
    let line = serde_json::json!({ "socketPath": socket });
    writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush()).map_err(Error::io("standard output"))?;
    listen::serve(door, Host::new(driver), Some(PATIENCE)).await
}
