//! `mountInotify`: what changes on the host below a mount entry that the guest may write, told to the guest agent, which
//! touches the file there, so that whoever watches it in the guest hears of it. Follows no symbolic link.
//!
//! The touch comes back as a change of the host's file, with the time that was just told: that one is not told again.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::{self, StreamExt};
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use limafs_driver::{Config, Mount};
use limafs_guestagent::client::Client;
use limafs_guestagent::proto;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Directories that are watched at once: each costs the kernel about 1 KiB.
const WATCHES_MAX: usize = 8192;
/// What happens within this is one change.
const GATHER: Duration = Duration::from_millis(20);
/// Paths of one round; a build that writes more than that is told of in part.
const ROUND_MAX: usize = 1024;
/// Times that are remembered, to know what comes back.
const TOLD_MAX: usize = 8192;
/// Lima's: times closer than this are one.
const SAME: Duration = Duration::from_millis(10);

/// A mount entry whose changes the guest is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    location: PathBuf,
    point: PathBuf,
}

/// Those of a filled configuration; none where it does not ask for this.
pub fn shares(config: &Config) -> Arc<[Share]> {
    let wanted = config.mount_inotify == Some(true) && config.plain != Some(true);
    let share = |mount: &Mount| {
        let location = PathBuf::from(mount.location.as_ref()?);
        let point = mount.mount_point.as_ref().map_or_else(|| location.clone(), PathBuf::from);
        (mount.writable == Some(true)).then_some(Share { location, point })
    };
    config.mounts.iter().flatten().filter(|_| wanted).filter_map(share).collect()
}

/// Tells of changes for as long as it is polled, or until the agent refuses them.
pub async fn tell(mut client: Client, shares: Arc<[Share]>) -> Infallible {
    if !shares.is_empty() {
        let (send, receive) = mpsc::channel(64);
        let messages = stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) });
        tokio::select! {        // each arm ends the other
            watched = watch(&shares, &send) => if let Err(error) = watched {
                tracing::warn!("mountInotify: {error}");
            },
            ended = client.post_inotify(messages) => if let Err(status) = ended {
                tracing::warn!("mountInotify: the guest agent takes no changes: {:?}", status.code());
            },
        }
    }
    std::future::pending().await
}

async fn watch(shares: &[Share], send: &mpsc::Sender<proto::Inotify>) -> io::Result<()> {
    let locations: Vec<PathBuf> = shares.iter().map(|share| share.location.clone()).collect();
    let looking = tokio::task::spawn_blocking(move || {
        let inotify = Inotify::init()?;
        let mut dirs = Dirs { watches: inotify.watches(), known: HashMap::new(), complained: false };
        for location in locations {
            dirs.add(&location);
        }
        Ok::<_, io::Error>((inotify, dirs))
    });
    let (inotify, dirs) = looking.await.map_err(io::Error::other)??;
    let mut watcher = Watcher { events: inotify.into_event_stream([0; 16 << 10])?, dirs };
    let mut told: HashMap<PathBuf, SystemTime> = HashMap::new();
    loop {
        for path in watcher.next().await? {
            if mend(&path, &told) {
                continue;
            }
            let Some(time) = news(&path, &told) else { continue };
            if told.len() >= TOLD_MAX {
                told.clear();
            }
            told.insert(path.clone(), time);
            for place in shares.iter().filter_map(|share| share.in_guest(&path)) {
                let message = proto::Inotify { mount_path: place, time: Some(time.into()) };
                // The call has ended; so does this.
                send.send(message).await.map_err(io::Error::other)?;
            }
        }
    }
}

/// When the file changed, unless that was told already.
fn news(path: &Path, told: &HashMap<PathBuf, SystemTime>) -> Option<SystemTime> {
    let meta = fs::symlink_metadata(path).ok().filter(|meta| !meta.is_symlink())?;
    let time = meta.modified().ok()?;
    let apart = |known: &SystemTime| time.duration_since(*known).unwrap_or_else(|error| error.duration());
    told.get(path).is_none_or(|known| apart(known) >= SAME).then_some(time)
}

/// Gives a file the fraction of its second back that the guest's touch has cut off: 9p and SFTP carry whole seconds.
/// Says whether it did.
fn mend(path: &Path, told: &HashMap<PathBuf, SystemTime>) -> bool {
    let Some(known) = told.get(path) else { return false };
    let Ok(since) = known.duration_since(UNIX_EPOCH) else { return false };
    let now = fs::symlink_metadata(path).and_then(|meta| meta.modified());
    let is_cut =
        since.subsec_nanos() > 0 && now.is_ok_and(|now| now == UNIX_EPOCH + Duration::from_secs(since.as_secs()));
    let time = |sec: u64, nsec| Timespec { tv_sec: i64::try_from(sec).unwrap_or(i64::MAX), tv_nsec: nsec };
    let times = Timestamps {
        last_access: time(0, UTIME_OMIT),
        last_modification: time(since.as_secs(), since.subsec_nanos().into()),
    };
    is_cut && utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

impl Share {
    /// The path in the guest of one on the host. Names that are no text cannot be told.
    fn in_guest(&self, path: &Path) -> Option<String> {
        let rest = path.strip_prefix(&self.location).ok()?;
        let place = if rest.as_os_str().is_empty() { self.point.clone() } else { self.point.join(rest) };
        place.into_os_string().into_string().ok()
    }
}

struct Watcher {
    events: EventStream<[u8; 16 << 10]>,
    dirs: Dirs,
}

/// The directories that are watched.
struct Dirs {
    watches: Watches,
    known: HashMap<WatchDescriptor, PathBuf>,
    complained: bool,
}

impl Dirs {
    /// Watches a directory and all below it. Returns the files that are there.
    fn add(&mut self, dir: &Path) -> Vec<PathBuf> {
        let mask = WatchMask::CREATE
            | WatchMask::MODIFY
            | WatchMask::ATTRIB
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::ONLYDIR
            | WatchMask::DONT_FOLLOW;
        let (mut waiting, mut files) = (vec![dir.to_owned()], Vec::new());
        while let Some(dir) = waiting.pop() {
            if self.known.len() >= WATCHES_MAX {
                self.complain(&format!("more than {WATCHES_MAX} directories; what is deeper is not watched"));
                break;
            }
            // Watched first: what comes after is heard of.
            match self.watches.add(&dir, mask) {
                Ok(descriptor) => drop(self.known.insert(descriptor, dir.clone())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.complain(&format!("{}: {error}", dir.display()));
                    continue;
                }
            }
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                    Ok(kind) if kind.is_file() && files.len() < ROUND_MAX => files.push(entry.path()),
                    _ => {}
                }
            }
        }
        files
    }

    fn complain(&mut self, what: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!("mountInotify: {what}");
        }
    }

    /// A directory has another name now, or is elsewhere.
    fn forget(&mut self, path: &Path) {
        let below = self.known.iter().filter(|(_, dir)| dir.starts_with(path));
        for descriptor in below.map(|(descriptor, _)| descriptor.clone()).collect::<Vec<_>>() {
            self.known.remove(&descriptor);
            // It may have been removed meanwhile.
            let _ = self.watches.remove(descriptor);
        }
    }
}

impl Watcher {
    /// The next that changed, and what changes within [`GATHER`] of it.
    async fn next(&mut self) -> io::Result<HashSet<PathBuf>> {
        let mut changed = HashSet::new();
        while changed.is_empty() {
            let event = self.events.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
            self.apply(&event, &mut changed);
        }
        let end = Instant::now() + GATHER;
        // The clock is asked as well: in a flood there is always a next one.
        while Instant::now() < end
            && let Ok(Some(event)) = timeout_at(end, self.events.next()).await
        {
            self.apply(&event?, &mut changed);
        }
        Ok(changed)
    }

    fn apply(&mut self, event: &inotify::EventOwned, changed: &mut HashSet<PathBuf>) {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return self.dirs.complain("the host changes more than can be told of");
        }
        if event.mask.contains(EventMask::IGNORED) {
            self.dirs.known.remove(&event.wd);
            return;
        }
        let Some(dir) = self.dirs.known.get(&event.wd) else { return };
        let path = event.name.as_ref().map_or_else(|| dir.clone(), |name| dir.join(name));
        let is_dir = event.mask.contains(EventMask::ISDIR) && event.name.is_some();
        if event.mask.contains(EventMask::MOVED_FROM) {
            if is_dir {
                self.dirs.forget(&path);
            }
            return;
        }
        if is_dir && event.mask.intersects(EventMask::CREATE | EventMask::MOVED_TO) {
            let files = self.dirs.add(&path);
            changed.extend(files.into_iter().take(ROUND_MAX.saturating_sub(changed.len())));
        }
        if changed.len() < ROUND_MAX {
            changed.insert(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn config(writable: bool) -> Config {
        let mount = Mount {
            location: Some("/host/work".into()),
            mount_point: Some("/mnt/work".into()),
            writable: Some(writable),
            ..Mount::default()
        };
        Config { mount_inotify: Some(true), mounts: Some(vec![mount]), ..Config::default() }
    }

    #[test]
    fn only_what_the_guest_may_write_is_told_of_and_only_where_that_is_asked_for() {
        let [share] = &shares(&config(true))[..] else { panic!("no share") };
        assert_eq!(share.in_guest(Path::new("/host/work/a/b")).as_deref(), Some("/mnt/work/a/b"));
        assert_eq!(share.in_guest(Path::new("/host/work")).as_deref(), Some("/mnt/work"));
        assert_eq!(share.in_guest(Path::new("/host/workshop/a")), None);
        assert!(shares(&config(false)).is_empty());
        assert!(shares(&Config { mount_inotify: Some(false), ..config(true) }).is_empty());
        assert!(shares(&Config { plain: Some(true), ..config(true) }).is_empty());
    }

    /// Watches a directory, and returns what is told of.
    fn watched(dir: &Path) -> (tokio::task::JoinSet<io::Result<()>>, mpsc::Receiver<proto::Inotify>) {
        let share = Share { location: dir.to_owned(), point: "/g".into() };
        let (send, receive) = mpsc::channel(64);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { watch(&[share], &send).await });
        (tasks, receive)
    }

    /// Writes until it is told of: the watch begins some time. Returns what else was told.
    async fn until_told(told: &mut mpsc::Receiver<proto::Inotify>, file: &Path, place: &str) -> Vec<String> {
        let (mut second, mut others) = (1_000_000_000, Vec::new());
        let telling = async {
            loop {
                second += 1;
                fs::write(file, "x").unwrap();
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
                fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
                while let Ok(Some(change)) = timeout(Duration::from_millis(300), told.recv()).await {
                    if change.mount_path == place {
                        return;
                    }
                    others.push(change.mount_path);
                }
            }
        };
        timeout(LONG, telling).await.unwrap();
        others
    }

    /// What is told of all that was done up to now. What is done after a round was told is in a later one.
    async fn rest(told: &mut mpsc::Receiver<proto::Inotify>, dir: &Path) -> Vec<String> {
        let mut others = until_told(told, &dir.join("mark"), "/g/mark").await;
        others.extend(until_told(told, &dir.join("another"), "/g/another").await);
        others
    }

    #[tokio::test]
    async fn changes_are_told_of_in_new_directories_too_and_not_twice() {
        let dir = tempfile::tempdir().unwrap();
        let (_tasks, mut told) = watched(dir.path());
        let file = dir.path().join("a");
        until_told(&mut told, &file, "/g/a").await;
        fs::create_dir_all(dir.path().join("new/deep")).unwrap();
        until_told(&mut told, &dir.path().join("new/deep/b"), "/g/new/deep/b").await;
        rest(&mut told, dir.path()).await;
        // As the guest's touch does it: the same time again.
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        let others = rest(&mut told, dir.path()).await;
        assert!(!others.contains(&"/g/a".to_owned()), "told again: {others:?}");
    }

    #[tokio::test]
    async fn a_touch_that_cuts_the_second_is_mended_and_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let (_tasks, mut told) = watched(dir.path());
        let file = dir.path().join("a");
        until_told(&mut told, &file, "/g/a").await;
        let set = |millis| {
            let time = UNIX_EPOCH + Duration::from_millis(millis);
            fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        };
        set(1_700_000_000_250);
        assert!(timeout(LONG, told.recv()).await.unwrap().is_some());
        rest(&mut told, dir.path()).await;
        set(1_700_000_000_000);
        let others = rest(&mut told, dir.path()).await;
        assert!(!others.contains(&"/g/a".to_owned()), "told: {others:?}");
        let now = file.metadata().unwrap().modified().unwrap();
        assert_eq!(now, UNIX_EPOCH + Duration::from_millis(1_700_000_000_250));
    }

    #[tokio::test]
    async fn a_directory_that_is_renamed_is_told_of_under_its_new_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("old")).unwrap();
        let (_tasks, mut told) = watched(dir.path());
        until_told(&mut told, &dir.path().join("old/a"), "/g/old/a").await;
        fs::rename(dir.path().join("old"), dir.path().join("new")).unwrap();
        until_told(&mut told, &dir.path().join("new/a"), "/g/new/a").await;
    }

    #[tokio::test]
    async fn s23_links_are_not_followed() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let (_tasks, mut told) = watched(dir.path());
        until_told(&mut told, &dir.path().join("a"), "/g/a").await;
        fs::write(outside.path().join("b"), "x").unwrap();
        let others = rest(&mut told, dir.path()).await;
        assert!(!others.iter().any(|place| place.contains("link")), "{others:?}");
    }
}
