//! Against a server of their own: a listener that answers by hand and counts.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use sha2::{Digest, Sha256, Sha384, Sha512};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;

const BODY: &[u8] = b"the image";

/// What the server does with a request: raw bytes to answer, after which it closes.
type Answer = Arc<dyn Fn(&str, &str, usize) -> Vec<u8> + Send + Sync>;

struct Server {
    base: String,
    /// Requests by method.
    counts: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Server {
    /// `answer` gets method, path and how many requests came before.
    async fn start(answer: impl Fn(&str, &str, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
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
                let mut words = head.split(' ');
                let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                *seen.lock().entry(method.to_owned()).or_insert(0) += 1;
                let reply = answer(method, path, requests.fetch_add(1, Ordering::Relaxed));
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

fn quick() -> Policy {
    let short = Duration::from_millis(1);
    Policy { connect: Duration::from_secs(5), idle: Duration::from_millis(300), retries: [short; 3] }
}

async fn open(root: &TempDir, server: &Server, digest: Option<&Expected>) -> Result<Vec<u8>> {
    let data = cache::open(root.path(), &server.url(), digest, &quick(), &|_| {}).await?;
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
    assert!(download::refusal(&[url("https://a/")], &url("http://b/")).is_some());
    assert!(download::refusal(&[url("https://a/")], &url("ftp://b/")).is_some());
    assert!(download::refusal(&[url("https://a/")], &url("https://b/")).is_none());
    assert!(download::refusal(&[url("http://a/")], &url("http://b/")).is_none());
}

#[tokio::test]
async fn g10_a_server_that_falls_silent_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let root = tempfile::tempdir().unwrap();
    let error = cache::open(root.path(), &url, None, &quick(), &|_| {}).await.unwrap_err().to_string();
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
        cache::open(&root, &Url::parse(&location).unwrap(), None, &Policy::default(), &progress).await
    });
    started.notified().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(entry_files(&dir), BTreeMap::new());
}
