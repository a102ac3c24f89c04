//! Makes `disk` of `image`, always raw, which is what both programs start from, and grows it. At every moment at
//! least one of the two is whole. qemu-img only converts, and only what refers to no other file of the host's.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use limafs_driver::{Error, Result};
use tokio::process::Command;
use tokio::time::timeout;

use crate::{names, program};

const QEMU_IMG: &str = "qemu-img";
/// A large image on a slow disk.
const DEADLINE: Duration = Duration::from_secs(900);
/// Where ISO 9660 has its first volume descriptor.
const ISO_DESCRIPTOR: usize = 0x8001;
const SECTOR: u64 = 512;

#[derive(Debug, PartialEq, Eq)]
enum Format {
    Raw,
    Iso,
    Qcow2,
}

/// First bytes of formats that would be taken for raw, and that nothing here converts.
const OTHERS: &[(&[u8], &str)] = &[
    (b"KDMV", "a VMDK image"),
    (b"vhdxfile", "a VHDX image"),
    (b"conectix", "a VHD image"),
    (b"LUKS\xba\xbe", "encrypted (LUKS)"),
    (b"\x1f\x8b", "still compressed (gzip)"),
    (b"\xfd7zXZ\0", "still compressed (xz)"),
    (b"\x28\xb5\x2f\xfd", "still compressed (zstd)"),
];

/// Makes and grows the disk of the instance in `dir`. A size of 0 leaves it as large as it is.
pub(crate) async fn create(dir: &Path, size: u64) -> Result<()> {
    let (image, disk, iso) = (dir.join(names::IMAGE), dir.join(names::DISK), dir.join(names::ISO));
    if !disk.exists() && (image.exists() || !iso.exists()) {
        match inspect(&image)? {
            Format::Iso => rename(&image, &iso)?,
            Format::Raw => rename(&image, &disk)?,
            Format::Qcow2 => {
                convert(&image, &disk).await?;
                fs::remove_file(&image).map_err(Error::io(&image))?;
            }
        }
    }
    if !disk.exists() {
        File::create_new(&disk).map_err(Error::io(&disk))?;
    }
    make_raw(&disk).await?;
    grow(&disk, size)
}

/// Turns a disk that another driver made into a raw one, in its place.
pub(crate) async fn make_raw(disk: &Path) -> Result<()> {
    match inspect(disk)? {
        Format::Qcow2 => convert(disk, disk).await,
        Format::Raw | Format::Iso => Ok(()),
    }
}

/// A copy of a file that is not whole sectors, filled up; the file itself where it is.
pub(crate) fn in_sectors(path: &Path, copy: &Path) -> Result<bool> {
    let length = fs::metadata(path).map_err(Error::io(path))?.len();
    if length.is_multiple_of(SECTOR) {
        return Ok(false);
    }
    fs::copy(path, copy).map_err(Error::io(copy))?;
    let file = File::options().write(true).open(copy).map_err(Error::io(copy))?;
    file.set_len(length.next_multiple_of(SECTOR)).map_err(Error::io(copy))?;
    Ok(true)
}

fn inspect(path: &Path) -> Result<Format> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(Error::io(path))?;
    file.take(ISO_DESCRIPTOR as u64 + 5).read_to_end(&mut head).map_err(Error::io(path))?;
    let name = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if head.starts_with(b"QFI\xfb") {
        return check_qcow2(&head).map(|()| Format::Qcow2).map_err(|why| Error::failed(name(), why));
    }
    if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(Error::failed(name(), format!("is {what}, only qcow2 and raw images are supported")));
    }
    let is_iso = head.get(ISO_DESCRIPTOR..) == Some(b"CD001");
    Ok(if is_iso { Format::Iso } else { Format::Raw })
}

/// Refuses an image that would have qemu-img read another file (docs/interop/qcow2.txt of QEMU).
fn check_qcow2(head: &[u8]) -> Result<(), String> {
    let number = |at: usize, length: usize| {
        let bytes = head.get(at..at + length)?;
        Some(bytes.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let (Some(version), Some(backing)) = (number(4, 4), number(8, 8)) else {
        return Err("has a qcow2 header that is cut off".into());
    };
    if backing != 0 {
        return Err("stands on a backing file".into());
    }
    // Bit 2 of the incompatible features.
    if version >= 3 && number(72, 8).is_none_or(|features| features & 1 << 2 != 0) {
        return Err("keeps its data in another file".into());
    }
    Ok(())
}

async fn convert(from: &Path, to: &Path) -> Result<()> {
    let missing = || Error::Missing {
        what: QEMU_IMG.into(),
        fix: "brew install qemu (it makes raw disks of qcow2 images), or name a raw image".into(),
    };
    let program = program::in_path(QEMU_IMG).ok_or_else(missing)?;
    let half = to.with_extension("raw.tmp");
    let mut command = Command::new(program);
    command.args(["convert", "-q", "-f", "qcow2", "-O", "raw", "--"].map(OsStr::new)).arg(from).arg(&half);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(DEADLINE, command.output())
        .await
        .map_err(|_| Error::Timeout { what: QEMU_IMG.into(), seconds: DEADLINE.as_secs() })?
        .map_err(Error::io(QEMU_IMG))?;
    if output.status.success() {
        return rename(&half, to);
    }
    match fs::remove_file(&half) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!("{}: {error}", half.display()),
        _ => {}
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Error::failed("disk", words.lines().last().unwrap_or("qemu-img failed without a word")))
}

fn grow(disk: &Path, size: u64) -> Result<()> {
    let file = File::options().write(true).open(disk).map_err(Error::io(disk))?;
    let now = file.metadata().map_err(Error::io(disk))?.len();
    let wanted = size.next_multiple_of(SECTOR);
    match wanted.cmp(&now) {
        _ if size == 0 => Ok(()),
        std::cmp::Ordering::Less => {
            Err(Error::invalid("disk", format!("shrinking from {now} to {size} bytes is not supported")))
        }
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => file.set_len(wanted).map_err(Error::io(disk)),
    }
}

/// Renames within a directory, lastingly.
fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io(from))?;
    let Some(dir) = to.parent() else { return Ok(()) };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io(dir))
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
        let error = create(dir.path(), 512 << 10).await.unwrap_err().to_string();
        assert_eq!(error, "disk: shrinking from 1048576 to 524288 bytes is not supported");
        assert_eq!(fs::read(&disk).unwrap()[..4096], [7; 4096]);
    }

    #[tokio::test]
    async fn an_iso_is_kept_beside_an_empty_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut iso = vec![0; 0x8800];
        iso[0x8001..0x8006].copy_from_slice(b"CD001");
        fs::write(dir.path().join("image"), iso).unwrap();
        create(dir.path(), 3 << 20).await.unwrap();
        assert_eq!(fs::metadata(dir.path().join("disk")).unwrap().len(), 3 << 20);
        assert!(dir.path().join("iso").exists() && !dir.path().join("image").exists());
    }

    #[tokio::test]
    async fn a_qcow2_image_and_a_disk_of_qemus_become_raw() {
        if program::in_path(QEMU_IMG).is_none() {
            return eprintln!("SKIPPED: there is no qemu-img");
        }
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let words =
                ["create", "-q", "-f", "qcow2", &dir.path().join(name).to_string_lossy(), "1M"].map(str::to_owned);
            assert!(std::process::Command::new(QEMU_IMG).args(words).status().unwrap().success());
        };
        let length = || fs::metadata(dir.path().join("disk")).unwrap().len();
        make("image");
        create(dir.path(), 2 << 20).await.unwrap();
        assert_eq!((length(), dir.path().join("image").exists()), (2 << 20, false));
        make("disk");
        create(dir.path(), 0).await.unwrap();
        assert_eq!(length(), 1 << 20);
    }

    #[tokio::test]
    async fn an_image_that_reaches_for_other_files_stays_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut head = b"QFI\xfb\0\0\0\x03".to_vec();
        head.resize(104, 0);
        head[15] = 104;
        let why = |head: &[u8]| check_qcow2(head).unwrap_err();
        assert_eq!(why(&head), "stands on a backing file");
        head[15] = 0;
        head[79] = 4;
        assert_eq!(why(&head), "keeps its data in another file");
        assert_eq!(why(&head[..10]), "has a qcow2 header that is cut off");
        for image in [head, b"KDMV and more".to_vec()] {
            fs::write(dir.path().join("image"), image).unwrap();
            create(dir.path(), 1 << 20).await.unwrap_err();
            assert!(dir.path().join("image").exists() && !dir.path().join("disk").exists());
        }
    }

    #[test]
    fn a_file_that_is_not_whole_sectors_is_filled_up_in_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&path, vec![1; 700]).unwrap();
        assert!(in_sectors(&path, &copy).unwrap());
        assert_eq!((fs::metadata(&copy).unwrap().len(), fs::metadata(&path).unwrap().len()), (1024, 700));
        fs::write(&path, vec![1; 512]).unwrap();
        assert!(!in_sectors(&path, &copy).unwrap());
    }
}
