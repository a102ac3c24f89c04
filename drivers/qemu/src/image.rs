//! What a disk image is, told from its first bytes. Never asks QEMU, which would follow references to other files.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use limafs_driver::{Error, Result};

const HEADER_BYTES: usize = 112;
/// Where ISO 9660 has its first volume descriptor.
const ISO_DESCRIPTOR: u64 = 0x8001;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Raw,
    Qcow2,
}

impl Format {
    pub(crate) fn qemu_name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// An image that stands by itself, but for a backing file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    pub format: Format,
    /// Bytes that the guest sees.
    pub size: u64,
    pub is_iso: bool,
    pub backing: Option<PathBuf>,
}

/// Reads the header of an image. Refuses formats that QEMU is not to open, encryption, and data kept in other files.
/// A backing file is returned, for the caller to judge.
pub(crate) fn inspect(path: &Path) -> Result<Image> {
    let file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    let mut head = [0; HEADER_BYTES];
    let count = read_up_to(&file, &mut head, 0).map_err(Error::io(path))?;
    let mut mark = [0; 5];
    read_up_to(&file, &mut mark, ISO_DESCRIPTOR).map_err(Error::io(path))?;
    let refuse = |why: String| Error::failed(file_name(path), why);
    match parse(&head[..count]).map_err(refuse)? {
        Header::Raw => Ok(Image { format: Format::Raw, size: length, is_iso: &mark == b"CD001", backing: None }),
        Header::Qcow2 { size, backing: None } => {
            Ok(Image { format: Format::Qcow2, size, is_iso: false, backing: None })
        }
        Header::Qcow2 { size, backing: Some((offset, length)) } => {
            let mut name = vec![0; length];
            file.read_exact_at(&mut name, offset).map_err(Error::io(path))?;
            let backing = Some(PathBuf::from(OsString::from_vec(name)));
            Ok(Image { format: Format::Qcow2, size, is_iso: false, backing })
        }
    }
}

/// As [`inspect`], and refuses a backing file.
pub(crate) fn inspect_alone(path: &Path) -> Result<Image> {
    let image = inspect(path)?;
    match &image.backing {
        None => Ok(image),
        Some(backing) => {
            Err(Error::failed(file_name(path), format!("stands on a backing file, {}", backing.display())))
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Header {
    Raw,
    /// `backing` is where the backing file's name is: offset and length.
    Qcow2 {
        size: u64,
        backing: Option<(u64, usize)>,
    },
}

/// First bytes of formats that are neither raw nor qcow2.
const OTHERS: &[(&[u8], &str)] = &[
    (b"LUKS\xba\xbe", "is encrypted (LUKS)"),
    (b"QED\0", "is a QED image"),
    (b"KDMV", "is a VMDK image"),
    (b"COWD", "is a VMDK image"),
    (b"# Disk DescriptorFile", "is a VMDK descriptor"),
    (b"vhdxfile", "is a VHDX image"),
    (b"conectix", "is a VHD image"),
    (b"WithoutFreeSpace", "is a Parallels image"),
    (b"WithouFreSpacExt", "is a Parallels image"),
    (b"OOOM", "is a user-mode Linux COW image"),
    (b"\x1f\x8b", "is still compressed (gzip)"),
    (b"\xfd7zXZ\0", "is still compressed (xz)"),
    (b"\x28\xb5\x2f\xfd", "is still compressed (zstd)"),
    (b"BZh", "is still compressed (bzip2)"),
];
const VDI_MAGIC: (usize, &[u8]) = (0x40, b"\x7f\x10\xda\xbe");

fn parse(head: &[u8]) -> Result<Header, String> {
    if head.starts_with(b"QFI\xfb") {
        return parse_qcow2(head);
    }
    let mut others = OTHERS.iter().filter(|(magic, _)| head.starts_with(magic)).map(|(_, what)| *what);
    let vdi = head.get(VDI_MAGIC.0..).is_some_and(|rest| rest.starts_with(VDI_MAGIC.1)).then_some("is a VDI image");
    match others.next().or(vdi) {
        Some(what) => Err(format!("{what}, only qcow2 and raw images are supported")),
        None => Ok(Header::Raw),
    }
}

/// The header of qcow2, version 2 and 3 (docs/interop/qcow2.txt of QEMU).
fn parse_qcow2(head: &[u8]) -> Result<Header, String> {
    let short = || "has a qcow2 header that is cut off".to_owned();
    let u32_at = |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let u64_at = |at: usize| head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    let version = u32_at(4).ok_or_else(short)?;
    let backing = (u64_at(8).ok_or_else(short)?, u32_at(16).ok_or_else(short)?);
    let cluster_bits = u32_at(20).ok_or_else(short)?;
    let size = u64_at(24).ok_or_else(short)?;
    let encryption = u32_at(32).ok_or_else(short)?;
    if !(2..=3).contains(&version) {
        return Err(format!("is qcow of version {version}, only 2 and 3 are supported"));
    }
    if !(9..=21).contains(&cluster_bits) {
        return Err(format!("has an impossible qcow2 cluster size (2^{cluster_bits})"));
    }
    if encryption != 0 {
        return Err("is encrypted".into());
    }
    if version == 3 {
        check_features(u64_at(72).ok_or_else(short)?)?;
    }
    match backing {
        (0, _) => Ok(Header::Qcow2 { size, backing: None }),
        (_, length) if length > 1023 => Err("has an impossible name of a backing file".into()),
        (offset, length) => Ok(Header::Qcow2 { size, backing: Some((offset, length as usize)) }),
    }
}

/// Bits of qcow2's incompatible features: 0 dirty (QEMU repairs it), 1 corrupt, 2 external data file,
/// 3 compression type, 4 extended L2 entries.
fn check_features(features: u64) -> Result<(), String> {
    if features & 1 << 2 != 0 {
        return Err("keeps its data in another file".into());
    }
    if features & 1 << 1 != 0 {
        return Err("is marked corrupt, qemu-img check -r all may repair it".into());
    }
    match features >> 5 {
        0 => Ok(()),
        _ => Err(format!("needs unknown qcow2 features ({features:#x})")),
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], offset + count as u64)? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qcow2(version: u32, backing: (u64, u32), features: u64, encryption: u32) -> Vec<u8> {
        let mut head = b"QFI\xfb".to_vec();
        head.extend(version.to_be_bytes());
        head.extend(backing.0.to_be_bytes());
        head.extend(backing.1.to_be_bytes());
        head.extend(16u32.to_be_bytes());
        head.extend((5u64 << 30).to_be_bytes());
        head.extend(encryption.to_be_bytes());
        head.resize(72, 0);
        head.extend(features.to_be_bytes());
        head.resize(HEADER_BYTES, 0);
        head
    }

    fn why(head: &[u8]) -> String {
        parse(head).unwrap_err()
    }

    #[test]
    fn plain_headers_are_read() {
        assert_eq!(parse(&[0; 64]), Ok(Header::Raw));
        assert_eq!(parse(b""), Ok(Header::Raw));
        assert_eq!(parse(&qcow2(3, (0, 0), 0b1_1001, 0)), Ok(Header::Qcow2 { size: 5 << 30, backing: None }));
        assert_eq!(parse(&qcow2(2, (512, 9), !0, 0)), Ok(Header::Qcow2 { size: 5 << 30, backing: Some((512, 9)) }));
    }

    #[test]
    fn qcow2_that_reaches_beyond_its_file_is_refused() {
        assert_eq!(why(&qcow2(3, (0, 0), 1 << 2, 0)), "keeps its data in another file");
        assert_eq!(why(&qcow2(3, (512, 5000), 0, 0)), "has an impossible name of a backing file");
        assert_eq!(why(&qcow2(3, (0, 0), 0, 2)), "is encrypted");
        assert_eq!(why(&qcow2(3, (0, 0), 1 << 40, 0)), "needs unknown qcow2 features (0x10000000000)");
        assert_eq!(why(&qcow2(3, (0, 0), 0, 0)[..30]), "has a qcow2 header that is cut off");
        assert_eq!(why(&qcow2(1, (0, 0), 0, 0)), "is qcow of version 1, only 2 and 3 are supported");
    }

    #[test]
    fn other_formats_are_named() {
        assert!(why(b"KDMV....").starts_with("is a VMDK image, only"));
        assert!(why(b"\x1f\x8b\x08\0").starts_with("is still compressed (gzip)"));
        let mut vdi = vec![0; 0x50];
        vdi[0x40..0x44].copy_from_slice(VDI_MAGIC.1);
        assert!(why(&vdi).starts_with("is a VDI image"));
    }

    #[test]
    fn a_backing_file_is_named_and_an_iso_is_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let mut bytes = qcow2(3, (112, 11), 0, 0);
        bytes.extend(b"/etc/passwd");
        std::fs::write(&image, bytes).unwrap();
        assert_eq!(inspect(&image).unwrap().backing.unwrap(), Path::new("/etc/passwd"));
        let error = inspect_alone(&image).unwrap_err().to_string();
        assert_eq!(error, "image: stands on a backing file, /etc/passwd");

        let mut iso = vec![0; 0x8800];
        iso[0x8001..0x8006].copy_from_slice(b"CD001");
        std::fs::write(&image, iso).unwrap();
        assert!(inspect(&image).unwrap().is_iso);
    }
}
