//! The client against a real sftp-server, and against guests that lie, hang and hang up.

use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::DuplexStream;
use tokio::process::{Child, Command};

pub use super::packet::FSTAT;
use super::packet::{self, LSTAT, OPENDIR, PACKET_MAX, READ, READDIR, READLINK, REALPATH, WRITE};
use super::*;

const SERVER: &str = "/usr/lib/openssh/sftp-server";

/// A real server over a directory of its own; `None`, said aloud, where there is none.
async fn real() -> Option<(Client, TempDir, Child)> {
    if !std::path::Path::new(SERVER).exists() {
        eprintln!("SKIPPED: there is no {SERVER}");
        return None;
    }
    let mut server =
        Command::new(SERVER).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let stream = tokio::io::join(server.stdout.take().unwrap(), server.stdin.take().unwrap());
    Some((Client::begin(stream).await.unwrap(), tempfile::tempdir().unwrap(), server))
}

fn inside(dir: &TempDir, name: &str) -> Vec<u8> {
    dir.path().join(name).into_os_string().into_encoded_bytes()
}

#[tokio::test]
async fn what_is_written_to_a_real_server_is_read_again_in_one_piece() {
    let Some((client, dir, _server)) = real().await else { return };
    let bytes: Vec<u8> = (0..3_000_017u32).map(|n| (n * 7 / 3) as u8).collect();
    let path = inside(&dir, "a");
    let handle = client.open(&path, OPEN_READ | OPEN_WRITE | OPEN_CREATE, 0o640).await.unwrap();
    client.write(&handle, 0, &bytes).await.unwrap().done(DATA).await.unwrap();
    assert!(client.read(&handle, 0, 4 << 20).await.unwrap() == bytes);
    assert!(client.read(&handle, 2_999_990, 1 << 20).await.unwrap() == bytes[2_999_990..]);
    assert_eq!(client.read(&handle, 5 << 20, 10).await.unwrap(), b"");
    client.fsync(&handle).await.unwrap();
    assert_eq!(client.fstat(&handle).await.unwrap().size, Some(bytes.len() as u64));
    assert_eq!(client.lstat(&path).await.unwrap().mode, Some(0o100_640));
    assert!(client.chunk > 32 << 10, "limits are asked for");
}

#[tokio::test]
async fn a_real_server_tells_enough_for_an_errno() {
    let Some((client, dir, _server)) = real().await else { return };
    let [full, file, none] = ["full", "full/file", "none"].map(|name| inside(&dir, name));
    client.mkdir(&full, 0o755).await.unwrap();
    let handle = client.open(&file, OPEN_WRITE | OPEN_CREATE, 0o600).await.unwrap();
    let errno = async |attempt, called: Called<()>| client.errno(attempt, called.unwrap_err()).await;
    assert_eq!(errno(Attempt::Make(&full), client.mkdir(&full, 0o755).await).await, libc::EEXIST);
    assert_eq!(errno(Attempt::RemoveDirectory(&full), client.rmdir(&full).await).await, libc::ENOTEMPTY);
    assert_eq!(errno(Attempt::Remove(&full), client.remove(&full).await).await, libc::EISDIR);
    assert_eq!(errno(Attempt::Remove(&none), client.remove(&none).await).await, libc::ENOENT);
    assert_eq!(errno(Attempt::Rename(&file, &full), client.rename(&file, &full).await).await, libc::EISDIR);
    let elsewhere = b"/proc/sys/x".as_slice();
    assert_eq!(errno(Attempt::Rename(&file, elsewhere), client.rename(&file, elsewhere).await).await, libc::EXDEV);
    client.forget(&handle);
    assert_eq!(client.fstat(&handle).await.unwrap_err(), Fault::Status(4), "the handle is closed");
}

/// What a scripted guest answers to a request: its kind and number. `None` hangs up.
pub type Script = fn(u8, u32) -> Option<Vec<Request>>;

fn entry(request: Request, name: &[u8]) -> Request {
    request.string(name).string(b"long name").attrs(&Attrs { mode: Some(0o100_644), ..Attrs::default() })
}

/// The answers that it takes to begin, and `script`'s for the rest.
pub async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, script: Script) {
    while let Ok(Some(mut packet)) = next_packet(&mut stream).await {
        use bytes::Buf;
        let (kind, id) = (packet.get_u8(), packet.get_u32());
        let answers = match kind {
            1 => Some(vec![Request::new(2, 3)]),
            REALPATH => Some(vec![entry(Request::new(104, id).u32(1), b"/home/lima")]),
            LSTAT => Some(vec![Request::new(105, id).attrs(&Attrs { owner: Some((1000, 1000)), ..Attrs::default() })]),
            kind => script(kind, id),
        };
        let Some(answers) = answers else { return };
        for answer in answers {
            if stream.write_all(&answer.finish()).await.is_err() {
                return;
            }
        }
    }
}

async fn scripted(script: Script) -> (Client, JoinSet<()>) {
    let (ours, theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(64 << 10);
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(theirs, script));
    (Client::begin(ours).await.unwrap(), tasks)
}

pub fn status(id: u32, code: u32) -> Vec<Request> {
    vec![Request::new(101, id).u32(code)]
}

#[tokio::test]
async fn names_that_no_file_can_have_are_left_out() {
    let (client, _server) = scripted(|kind, id| {
        Some(match kind {
            OPENDIR => vec![Request::new(102, id).string(b"h")],
            READDIR if id < 8 => {
                let names: [&[u8]; 8] = [b".", b"..", b"", b"a/b", b"/etc", b"a\0b", &[b'x'; 256], b"caf\xe9"];
                vec![names.iter().fold(Request::new(104, id).u32(8), |request, name| entry(request, name))]
            }
            _ => return Some(status(id, 1)),
        })
    })
    .await;
    let names: Vec<_> = client.list(b"/").await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert!(!names.is_empty() && names.iter().all(|name| name == b"caf\xe9"), "{names:?}");
}

#[tokio::test]
async fn a_listing_that_never_ends_ends() {
    let (client, _server) = scripted(|kind, id| {
        Some(match kind {
            OPENDIR => vec![Request::new(102, id).string(b"h")],
            _ => vec![Request::new(104, id).u32(0)],
        })
    })
    .await;
    assert!(matches!(client.list(b"/").await, Err(Fault::Garbled(_))));
    let (client, _server) = scripted(|kind, id| {
        Some(match kind {
            OPENDIR => vec![Request::new(102, id).string(b"h")],
            _ => vec![(0..2000).fold(Request::new(104, id).u32(2000), |request, _| entry(request, b"again"))],
        })
    })
    .await;
    // By its number of entries, or by its deadline on a slow machine.
    let listed = client.list(b"/").await;
    assert!(matches!(&listed, Ok(entries) if entries.len() < 2 << 20) || listed == Err(Fault::Late));
}

#[tokio::test]
async fn more_or_less_than_what_was_asked_for_is_noticed() {
    let (client, _server) = scripted(|_, id| Some(vec![Request::new(103, id).string(&[7; 100])])).await;
    assert!(matches!(client.read(b"h", 0, 99).await, Err(Fault::Garbled(_))));
    assert_eq!(client.read(b"h", 0, 300).await.unwrap(), [7; 300], "parts are put together");
    let (client, _server) = scripted(|_, id| Some(vec![Request::new(103, id).string(b"")])).await;
    assert!(matches!(client.read(b"h", 0, 99).await, Err(Fault::Garbled(_))), "for ever nothing");
}

#[tokio::test]
async fn answers_of_another_kind_are_faults() {
    let (client, _server) = scripted(|_, id| Some(vec![Request::new(105, id).attrs(&Attrs::default())])).await;
    assert!(matches!(client.list(b"/").await, Err(Fault::Garbled(_))));
    assert!(matches!(client.mkdir(b"/a", 0o755).await, Err(Fault::Garbled(_))));
    assert!(matches!(client.readlink(b"/a").await, Err(Fault::Garbled(_))));
    assert!(matches!(client.open(b"/a", OPEN_READ, 0).await, Err(Fault::Garbled(_))));
    let (client, _server) = scripted(|kind, id| match kind {
        READLINK => Some(vec![Request::new(104, id).u32(0)]),
        _ => Some(vec![Request::new(102, id).string(&[1; 257])]),
    })
    .await;
    assert!(matches!(client.readlink(b"/a").await, Err(Fault::Garbled(_))));
    assert!(matches!(client.open(b"/a", OPEN_READ, 0).await, Err(Fault::Garbled(_))), "an endless handle");
}

#[tokio::test]
async fn a_packet_without_bounds_or_sense_ends_the_connection() {
    for script in [
        (|_, _| Some(vec![Request::new(103, 0).string(&vec![0; PACKET_MAX])])) as Script,
        |_, _| Some(vec![Request::new(99, 0)]),
        |_, _| None,
    ] {
        let (client, _server) = scripted(script).await;
        assert_eq!(client.fstat(b"h").await, Err(Fault::Gone));
        assert!(!client.is_open());
        assert_eq!(client.fstat(b"h").await, Err(Fault::Gone), "and stays so");
    }
}

#[tokio::test]
async fn answers_to_nobody_are_passed_over() {
    let (client, _server) = scripted(|kind, id| match kind {
        FSTAT => Some([status(id + 1000, 0), status(id, 3), status(id, 0)].into_iter().flatten().collect()),
        _ => Some(status(id, 0)),
    })
    .await;
    assert_eq!(client.fstat(b"h").await, Err(Fault::Status(3)));
    assert_eq!(client.rmdir(b"/a").await, Ok(()));
}

#[tokio::test]
async fn many_large_reads_and_writes_at_once_do_not_wait_for_each_other_for_ever() {
    let (client, _server) = scripted(|kind, id| match kind {
        READ => Some(vec![Request::new(103, id).string(&[1; 32 << 10])]),
        WRITE => Some(status(id, 0)),
        _ => None,
    })
    .await;
    let bytes = vec![0; 1 << 20];
    let reads = futures_util::future::join_all((0..20).map(|n| client.read(b"h", n << 20, 1 << 20)));
    let writes = futures_util::future::join_all((0..20).map(|n| {
        let (client, bytes) = (&client, &bytes);
        async move { client.write(b"h", n << 20, bytes).await?.done(DATA).await }
    }));
    let (reads, writes) = tokio::join!(reads, writes);
    assert!(reads.iter().all(|read| read.as_ref().is_ok_and(|bytes| bytes.len() == 1 << 20)));
    assert!(writes.iter().all(|write| write.is_ok()));
}

#[tokio::test]
async fn extensions_and_limits_are_read_as_they_are_told() {
    let hello = Request::new(2, 3).string(b"posix-rename@openssh.com").string(b"1").finish();
    assert_eq!(packet::version(hello.slice(4..)).unwrap(), [Bytes::from_static(b"posix-rename@openssh.com")]);
}
