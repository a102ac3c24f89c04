//! `.images/`: what is in the download cache, what comes and goes there, and pruning.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use sha2::{Digest, Sha256};

use crate::common::{Case, Failed, Fleet, Outcome, procs, secs, wait_until};
use crate::{cases, ensure, same};

const URL: &str = "https://example.com/images/disk.img";

pub fn cases() -> Vec<Case> {
    cases![
        cached_images_are_listed_with_who_uses_them,
        what_others_change_in_the_cache_is_seen,
        an_image_is_pruned_by_rmdir_and_by_rm_r,
        an_image_that_an_instance_names_is_not_pruned,
        g18_a_running_download_is_shown_and_not_pruned,
        g02_g09_one_download_serves_all_starts_and_is_shown,
        g13_a_download_whose_process_is_killed_is_continued,
        nothing_else_can_be_changed_in_images,
    ]
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Name of the entry of this URL below `.images`.
fn shown(url: &str) -> String {
    format!(".images/{}-{}", url.rsplit('/').next().unwrap_or_default(), &hex(url.as_bytes())[..8])
}

/// Directory of the entry of this URL in the cache.
fn entry(fleet: &Fleet, url: &str) -> PathBuf {
    fleet.root().join(".cache/lima/download/by-url-sha256").join(hex(url.as_bytes()))
}

/// Puts an image into the cache as limactl would.
fn cache(fleet: &Fleet, url: &str, bytes: &[u8]) -> Outcome {
    let dir = entry(fleet, url);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("url"), url)?;
    fs::write(dir.join("sha256.digest"), format!("sha256:{}", hex(bytes)))?;
    fs::write(dir.join("data.tmp.1.1"), bytes)?;
    Ok(fs::rename(dir.join("data.tmp.1.1"), dir.join("data"))?)
}

fn rmdir(fleet: &Fleet, path: &str) -> i32 {
    fs::remove_dir(fleet.mnt.join(path)).err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

fn is_shown(fleet: &Fleet, url: &str) -> bool {
    fleet.mnt.join(shown(url)).is_dir()
}

fn wait_shown(fleet: &Fleet, url: &str, wanted: bool) -> Outcome {
    wait_until(&format!("{url} in .images: {wanted}"), secs(5), || is_shown(fleet, url) == wanted)
}

fn naming(url: &str) -> String {
    format!("vmType: fake\nimages:\n- location: {url}\n")
}

fn cached_images_are_listed_with_who_uses_them() -> Outcome {
    let fleet = Fleet::unmounted()?;
    cache(&fleet, URL, b"12345")?;
    fleet.mount()?;
    wait_shown(&fleet, URL, true)?;
    let name = shown(URL);
    same!(fleet.ok("ls .images")?.trim_end(), name.trim_start_matches(".images/"));
    same!(fleet.ok(&format!("ls {name} | tr '\\n' ' '"))?, "digest progress size url used_by");
    same!(fleet.read(&format!("{name}/url")), format!("{URL}\n"));
    same!(fleet.read(&format!("{name}/size")), "5\n");
    same!(fleet.read(&format!("{name}/digest")), format!("sha256:{}\n", hex(b"12345")));
    same!(fleet.read(&format!("{name}/progress")), "");
    same!(fleet.read(&format!("{name}/used_by")), "");
    fleet.create("foo", &naming(URL))?;
    fleet.create("bar", &naming(URL))?;
    fleet.create("other", &naming("https://example.com/other.img"))?;
    same!(fleet.read(&format!("{name}/used_by")), "bar\nfoo\n");
    let text = fleet.read("README.md");
    ensure!(text.contains("`.images/NAME/used_by`"), "README.md does not name it: {text}");
    Ok(())
}

fn what_others_change_in_the_cache_is_seen() -> Outcome {
    let fleet = Fleet::mounted()?;
    same!(fleet.ok("ls .images")?, "");
    ensure!(!fleet.root().join(".cache").exists(), "the mount made a cache");
    // The cache itself comes into being, is removed whole (limactl prune) and comes again.
    for _ in 0..2 {
        cache(&fleet, URL, b"12345")?;
        wait_shown(&fleet, URL, true)?;
        wait_until("its size", secs(5), || fleet.read(&format!("{}/size", shown(URL))) == "5\n")?;
        fs::remove_dir_all(fleet.root().join(".cache/lima"))?;
        wait_shown(&fleet, URL, false)?;
    }
    Ok(())
}

fn an_image_is_pruned_by_rmdir_and_by_rm_r() -> Outcome {
    let fleet = Fleet::unmounted()?;
    let other = "https://example.com/other.img";
    cache(&fleet, URL, b"12345")?;
    cache(&fleet, other, b"1")?;
    fleet.mount()?;
    wait_shown(&fleet, other, true)?;
    same!(rmdir(&fleet, &shown(URL)), 0);
    ensure!(!is_shown(&fleet, URL) && !entry(&fleet, URL).exists(), "it is still there");
    ensure!(entry(&fleet, other).exists(), "the other one went, too");
    fleet.ok(&format!("rm -r {}", shown(other)))?;
    same!(fleet.ok("ls .images")?, "");
    ensure!(!entry(&fleet, other).exists(), "it is still in the cache");
    same!(rmdir(&fleet, &shown(other)), libc::ENOENT);
    Ok(())
}

fn an_image_that_an_instance_names_is_not_pruned() -> Outcome {
    let fleet = Fleet::unmounted()?;
    cache(&fleet, URL, b"12345")?;
    fleet.mount()?;
    fleet.create("foo", &naming(URL))?;
    // The new mount has not looked into the instance yet.
    fleet.limafs(&["unmount"])?;
    fleet.mount()?;
    wait_shown(&fleet, URL, true)?;
    same!(rmdir(&fleet, &shown(URL)), libc::EBUSY);
    ensure!(fleet.read(".error").contains("is used by foo"), "no reason: {}", fleet.read(".error"));
    let ran = fleet.sh(&format!("rm -r {}", shown(URL)))?;
    ensure!(ran.code != 0 && ran.err.contains("busy"), "rm -r: {ran:?}");
    same!(fleet.read(&format!("{}/size", shown(URL))), "5\n");
    fleet.ok("rmdir foo")?;
    same!(rmdir(&fleet, &shown(URL)), 0);
    Ok(())
}

fn g18_a_running_download_is_shown_and_not_pruned() -> Outcome {
    let fleet = Fleet::mounted()?;
    let dir = entry(&fleet, URL);
    fs::create_dir_all(&dir)?;
    let lock = File::open(&dir)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    fs::write(dir.join("data.part"), [0; 30])?;
    fs::write(dir.join("data.part.json"), format!("{{\"url\": \"{URL}\", \"total\": 120}}"))?;
    let progress = || fleet.read(&format!("{}/progress", shown(URL)));
    wait_until("the progress", secs(5), || progress() == "running 25 % 30 of 120 bytes\n")?;
    same!(fleet.read(&format!("{}/size", shown(URL))), "");
    fs::write(dir.join("data.part"), [0; 60])?;
    wait_until("more progress", secs(5), || progress() == "running 50 % 60 of 120 bytes\n")?;
    same!(rmdir(&fleet, &shown(URL)), libc::EBUSY);
    ensure!(fleet.read(".error").contains("is being downloaded"), "no reason: {}", fleet.read(".error"));
    ensure!(dir.join("data.part").exists(), "the download was removed");
    // As when its process is killed.
    drop(lock);
    wait_until("its end", secs(5), || progress() == "stopped 50 % 60 of 120 bytes\n")?;
    same!(rmdir(&fleet, &shown(URL)), 0);
    ensure!(!dir.exists(), "it is still in the cache");
    Ok(())
}

/// A server of one image. The first answer stops at the half until it is told to go on.
struct Server {
    url: String,
    go_on: Sender<()>,
    /// Where each asked range began.
    ranges: Arc<Mutex<Vec<Option<usize>>>>,
}

impl Server {
    fn start(body: Vec<u8>) -> Result<Self, Failed> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/disk.img", listener.local_addr()?);
        let (go_on, told) = channel();
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let seen = ranges.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // The client may go at any time.
                let _ = answer(stream, &body, &seen, &told);
            }
        });
        Ok(Self { url, go_on, ranges })
    }

    fn asked(&self) -> Vec<Option<usize>> {
        self.ranges.lock().map(|ranges| ranges.clone()).unwrap_or_default()
    }
}

fn answer(
    stream: TcpStream,
    body: &[u8],
    ranges: &Mutex<Vec<Option<usize>>>,
    told: &Receiver<()>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut first) = (String::new(), None);
    while reader.read_line(&mut line)? > 2 {
        let range = line.to_ascii_lowercase().trim_end().strip_prefix("range: bytes=").map(str::to_owned);
        first = range.and_then(|range| range.strip_suffix('-')?.parse().ok()).or(first);
        line.clear();
    }
    let is_first = ranges.lock().is_ok_and(|mut ranges| {
        ranges.push(first);
        ranges.len() == 1
    });
    let mut stream = reader.into_inner();
    let (status, start) = first.map_or(("200 OK", 0), |first| ("206 Partial Content", first));
    let (last, total) = (body.len() - 1, body.len());
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nETag: \"1\"\r\n")?;
    write!(stream, "Content-Range: bytes {start}-{last}/{total}\r\nContent-Length: {}\r\n\r\n", total - start)?;
    let rest = &body[start..];
    let (now, later) = rest.split_at(if is_first { rest.len() / 2 } else { rest.len() });
    stream.write_all(now)?;
    if is_first {
        // An error is the test's end.
        let _ = told.recv();
    }
    stream.write_all(later)
}

/// An instance of the pretend driver whose image is `body`, from there.
fn downloading(fleet: &Fleet, name: &str, server: &Server, body: &[u8]) -> Outcome {
    fleet.create(name, &format!("{}  digest: sha256:{}\n", naming(&server.url), hex(body)))?;
    fleet.ok(&format!("echo start > {name}/state")).map(drop)
}

fn wait_step(fleet: &Fleet, name: &str, words: &[&str]) -> Outcome {
    wait_until(&format!("{words:?} in the step of {name}"), secs(10), || {
        fleet.status(name, "step").is_some_and(|step| words.iter().all(|word| step.contains(word)))
    })
}

fn g02_g09_one_download_serves_all_starts_and_is_shown() -> Outcome {
    let fleet = Fleet::mounted()?;
    let body = vec![7; 100_000];
    let server = Server::start(body.clone())?;
    downloading(&fleet, "foo", &server, &body)?;
    let progress = || fleet.read(&format!("{}/progress", shown(&server.url)));
    wait_until("half of it", secs(10), || progress() == "running 50 % 50000 of 100000 bytes\n")?;
    wait_step(&fleet, "foo", &["downloading image", "50 %"])?;
    downloading(&fleet, "bar", &server, &body)?;
    wait_step(&fleet, "bar", &["waiting for image", "50 %"])?;
    same!(rmdir(&fleet, &shown(&server.url)), libc::EBUSY);
    server.go_on.send(())?;
    fleet.wait_state("foo", "Running", secs(20))?;
    fleet.wait_state("bar", "Running", secs(20))?;
    wait_until("all of it", secs(5), || fleet.read(&format!("{}/size", shown(&server.url))) == "100000\n")?;
    same!(progress(), "");
    same!(fleet.read(&format!("{}/used_by", shown(&server.url))), "bar\nfoo\n");
    same!(server.asked(), [None]);
    Ok(())
}

fn g13_a_download_whose_process_is_killed_is_continued() -> Outcome {
    let fleet = Fleet::mounted()?;
    let body: Vec<u8> = (0..100_000_u32).map(|at| (at ^ (at >> 8)) as u8).collect();
    let server = Server::start(body.clone())?;
    downloading(&fleet, "foo", &server, &body)?;
    wait_step(&fleet, "foo", &["downloading image", "50 %"])?;
    let hostagent = fleet.hostagent("foo").ok_or("no hostagent")?;
    procs::signal(hostagent, Signal::KILL);
    server.go_on.send(())?;
    wait_until("its end", secs(5), || {
        fleet.read(&format!("{}/progress", shown(&server.url))) == "stopped 50 % 50000 of 100000 bytes\n"
    })?;
    wait_until("a state that can be started", secs(10), || {
        ["Stopped", "Broken"].contains(&fleet.state("foo").as_str())
    })?;
    fleet.ok("echo start > foo/state")?;
    fleet.wait_state("foo", "Running", secs(20))?;
    same!(server.asked(), [None, Some(50_000)]);
    ensure!(fs::read(entry(&fleet, &server.url).join("data"))? == body, "the data is wrong");
    Ok(())
}

fn nothing_else_can_be_changed_in_images() -> Outcome {
    let fleet = Fleet::unmounted()?;
    cache(&fleet, URL, b"12345")?;
    fleet.mount()?;
    wait_shown(&fleet, URL, true)?;
    let name = shown(URL);
    for line in [
        "mkdir .images/x",
        "touch .images/x",
        "rmdir .images",
        "mv .images x",
        &format!("mv {name} .images/x"),
        &format!("touch {name}/x"),
        &format!("echo x > {name}/url"),
        &format!("mv {name}/url {name}/x"),
    ] {
        ensure!(fleet.sh(line)?.code != 0, "{line} succeeded");
    }
    same!(fleet.read(&format!("{name}/url")), format!("{URL}\n"));
    same!(fs::read(entry(&fleet, URL).join("data"))?, b"12345");
    Ok(())
}
