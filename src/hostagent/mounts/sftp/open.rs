//! What a client has open: files and directories under numbers, a bounded number of them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::fs::Dir;
use rustix::io::{Errno, Result};

/// Never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(pub u64);

pub enum Open {
    File(OwnedFd),
    Dir(Dir),
}

pub struct Opens {
    all: HashMap<Id, Open>,
    last: u64,
    limit: usize,
}

impl Opens {
    pub fn new(limit: usize) -> Self {
        Self { all: HashMap::new(), last: 0, limit }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn add(&mut self, open: Open) -> Result<Id> {
        if self.all.len() >= self.limit {
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
