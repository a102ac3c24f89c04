//! What lives as long as a mount: its front, and the threads that tell the kernel and watch over waiting callers.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use fuser::{INodeNo, Notifier};

use super::Front;
use super::convert::Owner;
use super::shell::Shell;
use crate::view::{Ino, Kernel, View};

/// The kernel's caches, through fuser's notifications.
struct Caches(Notifier);

impl Kernel for Caches {
    fn forget(&self, node: Ino) {
        // An inode that the kernel does not know has nothing to forget.
        let _ = self.0.inval_inode(INodeNo(node.0), 0, 0);
    }

    fn forget_entry(&self, parent: Ino, name: &str) {
        // The same of a name.
        let _ = self.0.inval_entry(INodeNo(parent.0), OsStr::new(name));
    }
}

/// Serves the view: a front for the kernel.
pub fn front(view: View, shell: Shell, ended: tokio::sync::oneshot::Sender<()>) -> Front {
    let owner = Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    Front { guests: view.guests(), view, shell, owner, ended: Some(ended) }
}

/// Threads that live as long as the session: the announcer and the sweeper.
pub fn start_threads(view: &View, notifier: Notifier, mountpoint: &Path) -> std::io::Result<()> {
    let publisher = Arc::new(view.start_publisher(mountpoint)?);
    let announcing = view.clone();
    std::thread::Builder::new()
        .name("announce".into())
        .spawn(move || announcing.announce_for_ever(&Caches(notifier), Some(&publisher)))?;
    let sweeping = view.clone();
    std::thread::Builder::new().name("sweep".into()).spawn(move || sweeping.sweep_for_ever())?;
    Ok(())
}
