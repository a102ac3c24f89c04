//! Telling of changes: first the kernel's caches, then whoever polls, then (through the publisher) inotify.
//! Runs in a thread of its own: the kernel may make a notification wait for a request, so no request ever waits for one.

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;

use super::View;
use super::ino::Ino;
use super::publisher::{Publisher, Step};

/// Something that changed and that no system call of a user did.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// A file's bytes. `path` is relative to the mountpoint.
    Content {
        ino: Ino,
        path: String,
    },
    /// A directory entry that the kernel has wrong: a rename that was carried out as a copy.
    Entry {
        parent: Ino,
        name: String,
    },
    /// An instance that appeared on disk and is to be shown; the publisher's mkdir(2) puts it into the tree.
    Appeared(String),
    /// The same for one that disappeared.
    Vanished(String),
    Moved {
        from: String,
        to: String,
    },
}

/// The kernel's caches, as the front end reaches them.
pub trait Kernel: Send {
    /// Forgets attributes and pages of an inode.
    fn forget(&self, ino: Ino);
    /// Forgets what a name stands for. Waits for a change of that directory that is under way.
    fn forget_entry(&self, parent: Ino, name: &str);
}

/// The sending end; a queue without bound, but every change in it is at most once there per batch.
pub struct Announcer {
    send: Sender<Change>,
    receive: Mutex<Option<Receiver<Change>>>,
}

impl Default for Announcer {
    fn default() -> Self {
        let (send, receive) = channel();
        Self { send, receive: Mutex::new(Some(receive)) }
    }
}

impl Announcer {
    pub fn announce(&self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            // The thread ends only with the process.
            let _ = self.send.send(change);
        }
    }
}

impl View {
    /// The announcer's thread.
    pub fn announce_for_ever(&self, kernel: &dyn Kernel, publisher: Option<&Publisher>) {
        let Some(receive) = self.0.announcer.receive.lock().take() else { return };
        while let Ok(first) = receive.recv() {
            let mut seen = HashSet::new();
            let mut batch = Vec::new();
            for change in std::iter::once(first).chain(receive.try_iter()) {
                if seen.insert(change.clone()) {
                    batch.push(change);
                }
            }
            for change in &batch {
                self.tell_kernel(kernel, change);
            }
            for change in batch {
                publish(publisher, change);
            }
        }
    }

    fn tell_kernel(&self, kernel: &dyn Kernel, change: &Change) {
        match change {
            Change::Content { ino, .. } => {
                kernel.forget(*ino);
                self.0.handles.lock().notify(*ino);
            }
            Change::Entry { parent, name } => kernel.forget_entry(*parent, name),
            Change::Appeared(_) | Change::Vanished(_) | Change::Moved { .. } => {}
        }
    }
}

fn publish(publisher: Option<&Publisher>, change: Change) {
    let Some(publisher) = publisher else { return };
    publisher.perform(match change {
        Change::Entry { .. } => return,
        Change::Content { path, .. } => Step::Touch(path),
        Change::Appeared(name) => Step::Make(name),
        Change::Vanished(name) => Step::Remove(name),
        Change::Moved { from, to } => Step::Move(from, to),
    });
}
