//! The tree as values and functions: nodes, inodes, handles, waits, and what is told to watchers.
//! Knows nothing of FUSE's words: another front end would be a sibling of `src/fuse/`.
//!
//! ```text
//!  fuse/ --calls--> View --reads--> Tree (one lock, by closure)
//!                    |  \--Later--> commands.rs: what waits for a disk or a hostagent
//!                    |<--heard----- fleet.rs: follows hostagents;  watch.rs: follows the home
//!                    `--changes---> announce.rs: the kernel's caches first, then the publisher's system calls
//! ```

mod announce;
mod attr;
mod bases;
mod commands;
mod config_dir;
mod directories;
mod disks;
mod draft;
mod drivers_dir;
mod fleet;
pub mod guest;
mod handle;
mod images;
mod ino;
mod io;
mod jobs;
mod look;
mod networks_dir;
mod node;
mod nodes;
mod open;
mod picture;
pub mod publisher;
mod running;
mod scratch;
mod setattr;
mod snapshot;
mod snapshots_dir;
mod sockets;
mod templates;
mod tree;
mod unlinked;
mod wait;
mod watch;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

pub use announce::Kernel;
pub use attr::{Attr, Kept, Kind};
#[cfg(feature = "machine")]
pub use bases::stand_alone;
pub use guest::Guests;
pub use handle::{Fh, Opened, Readiness};
pub use ino::Ino;
pub use io::Got;
pub use setattr::SetAttr;
pub use snapshot::{Live, Snapshot};
pub use wait::{Parked, is_being_killed};

use crate::drivers;
use crate::error::Result;
use crate::host::Host;
use crate::names::Home;
use announce::Announcer;
use fleet::Fleet;
use handle::Handles;
use tree::Tree;
use wait::Waits;

/// Who asks: a process, as the kernel tells it.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pub pid: u32,
    pub uid: u32,
}

/// An answer that is there, or one that something slower than memory has to give.
pub enum Outcome<T> {
    Now(Result<T>),
    Later(Later<T>),
}

/// What will be the answer.
pub type Later<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

impl<T> Outcome<T> {
    fn later(future: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }
}

impl<T> From<Result<T>> for Outcome<T> {
    fn from(result: Result<T>) -> Self {
        Self::Now(result)
    }
}

/// The whole tree of one home. Cheap to clone; all clones are the same tree.
#[derive(Clone)]
pub struct View(Arc<Inner>);

struct Inner {
    home: Home,
    host: Host,
    /// Others than the owner may look at what is not secret.
    shared: bool,
    tree: Mutex<Tree>,
    handles: Mutex<Handles>,
    waits: Waits,
    announcer: Announcer,
    fleet: Fleet,
    guests: guest::Shelf,
    /// Who finds and tries drivers; nobody in a view without any.
    drivers: OnceLock<Arc<dyn drivers::Source>>,
    /// The publisher's process; its system calls are ours, made so that inotify sees them.
    publisher: Arc<AtomicU32>,
}

impl View {
    /// An empty tree of `home`; [`View::start`] fills it and keeps it true.
    pub fn new(home: Home, host: Host, shared: bool) -> Self {
        let tree = Tree::new(&home);
        Self(Arc::new(Inner {
            home,
            host,
            shared,
            tree: Mutex::new(tree),
            handles: Mutex::default(),
            waits: Waits::default(),
            announcer: Announcer::default(),
            fleet: Fleet::default(),
            guests: guest::Shelf::default(),
            drivers: OnceLock::new(),
            publisher: Arc::default(),
        }))
    }

    fn is_publisher(&self, caller: Caller) -> bool {
        let publisher = self.0.publisher.load(std::sync::atomic::Ordering::Relaxed);
        publisher != 0 && caller.pid == publisher
    }
}
