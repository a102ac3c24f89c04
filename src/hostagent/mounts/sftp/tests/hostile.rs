//! Bytes: names that are not UTF-8, and frames that no client would send.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::answer::Server;
use super::*;

/// A request without its length, as the server takes it.
pub fn frame(kind: u8, id: u32, parts: &[Vec<u8>]) -> Vec<u8> {
    [&[kind][..], &id.to_be_bytes(), &parts.concat()].concat()
}

pub fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

fn number(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

/// The code of a reply that is a status.
pub fn status(reply: &[u8]) -> u8 {
    assert_eq!(reply[4], 101, "{reply:?}");
    reply[12]
}

#[test]
fn names_are_bytes_and_no_utf_8() {
    let served = Served::new(true);
    let mut server = Server::new(served.tree(), LIMIT);
    let name = b"caf\xe9\xff";
    let open = frame(3, 7, &[text(name), number(2 | 8), number(0)]);
    let handle = server.answer(&open).unwrap()[9..].to_vec();
    let write = frame(6, 8, &[handle.clone(), vec![0; 8], text(b"latin")]);
    assert_eq!(status(&server.answer(&write).unwrap()), 0);
    assert_eq!(fs::read(served.path("").join(OsStr::from_bytes(name))).unwrap(), b"latin");

    let dir = server.answer(&frame(11, 9, &[text(b"/")])).unwrap()[9..].to_vec();
    let names = server.answer(&frame(12, 10, &[dir])).unwrap();
    assert!(names.windows(name.len()).any(|window| window == name));
    let rename = frame(18, 11, &[text(name), text(b"\x80")]);
    assert_eq!(status(&server.answer(&rename).unwrap()), 0);
    let link = frame(20, 12, &[text(b"to-\xfe"), text(b"l\xfd")]);
    assert_eq!(status(&server.answer(&link).unwrap()), 0);
    let target = server.answer(&frame(19, 13, &[text(b"l\xfd")])).unwrap();
    assert!(target.windows(4).any(|window| window == b"to-\xfe"));
    assert_eq!(status(&server.answer(&frame(13, 14, &[text(b"\x80")])).unwrap()), 0);
}

#[test]
fn a_name_with_nul_or_too_long_is_refused() {
    let served = Served::new(true);
    let mut server = Server::new(served.tree(), LIMIT);
    let long = vec![b'x'; 5000];
    for name in [&b"a\0b"[..], &long, &vec![b'x'; 256], &b"/x".repeat(5000)] {
        for kind in [7, 11, 13, 15, 17, 19] {
            assert_ne!(status(&server.answer(&frame(kind, 1, &[text(name)])).unwrap()), 0);
        }
    }
}

#[test]
fn a_handle_that_was_never_given_is_refused() {
    let served = Served::new(true);
    let mut server = Server::new(served.tree(), LIMIT);
    let dir = server.answer(&frame(11, 1, &[text(b"/")])).unwrap()[9..].to_vec();
    // Of a directory, where one of a file is needed.
    let read = frame(5, 1, &[dir, vec![0; 8], number(10)]);
    assert_eq!(status(&server.answer(&read).unwrap()), 2);
    for handle in [&b""[..], b"1", &[0; 8], &[0xff; 8], &[0; 4096]] {
        for kind in [4, 8, 12] {
            assert_eq!(status(&server.answer(&frame(kind, 1, &[text(handle)])).unwrap()), 2);
        }
    }
}

#[test]
fn a_read_of_everything_is_answered_with_a_bounded_piece() {
    let served = Served::new(true);
    fs::File::create(served.path("sparse")).unwrap().set_len(1 << 40).unwrap();
    let mut server = Server::new(served.tree(), LIMIT);
    let open = frame(3, 1, &[text(b"sparse"), number(1), number(0)]);
    let handle = server.answer(&open).unwrap()[9..].to_vec();
    let read = |offset: u64| frame(5, 2, &[handle.clone(), offset.to_be_bytes().to_vec(), number(u32::MAX)]);
    let reply = server.answer(&read(0)).unwrap();
    assert!(reply[4] == 103 && reply.len() <= 256 << 10, "{}", reply.len());
    assert_eq!(status(&server.answer(&read(1 << 40)).unwrap()), 1);
    assert_ne!(status(&server.answer(&read(u64::MAX)).unwrap()), 0);
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_the_session() {
    let served = Served::new(true);
    let (mut ours, theirs) = tokio::io::duplex(1 << 10);
    ours.write_all(&[0xff; 8]).await.unwrap();
    let error = serve(served.tree(), LIMIT, theirs).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_client_that_hangs_up_in_the_middle_has_ended() {
    let served = Served::new(true);
    for bytes in [&b""[..], b"\0\0", b"\0\0\0\x09\x01\0\0"] {
        let (mut ours, theirs) = tokio::io::duplex(1 << 10);
        ours.write_all(bytes).await.unwrap();
        drop(ours);
        serve(served.tree(), LIMIT, theirs).await.unwrap();
    }
}

#[tokio::test]
async fn requests_are_answered_in_their_order() {
    let mut served = Served::new(true);
    let mut stream = served.stream();
    let mut all = Vec::new();
    for id in 0..500 {
        all.extend(text(&frame(17, id, &[text(b"file")])));
    }
    let (mut input, mut output) = tokio::io::split(&mut stream);
    let write = async { output.write_all(&all).await.unwrap() };
    let read = async {
        for id in 0..500 {
            let length = input.read_u32().await.unwrap();
            let mut reply = vec![0; length as usize];
            input.read_exact(&mut reply).await.unwrap();
            assert_eq!((reply[0], &reply[1..5]), (105, &u32::to_be_bytes(id)[..]));
        }
    };
    tokio::join!(write, read);
}

proptest! {
    #[test]
    fn any_bytes_are_answered_or_refused_and_touch_nothing(frames in prop::collection::vec(
        (prop::sample::select((0..=25).chain([200, 255]).collect::<Vec<u8>>()), prop::collection::vec(any::<u8>(), 0..64)), 1..20
    )) {
        let served = Served::new(false);
        let before = served.everything();
        let mut server = Server::new(served.tree(), LIMIT);
        for (kind, rest) in frames {
            let frame = [&[kind][..], &rest].concat();
            match server.answer(&frame) {
                None => prop_assert!(frame.len() < 5),
                Some(reply) => {
                    let length = u32::from_be_bytes(reply[..4].try_into().unwrap());
                    prop_assert_eq!(length as usize, reply.len() - 4);
                }
            }
        }
        prop_assert_eq!(served.everything(), before);
    }
}
