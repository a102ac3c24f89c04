//! Reading ahead of a program that reads a guest's file from one end to the other. What was read ahead is used once, and
//! only while it is fresh and nothing was changed through this mount since.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::task::AbortOnDropHandle;

use crate::sftp::Called;

/// Bytes that are asked for at once.
pub const STRIDE: usize = 512 << 10;
/// So many strides are under way.
const STRIDES: usize = 3;
const FRESH: Duration = Duration::from_secs(1);

/// Bytes from `offset`, there or on their way.
pub struct Stride {
    offset: u64,
    length: usize,
    since: Instant,
    /// How often anything was changed when it was asked for.
    epoch: u64,
    bytes: Fetched,
}

pub enum Fetched {
    There(Bytes),
    Coming(AbortOnDropHandle<Called<Vec<u8>>>),
}

#[derive(Default)]
pub struct Ahead {
    strides: VecDeque<Stride>,
    /// Where the last read ended.
    end: u64,
}

impl Ahead {
    /// The stride that begins at `offset`; those of a program that has gone elsewhere are dropped.
    pub fn take(&mut self, offset: u64, epoch: u64) -> Option<Stride> {
        let fits = self
            .strides
            .front()
            .is_some_and(|stride| stride.offset == offset && stride.epoch == epoch && stride.since.elapsed() < FRESH);
        if !fits {
            self.strides.clear();
        }
        self.strides.pop_front()
    }

    /// Whether a read from there goes on where the last one ended. To be asked once for each.
    pub fn goes_on(&mut self, offset: u64, size: usize) -> bool {
        let goes_on = offset == self.end;
        self.end = offset + size as u64;
        goes_on
    }

    /// Gives back what a read has left of its stride.
    pub fn put_back(&mut self, stride: &Stride, offset: u64, rest: Bytes) {
        let (since, epoch) = (stride.since, stride.epoch);
        self.strides.push_front(Stride { offset, length: rest.len(), since, epoch, bytes: Fetched::There(rest) });
    }

    /// Where to read ahead now, after a whole read that ended at `end`.
    pub fn wanted(&self, end: u64) -> Vec<u64> {
        let last = self.strides.back().map_or(end, |stride| stride.offset + stride.length as u64);
        let missing = STRIDES.saturating_sub(self.strides.len());
        (0..missing).map(|index| last + (index * STRIDE) as u64).collect()
    }

    pub fn push(&mut self, offset: u64, epoch: u64, task: AbortOnDropHandle<Called<Vec<u8>>>) {
        let (length, since) = (STRIDE, Instant::now());
        self.strides.push_back(Stride { offset, length, since, epoch, bytes: Fetched::Coming(task) });
    }
}

impl Stride {
    /// The bytes; fewer than were asked for at the end of the file. `None` when they could not be had.
    pub async fn bytes(&mut self) -> Option<Bytes> {
        match &mut self.bytes {
            Fetched::There(bytes) => Some(bytes.clone()),
            Fetched::Coming(task) => Some(task.await.ok()?.ok()?.into()),
        }
    }

    /// Whether the file ended in it.
    pub fn is_short(&self, bytes: &Bytes) -> bool {
        bytes.len() < self.length
    }
}
