//! Downloads that break off, and servers that lie.

use super::*;

const MIB: usize = 1 << 20;
const DATE: &str = "Last-Modified: Sat, 01 Nov 2025 00:00:00 GMT";

/// Bytes that differ from place to place.
fn image(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let mut lines = request.head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Where the asked range begins, if `tag` is what it was asked with.
fn range(request: &Request, tag: &str) -> Option<usize> {
    let first = header(request, "range")?.strip_prefix("bytes=")?.strip_suffix('-')?;
    (header(request, "if-range") == Some(tag)).then(|| first.parse().unwrap())
}

/// Answers as a server with ranges does, but sends at most `most` bytes of the body.
fn serve(request: &Request, body: &[u8], tag: &str, most: usize) -> Vec<u8> {
    let first = range(request, tag).filter(|first| *first < body.len());
    let rest = &body[first.unwrap_or(0)..];
    let length = format!("ETag: {tag}\r\nContent-Length: {}", rest.len());
    let sent = &rest[..most.min(rest.len())];
    match first {
        Some(first) => {
            let range = format!("Content-Range: bytes {first}-{}/{}", body.len() - 1, body.len());
            answer("206 Partial Content", &format!("{length}\r\n{range}"), sent)
        }
        None => answer("200 OK", &length, sent),
    }
}

fn entry_names(root: &TempDir) -> Vec<String> {
    let base = root.path().join(cache::ENTRIES);
    let dir = fs::read_dir(base).unwrap().next().unwrap().unwrap().path();
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn g13_a_download_that_breaks_off_is_continued() {
    let body = image(100_000);
    let (served, ranges) = (body.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = ranges.clone();
    let server = Server::with(move |request| {
        seen.lock().push(range(request, "\"one\""));
        serve(request, &served, "\"one\"", if request.before == 0 { 40_000 } else { MIB })
    })
    .await;
    let root = tempfile::tempdir().unwrap();
    assert!(open(&root, &server, Some(&expected(&body))).await.unwrap() == body);
    assert_eq!(*ranges.lock(), [None, Some(40_000)]);
    assert_eq!(entry_names(&root), ["data", "sha256.digest", "time", "type", "url"]);
}

#[tokio::test]
async fn g13_what_a_given_up_download_left_is_continued_by_the_next() {
    let body = image(100_000);
    let (served, ranges) = (body.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = ranges.clone();
    let server = Server::with(move |request| {
        seen.lock().push(range(request, "\"one\""));
        // Four attempts of the first download, of which the last three bring nothing.
        let most = [30_000, 0, 0, 0].get(request.before).copied().unwrap_or(MIB);
        serve(request, &served, "\"one\"", most)
    })
    .await;
    let root = tempfile::tempdir().unwrap();
    assert!(open(&root, &server, Some(&expected(&body))).await.is_err());
    assert_eq!(entry_names(&root), ["data.part", "data.part.json"]);
    assert!(open(&root, &server, Some(&expected(&body))).await.unwrap() == body);
    assert_eq!(ranges.lock().last(), Some(&Some(30_000)));
}

#[tokio::test]
async fn g13_a_whole_part_is_asked_about_before_it_is_believed() {
    let body = image(1000);
    let served = body.clone();
    let server = Server::with(move |request| serve(request, &served, "\"one\"", MIB)).await;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(cache::ENTRIES).join(cache::name(server.url().as_str()));
    fs::create_dir_all(&dir).unwrap();
    // As left by one that was killed between the last byte and the rename; the tag is not the server's any more.
    for (tag, gets) in [("\"old\"", 1), ("\"one\"", 2)] {
        fs::write(dir.join("data.part"), &body).unwrap();
        let stamp = part::Stamp { etag: Some(tag.to_owned()), total: Some(1000), ..part::Stamp::default() };
        fs::write(dir.join("data.part.json"), serde_json::to_string(&stamp).unwrap()).unwrap();
        fs::remove_file(dir.join("data")).ok();
        assert!(open(&root, &server, None).await.unwrap() == body);
        assert_eq!(server.gets(), gets);
    }
}

#[tokio::test]
async fn what_is_left_of_a_download_goes_when_the_whole_is_there() {
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(|_, _, _| ok(BODY)).await);
    open(&root, &server, Some(&expected(BODY))).await.unwrap();
    let dir = root.path().join(cache::ENTRIES).join(cache::name(server.url().as_str()));
    fs::write(dir.join("data.part"), "the").unwrap();
    fs::write(dir.join("data.part.json"), "{}").unwrap();
    open(&root, &server, Some(&expected(BODY))).await.unwrap();
    assert_eq!(entry_names(&root), ["data", "sha256.digest", "time", "type", "url"]);
}

#[tokio::test]
async fn a_server_without_ranges_is_asked_for_all_of_it() {
    let body = image(50_000);
    let served = body.clone();
    let server = Server::with(move |request| {
        let most = if request.before == 0 { 20_000 } else { MIB };
        let headers = format!("{DATE}\r\nContent-Length: {}", served.len());
        answer("200 OK", &headers, &served[..most.min(served.len())])
    })
    .await;
    let root = tempfile::tempdir().unwrap();
    assert!(open(&root, &server, None).await.unwrap() == body);
}

#[tokio::test]
async fn data_that_changed_meanwhile_is_never_joined_to_the_old() {
    let (old, new) = (image(50_000), vec![7; 60_000]);
    let (first, then) = (old.clone(), new.clone());
    let server = Server::with(move |request| match request.before {
        0 => serve(request, &first, "\"old\"", 20_000),
        _ => serve(request, &then, "\"new\"", MIB),
    })
    .await;
    let root = tempfile::tempdir().unwrap();
    assert!(open(&root, &server, None).await.unwrap() == new);
}

#[tokio::test]
async fn a_server_that_sends_another_part_is_asked_for_all_of_it() {
    let body = image(50_000);
    let served = body.clone();
    let server = Server::with(move |request| match range(request, "\"one\"") {
        Some(first) => {
            let headers = format!("Content-Range: bytes {}-49999/50000\r\nContent-Length: 10", first + 1);
            answer("206 Partial Content", &headers, &[0; 10])
        }
        None => serve(request, &served, "\"one\"", if request.before == 0 { 20_000 } else { MIB }),
    })
    .await;
    let root = tempfile::tempdir().unwrap();
    assert!(open(&root, &server, None).await.unwrap() == body);
    assert_eq!(server.gets(), 3);
}

#[tokio::test]
async fn a_continued_download_with_a_wrong_digest_is_done_again_from_the_start() {
    let (old, body) = (vec![9; 50_000], image(50_000));
    let served = body.clone();
    // One tag for different bytes.
    let server = Server::with(move |request| match request.before {
        0 => serve(request, &old, "\"one\"", 20_000),
        _ => serve(request, &served, "\"one\"", MIB),
    })
    .await;
    let root = tempfile::tempdir().unwrap();
    assert!(open(&root, &server, Some(&expected(&body))).await.unwrap() == body);
    assert_eq!(server.gets(), 3);
}

#[tokio::test]
async fn attempts_that_bring_much_are_not_counted() {
    let body = image(8 * MIB);
    let served = body.clone();
    let server = Server::with(move |request| serve(request, &served, "\"one\"", MIB)).await;
    let root = tempfile::tempdir().unwrap();
    assert!(open(&root, &server, Some(&expected(&body))).await.unwrap() == body);
    assert_eq!(server.gets(), 8);
}

#[tokio::test]
async fn g09_a_trickle_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut stream, mut line) = (BufReader::new(stream), String::new());
                while stream.read_line(&mut line).await.is_ok_and(|count| count > 2) {}
                let mut bytes = answer("200 OK", "Content-Length: 1000000", b"");
                // Until the client closes.
                while stream.write_all(&bytes).await.is_ok() {
                    bytes = vec![0];
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
    });
    let root = tempfile::tempdir().unwrap();
    // Longer than this machine may stand still: that would be silence.
    let policy = Policy { idle: Duration::from_millis(1500), ..quick() };
    let error = cache::open(root.path(), url.as_str(), None, &policy, &|_| {}).await.unwrap_err().to_string();
    assert!(error.contains("too slow"), "{error}");
}

#[tokio::test]
async fn a_disk_without_room_is_named_before_the_first_byte() {
    let huge = |_: &str, _: &str, _| answer("200 OK", "Content-Length: 1152921504606846976", BODY);
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(huge).await);
    let error = open(&root, &server, None).await.unwrap_err();
    assert_eq!(error.errno(), libc::ENOSPC);
    assert!(error.to_string().contains("1099511627776 MiB are to be downloaded, "), "{error}");
    assert_eq!((server.gets(), entry_names(&root).len()), (1, 0));
}

#[tokio::test]
async fn answers_that_cannot_be_checked_are_refused_without_a_digest() {
    let endless = |_: &str, _: &str, _| answer("200 OK", DATE, BODY);
    let portal = |_: &str, _: &str, _| answer("200 OK", "Content-Type: text/html\r\nContent-Length: 9", BODY);
    let packed = |_: &str, _: &str, _| answer("200 OK", "Content-Encoding: gzip\r\nContent-Length: 9", BODY);
    let digest = expected(BODY);
    let root = tempfile::tempdir().unwrap();
    for (server, why, with_digest) in [
        (Server::start(endless).await, "where its data ends", true),
        (Server::start(portal).await, "sent a web page", true),
        (Server::start(packed).await, "which was not asked for", false),
    ] {
        let error = open(&root, &server, None).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(open(&root, &server, Some(&digest)).await.is_ok(), with_digest, "{why}");
    }
}

#[tokio::test]
async fn who_waits_for_another_download_sees_how_far_it_is() {
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(|_, _, _| ok(BODY)).await);
    let dir = root.path().join(cache::ENTRIES).join(cache::name(server.url().as_str()));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("data.part"), "12345").unwrap();
    let stamp = part::Stamp { total: Some(9), ..part::Stamp::default() };
    fs::write(dir.join("data.part.json"), serde_json::to_string(&stamp).unwrap()).unwrap();
    // Another open file of the directory is what another process would have.
    let other = Mutex::new(Some(cache::try_lock(&dir).unwrap().unwrap()));
    let release = |progress: Progress| {
        if progress.step == "waiting for" && progress.done > 0 {
            assert_eq!((progress.done, progress.total), (5, Some(9)));
            other.lock().take();
        }
    };
    let data = cache::open(root.path(), server.url().as_str(), None, &quick(), &release).await.unwrap();
    assert_eq!(data.metadata().unwrap().len(), 9);
    assert_eq!(server.gets(), 1);
}

#[tokio::test]
async fn g17_an_entry_that_is_a_symlink_is_refused() {
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(|_, _, _| ok(BODY)).await);
    let (base, elsewhere) = (root.path().join(cache::ENTRIES), tempfile::tempdir().unwrap());
    fs::create_dir_all(&base).unwrap();
    let entry = base.join(cache::name(server.url().as_str()));
    std::os::unix::fs::symlink(elsewhere.path(), &entry).unwrap();
    let error = open(&root, &server, None).await.unwrap_err().to_string();
    assert!(error.starts_with(&entry.display().to_string()), "{error}");
    assert_eq!((server.gets(), fs::read_dir(elsewhere.path()).unwrap().count()), (0, 0));
}

#[test]
fn ranges_that_make_no_sense_are_none() {
    assert_eq!(http::parse_range("bytes 5-8/9"), Some((5, Some(9))));
    assert_eq!(http::parse_range("bytes 5-8/*"), Some((5, None)));
    for text in ["", "bytes */9", "bytes 5-9/9", "bytes 8-5/9", "bytes -5-8/9", "lines 5-8/9", "bytes 5-8"] {
        assert_eq!(http::parse_range(text), None, "{text}");
    }
}

#[test]
fn a_weak_tag_proves_nothing() {
    let stamp = |etag: &str| part::Stamp { etag: Some(etag.to_owned()), ..part::Stamp::default() };
    assert_eq!(stamp("\"a\"").validator(), Some("\"a\""));
    assert_eq!(stamp("W/\"a\"").validator(), None);
    let dated = part::Stamp { modified: Some("then".to_owned()), ..stamp("W/\"a\"") };
    assert_eq!(dated.validator(), Some("then"));
}
