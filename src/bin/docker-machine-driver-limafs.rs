//! limafs as a driver of docker-machine, and of what embeds its library: started by them, with a token.

use std::process::ExitCode;
use std::sync::Arc;

use limafs::plugin::Limafs;

fn main() -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(limafs_driver_machine::server::run(Arc::new(Limafs::default())));
            // Without waiting for what a call left behind.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("docker-machine-driver-limafs: {error}");
            ExitCode::FAILURE
        }
    }
}
