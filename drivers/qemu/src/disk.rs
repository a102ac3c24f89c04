//! Makes `disk` of `image`, and grows it. At every moment at least one of the two is whole.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use limafs_driver::{Error, Result};
use tokio::process::Command;
use tokio::time::timeout;

use crate::image::{self, Format, Image};
use crate::{names, program};

const QEMU_IMG: &str = "qemu-img";
const DEADLINE: Duration = Duration::from_secs(60);

/// Makes and grows the disk of the instance in `dir`. A size of 0 leaves it as large as it is.
pub(crate) async fn create(dir: &Path, size: u64) -> Result<()> {
    let disk = dir.join(names::DISK);
    if !disk.exists() {
        make(dir, size).await?;
    }
    // An overlay of an old Lima is grown like any other; what it stands on is judged at the start.
    grow(&disk, &image::inspect(&disk)?, size).await
}

async fn make(dir: &Path, size: u64) -> Result<()> {
    let (image, disk, iso) = (dir.join(names::IMAGE), dir.join(names::DISK), dir.join(names::ISO));
    // An `iso` without a disk: an earlier call got no further.
    if image.exists() || !iso.exists() {
        let found = image::inspect_alone(&image)?;
        rename(&image, if found.is_iso { &iso } else { &disk })?;
        if !found.is_iso {
            return Ok(());
        }
    }
    let half = dir.join("disk.tmp");
    qemu_img(["create", "-q", "-f", "qcow2"].map(OsStr::new), &half, size).await?;
    rename(&half, &disk)
}

async fn grow(disk: &Path, image: &Image, size: u64) -> Result<()> {
    if size == 0 || size == image.size {
        return Ok(());
    }
    if size < image.size {
        let why = format!("shrinking from {} to {} is not supported", readable(image.size), readable(size));
        return Err(Error::invalid("disk", why));
    }
    // Sectors: QEMU rounds the size of a raw disk up itself.
    let size = size.next_multiple_of(512);
    if image.format == Format::Raw && program::in_path(QEMU_IMG).is_none() {
        let file = File::options().write(true).open(disk).map_err(Error::io(disk))?;
        return file.set_len(size).map_err(Error::io(disk));
    }
    qemu_img(["resize", "-q", "-f", image.format.qemu_name()].map(OsStr::new), disk, size).await
}

async fn qemu_img(arguments: [&OsStr; 4], file: &Path, size: u64) -> Result<()> {
    let size = size.to_string();
    let last = [OsStr::new("--"), file.as_os_str(), size.as_ref()];
    run_qemu_img(arguments.into_iter().chain(last), DEADLINE).await.map(drop)
}

/// Runs `qemu-img` and returns what it prints.
pub(crate) async fn run_qemu_img(
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    limit: Duration,
) -> Result<Vec<u8>> {
    let missing = || Error::Missing { what: QEMU_IMG.into(), fix: "apt-get install qemu-utils".into() };
    let program = program::in_path(QEMU_IMG).ok_or_else(missing)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(limit, command.output())
        .await
        .map_err(|_| Error::Timeout { what: QEMU_IMG.into(), seconds: limit.as_secs() })?
        .map_err(Error::io(QEMU_IMG))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Error::failed("disk", words.lines().last().unwrap_or("qemu-img failed without a word")))
}

/// Renames within a directory, lastingly.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io(from))?;
    let Some(dir) = to.parent() else { return Ok(()) };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io(dir))
}

fn readable(size: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut rest = size;
    while unit + 1 < UNITS.len() && rest >= 1024 && rest.is_multiple_of(1024) {
        rest /= 1024;
        unit += 1;
    }
    format!("{rest}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_raw_image_becomes_the_disk_and_grows_but_never_shrinks() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("image"), vec![7; 4096]).unwrap();
        create(dir.path(), 1 << 20).await.unwrap();
        let disk = dir.path().join("disk");
        assert_eq!(fs::metadata(&disk).unwrap().len(), 1 << 20);
        assert!(!dir.path().join("image").exists());
        create(dir.path(), 1 << 20).await.unwrap();
        let error = create(dir.path(), 512 << 10).await.unwrap_err().to_string();
        assert_eq!(error, "disk: shrinking from 1MiB to 512KiB is not supported");
        assert_eq!(fs::read(&disk).unwrap()[..4096], [7; 4096]);
    }

    #[tokio::test]
    async fn a_refused_image_stays_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("image"), b"KDMV and more").unwrap();
        assert!(create(dir.path(), 1 << 20).await.unwrap_err().to_string().starts_with("image: is a VMDK"));
        assert!(dir.path().join("image").exists() && !dir.path().join("disk").exists());
    }

    #[tokio::test]
    async fn an_iso_is_kept_beside_a_fresh_disk() {
        if program::in_path(QEMU_IMG).is_none() {
            eprintln!("SKIPPED: there is no qemu-img");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut iso = vec![0; 0x8800];
        iso[0x8001..0x8006].copy_from_slice(b"CD001");
        fs::write(dir.path().join("image"), iso).unwrap();
        create(dir.path(), 3 << 20).await.unwrap();
        let disk = image::inspect(&dir.path().join("disk")).unwrap();
        assert_eq!((disk.format, disk.size), (Format::Qcow2, 3 << 20));
        assert!(dir.path().join("iso").exists());
        create(dir.path(), 5 << 20).await.unwrap();
        assert_eq!(image::inspect(&dir.path().join("disk")).unwrap().size, 5 << 20);
    }
}
