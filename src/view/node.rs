//! The node table: every file of an instance and of the root is one entry. Lookup, listing, mode, rendering and
//! the README's table are derived from it.

use super::nodes;
use super::snapshot::Snapshot;
use crate::error::Result;
use crate::names;
use crate::status::Verb;

/// A file of the tree.
pub struct Node {
    pub name: &'static str,
    /// For the README: what reading shows, and what writing takes.
    pub doc: &'static str,
    pub body: Body,
    /// May be read by other users when the mount is shared; holds no secrets.
    pub public: bool,
}

pub enum Body {
    /// Text rendered from the snapshot.
    Show(fn(&Snapshot) -> String),
    /// The same, from the first time on that somebody looks at it: it costs more than it is wanted.
    Asked(fn(&Snapshot) -> String),
    /// The same, and each write(2) is one command.
    Control { show: fn(&Snapshot) -> String, parse: fn(&str) -> Result<Command> },
    /// lima.yaml: replaced whole when closed.
    Definition,
    /// A file on disk that grows.
    Log(&'static str),
    /// The display; made anew by each open.
    Picture,
}

/// A parsed write to a control node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Verb(Verb),
    /// Back to a snapshot.
    Restore(String),
    Protect(bool),
    /// A top-level value of lima.yaml.
    Set {
        key: &'static str,
        value: String,
    },
}

/// Index into [`INSTANCE`] or [`ROOT`]; inode numbers depend on it, so tables only ever grow at their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u8);

/// The files of an instance.
pub const INSTANCE: &[Node] = &[
    Node {
        name: "lima.yaml",
        doc: "the configuration as it was written; takes a whole document, validated before it counts",
        body: Body::Definition,
        public: false,
    },
    Node {
        name: "effective.yaml",
        doc: "the configuration as it will run: defaults filled in, variables expanded",
        body: Body::Show(nodes::effective),
        public: false,
    },
    Node {
        name: "state",
        doc: "one word; takes a verb: start stop restart kill pause resume suspend reset, or restore TAG",
        body: Body::Control { show: nodes::state, parse: nodes::parse_verb },
        public: true,
    },
    Node {
        name: "status",
        doc: "key: value lines: state, goal, since, step, driver, ssh, pids, pending (what waits for a restart), errors",
        body: Body::Show(nodes::status),
        public: true,
    },
    Node {
        name: "status.json",
        doc: "the object that limactl list --json prints, plus our fields",
        body: Body::Show(nodes::status_json),
        public: false,
    },
    Node {
        name: "ports",
        doc: "a line per port forward: protocol, host, guest, state",
        body: Body::Show(nodes::ports),
        public: true,
    },
    Node { name: "serial.log", doc: "the console; grows (tail -f)", body: Body::Log(names::SERIAL_LOG), public: false },
    Node { name: "log", doc: "the hostagent's log; grows", body: Body::Log(names::HA_STDERR_LOG), public: false },
    Node { name: "events", doc: "what happens, as JSON lines; grows", body: Body::Log(names::EVENTS), public: false },
    Node { name: "error", doc: "empty, or the latest failure in full", body: Body::Show(nodes::error), public: false },
    Node { name: "message", doc: "the template's message", body: Body::Show(nodes::message), public: false },
    Node {
        name: "ssh.config",
        doc: "for ssh -F: the host is lima-NAME",
        body: Body::Show(nodes::ssh_config),
        public: false,
    },
    Node {
        name: "protected",
        doc: "0 or 1; takes 0 or 1; a protected instance cannot be removed",
        body: Body::Control { show: nodes::protected, parse: nodes::parse_protected },
        public: false,
    },
    Node {
        name: "cpus",
        doc: "the number of processors; takes a new one, which goes into lima.yaml, and into the VM where that can be",
        body: Body::Control { show: nodes::cpus, parse: nodes::parse_cpus },
        public: true,
    },
    Node {
        name: "memory",
        doc: "the size of memory; takes a new one (4GiB), which goes into lima.yaml, and into the VM where that can be",
        body: Body::Control { show: nodes::memory, parse: nodes::parse_memory },
        public: true,
    },
    Node {
        name: "disk",
        doc: "the size of the disk; takes a larger one, which goes into lima.yaml",
        body: Body::Control { show: nodes::disk, parse: nodes::parse_disk },
        public: true,
    },
    Node {
        name: "effective.origins.yaml",
        doc: "effective.yaml with a comment behind each value: the file and line that it comes from, or \"built in\"",
        body: Body::Asked(nodes::origins),
        public: false,
    },
    Node {
        name: "ports.json",
        doc: "the same as ports, for programs",
        body: Body::Show(nodes::ports_json),
        public: true,
    },
    Node {
        name: "screen.png",
        doc: "the display, as it is when this is opened; listed where there may be one",
        body: Body::Picture,
        public: false,
    },
];

/// The directory of forwarded sockets (see `sockets`).
pub const SOCKETS_DIR: &str = "sock";
/// The directory whose files wait (see `wait`); lists as empty.
pub const WAIT_DIR: &str = "wait";

pub const DEFINITION: NodeId = NodeId(0);
pub const PORTS: NodeId = NodeId(5);

/// The files of the root.
pub const ROOT: &[RootNode] = &[
    RootNode { name: "README.md", doc: "this page", body: RootBody::Readme, public: true },
    RootNode { name: "list", doc: "all instances, as limactl list prints them", body: RootBody::List, public: true },
    RootNode {
        name: "events",
        doc: "the states of every instance, and which are made, changed, renamed and deleted, as JSON lines; grows",
        body: RootBody::Events,
        public: false,
    },
    RootNode {
        name: ".error",
        doc: "the latest refused operation outside an instance",
        body: RootBody::Error,
        public: false,
    },
];

pub struct RootNode {
    pub name: &'static str,
    pub doc: &'static str,
    pub body: RootBody,
    pub public: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootBody {
    Readme,
    List,
    Events,
    Error,
}

pub const IMAGES_DIR: &str = ".images";
pub const TEMPLATES_DIR: &str = ".templates";
pub const DISKS_DIR: &str = ".disks";
pub const NETWORKS_DIR: &str = ".networks";
pub const DRIVERS_DIR: &str = ".drivers";
pub const CONFIG_DIR: &str = ".config";
/// The files of running guests.
pub const GUEST_DIR: &str = ".guest";
/// In an instance: command lines that run in the guest.
pub const JOBS_DIR: &str = "jobs";
/// In an instance: its snapshots.
pub const SNAPSHOTS_DIR: &str = "snapshots";
/// In an instance: leads to its guest's files.
pub const ROOT_LINK: &str = "root";
pub const ROOT_LIST: NodeId = NodeId(1);
pub const ROOT_EVENTS: NodeId = NodeId(2);
pub const ROOT_ERROR: NodeId = NodeId(3);

/// Whether a name in an instance is one of those that are no files.
pub fn is_directory_of_ours(name: &str) -> bool {
    matches!(name, WAIT_DIR | SOCKETS_DIR | ROOT_LINK | JOBS_DIR | SNAPSHOTS_DIR)
}

impl NodeId {
    pub fn node(self) -> &'static Node {
        &INSTANCE[usize::from(self.0)]
    }

    pub fn root_node(self) -> &'static RootNode {
        &ROOT[usize::from(self.0)]
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..INSTANCE.len()).map(|index| Self(index as u8))
    }

    pub fn all_root() -> impl Iterator<Item = Self> {
        (0..ROOT.len()).map(|index| Self(index as u8))
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::all().find(|id| id.node().name == name)
    }

    pub fn root_by_name(name: &str) -> Option<Self> {
        Self::all_root().find(|id| id.root_node().name == name)
    }
}

impl Node {
    /// Permission bits.
    pub fn perm(&self, shared: bool) -> u16 {
        let own = match self.body {
            Body::Show(_) | Body::Asked(_) | Body::Log(_) | Body::Picture => 0o400,
            Body::Control { .. } | Body::Definition => 0o600,
        };
        own | if shared && self.public { 0o044 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_ids_are_the_nodes_they_name() {
        assert_eq!(DEFINITION.node().name, names::LIMA_YAML);
        assert_eq!(PORTS.node().name, "ports");
        assert_eq!(ROOT_LIST.root_node().body, RootBody::List);
        assert_eq!(ROOT_EVENTS.root_node().body, RootBody::Events);
        assert_eq!(ROOT_ERROR.root_node().body, RootBody::Error);
    }

    #[test]
    fn only_what_holds_no_secret_is_shown_to_others() {
        for node in INSTANCE {
            let secret =
                ["lima.yaml", "status.json", "message", "log", "serial.log", "screen.png"].contains(&node.name);
            let secret = secret || node.name.starts_with("effective.");
            assert!(!(secret && node.public), "{}", node.name);
        }
    }
}
