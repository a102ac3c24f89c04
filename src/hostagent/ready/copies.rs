//! `copyToHost`: files of the guest that the host has from the end of the boot, until the VM ends where that is wanted.
//! What the guest sends is bounded; a host's file is replaced whole or not at all.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use limafs_driver::{Config, CopyToHost};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{Tell, say};
use crate::error::{Error, Result};
use crate::hostagent::line::Line;
use crate::hostagent::state::{Event, Step};
use crate::store;

/// Of one file.
const BYTES_MAX: u64 = 256 << 20;
const LIMIT: Duration = Duration::from_secs(300);
/// What the guest's side exits with where there is no such file.
const MISSING: u32 = 66;

/// Copies all that lima.yaml asks for; a sentence for each that fails.
pub async fn run(config: &Config, line: &Line, tell: &Tell) -> Vec<String> {
    let mut failures = Vec::new();
    for copy in config.copy_to_host.iter().flatten() {
        let CopyToHost { guest: Some(guest), host: Some(host), .. } = copy else { continue };
        say(tell, Event::Step(Step::named(format!("copying {guest} to the host")))).await;
        let skips = copy.skip_if_missing == Some(true);
        let result = timeout(LIMIT, fetch(line, guest, Path::new(host), skips)).await;
        let result = result.unwrap_or(Err(Error::Timeout { what: "it".into(), seconds: LIMIT.as_secs() }));
        failures.extend(result.err().map(|error| format!("copyToHost: {guest} to {host}: {error}")));
    }
    failures
}

/// Removes what is wanted only while the VM runs.
pub fn remove(config: &Config) {
    let wanted = config.copy_to_host.iter().flatten().filter(|copy| copy.delete_on_stop == Some(true));
    for host in wanted.filter_map(|copy| copy.host.as_deref()) {
        match fs::remove_file(host) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!("{host}: {error}"),
            _ => {}
        }
    }
}

async fn fetch(line: &Line, guest: &str, host: &Path, skips: bool) -> Result<()> {
    let dir = host.parent().unwrap_or(Path::new("/"));
    let make = || fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    make().map_err(Error::io(dir))?;
    let temp = tempfile::Builder::new()
        .prefix(".limafs-")
        .suffix(".tmp")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(dir)
        .map_err(Error::io(dir))?;
    let mut file = tokio::fs::File::from_std(temp.reopen().map_err(Error::io(temp.path()))?);
    let session = line.session().await;
    let fetched = session.fetch(&command(guest), &mut file, BYTES_MAX).await;
    let (exit, complaint) = fetched.map_err(|error| Error::failed("reading it", error))?;
    match exit {
        Some(0) => {}
        Some(MISSING) if skips => return Ok(()),
        Some(MISSING) => return Err(Error::Missing { what: "the guest's file".into() }),
        Some(code) => return Err(Error::failed("reading it", format!("exit code {code}: {complaint}"))),
        None => return Err(Error::failed("reading it", "ended by a signal")),
    }
    file.flush().await.map_err(Error::io(temp.path()))?;
    file.sync_all().await.map_err(Error::io(temp.path()))?;
    // A link at `host` is replaced, never followed.
    temp.persist(host).map_err(|error| Error::Io { path: host.to_owned(), source: error.error })?;
    store::sync_dir(dir)
}

/// Prints a file, as root where the user may not read it.
fn command(guest: &str) -> String {
    let quoted = guest.replace('\'', "'\\''");
    format!(
        "sh -c '[ -e \"$1\" ] || sudo -n test -e \"$1\" 2>/dev/null || exit {MISSING}; \
         [ -r \"$1\" ] && exec cat -- \"$1\"; exec sudo -n cat -- \"$1\"' sh '{quoted}'"
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_command_prints_any_file_and_tells_of_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it's $(a) \"file\"");
        fs::write(&path, "x\0y").unwrap();
        let run = |path: &Path| Command::new("sh").args(["-c", &command(path.to_str().unwrap())]).output().unwrap();
        assert_eq!(run(&path).stdout, b"x\0y");
        assert_eq!(run(&dir.path().join("none")).status.code(), Some(MISSING as i32));
    }

    #[test]
    fn only_what_is_marked_is_removed_with_the_vm() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| Some(dir.path().join(name).display().to_string());
        let copy =
            |name: &str, delete| CopyToHost { host: path(name), delete_on_stop: delete, ..CopyToHost::default() };
        let copies = vec![copy("a", Some(true)), copy("b", Some(false)), copy("c", None), copy("gone", Some(true))];
        for name in ["a", "b", "c"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        remove(&Config { copy_to_host: Some(copies), ..Config::default() });
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["b", "c"]);
    }
}
