//! Files, directories and their attributes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use russh_sftp::client::Config;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::*;
use crate::hostagent::mounts::sftp::answer::Server;

/// Bytes that differ wherever a piece of them could be misplaced.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32 / 4).flat_map(|word| word.wrapping_mul(2654435761).to_be_bytes()).collect()
}

#[tokio::test]
async fn a_big_file_is_whole_with_many_requests_under_way() {
    let mut served = Served::new(true);
    let many = Config { max_concurrent_reads: 64, max_concurrent_writes: 64, ..Config::default() };
    let client = SftpSession::new_with_config(served.stream(), many).await.unwrap();
    let bytes = pattern(16 << 20);
    let mut file = client.create("big").await.unwrap();
    file.write_all(&bytes).await.unwrap();
    file.sync_all().await.unwrap();
    file.close().await.unwrap();
    assert!(fs::read(served.path("big")).unwrap() == bytes, "written otherwise");
    assert!(client.read("big").await.unwrap() == bytes, "read otherwise");
}

#[tokio::test]
async fn a_file_is_read_written_appended_to_and_cut_in_place() {
    let mut served = Served::new(true);
    let client = served.client().await;
    let mut file = client.open_with_flags("file", OpenFlags::READ | OpenFlags::WRITE).await.unwrap();
    file.seek(std::io::SeekFrom::Start(3)).await.unwrap();
    file.write_all(b"A").await.unwrap();
    file.seek(std::io::SeekFrom::Start(0)).await.unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "in Ahe tree");
    let size = FileAttributes { size: Some(4), ..FileAttributes::empty() };
    file.set_metadata(size).await.unwrap();
    let mut end = client.open_with_flags("file", OpenFlags::WRITE | OpenFlags::APPEND).await.unwrap();
    end.write_all(b"!").await.unwrap();
    end.close().await.unwrap();
    assert_eq!(fs::read_to_string(served.path("file")).unwrap(), "in A!");
    let size = FileAttributes { size: Some(2), ..FileAttributes::empty() };
    client.set_metadata("file", size).await.unwrap();
    assert_eq!(fs::read_to_string(served.path("file")).unwrap(), "in");
}

#[tokio::test]
async fn an_exclusive_open_refuses_what_is_there() {
    let mut served = Served::new(true);
    let raw = served.raw().await;
    let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
    for (name, expected) in [("file", StatusCode::Failure), ("up", StatusCode::Failure), ("new", StatusCode::Ok)] {
        assert_eq!(code(raw.open(name, flags, FileAttributes::empty()).await), expected, "{name}");
    }
}

#[tokio::test]
async fn attributes_are_those_of_the_file() {
    let mut served = Served::new(true);
    let client = served.client().await;
    let there = served.path("file").metadata().unwrap();
    let told = client.metadata("file").await.unwrap();
    assert_eq!(told.size, Some(there.len()));
    assert_eq!((told.uid, told.gid), (Some(there.uid()), Some(there.gid())));
    assert_eq!(told.permissions, Some(there.mode()));
    assert_eq!((told.atime, told.mtime), (Some(there.atime() as u32), Some(there.mtime() as u32)));
    assert!(client.symlink_metadata("inner").await.unwrap().is_symlink());
    assert!(client.metadata("inner").await.unwrap().is_regular());
    assert!(client.metadata("/").await.unwrap().is_dir());

    let set = FileAttributes {
        permissions: Some(0o640),
        atime: Some(1_000_000_000),
        mtime: Some(4_000_000_000),
        ..FileAttributes::empty()
    };
    client.set_metadata("file", set.clone()).await.unwrap();
    let there = served.path("file").metadata().unwrap();
    assert_eq!(there.permissions().mode() & 0o7777, 0o640);
    assert_eq!((there.atime(), there.mtime()), (1_000_000_000, 4_000_000_000));
    // A time within the same second keeps its fraction.
    let exact = std::time::UNIX_EPOCH + std::time::Duration::from_millis(4_000_000_000_250);
    fs::File::options().write(true).open(served.path("file")).unwrap().set_modified(exact).unwrap();
    client.set_metadata("file", set).await.unwrap();
    assert_eq!(served.path("file").metadata().unwrap().modified().unwrap(), exact);
}

#[tokio::test]
async fn a_directory_with_many_names_is_listed_whole() {
    let mut served = Served::new(true);
    for index in 0..1234 {
        fs::write(served.path(&format!("sub/{index}")), "").unwrap();
    }
    let client = served.client().await;
    let mut names: Vec<String> = client.read_dir("sub").await.unwrap().map(|entry| entry.file_name()).collect();
    names.sort();
    let mut expected: Vec<String> = (0..1234).map(|index| index.to_string()).chain(["deep".into()]).collect();
    expected.sort();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_rename_takes_no_name_and_a_posix_rename_does() {
    let mut served = Served::new(true);
    let raw = served.raw().await;
    assert_eq!(code(raw.rename("file", "sub/deep").await), StatusCode::Failure);
    assert_eq!(code(raw.rename("file", "sub/moved").await), StatusCode::Ok);
    assert_eq!(fs::read_to_string(served.path("sub/deep")).unwrap(), "deep");
    let words = b"\0\0\0\x09sub/moved\0\0\0\x08sub/deep".to_vec();
    raw.extended("posix-rename@openssh.com", words).await.unwrap();
    assert_eq!(fs::read_to_string(served.path("sub/deep")).unwrap(), "in the tree");
    assert!(!served.path("sub/moved").exists());
}

#[tokio::test]
async fn directories_and_hard_links_are_made_and_removed() {
    let mut served = Served::new(true);
    let raw = served.raw().await;
    let mode = FileAttributes { permissions: Some(0o700), ..FileAttributes::empty() };
    assert_eq!(code(raw.mkdir("d/", mode).await), StatusCode::Ok);
    assert_eq!(served.path("d").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(code(raw.mkdir("d", FileAttributes::empty()).await), StatusCode::Failure);
    assert_eq!(code(raw.hardlink("file", "d/same").await), StatusCode::Ok);
    assert_eq!(served.path("file").metadata().unwrap().ino(), served.path("d/same").metadata().unwrap().ino());
    assert_eq!(code(raw.rmdir("d").await), StatusCode::Failure);
    assert_eq!(code(raw.remove("d/same").await), StatusCode::Ok);
    assert_eq!(code(raw.rmdir("d").await), StatusCode::Ok);
    assert_ne!(code(raw.rmdir("/").await), StatusCode::Ok);
    assert_eq!(code(raw.remove("nothing").await), StatusCode::NoSuchFile);
}

#[tokio::test]
async fn the_space_is_that_of_the_hosts_file_system() {
    let mut served = Served::new(true);
    let client = served.client().await;
    let told = client.fs_info("/").await.unwrap().unwrap();
    let there = rustix::fs::statvfs(served.path("")).unwrap();
    assert_eq!((told.blocks, told.fragment_size, told.name_max), (there.f_blocks, there.f_frsize, there.f_namemax));
}

#[tokio::test]
async fn pipes_of_the_host_are_not_opened() {
    let mut served = Served::new(true);
    rustix::fs::mkfifoat(rustix::fs::CWD, served.path("pipe"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let raw = served.raw().await;
    for flags in [OpenFlags::READ, OpenFlags::WRITE, OpenFlags::READ | OpenFlags::WRITE] {
        assert_ne!(code(raw.open("pipe", flags, FileAttributes::empty()).await), StatusCode::Ok);
    }
}

#[tokio::test]
async fn a_client_has_a_bounded_number_of_files_open() {
    let served = Served::new(true);
    let mut server = Server::new(served.tree(), LIMIT);
    let open = hostile::frame(11, 1, &[hostile::text(b"sub")]);
    let replies: Vec<Vec<u8>> = (0..LIMIT).map(|_| server.answer(&open).unwrap()).collect();
    assert!(replies.iter().all(|reply| reply[4] == 102));
    assert_eq!(hostile::status(&server.answer(&open).unwrap()), 4);
    let close = hostile::frame(4, 1, &[replies[7][9..].to_vec()]);
    assert_eq!(hostile::status(&server.answer(&close).unwrap()), 0);
    assert_eq!(server.answer(&open).unwrap()[4], 102);
}
