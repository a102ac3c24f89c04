//! What happens to an image that is there: verified, copied, unpacked.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sha2::{Digest, Sha384, Sha512};

use super::*;

async fn fetch_local(bytes: &[u8], name: &str, digest: Option<String>) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let (source, dest) = (dir.path().join(name), dir.path().join("image"));
    fs::write(&source, bytes).unwrap();
    let file = File { location: Some(source.display().to_string()), digest, ..File::default() };
    let result = fetch(&file, &dest, &|_| {}).await;
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, if result.is_ok() { 2 } else { 1 }, "temporary files are left");
    result?;
    assert_eq!(fs::metadata(&dest).unwrap().permissions().mode() & 0o777, 0o600);
    Ok(fs::read(dest).unwrap())
}

#[tokio::test]
async fn a_local_image_is_copied_and_verified() {
    assert_eq!(fetch_local(BODY, "disk.img", None).await.unwrap(), BODY);
    let digests = [
        sha256(BODY),
        format!("sha384:{}", hex(&Sha384::digest(BODY))),
        format!("sha512:{}", hex(&Sha512::digest(BODY))),
    ];
    for digest in digests {
        assert_eq!(fetch_local(BODY, "disk.img", Some(digest)).await.unwrap(), BODY);
    }
    let error = fetch_local(BODY, "disk.img", Some(sha256(b"other"))).await.unwrap_err();
    assert!(error.to_string().contains("expected sha256:"), "{error}");
}

#[tokio::test]
async fn an_image_that_is_not_there_is_missing() {
    let file = File { location: Some("file:///nonexistent/disk.img".into()), ..File::default() };
    let error = fetch(&file, Path::new("/nonexistent/dest"), &|_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "/nonexistent/disk.img does not exist");
}

#[tokio::test]
async fn s26_http_without_a_digest_and_other_schemes_are_refused() {
    let refused = ["http://example.com/disk.img", "ftp://example.com/disk.img", "relative.img", "~user/disk.img", ""];
    for location in refused {
        let file = File { location: Some(location.into()), ..File::default() };
        let error = fetch(&file, Path::new("/nonexistent/dest"), &|_| {}).await.unwrap_err();
        assert_eq!(error.errno(), libc::EINVAL, "{location}: {error}");
    }
}

#[test]
fn a_tilde_is_the_home_directory() {
    let Source::Local(path) = Source::parse("~/disk.img").unwrap() else { panic!("not local") };
    assert_eq!(path, std::env::home_dir().unwrap().join("disk.img"));
}

/// Bytes as the program of that name compresses them, twice over as two members; `None` when it is not installed.
fn compressed(program: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut members = Vec::new();
    for half in bytes.chunks(bytes.len().div_ceil(2)) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(half).unwrap();
        match std::process::Command::new(program).arg("-c").arg(file.path()).output() {
            Ok(output) => members.extend(output.stdout),
            Err(error) => {
                eprintln!("SKIPPED: {program} cannot be run: {error}");
                return None;
            }
        }
    }
    Some(members)
}

#[tokio::test]
async fn g14_compressed_images_of_several_members_are_unpacked() {
    let mut bytes = vec![0; 3_000_000];
    bytes[..5].copy_from_slice(b"start");
    bytes.extend(b"the end");
    for (program, ending) in [("gzip", "gz"), ("bzip2", "bz2"), ("xz", "xz"), ("zstd", "zst")] {
        let Some(data) = compressed(program, &bytes) else { continue };
        for name in [format!("disk.img.{ending}"), "no-ending".to_owned()] {
            let unpacked = fetch_local(&data, &name, Some(sha256(&data))).await.unwrap();
            assert!(unpacked == bytes, "{program}: {} bytes", unpacked.len());
        }
        let error = fetch_local(&data[..data.len() - 9], "disk.img", None).await.unwrap_err().to_string();
        assert!(error.contains("cannot be unpacked"), "{program}: {error}");
    }
}

#[tokio::test]
async fn g14_the_bytes_decide_not_the_name() {
    let bytes = b"a disk".repeat(1000);
    let Some(data) = compressed("gzip", &bytes) else { return };
    assert!(fetch_local(&data, "disk.img.xz", None).await.unwrap() == bytes);
    let error = fetch_local(&bytes, "disk.img.gz", None).await.unwrap_err().to_string();
    assert!(error.ends_with("disk.img.gz: is named .gz, but is not compressed with gzip"), "{error}");
    // Beginnings that resemble one, of raw disks.
    for start in [&b"\x1f\x8b\x09"[..], b"BZ", b"BZh", b"BZh9disk", b"\xfd7zXZ", b"\x28\xb5\x2f"] {
        let disk = [start, &bytes].concat();
        assert!(fetch_local(&disk, "disk.img", None).await.unwrap() == disk, "{start:?}");
    }
}

#[tokio::test]
async fn an_initrd_stays_compressed() {
    let Some(data) = compressed("gzip", b"an archive") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (source, dest) = (dir.path().join("initrd.gz"), dir.path().join("initrd"));
    fs::write(&source, &data).unwrap();
    let file = File { location: Some(source.display().to_string()), ..File::default() };
    fetch_as_is(&file, &dest, &|_| {}).await.unwrap();
    assert!(fs::read(&dest).unwrap() == data);
}

#[tokio::test]
async fn g14_what_unpacks_to_too_much_is_stopped() {
    let Some(data) = compressed("gzip", &vec![0; 4 << 20]) else { return };
    let mut source = tempfile::tempfile().unwrap();
    source.write_all(&data).unwrap();
    std::io::Seek::rewind(&mut source).unwrap();
    let (temp, meter) = (tempfile::NamedTempFile::new().unwrap(), Meter::new("unpacking", None));
    let decoder = unpack::decoder(source, unpack::Format::Gzip);
    let error = unpack::write_sparse(decoder, "bomb.gz", temp, 3 << 20, &meter).await.unwrap_err().to_string();
    assert!(error.contains("bomb.gz") && error.contains("unpacks to more than 3 MiB"), "{error}");
}

#[tokio::test]
async fn holes_stay_holes() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let dir = tempfile::tempdir().unwrap();
    let (source, dest) = (dir.path().join("sparse"), dir.path().join("image"));
    let file = fs::File::create(&source).unwrap();
    file.set_len(1 << 30).unwrap();
    file.write_all_at(b"middle", 512 << 20).unwrap();
    let file = File { location: Some(source.display().to_string()), ..File::default() };
    fetch(&file, &dest, &|_| {}).await.unwrap();
    let metadata = fs::metadata(&dest).unwrap();
    assert_eq!(metadata.len(), 1 << 30);
    assert!(metadata.blocks() * 512 < 8 << 20, "{} blocks", metadata.blocks());
    let mut middle = [0; 6];
    fs::File::open(&dest).unwrap().read_exact_at(&mut middle, 512 << 20).unwrap();
    assert_eq!(&middle, b"middle");
}
