//! What leads out of the tree, and what must not be changed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};

use super::*;

/// Ways to what is beside the tree. The last two are of the kind that a magic link of /proc is.
const WAYS: [&str; 9] = [
    "../secret",
    "/../secret",
    "/sub/../../secret",
    "up",
    "abs",
    "out/secret",
    "../tree-evil/secret",
    "root/etc/passwd",
    "cwd/Cargo.toml",
];

fn with_magic(served: &Served) {
    symlink("/proc/self/root", served.path("root")).unwrap();
    symlink("/proc/self/cwd", served.path("cwd")).unwrap();
}

#[tokio::test]
async fn s23_no_way_leads_out_of_the_tree() {
    let mut served = Served::new(true);
    with_magic(&served);
    let before = served.everything();
    let raw = served.raw().await;
    let none = FileAttributes::empty;
    for way in WAYS {
        let read = raw.open(way, OpenFlags::READ, none()).await;
        let write = raw.open(way, OpenFlags::WRITE | OpenFlags::TRUNCATE, none()).await;
        for result in [code(read), code(write), code(raw.stat(way).await)] {
            assert_eq!(result, StatusCode::PermissionDenied, "{way}");
        }
        assert_ne!(code(raw.opendir(way).await), StatusCode::Ok, "{way}");
    }
    for dir in ["..", "out", "sub/../..", "../tree-evil", "root/tmp"] {
        assert_eq!(code(raw.opendir(dir).await), StatusCode::PermissionDenied, "{dir}");
        let new = format!("{dir}/new");
        let create = raw.open(&new, OpenFlags::WRITE | OpenFlags::CREATE, none()).await;
        let results = [
            code(create),
            code(raw.mkdir(&new, none()).await),
            code(raw.rename("file", &new).await),
            code(raw.symlink("file", &new).await),
            code(raw.hardlink("file", &new).await),
            code(raw.remove(format!("{dir}/secret")).await),
            code(raw.rmdir(format!("{dir}/tree-evil")).await),
            code(raw.rename(format!("{dir}/secret"), "taken").await),
            code(raw.hardlink(format!("{dir}/secret"), "taken").await),
            code(raw.setstat(format!("{dir}/secret"), FileAttributes { size: Some(0), ..none() }).await),
            code(raw.lstat(format!("{dir}/secret")).await),
            code(raw.readlink(format!("{dir}/secret")).await),
            code(raw.statvfs(dir).await),
        ];
        assert_eq!(results, [StatusCode::PermissionDenied; 13], "{dir}");
    }
    assert_eq!(served.everything(), before);
}

#[tokio::test]
async fn s23_attributes_of_links_that_lead_out_change_nothing_beside_the_tree() {
    let mut served = Served::new(true);
    let secret = served.dir.path().join("secret");
    let before = secret.metadata().unwrap();
    let raw = served.raw().await;
    for link in ["up", "abs"] {
        let none = FileAttributes::empty;
        let times = FileAttributes { atime: Some(1), mtime: Some(1), ..none() };
        assert_eq!(code(raw.setstat(link, times).await), StatusCode::Ok);
        for attrs in [FileAttributes { permissions: Some(0o777), ..none() }, FileAttributes { size: Some(0), ..none() }]
        {
            assert_ne!(code(raw.setstat(link, attrs).await), StatusCode::Ok);
        }
    }
    let after = secret.metadata().unwrap();
    assert_eq!(after.modified().unwrap(), before.modified().unwrap());
    assert_eq!((after.permissions(), after.len()), (before.permissions(), before.len()));
}

#[tokio::test]
async fn s23_a_guest_may_make_links_to_anywhere_and_is_never_led_there_by_us() {
    let mut served = Served::new(true);
    let raw = served.raw().await;
    assert_eq!(code(raw.symlink("/etc/passwd", "x").await), StatusCode::Ok);
    assert_eq!(fs::read_link(served.path("x")).unwrap().to_str(), Some("/etc/passwd"));
    assert_eq!(raw.readlink("x").await.unwrap().files[0].filename, "/etc/passwd");
    let read = raw.open("x", OpenFlags::READ, FileAttributes::empty()).await;
    assert_eq!(code(read), StatusCode::PermissionDenied);
    assert!(raw.lstat("x").await.unwrap().attrs.is_symlink());
    assert_eq!(code(raw.remove("x").await), StatusCode::Ok);
    assert!(fs::exists("/etc/passwd").unwrap());
}

#[tokio::test]
async fn s23_links_and_dots_inside_the_tree_work() {
    let mut served = Served::new(true);
    symlink("..", served.path("sub/back")).unwrap();
    let client = served.client().await;
    for path in ["inner", "sub/../file", "sub/back/file", "/file", "//file", "./file"] {
        assert!(!client.read(path).await.unwrap().is_empty(), "{path}");
    }
    assert_eq!(client.read("inner").await.unwrap(), b"deep");
    assert_eq!(client.canonicalize("sub/../../file/.").await.unwrap(), "/file");
    assert_eq!(client.canonicalize(".").await.unwrap(), "/");
}

#[tokio::test]
async fn s23_the_directory_above_the_tree_is_not_described() {
    let mut served = Served::new(true);
    let raw = served.raw().await;
    let handle = raw.opendir("/").await.unwrap().handle;
    let files = raw.readdir(handle).await.unwrap().files;
    let find = |name: &str| files.iter().find(|file| file.filename == name).unwrap().attrs.clone();
    assert_eq!(find("..").mtime, find(".").mtime);
    assert_eq!(find("..").size, find(".").size);
}

#[tokio::test]
async fn a_read_only_tree_refuses_every_change() {
    let mut served = Served::new(false);
    let before = served.everything();
    let raw = served.raw().await;
    let none = FileAttributes::empty;
    let (read, write) = (OpenFlags::READ, OpenFlags::WRITE);
    for flags in [write, read | write, write | OpenFlags::APPEND, read | OpenFlags::CREATE, read | OpenFlags::TRUNCATE]
    {
        assert_eq!(code(raw.open("file", flags, none()).await), StatusCode::PermissionDenied, "{flags:?}");
        assert_ne!(code(raw.open("new", flags, none()).await), StatusCode::Ok, "{flags:?}");
    }
    let open = raw.open("file", read, none()).await.unwrap().handle;
    let mode = FileAttributes { permissions: Some(0o777), ..none() };
    let size = FileAttributes { size: Some(0), ..none() };
    let times = FileAttributes { atime: Some(1), mtime: Some(1), ..none() };
    let posix = raw.extended("posix-rename@openssh.com", b"\0\0\0\x04file\0\0\0\x01x".to_vec()).await.unwrap();
    assert!(matches!(posix, russh_sftp::protocol::Packet::Status(s) if s.status_code == StatusCode::PermissionDenied));
    let results = [
        code(raw.mkdir("new", none()).await),
        code(raw.rmdir("sub").await),
        code(raw.remove("file").await),
        code(raw.rename("file", "new").await),
        code(raw.symlink("file", "new").await),
        code(raw.hardlink("file", "new").await),
        code(raw.setstat("file", mode.clone()).await),
        code(raw.setstat("file", size.clone()).await),
        code(raw.setstat("file", times.clone()).await),
        code(raw.setstat("file", none()).await),
        code(raw.fsetstat(&*open, mode).await),
        code(raw.fsetstat(&*open, size).await),
        code(raw.fsetstat(&*open, times).await),
    ];
    assert_eq!(results, [StatusCode::PermissionDenied; 13]);
    assert_ne!(code(raw.write(&*open, 0, b"x".to_vec()).await), StatusCode::Ok);
    assert_eq!(raw.read(&*open, 0, 100).await.unwrap().data, b"in the tree");
    assert_eq!(served.everything(), before);
}

#[tokio::test]
async fn nothing_a_guest_makes_runs_as_somebody_else() {
    let mut served = Served::new(true);
    let raw = served.raw().await;
    let suid = || FileAttributes { permissions: Some(0o6755), ..FileAttributes::empty() };
    let open = raw.open("new", OpenFlags::WRITE | OpenFlags::CREATE, suid()).await.unwrap().handle;
    raw.fsetstat(open, suid()).await.unwrap();
    raw.setstat("file", suid()).await.unwrap();
    for name in ["new", "file"] {
        assert_eq!(served.path(name).metadata().unwrap().permissions().mode() & 0o7777, 0o755, "{name}");
    }
}
