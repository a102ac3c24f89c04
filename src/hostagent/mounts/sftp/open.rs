//! What a client has open: files and directories under numbers, a bounded number of them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::fs::Dir;
use rustix::io::{Errno, Result};

/// As many as OpenSSH's server lets a client have where its own limits allow.
pub const OPEN_MAX: usize = 4096;

/// Never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(pub u64);

pub enum Open {
    File(OwnedFd),
    Dir(Dir),
}

#[derive(Default)]
pub struct Opens {
    all: HashMap<Id, Open>,
    last: u64,
}

impl Opens {
    pub fn add(&mut self, open: Open) -> Result<Id> {
        if self.all.len() >= OPEN_MAX {
            return Err(Errno::MFILE);
        }
        self.last += 1;
        let id = Id(self.last);
        self.all.insert(id, open);
        Ok(id)
    }

    pub fn close(&mut self, id: Id) -> Result<()> {
        self.all.remove(&id).map(drop).ok_or(Errno::BADF)
    }

    pub fn file(&self, id: Id) -> Result<&OwnedFd> {
        match self.all.get(&id) {
            Some(Open::File(file)) => Ok(file),
            _ => Err(Errno::BADF),
        }
    }

    pub fn dir(&mut self, id: Id) -> Result<&mut Dir> {
        match self.all.get_mut(&id) {
            Some(Open::Dir(dir)) => Ok(dir),
            _ => Err(Errno::BADF),
        }
    }
}
