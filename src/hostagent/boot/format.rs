//! Formats of disk images, by Lima's names: what an image is by its first bytes, and a raw copy for a driver that starts
//! from no other. Opens nothing but the image itself, whatever it refers to.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::error::{Error, Result};

const RAW: &str = "raw";
const QCOW2: &str = "qcow2";
const MAGIC: &[(&[u8], &str)] = &[(b"QFI\xfb", QCOW2), (b"KDMV", "vmdk"), (b"vhdxfile", "vhdx"), (b"shdw", "asif")];
/// Where ISO 9660 has its first volume descriptor; every driver takes such an image.
const ISO: (u64, &[u8]) = (0x8001, b"CD001");
const QEMU_IMG: &str = "qemu-img";
/// For a large image on a slow disk.
const CONVERT: Duration = Duration::from_secs(900);

/// The format that an image has by its name, for those that say it.
pub fn named(location: &str) -> Option<&'static str> {
    let packed = [".gz", ".xz", ".zst", ".bz2"];
    let name = packed.iter().find_map(|ending| location.strip_suffix(ending)).unwrap_or(location);
    let (_, ending) = name.rsplit_once('.')?;
    [RAW, QCOW2, "vmdk", "vhdx", "asif"].into_iter().find(|format| *format == ending)
}

/// Sees to it that the image is in one of the formats, as a raw copy if need be. No formats are all.
pub async fn suit(image: &Path, formats: &[String]) -> Result<()> {
    let takes = |format: &str| formats.iter().any(|known| known == format);
    let Some(format) = read(image).map_err(Error::io(image))? else { return Ok(()) };
    if formats.is_empty() || takes(format) {
        return Ok(());
    }
    let refuse = |why: &str| {
        let wanted = formats.join(", ");
        Error::unsupported("images", format!("the image is in the format {format}, the driver takes {wanted}{why}"))
    };
    if format != QCOW2 || !takes(RAW) {
        return Err(refuse(""));
    }
    if !stands_alone(image).map_err(Error::io(image))? {
        return Err(refuse(", and what refers to other files is not converted"));
    }
    convert(image).await.map_err(|why| refuse(&format!(", and {QEMU_IMG} cannot convert it: {why}")))
}

/// `None` for an ISO.
fn read(image: &Path) -> io::Result<Option<&'static str>> {
    let file = File::open(image)?;
    let has = |(at, magic): (u64, &[u8])| {
        let mut bytes = vec![0; magic.len()];
        file.read_exact_at(&mut bytes, at).is_ok() && bytes == magic
    };
    let known = MAGIC.iter().find(|(magic, _)| has((0, magic))).map(|(_, format)| *format);
    Ok(if has(ISO) { None } else { Some(known.unwrap_or(RAW)) })
}

/// Whether a qcow2 has no backing file, no data file and no encryption (QEMU's docs/interop/qcow2.txt).
fn stands_alone(image: &Path) -> io::Result<bool> {
    let mut head = [0; 80];
    File::open(image)?.read_exact_at(&mut head, 0)?;
    let number = |from: usize, to: usize| head[from..to].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let (version, backing, encryption) = (number(4, 8), number(8, 16), number(32, 36));
    let has_data_file = version >= 3 && number(72, 80) & 1 << 2 != 0;
    Ok(backing == 0 && encryption == 0 && !has_data_file)
}

/// Puts a raw copy in the image's place.
async fn convert(image: &Path) -> std::result::Result<(), String> {
    let dir = image.parent().unwrap_or(Path::new("/"));
    let copy = tempfile::Builder::new().prefix(".image.").suffix(".tmp").tempfile_in(dir);
    let copy = copy.map_err(|error| error.to_string())?;
    let words: [&OsStr; 6] =
        ["convert".as_ref(), "-f".as_ref(), QCOW2.as_ref(), "-O".as_ref(), RAW.as_ref(), "--".as_ref()];
    let mut command = Command::new(QEMU_IMG);
    command.args(words).arg(image).arg(copy.path()).stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(CONVERT, command.output()).await {
        Ok(output) => output.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("it takes longer than {} s", CONVERT.as_secs())),
    };
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(words.lines().last().unwrap_or("it does not say why").trim().to_owned());
    }
    let image = image.to_owned();
    let put = move || {
        // As it is on disk now, which need not be the file that was made above.
        File::open(copy.path())?.sync_all()?;
        fs::rename(copy.path(), &image)?;
        File::open(image.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    let done = tokio::task::spawn_blocking(put).await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formats(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_format_is_known_by_its_name_or_its_first_bytes() {
        for (location, expected) in [
            ("https://a.test/b.qcow2", Some("qcow2")),
            ("/b.raw.xz", Some("raw")),
            ("/b.img", None),
            ("/b", None),
            ("/b.tar.gz", None),
        ] {
            assert_eq!(named(location), expected, "{location}");
        }
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let mut iso = vec![0; 0x8001];
        iso.extend(b"CD001");
        for (bytes, expected) in [
            (&b"QFI\xfb\0\0\0\x03"[..], Some("qcow2")),
            (b"KDMV", Some("vmdk")),
            (b"vhdxfile", Some("vhdx")),
            (b"anything", Some("raw")),
            (b"", Some("raw")),
            (&iso, None),
        ] {
            fs::write(&image, bytes).unwrap();
            assert_eq!(read(&image).unwrap(), expected, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn an_image_of_another_format_is_refused_with_both_formats() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs::write(&image, b"KDMV").unwrap();
        suit(&image, &[]).await.unwrap();
        suit(&image, &formats(&["raw", "vmdk"])).await.unwrap();
        let error = suit(&image, &formats(&["raw", "asif"])).await.unwrap_err().to_string();
        assert!(error.contains("in the format vmdk, the driver takes raw, asif"), "{error}");
    }

    #[tokio::test]
    async fn a_qcow2_that_refers_to_another_file_is_not_converted() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        for (at, byte) in [(15, 1), (35, 1), (79, 4)] {
            let mut head = b"QFI\xfb\0\0\0\x03".to_vec();
            head.resize(112, 0);
            head[at] = byte;
            fs::write(&image, &head).unwrap();
            let error = suit(&image, &formats(&["raw"])).await.unwrap_err().to_string();
            assert!(error.contains("refers to other files"), "{error}");
            assert_eq!(fs::read(&image).unwrap(), head);
        }
    }

    #[tokio::test]
    async fn a_qcow2_becomes_raw_for_a_driver_that_takes_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let made =
            std::process::Command::new(QEMU_IMG).args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("1M").status();
        if made.is_err() {
            return eprintln!("SKIPPED: there is no {QEMU_IMG}");
        }
        suit(&image, &formats(&["raw"])).await.unwrap();
        assert_eq!(read(&image).unwrap(), Some("raw"));
        assert_eq!(fs::metadata(&image).unwrap().len(), 1 << 20);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
