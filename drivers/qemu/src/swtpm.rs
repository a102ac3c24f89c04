//! swtpm: the program that is a guest's TPM. Its state is the directory `swtpm` of the instance; it ends when its QEMU
//! hangs up.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use limafs_driver::{Error, Result};

use crate::process::Process;
use crate::{daemon, names, program};

const PROGRAM: &str = "swtpm";

/// Where the program is.
pub(crate) fn find() -> Result<PathBuf> {
    let missing = || Error::Missing { what: PROGRAM.into(), fix: "apt-get install swtpm, or set tpm to false".into() };
    program::in_path(PROGRAM).ok_or_else(missing)
}

/// Starts it for the instance in `dir` and returns when QEMU may connect.
pub(crate) async fn start(program: PathBuf, dir: &Path) -> Result<Process> {
    let state = dir.join(names::SWTPM_STATE);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&state).map_err(Error::io(&state))?;
    daemon::start("tpm", &arguments(program, dir)?, &dir.join(names::SWTPM_SOCK)).await
}

fn arguments(program: PathBuf, dir: &Path) -> Result<Vec<OsString>> {
    // It parts the values of its options at commas and knows no way to write one.
    if dir.to_string_lossy().contains(',') {
        return Err(Error::invalid(
            "tpm",
            format!("swtpm cannot be told of {}: there is a comma in it", dir.display()),
        ));
    }
    let with = |start: &str, name: &str| {
        let mut word = OsString::from(start);
        word.push(dir.join(name));
        word
    };
    let mut words: Vec<OsString> = vec![program.into(), "socket".into()];
    words.extend(["--tpmstate".into(), with("dir=", names::SWTPM_STATE)]);
    words.extend(control(dir));
    words.extend(["--pid".into(), with("file=", names::SWTPM_PID)]);
    words.extend(["--tpm2", "--terminate", "--log", "level=1"].map(OsString::from));
    Ok(words)
}

/// By these words the process of an instance is recognised, too. The mode is said, because swtpm goes by no umask.
fn control(dir: &Path) -> [OsString; 2] {
    let mut word = OsString::from("type=unixio,mode=0600,path=");
    word.push(dir.join(names::SWTPM_SOCK));
    ["--ctrl".into(), word]
}

/// Ends that of a QEMU that is gone.
pub(crate) fn clean(dir: &Path) {
    let [option, word] = control(dir);
    daemon::clean(dir, dir.join(names::SWTPM_SOCK), dir.join(names::SWTPM_PID), &[&option, &word]);
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_directory_that_swtpm_would_read_as_options_is_refused() {
        let error = arguments("/swtpm".into(), Path::new("/h/a,mode=777")).unwrap_err().to_string();
        assert!(error.starts_with("tpm: swtpm cannot be told of /h/a,mode=777"), "{error}");
    }

    #[tokio::test]
    async fn it_serves_a_private_socket_and_is_ended_with_its_qemu() {
        let Ok(program) = find() else { return eprintln!("SKIPPED: there is no swtpm") };
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let process = start(program.clone(), dir.path()).await.unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o77;
        assert_eq!((mode("swtpm.sock"), mode("swtpm")), (0, 0));
        clean(dir.path());
        timeout(daemon::START_DEADLINE, process.ended()).await.unwrap();
        process.ending();
        assert!(!dir.path().join("swtpm.sock").exists() && dir.path().join("swtpm").exists());

        // A stranger whose number stands in the file is left alone.
        fs::write(dir.path().join("swtpm.pid"), std::process::id().to_string()).unwrap();
        clean(dir.path());
        assert!(!dir.path().join("swtpm.pid").exists());
    }
}
