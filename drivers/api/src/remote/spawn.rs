//! Starting a driver's program, which somebody may just be writing.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long a program that is copied here may be open for writing, by whoever copies it.
const BUSY: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(50);

/// Starts a program; one that is open for writing is waited for. It is, for a moment, in whatever its writer starts
/// meanwhile, too.
pub async fn spawn(command: &mut Command) -> io::Result<Child> {
    let late = Instant::now() + BUSY;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < late => sleep(AGAIN).await,
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_program_that_is_being_written_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, "#!/bin/sh\nexit 7\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let writer = std::fs::File::options().append(true).open(&program).unwrap();
        let busy = Command::new(&program).spawn().unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::ExecutableFileBusy);
        let mut command = Command::new(&program);
        let closing = async { drop(writer) };
        let (child, ()) = tokio::join!(spawn(&mut command), closing);
        assert_eq!(child.unwrap().wait().await.unwrap().code(), Some(7));
    }
}
