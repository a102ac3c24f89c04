//! `snapshots/`: a directory a snapshot. What is shown comes from memory; taking and removing is done beside, by the
//! hostagent of a running instance or by one for this alone, and goes on when nobody waits for it any more.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::ino::{Ino, Key, Target};
use super::look::missing;
use super::snapshot::{Live, Snapshot};
use super::tree::{Rendered, Tree};
use super::{Attr, Caller, Kind, Outcome, View};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::names::Name;
use crate::status::{RestOrder, SnapshotOrder, SnapshotVerb, State};
use crate::{agent, config};

/// The one file of a snapshot.
pub const INFO: &str = "info";
pub const DOC: &str =
    "when it was taken, its size, and whether it has the VM's memory; mkdir takes one, rmdir removes it";
/// mkdir(2) comes back after this, however far it has come. The kernel holds the directory's lock meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// A snapshot as the tree shows it: taken, or being taken since.
enum Shown {
    Taken(limafs_driver::Snapshot),
    Taking(SystemTime),
}

impl Snapshot {
    fn snapshot(&self, tag: &str) -> Option<Shown> {
        let taken = self.snapshots.iter().find(|snapshot| snapshot.tag == tag);
        let taking = || self.taking.iter().find(|(known, _)| known == tag).map(|(_, since)| Shown::Taking(*since));
        taken.map(|snapshot| Shown::Taken(snapshot.clone())).or_else(taking)
    }

    /// Those whose names can be shown.
    fn tags(&self) -> impl Iterator<Item = &str> {
        let taken = self.snapshots.iter().map(|snapshot| snapshot.tag.as_str());
        let taking = self.taking.iter().map(|(tag, _)| tag.as_str());
        let taking = taking.filter(|tag| !self.snapshots.iter().any(|snapshot| snapshot.tag == *tag));
        taken.chain(taking).filter(|tag| !matches!(*tag, "" | "." | "..") && !tag.contains(['/', '\0']))
    }
}

impl Shown {
    fn since(&self) -> SystemTime {
        match self {
            Self::Taken(snapshot) => UNIX_EPOCH + Duration::from_secs(snapshot.created),
            Self::Taking(since) => *since,
        }
    }

    fn text(&self) -> String {
        let date = |time| Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.0}"));
        match self {
            Self::Taken(snapshot) => {
                let size = config::format_size(snapshot.vm_size);
                let memory = if snapshot.vm_size > 0 { "yes" } else { "no" };
                format!("state: taken\ncreated: {}\nsize: {size}\nmemory: {memory}\n", date(self.since()))
            }
            Self::Taking(since) => format!("state: taking\ncreated: {}\n", date(*since)),
        }
    }
}

impl Tree {
    /// Whether there is a snapshot of that name, or is about to be.
    pub fn has_snapshot(&mut self, key: Key, tag: &str, host: &Host) -> bool {
        self.snapshot(key, host).is_ok_and(|known| known.snapshot(tag).is_some())
    }

    pub fn snapshot_entries(&mut self, key: Key, host: &Host) -> Result<Vec<(String, Target, Kind)>> {
        let entry = |tag: &str| (tag.to_owned(), Target::Snapshot(key, tag.into()), Kind::Directory);
        Ok(self.snapshot(key, host)?.tags().map(entry).collect())
    }

    /// `info`
    pub fn snapshot_rendered(&mut self, key: Key, tag: &str, host: &Host) -> Result<Rendered> {
        let shown = self.snapshot(key, host)?.snapshot(tag).ok_or_else(|| missing(tag))?;
        Ok(Rendered { bytes: shown.text().into_bytes().into(), mtime: shown.since(), version: 0 })
    }
}

impl View {
    /// Attributes of `snapshots` and what is in it.
    pub(super) fn snapshot_attr(&self, tree: &mut Tree, ino: Ino, target: &Target, directory: u16) -> Result<Attr> {
        Ok(match target {
            Target::Snapshot(key, tag) => {
                let shown = tree.snapshot(*key, &self.0.host)?.snapshot(tag).ok_or_else(|| missing(tag))?;
                Attr::directory(ino, 0, shown.since(), directory).uncached()
            }
            Target::SnapshotInfo(key, tag) => {
                let text = tree.snapshot_rendered(*key, tag, &self.0.host)?;
                Attr::file(ino, text.bytes.len() as u64, text.mtime, 0o400).uncached()
            }
            target => {
                let key = target.key().ok_or_else(|| missing("snapshots"))?;
                let since = tree.instance(key)?.changed;
                let known = tree.snapshot(key, &self.0.host)?;
                let latest = known.tags().filter_map(|tag| known.snapshot(tag)).map(|shown| shown.since()).max();
                let count = known.tags().count();
                Attr::directory(ino, count, latest.unwrap_or(since).max(since), directory).uncached()
            }
        })
    }

    /// mkdir(2) in `snapshots`.
    pub(super) fn make_snapshot(&self, key: Key, tag: &str) -> Outcome<Attr> {
        let (view, tag) = (self.clone(), tag.to_owned());
        Outcome::later(async move {
            let done = view.try_make_snapshot(key, &tag).await;
            done.inspect_err(|error| view.refuse(Some(key), error))?;
            view.attr_of(&mut view.0.tree.lock(), &Target::Snapshot(key, tag))
        })
    }

    async fn try_make_snapshot(&self, key: Key, tag: &str) -> Result<()> {
        check_tag(tag)?;
        let known = self.snapshot(key)?;
        if known.snapshot(tag).is_some() {
            return Err(Error::Exists { what: format!("snapshot {tag}") });
        }
        self.may_have_snapshots(&known)?;
        let since = SystemTime::now();
        self.changed(key, |snapshot| {
            snapshot.untaken.remove(tag);
            snapshot.taking.push((tag.to_owned(), since));
        });
        self.order_snapshot(key, SnapshotVerb::Create, tag).await
    }

    /// rmdir(2) of a snapshot; as a part of `rm -r` of the whole instance it decides nothing.
    pub(super) fn remove_snapshot(&self, caller: Caller, key: Key, tag: &str) -> Outcome<()> {
        let removes_all = self.0.tree.lock().instance_mut(key).is_ok_and(|known| known.unlinked.goes_on(caller.pid));
        if removes_all {
            return self.may_be_deleted(key).into();
        }
        let (view, tag) = (self.clone(), tag.to_owned());
        Outcome::later(async move {
            let done = async {
                let known = view.snapshot(key)?;
                if known.taking.iter().any(|(taking, _)| *taking == tag) {
                    return Err(Error::busy(format!("snapshot {tag}"), "is being taken"));
                }
                view.may_have_snapshots(&known)?;
                view.order_snapshot(key, SnapshotVerb::Delete, &tag).await
            };
            done.await.inspect_err(|error| view.refuse(Some(key), error))
        })
    }

    /// `restore TAG`, written to `state`.
    pub(super) async fn restore(&self, key: Key, tag: &str) -> Result<()> {
        check_tag(tag)?;
        let known = self.snapshot(key)?;
        if !known.snapshots.iter().any(|snapshot| snapshot.tag == tag) {
            return Err(Error::invalid("state", format!("restore: there is no snapshot {tag}")));
        }
        self.may_have_snapshots(&known)?;
        self.order_snapshot(key, SnapshotVerb::Apply, tag).await
    }

    fn may_have_snapshots(&self, known: &Snapshot) -> Result<()> {
        let busy = |why: &str| Err(Error::busy("snapshots", format!("{} {why}", known.name)));
        match (&known.live, known.state()) {
            (Live::Foreign { .. }, _) => busy("is run by limactl: use limactl snapshot, or stop it first"),
            (Live::Spawning { .. } | Live::Lost, _) => busy("has no hostagent yet; try again in a moment"),
            (Live::Agent(_), _) => Ok(()),
            (_, State::Uninitialized) => busy("has no lima.yaml yet"),
            _ if known.is_suspended() => busy("is suspended: start it first, or write kill to its state"),
            _ => Ok(()),
        }
    }

    /// Has it done, and waits for a while.
    async fn order_snapshot(&self, key: Key, what: SnapshotVerb, tag: &str) -> Result<()> {
        let (ended, end) = oneshot::channel();
        let (view, order) = (self.clone(), SnapshotOrder { what, tag: tag.to_owned() });
        // Detached for good reason: it is done whether or not somebody waits, and its end is taken in.
        tokio::spawn(async move {
            let done = view.carry_out_snapshot(key, &order).await;
            view.snapshot_ended(key, &order, &done);
            if let Err(done) = ended.send(done)
                && let Err(error) = done
            {
                view.refuse(Some(key), &error);
            }
        });
        match timeout(PATIENCE, end).await {
            Ok(Ok(done)) => done,
            // Still under way. A removal, which nobody can look at, is waited for no longer either.
            _ => Ok(()),
        }
    }

    async fn carry_out_snapshot(&self, key: Key, order: &SnapshotOrder) -> Result<()> {
        let known = self.snapshot(key)?;
        if matches!(known.live, Live::Agent(_)) {
            let status = agent::order_snapshot(&known.dir, order).await?;
            self.caught_up(key, status);
            return Ok(());
        }
        agent::at_rest(&self.0.home, &known.name, &RestOrder::Snapshot(order.clone())).await
    }

    fn snapshot_ended(&self, key: Key, order: &SnapshotOrder, done: &Result<()>) {
        self.changed(key, |snapshot| {
            snapshot.reread();
            if order.what == SnapshotVerb::Create {
                snapshot.taking.retain(|(tag, _)| *tag != order.tag);
            }
            match done {
                Ok(()) => {
                    snapshot.refusal = None;
                    snapshot.untaken.remove(&order.tag);
                }
                Err(error) if order.what == SnapshotVerb::Create => {
                    snapshot.untaken.insert(order.tag.clone(), error.to_string());
                }
                Err(_) => {}
            }
        });
    }
}

/// What QEMU and qemu-img take for a name and nothing else.
fn check_tag(tag: &str) -> Result<()> {
    Name::parse(tag)?;
    if tag.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Error::invalid(format!("name {tag:?}"), "a snapshot must not be named by a number"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_tells_date_size_and_memory() {
        let taken = limafs_driver::Snapshot { tag: "a".into(), created: 86400, vm_size: 2 << 20 };
        let text = "state: taken\ncreated: 1970-01-02T00:00:00Z\nsize: 2MiB\nmemory: yes\n";
        assert_eq!(Shown::Taken(taken).text(), text);
        assert_eq!(Shown::Taking(UNIX_EPOCH).text(), "state: taking\ncreated: 1970-01-01T00:00:00Z\n");
    }

    #[test]
    fn a_number_is_no_tag() {
        check_tag("before-upgrade").unwrap();
        for bad in ["1", "42", "a b", "-c", ".x"] {
            assert_eq!(check_tag(bad).unwrap_err().errno(), libc::EINVAL, "{bad}");
        }
    }
}
