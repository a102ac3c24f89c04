//! Against a server of their own: a listener that answers by hand and counts.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;

mod local;
mod resume;

const BODY: &[u8] = b"the image";

/// What the server does with a request: raw bytes to answer, after which it closes.
type Answer = Arc<dyn Fn(&Request) -> Vec<u8> + Send + Sync>;

struct Request {
    method: String,
    path: String,
    /// All lines, as they were sent.
    head: String,
    /// How many requests came before.
    before: usize,
}

struct Server {
    base: String,
    /// Requests by method.
    counts: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Server {
    /// `answer` gets method, path and how many requests came before.
    async fn start(answer: impl Fn(&str, &str, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::with(move |request| answer(&request.method, &request.path, request.before)).await
    }

    async fn with(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let counts = Arc::new(Mutex::new(BTreeMap::new()));
        let (answer, seen): (Answer, _) = (Arc::new(answer), counts.clone());
        let requests = AtomicUsize::new(0);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut head = String::new();
                while stream.read_line(&mut head).await.is_ok_and(|count| count > 2) {}
                let mut words = head.split(' ').map(str::to_owned);
                let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                *seen.lock().entry(method.clone()).or_insert(0) += 1;
                let before = requests.fetch_add(1, Ordering::Relaxed);
                let reply = answer(&Request { method, path, head, before });
                let _ = stream.write_all(&reply).await; // the client may have gone
            }
        });
        Self { base, counts }
    }

    fn gets(&self) -> usize {
        self.counts.lock().get("GET").copied().unwrap_or(0)
    }

    fn url(&self) -> Url {
        Url::parse(&format!("{}/disk.img", self.base)).unwrap()
    }
}

fn ok(body: &[u8]) -> Vec<u8> {
    answer("200 OK", &format!("Content-Length: {}\r\nLast-Modified: Sat, 01 Nov 2025 00:00:00 GMT", body.len()), body)
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut reply = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n\r\n").into_bytes();
    reply.extend(body);
    reply
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn expected(bytes: &[u8]) -> Expected {
    Expected::parse(&sha256(bytes)).unwrap()
}

/// Quick to try again, and in no hurry to give up: this machine may be slow.
fn quick() -> Policy {
    let short = Duration::from_millis(1);
    Policy { connect: Duration::from_secs(30), idle: Duration::from_secs(30), retries: [short; 3] }
}

/// Gives up what is silent for a moment.
fn impatient() -> Policy {
    Policy { idle: Duration::from_millis(300), ..quick() }
}

async fn open(root: &TempDir, server: &Server, digest: Option<&Expected>) -> Result<Vec<u8>> {
    let data = cache::open(root.path(), server.url().as_str(), digest, &quick(), &|_| {}).await?;
    Ok(fs::read(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&data))).unwrap())
}

/// The cache entry's files, without temporary ones' random names.
fn entry_files(root: &TempDir) -> BTreeMap<String, String> {
    let base = root.path().join("download/by-url-sha256");
    let dir = fs::read_dir(base).unwrap().next().unwrap().unwrap().path();
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    files.map(|file| (file.file_name().into_string().unwrap(), fs::read_to_string(file.path()).unwrap())).collect()
}

#[tokio::test]
async fn g01_a_second_fetch_is_a_cache_hit() {
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(|_, _, _| ok(BODY)).await);
    let digest = expected(BODY);
    assert_eq!(open(&root, &server, Some(&digest)).await.unwrap(), BODY);
    assert_eq!(open(&root, &server, Some(&digest)).await.unwrap(), BODY);
    assert_eq!(server.gets(), 1);
    let files = entry_files(&root);
    assert_eq!(files.keys().collect::<Vec<_>>(), ["data", "sha256.digest", "time", "type", "url"]);
    assert_eq!(files["url"], server.url().as_str());
    assert_eq!(files["time"], "Sat, 01 Nov 2025 00:00:00 GMT");
    assert_eq!(files["sha256.digest"], sha256(BODY));
}

#[tokio::test]
async fn the_entry_is_named_by_the_hash_of_the_url() {
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(|_, _, _| ok(BODY)).await);
    open(&root, &server, None).await.unwrap();
    let name = hex(&Sha256::digest(server.url().as_str()));
    assert!(root.path().join("download/by-url-sha256").join(name).join("data").is_file());
}

#[tokio::test]
async fn the_entry_is_limas_whatever_a_url_may_be_written_like() {
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(|_, _, _| ok(BODY)).await);
    let location = format!("{}/a/../disk.img", server.base.replace("http", "HTTP"));
    assert_ne!(Url::parse(&location).unwrap().as_str(), location);
    cache::open(root.path(), &location, None, &quick(), &|_| {}).await.unwrap();
    assert_eq!(entry_files(&root)["url"], location);
    assert!(root.path().join("download/by-url-sha256").join(hex(&Sha256::digest(&location))).join("data").is_file());
}

#[tokio::test]
async fn data_that_was_verified_is_not_read_again_until_it_changes() {
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(|_, _, _| ok(BODY)).await);
    let digest = expected(BODY);
    open(&root, &server, Some(&digest)).await.unwrap();
    let base = root.path().join("download/by-url-sha256");
    let data = fs::read_dir(base).unwrap().next().unwrap().unwrap().path().join("data");
    // Once the file is old enough, the next hit keeps what it found.
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !entry_files(&root).contains_key("limafs.verified") {
        assert!(std::time::Instant::now() < deadline, "never kept");
        assert_eq!(open(&root, &server, Some(&digest)).await.unwrap(), BODY);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Whoever believes the note does not read the data: nothing else has this digest.
    let note = entry_files(&root)["limafs.verified"].clone();
    let (path, wrong) = (data.with_file_name("limafs.verified"), sha256(b"other"));
    fs::write(&path, note.replace(&sha256(BODY), &wrong)).unwrap();
    assert_eq!(open(&root, &server, Some(&Expected::parse(&wrong).unwrap())).await.unwrap(), BODY);
    fs::write(&path, note).unwrap();
    assert_eq!(server.gets(), 1);
    // As long, and with the old mtime.
    let mtime = fs::metadata(&data).unwrap().modified().unwrap();
    fs::write(&data, b"the imagf").unwrap();
    fs::File::options().write(true).open(&data).unwrap().set_modified(mtime).unwrap();
    assert_eq!(open(&root, &server, Some(&digest)).await.unwrap(), BODY);
    assert_eq!(server.gets(), 2);
}

#[tokio::test]
async fn g02_twenty_at_once_download_once() {
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(|_, _, _| ok(BODY)).await);
    let digest = expected(BODY);
    let all = futures_util::future::join_all((0..20).map(|_| open(&root, &server, Some(&digest)))).await;
    assert!(all.into_iter().all(|data| data.unwrap() == BODY));
    assert_eq!(server.gets(), 1);
}

#[tokio::test]
async fn g03_a_wrong_digest_leaves_no_data() {
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(|_, _, _| ok(b"evil")).await);
    let error = open(&root, &server, Some(&expected(BODY))).await.unwrap_err().to_string();
    assert!(error.contains(&sha256(b"evil")) && error.contains(&sha256(BODY)), "{error}");
    assert_eq!(entry_files(&root), BTreeMap::new());
}

#[test]
fn g04_bad_digests_are_refused() {
    for text in
        ["", "sha256", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:12", &format!("sha256:{}", "g".repeat(64))]
    {
        assert_eq!(Expected::parse(text).unwrap_err().errno(), libc::EINVAL, "{text}");
    }
    assert!(Expected::parse(&sha256(BODY).to_uppercase().replace("SHA", "sha")).is_ok());
}

#[tokio::test]
async fn g05_a_truncated_body_is_a_failure() {
    let short = |_: &str, _: &str, _| answer("200 OK", "Content-Length: 100", BODY);
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(short).await);
    let error = open(&root, &server, None).await.unwrap_err().to_string();
    assert!(error.starts_with(server.url().as_str()), "{error}");
    assert_eq!(entry_files(&root), BTreeMap::new());
}

#[tokio::test]
async fn g06_a_chunked_body_without_its_end_is_a_failure() {
    let dying = |_: &str, _: &str, _| answer("200 OK", "Transfer-Encoding: chunked", b"9\r\nthe image\r\n");
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(dying).await);
    assert!(open(&root, &server, None).await.is_err());
    assert_eq!(entry_files(&root), BTreeMap::new());
}

#[tokio::test]
async fn g07_an_error_status_is_named_and_not_repeated() {
    for status in ["404 Not Found", "403 Forbidden"] {
        let refusing = move |_: &str, _: &str, _| answer(status, "Content-Length: 0", b"");
        let (root, server) = (tempfile::tempdir().unwrap(), Server::start(refusing).await);
        let error = open(&root, &server, None).await.unwrap_err().to_string();
        assert_eq!(error, format!("{}: the server answered {status}", server.url()));
        assert_eq!((server.gets(), entry_files(&root).len()), (1, 0));
    }
}

#[tokio::test]
async fn g07_an_error_of_the_server_is_tried_again() {
    let moody = |_: &str, _: &str, before| match before {
        0 | 1 => answer("503 Service Unavailable", "Content-Length: 0", b""),
        _ => ok(BODY),
    };
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(moody).await);
    assert_eq!(open(&root, &server, None).await.unwrap(), BODY);
    assert_eq!(server.gets(), 3);
}

#[tokio::test]
async fn g07_after_three_more_tries_the_server_is_given_up() {
    let broken = |_: &str, _: &str, _| answer("500 Internal Server Error", "Content-Length: 0", b"");
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(broken).await);
    let error = open(&root, &server, None).await.unwrap_err().to_string();
    assert!(error.ends_with("answered 500 Internal Server Error"), "{error}");
    assert_eq!(server.gets(), 4);
}

#[tokio::test]
async fn g08_redirects_are_followed_at_most_ten_times() {
    let hops = |_: &str, path: &str, before| match before {
        0..10 => answer("302 Found", &format!("Location: {path}x\r\nContent-Length: 0"), b""),
        _ => ok(BODY),
    };
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(hops).await);
    assert_eq!(open(&root, &server, None).await.unwrap(), BODY);

    let endless = |_: &str, path: &str, _| answer("302 Found", &format!("Location: {path}\r\nContent-Length: 0"), b"");
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(endless).await);
    let error = open(&root, &server, None).await.unwrap_err().to_string();
    assert!(error.contains("more than 10 redirects"), "{error}");
    assert_eq!(server.gets(), 11);
}

#[tokio::test]
async fn g08_redirects_to_other_schemes_are_refused() {
    let to_file = |_: &str, _: &str, _| answer("302 Found", "Location: file:///etc/passwd\r\nContent-Length: 0", b"");
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(to_file).await);
    assert!(open(&root, &server, None).await.is_err());
    assert_eq!(entry_files(&root), BTreeMap::new());
}

#[test]
fn g08_redirects_from_https_to_http_are_refused() {
    let url = |text| Url::parse(text).unwrap();
    assert!(http::refusal(&[url("https://a/")], &url("http://b/")).is_some());
    assert!(http::refusal(&[url("https://a/")], &url("ftp://b/")).is_some());
    assert!(http::refusal(&[url("https://a/")], &url("https://b/")).is_none());
    assert!(http::refusal(&[url("http://a/")], &url("http://b/")).is_none());
}

#[tokio::test]
async fn g10_a_server_that_falls_silent_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let root = tempfile::tempdir().unwrap();
    let error = cache::open(root.path(), url.as_str(), None, &impatient(), &|_| {}).await.unwrap_err().to_string();
    assert!(error.contains("no answer in time"), "{error}");
}

#[tokio::test]
async fn g11_without_a_digest_the_servers_date_decides() {
    let dated = |method: &str, _: &str, before: usize| {
        let day = if before < 3 { 1 } else { 2 };
        let headers = format!("Content-Length: 9\r\nLast-Modified: Sat, 0{day} Nov 2025 00:00:00 GMT");
        answer("200 OK", &headers, if method == "HEAD" { b"" } else { BODY })
    };
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(dated).await);
    for gets in [1, 1, 1, 2] {
        assert_eq!(open(&root, &server, None).await.unwrap(), BODY);
        assert_eq!(server.gets(), gets);
    }
}

#[tokio::test]
async fn g11_a_server_that_cannot_be_asked_leaves_the_cache_in_use() {
    let once = |_: &str, _: &str, before| match before {
        0 => ok(BODY),
        _ => answer("500 Internal Server Error", "Content-Length: 0", b""),
    };
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(once).await);
    open(&root, &server, None).await.unwrap();
    assert_eq!(open(&root, &server, None).await.unwrap(), BODY);
    assert_eq!(server.gets(), 1);
}

#[tokio::test]
async fn damaged_cached_data_is_downloaded_again() {
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(|_, _, _| ok(BODY)).await);
    let digest = expected(BODY);
    open(&root, &server, Some(&digest)).await.unwrap();
    let base = root.path().join("download/by-url-sha256");
    fs::write(fs::read_dir(base).unwrap().next().unwrap().unwrap().path().join("data"), "the imagf").unwrap();
    assert_eq!(open(&root, &server, Some(&digest)).await.unwrap(), BODY);
    assert_eq!(server.gets(), 2);
}

#[tokio::test]
async fn a_fetch_can_be_spawned_and_dropped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let location = format!("http://{}/", listener.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (root, started) = (dir.path().to_owned(), Arc::new(tokio::sync::Notify::new()));
    let seen = started.clone();
    let task = tokio::spawn(async move {
        let progress = move |progress: Progress| {
            assert_eq!(progress.step, "downloading");
            seen.notify_one();
        };
        cache::open(&root, &location, None, &Policy::default(), &progress).await
    });
    started.notified().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(entry_files(&dir), BTreeMap::new());
}
