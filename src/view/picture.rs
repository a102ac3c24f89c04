//! `screen.png`: the display as it is when the file is opened. The one node whose open asks a hostagent, under its deadline.

use std::time::SystemTime;

use super::handle::Open;
use super::ino::{Ino, Key, Target};
use super::node::Body;
use super::open::Mode;
use super::snapshot::{Live, Snapshot};
use super::tree::Tree;
use super::{Attr, Caller, Opened, Outcome, View};
use crate::agent;
use crate::error::{Error, Result};

/// What `video.display` is where there is none.
const NO_DISPLAY: [&str; 2] = ["", "none"];

impl View {
    /// Opens a file; of a picture the answer comes later.
    pub fn open_any(&self, caller: Caller, ino: Ino, flags: i32) -> Outcome<Opened> {
        let mode = Mode::of(flags);
        let key = match self.target(ino) {
            Ok(Target::Node(key, id)) if matches!(id.node().body, Body::Picture) && !mode.write => key,
            _ => return self.open(caller, ino, flags).into(),
        };
        let view = self.clone();
        Outcome::later(async move {
            let picture = view.take_picture(key).await.inspect_err(|error| view.refuse(Some(key), error))?;
            let fh = view.0.handles.lock().insert(ino, Open::Bytes(picture.into()));
            Ok(Opened { fh, direct: true, quiet: true })
        })
    }

    async fn take_picture(&self, key: Key) -> Result<Vec<u8>> {
        let snapshot = self.snapshot(key)?;
        if !matches!(snapshot.live, Live::Agent(_)) {
            return Err(Error::HostDown { what: snapshot.name.to_string() });
        }
        let picture = agent::screenshot(&snapshot.dir).await?;
        let taken = (picture.len() as u64, SystemTime::now());
        self.0.tree.lock().instance_mut(key)?.picture = Some(taken);
        Ok(picture)
    }

    /// As large as the last one; another has another size.
    pub(super) fn picture_attr(&self, tree: &Tree, ino: Ino, key: Key, perm: u16) -> Result<Attr> {
        let instance = tree.instance(key)?;
        let (size, taken) = instance.picture.unwrap_or((0, instance.changed));
        Ok(Attr::file(ino, size, taken, perm).uncached())
    }
}

/// Whether there may be something to see: where there is nothing it is not listed, so that whoever reads all that is
/// listed meets no error.
pub fn has_display(snapshot: &Snapshot) -> bool {
    let display = snapshot.loaded().and_then(|loaded| loaded.filled.video.as_ref()?.display.as_deref());
    snapshot.state().is_live() && display.is_some_and(|display| !NO_DISPLAY.contains(&display))
}
