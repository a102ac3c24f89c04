use std::fs;
use std::io::Write;
use std::process::Command;

use super::SECTOR;
use crate::cidata::{ARCHIVE, Archive, Entry};
use crate::error::Result;

fn iso(entries: &[Entry]) -> Result<Vec<u8>> {
    super::iso(entries, None)
}

fn entry(path: &str, bytes: impl Into<Vec<u8>>) -> Entry {
    Entry { path: path.into(), mode: 0o600, bytes: bytes.into() }
}

/// Files of awkward sizes and names, in three levels of directories.
fn entries() -> Vec<Entry> {
    let mut entries = vec![
        entry("user-data", "#cloud-config\n{}\n"),
        entry("meta-data", ""),
        entry("boot.Linux/05-lima-mounts.sh", vec![b'x'; 2047]),
        entry("boot.Linux/06-lima-mounts.sh", vec![b'y'; 2048]),
        entry("boot.Linux/06-lima-mounts-and-more-that-looks-the-same.sh", vec![b'z'; 2049]),
        entry("provision.system/00000000", vec![7; 300_000]),
        entry("a/b/c/deep", "deep\n"),
        entry("UPPER lower caf\u{e9}.txt", "e\n"),
        entry(&format!("long/{}", "n".repeat(255)), "255\n"),
        entry(&format!("long/{}", "n".repeat(200)), "200\n"),
    ];
    entries.extend((0..100).map(|n| entry(&format!("many/{}-{n}", "file".repeat(30)), n.to_string())));
    entries[2].mode = 0o700;
    entries
}

/// Runs a program on an image; says so when the machine does not have it.
fn run(image: &[u8], program: &str, args: &[&str]) -> Option<(bool, Vec<u8>)> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(image).unwrap();
    let args = args.iter().map(|arg| if *arg == "IMAGE" { file.path().to_str().unwrap() } else { arg });
    match Command::new(program).args(args).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output() {
        Ok(output) => Some((output.status.success(), output.stdout)),
        Err(error) => {
            eprintln!("SKIPPED: {program} cannot be run: {error}");
            None
        }
    }
}

#[test]
fn the_same_entries_make_the_same_bytes() {
    assert!(iso(&entries()).unwrap() == iso(&entries()).unwrap());
}

#[test]
fn an_archive_that_follows_the_image_is_a_file_of_it() {
    let bytes: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
    let archive = Archive { id: "0123".into(), size: bytes.len() as u64 };
    let mut image = super::iso(&entries(), Some(&archive)).unwrap();
    assert_eq!(image.len() % SECTOR, 0);
    image.extend(&bytes);
    image.resize(image.len().next_multiple_of(SECTOR), 0);
    let sectors = u32::from_le_bytes(image[16 * 2048 + 80..][..4].try_into().unwrap());
    assert_eq!(image.len(), sectors as usize * SECTOR);
    // As if it had been among the others, which are sorted; only its place is another.
    let mut with = entries();
    with.push(entry(ARCHIVE, bytes.clone()));
    assert!(iso(&with).unwrap() == image);
    let path = format!("/{ARCHIVE}");
    if let Some((_, output)) = run(&image, "isoinfo", &["-R", "-i", "IMAGE", "-x", &path]) {
        assert!(output == bytes, "{} bytes", output.len());
    }
}

#[test]
fn an_archive_that_no_disk_holds_is_refused() {
    let archive = Archive { id: "0123".into(), size: 1 << 33 };
    let error = super::iso(&entries(), Some(&archive)).unwrap_err();
    assert!(error.to_string().contains("more than 4 GiB"), "{error}");
}

#[test]
fn the_image_is_whole_sectors_and_says_so() {
    let image = iso(&entries()).unwrap();
    let sectors = u32::from_le_bytes(image[16 * 2048 + 80..][..4].try_into().unwrap());
    assert_eq!(image.len(), sectors as usize * 2048);
    assert_eq!(&image[16 * 2048..][..8], b"\x01CD001\x01\0");
    assert_eq!(&image[17 * 2048..][..8], b"\x02CD001\x01\0");
    assert_eq!(&image[18 * 2048..][..7], b"\xffCD001\x01");
}

#[test]
fn no_entries_are_an_empty_disk() {
    assert!(!iso(&[]).unwrap().is_empty());
}

#[test]
fn bad_paths_are_refused() {
    for path in ["", "/abs", "a//b", "../up", "a/./b", "a/", &"n".repeat(256)] {
        let error = iso(&[entry(path, "")]).unwrap_err();
        assert_eq!(error.errno(), libc::EINVAL, "{path:?}");
    }
}

#[test]
fn a_path_that_is_there_twice_is_refused() {
    for pair in [["a", "a"], ["a", "a/b"], ["a/b", "a"]] {
        let error = iso(&pair.map(|path| entry(path, ""))).unwrap_err();
        assert!(error.to_string().ends_with("is there twice"), "{error}");
    }
}

#[test]
fn blkid_sees_the_label() {
    let image = iso(&entries()).unwrap();
    if let Some((ok, output)) = run(&image, "blkid", &["-o", "export", "IMAGE"]) {
        let text = String::from_utf8_lossy(&output);
        assert!(ok && text.contains("LABEL=cidata\n") && text.contains("TYPE=iso9660\n"), "{text}");
    }
}

#[test]
fn isoinfo_finds_both_extensions() {
    let image = iso(&entries()).unwrap();
    if let Some((ok, output)) = run(&image, "isoinfo", &["-d", "-i", "IMAGE"]) {
        let text = String::from_utf8_lossy(&output);
        assert!(ok, "{text}");
        for expected in ["Volume id: cidata", "Joliet with UCS level 3 found", "Rock Ridge signatures version 1 found"]
        {
            assert!(text.contains(expected), "{text}");
        }
    }
}

#[test]
fn isoinfo_reads_every_file_through_rock_ridge() {
    let image = iso(&entries()).unwrap();
    for entry in entries() {
        let path = format!("/{}", entry.path);
        if let Some((_, output)) = run(&image, "isoinfo", &["-R", "-i", "IMAGE", "-x", &path]) {
            assert!(output == entry.bytes, "{path}: {} bytes", output.len());
        }
    }
}

#[test]
fn isoinfo_lists_real_names_and_modes() {
    let image = iso(&entries()).unwrap();
    if let Some((ok, output)) = run(&image, "isoinfo", &["-R", "-l", "-i", "IMAGE"]) {
        let text = String::from_utf8_lossy(&output);
        assert!(ok);
        let line = |name: &str| text.lines().find(|line| line.trim_end().ends_with(name)).unwrap().to_owned();
        assert!(line(" user-data").starts_with("-rw-------   1    0    0 "), "{text}");
        assert!(line(" 05-lima-mounts.sh").starts_with("-rwx------"), "{text}");
        assert!(line(" provision.system").starts_with("drwx------   2    0    0 "), "{text}");
    }
}

#[test]
fn isoinfo_reads_joliet_names() {
    let image = iso(&entries()).unwrap();
    if let Some((ok, output)) = run(&image, "isoinfo", &["-J", "-f", "-i", "IMAGE"]) {
        let text = String::from_utf8_lossy(&output);
        assert!(ok);
        for name in ["/boot.Linux/06-lima-mounts-and-more-that-looks-the-same.sh", "/a/b/c/deep", "/user-data"] {
            assert!(text.lines().any(|line| line.trim_end() == name), "{name} not in {text}");
        }
    }
}

#[test]
fn xorriso_finds_no_fault() {
    let image = iso(&entries()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let args = ["-osirrox", "on", "-indev", "IMAGE", "-extract", "/", out.to_str().unwrap()];
    if let Some((ok, _)) = run(&image, "xorriso", &args) {
        assert!(ok);
        for entry in entries() {
            assert!(fs::read(out.join(&entry.path)).unwrap() == entry.bytes, "{}", entry.path);
        }
    }
}
