//! Inode numbers: derived from what they stand for, so that they are the same after a remount.

use std::collections::HashMap;
use std::fs::Metadata;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;

use super::config_dir::ConfigFile;
use super::disks::DiskFile;
use super::drivers_dir::DriverPlace;
use super::images::Place;
use super::jobs::JobFile;
use super::networks_dir::NetworkPlace;
use super::node::NodeId;
use super::wait::Condition;

/// An inode number of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    pub const ROOT: Self = Self(1);
    /// Set in the numbers of guests' files, and in no other.
    const GUEST: u64 = 1 << 62;

    /// A number of a guest's file, made of any.
    pub fn of_guest(number: u64) -> Self {
        Self(number & (Self::GUEST - 1) | Self::GUEST)
    }

    pub fn is_guest(self) -> bool {
        self.0 & Self::GUEST != 0
    }
}

/// An instance, whatever its name: its real directory's inode and time of birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u64);

impl Key {
    /// Of `.templates`, which has scratch files as an instance has.
    pub const TEMPLATES: Self = Self(0);
    /// Of `.config`.
    pub const CONFIG: Self = Self(1);

    pub fn of(dir: &Metadata) -> Self {
        let born = dir.created().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        Self(digest(&(dir.dev(), dir.ino(), born.map(|age| age.as_nanos()))))
    }
}

/// What an inode number stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    Root,
    RootNode(NodeId),
    /// `.images` and what is in it.
    Images(Place),
    /// `.networks` and what is in it.
    Network(NetworkPlace),
    /// `.drivers` and what is in it.
    Driver(DriverPlace),
    Templates,
    Template(String),
    Instance(Key),
    Node(Key, NodeId),
    WaitDir(Key),
    Wait(Key, Condition),
    /// `sock` and what is in it.
    SocketDir(Key),
    Socket(Key, String),
    /// A scratch file, by its serial number.
    Scratch(Key, u64),
    Disks,
    /// `.guest`
    Guests,
    /// `root`: a symbolic link to the guest's files.
    RootLink(Key),
    /// `jobs`, a job in it, and a file of that.
    Jobs(Key),
    Job(Key, String),
    JobFile(Key, String, JobFile),
    Disk(String),
    DiskFile(String, DiskFile),
    Config,
    ConfigFile(ConfigFile),
}

impl Target {
    pub fn key(&self) -> Option<Key> {
        match self {
            Self::Instance(key)
            | Self::Node(key, _)
            | Self::WaitDir(key)
            | Self::Wait(key, _)
            | Self::SocketDir(key)
            | Self::Socket(key, _)
            | Self::RootLink(key)
            | Self::Jobs(key)
            | Self::Job(key, _)
            | Self::JobFile(key, ..)
            | Self::Scratch(key, _) => Some(*key),
            Self::Images(_) | Self::Network(_) | Self::Driver(_) => None,
            Self::Root | Self::RootNode(_) | Self::Templates | Self::Template(_) => None,
            Self::Disks | Self::Disk(_) | Self::DiskFile(..) | Self::Guests => None,
            Self::Config | Self::ConfigFile(_) => None,
        }
    }
}

/// Both directions of the mapping, for all that the kernel was told of.
#[derive(Debug)]
pub struct Inodes {
    targets: HashMap<Ino, Target>,
}

impl Default for Inodes {
    fn default() -> Self {
        Self { targets: HashMap::from([(Ino::ROOT, Target::Root)]) }
    }
}

impl Inodes {
    /// The number of a target, the same at each call and after a remount.
    pub fn number(&mut self, target: &Target) -> Ino {
        if *target == Target::Root {
            return Ino::ROOT;
        }
        // Bit 63 stays clear: tools that read inode numbers as signed see no negative ones. Bit 62 is the guests'.
        let mut ino = Ino((digest(target) >> 2).max(2));
        while let Some(taken) = self.targets.get(&ino) {
            if taken == target {
                return ino;
            }
            ino = Ino(ino.0 + 1);
        }
        self.targets.insert(ino, target.clone());
        ino
    }

    pub fn target(&self, ino: Ino) -> Option<&Target> {
        self.targets.get(&ino)
    }

    /// Forgets every number of an instance that is gone.
    pub fn forget(&mut self, key: Key) {
        self.targets.retain(|_, target| target.key() != Some(key));
    }
}

/// 64-bit FNV-1a: the same in every build, unlike the standard library's hasher.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        // The low bits of plain FNV mix poorly.
        let mut x = self.0;
        x ^= x >> 32;
        x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x ^ (x >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

pub fn digest(value: &impl Hash) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_same_each_time_and_leads_back() {
        let mut inodes = Inodes::default();
        let target = Target::Node(Key(7), NodeId(3));
        let ino = inodes.number(&target);
        assert_eq!(inodes.number(&target), ino);
        assert_eq!(inodes.target(ino), Some(&target));
        assert_eq!(Inodes::default().number(&target), ino);
    }

    #[test]
    fn an_instance_that_is_gone_leaves_no_numbers() {
        let mut inodes = Inodes::default();
        let kept = inodes.number(&Target::Instance(Key(1)));
        let gone = inodes.number(&Target::Node(Key(2), NodeId(0)));
        inodes.forget(Key(2));
        assert!(inodes.target(gone).is_none());
        assert!(inodes.target(kept).is_some());
    }
}
