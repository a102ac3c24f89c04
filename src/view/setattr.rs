//! setattr(2): modes and times, which mostly stay as they are, and sizes. Only drafts and scratch are ever cut or grown.

use super::handle::{Fh, Handle, Open};
use super::ino::{Ino, Target};
use super::io::{DOCUMENT_LIMIT, stale};
use super::node::{Body, DEFINITION};
use super::{Attr, Caller, View};
use crate::error::{Error, Result};

/// What setattr(2) is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    pub size: Option<u64>,
    pub perm: Option<u16>,
    pub times: bool,
}

impl View {
    pub fn setattr(&self, caller: Caller, ino: Ino, fh: Option<Fh>, set: SetAttr) -> Result<Attr> {
        let target = self.target(ino)?;
        let attr = self.getattr(ino, fh)?;
        if let Some(size) = set.size
            && !self.is_publisher(caller)
        {
            self.resize(&target, fh, size, attr.size)?;
        }
        if let (Target::Scratch(key, serial), Some(perm)) = (&target, set.perm) {
            let mut tree = self.0.tree.lock();
            if let Some(file) = tree.scratch_mut(*key)?.by_serial_mut(*serial) {
                file.perm = perm & 0o777;
            }
        } else if set.perm.is_some_and(|perm| perm != attr.perm && !is_document_mode(&target, perm)) {
            return Err(Error::forbidden("mode", "the modes of this tree are fixed"));
        }
        // `cp -p`, `rsync -a` and `touch` set what the node shows already, or a time that the next change will set.
        self.getattr(ino, fh)
    }

    fn resize(&self, target: &Target, fh: Option<Fh>, size: u64, present: u64) -> Result<()> {
        match target {
            Target::Scratch(key, serial) => {
                let mut tree = self.0.tree.lock();
                tree.scratch_mut(*key)?.by_serial_mut(*serial).ok_or_else(stale)?.truncate(size)
            }
            Target::Node(_, id) => match id.node().body {
                Body::Definition => self.resize_draft(fh, size, present),
                // A shell's `>` on a control node: there is nothing to cut.
                Body::Control { .. } => Ok(()),
                _ if size == present => Ok(()),
                Body::Show(_) | Body::Asked(_) | Body::Log(_) | Body::Picture => {
                    Err(Error::Denied { what: id.node().name.into() })
                }
            },
            Target::DiskFile(_, file) if file.takes_writes() => Ok(()),
            Target::JobFile(_, _, file) if file.takes_writes() => Ok(()),
            Target::Template(_) => self.resize_draft(fh, size, present),
            Target::ConfigFile(file) if file.takes_writes() => self.resize_draft(fh, size, present),
            _ if size == present => Ok(()),
            _ => Err(Error::Denied { what: "truncation".into() }),
        }
    }

    fn resize_draft(&self, fh: Option<Fh>, size: u64, present: u64) -> Result<()> {
        let mut handles = self.0.handles.lock();
        match fh.and_then(|fh| handles.get(fh)) {
            Some(Handle { body: Open::Draft { document, bytes, dirty, .. }, cut, .. }) => {
                if size > DOCUMENT_LIMIT as u64 {
                    return Err(Error::TooBig { what: document.name().into(), limit: DOCUMENT_LIMIT });
                }
                // Whoever empties it begins anew.
                *cut &= size != 0;
                if size != bytes.len() as u64 {
                    bytes.resize(size as usize, 0);
                    *dirty = true;
                }
                Ok(())
            }
            _ if size == present => Ok(()),
            _ => Err(Error::invalid("document", "a cut one is not valid; write a whole one")),
        }
    }
}

/// `cp -p` and `install` bring the mode of the file that they copy onto a document, which keeps its own.
fn is_document_mode(target: &Target, perm: u16) -> bool {
    let is_document = match target {
        Target::Node(_, DEFINITION) | Target::Template(_) => true,
        Target::ConfigFile(file) => file.takes_writes(),
        _ => false,
    };
    is_document && perm & 0o7000 == 0
}
