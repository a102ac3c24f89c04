//! read, write, close, poll: what is done with an open file.

use std::sync::Arc;
use std::time::Instant;

use super::bases::Patience;
use super::disks::DiskFile;
use super::handle::{Document, Fh, Handle, Open, Readiness, Source, Wake};
use super::ino::{Ino, Key};
use super::node::{Body, Command, NodeId};
use super::scratch::splice;
use super::tree::Rendered;
use super::wait::Parked;
use super::{Caller, Outcome, View, draft};
use crate::error::{Error, Result};

/// Bytes of one write to a control node.
const CONTROL_LIMIT: usize = 4096;
/// Bytes of a document.
pub const DOCUMENT_LIMIT: usize = 1 << 20;

/// What a read comes to.
pub enum Got {
    Bytes(Vec<u8>),
    /// A part of a shared text.
    Slice(Arc<[u8]>, std::ops::Range<usize>),
    /// The answer comes later, through what [`View::park_read`] is given.
    Wait,
}

/// Gives a parked read its answer.
pub type Answer = Box<dyn FnOnce(Result<Vec<u8>>) + Send>;

impl View {
    pub(super) fn render(&self, source: &Source) -> Result<Rendered> {
        let mut tree = self.0.tree.lock();
        match source {
            Source::Node(key, id) => tree.rendered(*key, *id, &self.0.host),
            Source::Snapshot(key, tag) => tree.snapshot_rendered(*key, tag, &self.0.host),
            Source::Root(id) => Ok(tree.root_rendered(*id, &self.0.host)),
            Source::Disk(name, file) => tree.disk_rendered(name, *file, &self.0.host),
            Source::Image(place) => tree.image_rendered(place),
            Source::Template(name) => {
                let template = tree.template(name).ok_or_else(|| Error::Missing { what: name.clone() })?;
                Ok(template.text.clone())
            }
            Source::Network(place) => tree.network_rendered(place),
            Source::Driver(place) => tree.driver_rendered(place),
            Source::Config(file) => tree.config.text(*file).cloned(),
        }
    }

    pub fn read(&self, fh: Fh, offset: u64, size: usize) -> Result<Got> {
        let mut handles = self.0.handles.lock();
        let handle = handles.get(fh).ok_or_else(stale)?;
        match &mut handle.body {
            Open::Text { source, text } => {
                // Read again from its start: what it is now. In the middle: the same text as before.
                if offset == 0
                    && let Ok(fresh) = self.render(source)
                {
                    *text = fresh;
                }
                Ok(part(&text.bytes, offset, size))
            }
            Open::Draft { bytes, .. } => Ok(Got::Bytes(bytes[span(bytes.len(), offset, size)].to_vec())),
            Open::Scratch { key, serial, .. } => {
                let tree = self.0.tree.lock();
                let bytes = tree.scratch(*key)?.by_serial(*serial).ok_or_else(stale)?.bytes();
                Ok(Got::Bytes(bytes[span(bytes.len(), offset, size)].to_vec()))
            }
            Open::Log(log) => log.read(offset, size).map(Got::Bytes),
            Open::Bytes(bytes) => Ok(part(bytes, offset, size)),
            Open::Wait { done: true, told, .. } => Ok(Got::Bytes(told[span(told.len(), offset, size)].to_vec())),
            Open::Touch | Open::CommandLine(_) | Open::Signal { .. } => Ok(Got::Bytes(Vec::new())),
            Open::Wait { .. } => Ok(Got::Wait),
            Open::Directory(_) => Err(Error::invalid("read", "is a directory")),
        }
    }

    /// Gives the answer of a read that [`View::read`] said waits. Never answers while a lock is held.
    pub fn park_read(&self, caller: Caller, fh: Fh, size: usize, nonblocking: bool, answer: Answer) {
        let waiting = match self.0.handles.lock().get(fh).map(|handle| &mut handle.body) {
            Some(Open::Wait { key, condition, done, .. }) => {
                *done = true;
                Some((*key, condition.clone()))
            }
            _ => None,
        };
        let Some((key, condition)) = waiting else { return answer(Err(stale())) };
        let view = self.clone();
        let answer: Answer = Box::new(move |done| answer(done.map(|text| view.keep(fh, text, size))));
        if nonblocking {
            return answer(self.check_now(key, &condition));
        }
        self.park(Parked { pid: caller.pid, key, condition, answer, since: Instant::now() });
    }

    /// Keeps what a wait came to for the reads that follow; the first of them gets at most `size` bytes.
    fn keep(&self, fh: Fh, text: Vec<u8>, size: usize) -> Vec<u8> {
        let first = text[span(text.len(), 0, size)].to_vec();
        if let Some(Open::Wait { told, .. }) = self.0.handles.lock().get(fh).map(|handle| &mut handle.body) {
            *told = text;
        }
        first
    }

    fn check_now(&self, key: Key, condition: &super::wait::Condition) -> Result<Vec<u8>> {
        let mut tree = self.0.tree.lock();
        let again = || Err(Error::Io { path: "wait".into(), source: std::io::Error::from_raw_os_error(libc::EAGAIN) });
        condition.check(tree.snapshot(key, &self.0.host)?).map_or_else(again, |held| held.map(String::into_bytes))
    }

    /// Writes; says how many bytes were taken.
    pub fn write(&self, ino: Ino, fh: Fh, offset: u64, data: &[u8]) -> Outcome<usize> {
        let mut handles = self.0.handles.lock();
        let Some(handle) = handles.get(fh) else { return Err(stale()).into() };
        match &mut handle.body {
            Open::Draft { document, bytes, dirty, append } => {
                *dirty = true;
                let at = (!*append).then_some(offset);
                let written = splice(bytes, at, data, document.name(), DOCUMENT_LIMIT);
                handle.cut |= written.is_err();
                written.map(|()| data.len()).into()
            }
            Open::Scratch { key, serial, append } => {
                let mut tree = self.0.tree.lock();
                let file = tree.scratch_mut(*key).map(|scratch| scratch.by_serial_mut(*serial));
                let at = (!*append).then_some(offset);
                match file {
                    Ok(Some(file)) => file.write(at, data).map(|()| data.len()).into(),
                    _ => Err(stale()).into(),
                }
            }
            Open::Text { source: Source::Node(key, id), .. } => {
                let (key, id) = (*key, *id);
                drop(handles);
                self.control(key, id, data)
            }
            Open::Text { source: Source::Disk(name, DiskFile::Size), .. } => {
                let name = name.clone();
                drop(handles);
                self.resize_disk(name, data)
            }
            Open::CommandLine(_) => {
                drop(handles);
                self.write_command_line(fh, offset, data)
            }
            Open::Signal { key, job } => {
                let (key, job) = (*key, job.clone());
                drop(handles);
                self.signal_job(key, &job, data)
            }
            _ => Err(Error::Denied { what: format!("inode {}", ino.0) }).into(),
        }
    }

    /// One write to a control node is one command.
    fn control(&self, key: Key, id: NodeId, data: &[u8]) -> Outcome<usize> {
        let node = id.node();
        let Body::Control { parse, .. } = node.body else {
            return Err(Error::Denied { what: node.name.into() }).into();
        };
        match parse_line(node.name, data, parse) {
            Ok(command) => {
                let (view, taken) = (self.clone(), data.len());
                Outcome::later(async move { view.carry_out(key, command).await.map(|()| taken) })
            }
            Err(error) => {
                self.refuse(Some(key), &error);
                Err(error).into()
            }
        }
    }

    /// close(2): a document that was written is validated and counts, or is refused.
    pub fn flush(&self, caller: Caller, fh: Fh) -> Outcome<()> {
        let mut handles = self.0.handles.lock();
        let draft = match handles.get(fh) {
            // Cleared at once: a close of a duplicate must not commit the same bytes again.
            Some(Handle { body: Open::Draft { document, bytes, dirty, .. }, cut, .. }) => {
                std::mem::take(dirty).then(|| (document.clone(), (!*cut).then(|| bytes.clone())))
            }
            Some(Handle { body: Open::CommandLine(_), .. }) => {
                drop(handles);
                return self.close_command_line(caller, fh);
            }
            _ => None,
        };
        drop(handles);
        let Some((document, bytes)) = draft else { return Ok(()).into() };
        if draft::was_killed(caller.pid) {
            let error = Error::failed(document.name(), "its writer was killed; the document is as it was before");
            self.refuse(document.key(), &error);
            return Err(error).into();
        }
        let Some(bytes) = bytes else {
            let error = Error::TooBig { what: document.name().into(), limit: DOCUMENT_LIMIT };
            self.refuse(document.key(), &error);
            return Err(error).into();
        };
        let view = self.clone();
        Outcome::later(async move {
            match document {
                Document::Definition(key) => view.define(key, bytes, Patience::Waits).await,
                Document::Template(name) => view.define_template(name, bytes).await,
                Document::Config(file) => view.define_config(file, bytes).await,
            }
        })
    }

    pub fn release(&self, fh: Fh) -> Outcome<()> {
        match self.0.handles.lock().remove(fh).map(|handle| handle.body) {
            Some(Open::Draft { document: Document::Template(name), .. }) => self.template_released(&name),
            Some(Open::Draft { document: Document::Config(file), .. }) => self.config_released(file),
            Some(Open::CommandLine(line)) => return self.release_command_line(line),
            _ => {}
        }
        Ok(()).into()
    }

    /// For poll(2); `wake` is called at each later change for as long as the file is open.
    pub fn poll(&self, fh: Fh, wake: Option<Wake>) -> Readiness {
        let mut handles = self.0.handles.lock();
        let Some(handle) = handles.get(fh) else { return Readiness { changed: false, readable: true } };
        if let Some(wake) = wake {
            handle.wake = Some(wake);
        }
        match &mut handle.body {
            Open::Text { source, text } => {
                let changed = self.render(source).is_ok_and(|now| now.version != text.version);
                Readiness { changed, readable: true }
            }
            Open::Log(log) => Readiness { changed: false, readable: log.size() > log.seen },
            _ => Readiness { changed: false, readable: true },
        }
    }
}

fn part(bytes: &Arc<[u8]>, offset: u64, size: usize) -> Got {
    Got::Slice(bytes.clone(), span(bytes.len(), offset, size))
}

/// What a read of `size` bytes at `offset` gets of a text of `len` bytes.
fn span(len: usize, offset: u64, size: usize) -> std::ops::Range<usize> {
    let start = len.min(usize::try_from(offset).unwrap_or(usize::MAX));
    start..len.min(start.saturating_add(size))
}

/// The one command of a write: a line, its newline optional.
fn parse_line(node: &str, data: &[u8], parse: fn(&str) -> Result<Command>) -> Result<Command> {
    if data.len() > CONTROL_LIMIT {
        return Err(Error::TooBig { what: node.into(), limit: CONTROL_LIMIT });
    }
    let text = std::str::from_utf8(data).map_err(|_| Error::invalid(node, "is not UTF-8"))?;
    parse(text.trim_end_matches('\n').trim_matches([' ', '\t', '\r']))
}

pub fn stale() -> Error {
    Error::Io { path: "file".into(), source: std::io::Error::from_raw_os_error(libc::ESTALE) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Verb;
    use crate::view::nodes::parse_verb;

    #[test]
    fn e14_only_a_verb_is_a_verb() {
        assert_eq!(parse_line("state", b"start\n", parse_verb).unwrap(), Command::Verb(Verb::Start));
        assert_eq!(parse_line("state", b"start", parse_verb).unwrap(), Command::Verb(Verb::Start));
        for bad in [&b"bogus"[..], b"\n", b"", b"start\0", b"START", b"start stop", b"\xff"] {
            assert_eq!(parse_line("state", bad, parse_verb).unwrap_err().errno(), libc::EINVAL, "{bad:?}");
        }
        let long = "start".repeat(1000);
        assert_eq!(parse_line("state", long.as_bytes(), parse_verb).unwrap_err().errno(), libc::EFBIG);
    }
}
