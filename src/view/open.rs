//! open(2): what a handle is made of.

use super::drivers_dir::DriverPlace;
use super::handle::{Document, GrowingFile, Open, Opened, Source};
use super::ino::{Ino, Key, Target};
use super::io::stale;
use super::networks_dir::NetworkPlace;
use super::node::{Body, NodeId, RootBody};
use super::{Caller, View};
use crate::error::{Error, Result};

/// How a file is opened.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    pub write: bool,
    pub truncate: bool,
    pub append: bool,
}

impl Mode {
    pub fn of(flags: i32) -> Self {
        Self {
            write: flags & libc::O_ACCMODE != libc::O_RDONLY,
            truncate: flags & libc::O_TRUNC != 0,
            append: flags & libc::O_APPEND != 0,
        }
    }
}

impl View {
    pub fn open(&self, caller: Caller, ino: Ino, flags: i32) -> Result<Opened> {
        let mode = Mode::of(flags);
        if mode.write && self.is_publisher(caller) {
            let fh = self.0.handles.lock().insert(ino, Open::Touch);
            return Ok(Opened { fh, direct: true, quiet: true });
        }
        let target = self.target(ino)?;
        let body = self.opened(caller, &target, mode)?;
        let quiet = !matches!(body, Open::Draft { .. } | Open::CommandLine(_));
        // Uncommitted bytes of a draft must not reach readers through the page cache; texts that change by themselves
        // are consistent only past it.
        let direct = !matches!(&body, Open::Text { source, .. } if source.is_steady());
        let fh = self.0.handles.lock().insert(ino, body);
        Ok(Opened { fh, direct, quiet })
    }

    fn opened(&self, caller: Caller, target: &Target, mode: Mode) -> Result<Open> {
        let read_only = |what: &str| if mode.write { Err(Error::Denied { what: what.into() }) } else { Ok(()) };
        match target {
            Target::Node(key, id) => self.open_node(*key, *id, mode),
            Target::RootNode(id) => {
                read_only(id.root_node().name)?;
                if id.root_node().body == RootBody::Events {
                    return Ok(Open::Log(GrowingFile::new(self.0.home.ours(crate::names::ROOT_EVENTS))));
                }
                self.text(Source::Root(*id))
            }
            Target::Images(place) => {
                let source = Self::image_source(place)?;
                read_only("image")?;
                self.text(source)
            }
            Target::Network(place @ NetworkPlace::File(..)) => {
                read_only("network")?;
                self.text(Source::Network(place.clone()))
            }
            Target::Driver(place @ DriverPlace::File(..)) => {
                read_only("driver")?;
                self.driver_opened(place);
                self.text(Source::Driver(place.clone()))
            }
            Target::Template(name) => self.open_template(name, mode),
            Target::ConfigFile(file) => self.open_config(*file, mode),
            Target::DiskFile(name, file) => {
                if !file.takes_writes() {
                    read_only(file.name())?;
                }
                self.text(Source::Disk(name.clone(), *file))
            }
            Target::Wait(key, condition) => {
                read_only("wait")?;
                Ok(Open::Wait { key: *key, condition: condition.clone(), done: false, told: Vec::new() })
            }
            Target::Scratch(key, serial) => {
                let mut tree = self.0.tree.lock();
                let file = tree.scratch_mut(*key)?.by_serial_mut(*serial).ok_or_else(stale)?;
                if mode.truncate {
                    file.truncate(0)?;
                }
                Ok(Open::Scratch { key: *key, serial: *serial, append: mode.append })
            }
            Target::SnapshotInfo(key, tag) => {
                read_only("info")?;
                self.text(Source::Snapshot(*key, tag.clone()))
            }
            Target::JobFile(key, job, file) => self.open_job_file(caller, (*key, job), *file, mode),
            // The kernel follows it by itself.
            Target::RootLink(_) => {
                Err(Error::Io { path: "root".into(), source: std::io::Error::from_raw_os_error(libc::ELOOP) })
            }
            Target::Root
            | Target::Templates
            | Target::Instance(_)
            | Target::WaitDir(_)
            | Target::SocketDir(_)
            | Target::Socket(..)
            | Target::Disks
            | Target::Disk(_)
            | Target::Network(_)
            | Target::Driver(_)
            | Target::Guests
            | Target::Jobs(_)
            | Target::Job(..)
            | Target::Snapshots(_)
            | Target::Snapshot(..)
            | Target::Config => {
                Err(Error::Io { path: "directory".into(), source: std::io::Error::from_raw_os_error(libc::EISDIR) })
            }
        }
    }

    fn open_node(&self, key: Key, id: NodeId, mode: Mode) -> Result<Open> {
        let node = id.node();
        match node.body {
            Body::Definition if mode.write => {
                let old = self.0.tree.lock().rendered(key, id, &self.0.host)?.bytes;
                let bytes = if mode.truncate { Vec::new() } else { old.to_vec() };
                // An O_TRUNC alone already states an (empty) document.
                let document = Document::Definition(key);
                Ok(Open::Draft { document, bytes, dirty: mode.truncate, append: mode.append })
            }
            Body::Control { .. } | Body::Definition => self.text(Source::Node(key, id)),
            Body::Show(_) | Body::Asked(_) | Body::Log(_) | Body::Picture if mode.write => {
                Err(Error::Denied { what: node.name.into() })
            }
            // `open_any` has it.
            Body::Picture => Err(Error::unsupported(node.name, "cannot be opened so")),
            Body::Show(_) | Body::Asked(_) => {
                self.ask_for_memory(key, node.name);
                self.text(Source::Node(key, id))
            }
            Body::Log(file) => {
                let name = self.0.tree.lock().instance(key)?.name.clone();
                Ok(Open::Log(GrowingFile::new(self.0.home.path().join(name.as_str()).join(file))))
            }
        }
    }

    pub(super) fn text(&self, source: Source) -> Result<Open> {
        let text = self.render(&source)?;
        Ok(Open::Text { source, text })
    }
}
