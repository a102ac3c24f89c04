//! The image of a disk: what it is, told from its first bytes, and making and growing it.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Sizes are multiples of it.
pub const SECTOR: u64 = 512;
const QEMU_IMG: &str = "qemu-img";
/// Less than a write to a file of the tree may take.
const DEADLINE: Duration = Duration::from_secs(8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Raw,
    Qcow2,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

/// Format and size in bytes, or `None` where there is no such file. Asks no other program, which would follow
/// references that a guest may have written.
pub fn read(path: &Path) -> Result<Option<(Format, u64)>> {
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::io(path))?,
    };
    let meta = file.metadata().map_err(Error::io(path))?;
    if !meta.is_file() {
        return Err(Error::failed(path.display().to_string(), "is not a regular file"));
    }
    let mut head = [0; 32];
    let is_qcow2 = file.read_exact_at(&mut head, 0).is_ok() && head.starts_with(b"QFI\xfb");
    if is_qcow2 {
        let size: [u8; 8] = std::array::from_fn(|index| head[24 + index]);
        return Ok(Some((Format::Qcow2, u64::from_be_bytes(size))));
    }
    Ok(Some((Format::Raw, meta.len())))
}

/// Makes an empty disk, whole or not at all; sparse in either format.
pub fn make(path: &Path, size: u64) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let temp = tempfile::Builder::new()
        .prefix(".limafs-")
        .suffix(".tmp")
        .permissions(PermissionsExt::from_mode(0o600))
        .tempfile_in(dir)
        .map_err(Error::io(dir))?;
    let size = size.next_multiple_of(SECTOR);
    let made = qemu_img(&["create", "-q", "-f", "qcow2"], temp.path(), size)?;
    if !made {
        temp.as_file().set_len(size).map_err(Error::io(path))?;
    }
    temp.as_file().sync_all().map_err(Error::io(path))?;
    temp.persist(path).map_err(|error| Error::io(path)(error.error))?;
    crate::store::sync_dir(dir)
}

/// Grows a disk that nobody has open.
pub fn grow(path: &Path, format: Format, size: u64) -> Result<()> {
    if format == Format::Raw {
        let file = File::options().write(true).open(path).map_err(Error::io(path))?;
        return file.set_len(size).map_err(Error::io(path));
    }
    if qemu_img(&["resize", "-q", "-f", "qcow2"], path, size)? {
        return Ok(());
    }
    Err(Error::failed("size", "qemu-img is missing, which grows a qcow2 disk: apt-get install qemu-utils"))
}

/// Runs qemu-img on a file; `false` when there is no such program.
fn qemu_img(arguments: &[&str], file: &Path, size: u64) -> Result<bool> {
    let mut command = Command::new(QEMU_IMG);
    command.args(arguments).args([OsStr::new("--"), file.as_os_str(), OsStr::new(&size.to_string())]);
    let mut child = match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(Error::io(QEMU_IMG))?,
    };
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(Error::io(QEMU_IMG))? {
            break status;
        }
        if Instant::now() > deadline {
            // It may have ended by now, which is as good.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Timeout { what: QEMU_IMG.into(), seconds: DEADLINE.as_secs() });
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if status.success() {
        return Ok(true);
    }
    let mut words = String::new();
    // Without its words the failure is still told.
    let _ = child.stderr.take().map(|pipe| pipe.take(4096).read_to_string(&mut words));
    Err(Error::failed("size", words.lines().last().unwrap_or("qemu-img failed without a word")))
}
