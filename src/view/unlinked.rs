//! Nodes that somebody unlinked. Unlinking changes nothing, so that `rm -r` can come as far as its rmdir; but `install`
//! and `tar` unlink in order to create anew, and would be told for ever that the file exists. So a node is gone for
//! whoever unlinked it, for a moment, and for nobody else.

use std::time::{Duration, Instant};

use super::node::NodeId;

/// Between an unlink and the create that follows it.
const MOMENT: Duration = Duration::from_secs(1);

/// The nodes of one instance that are gone for somebody.
#[derive(Debug, Default)]
pub struct Unlinked(Vec<(u32, NodeId, Instant)>);

impl Unlinked {
    pub fn add(&mut self, pid: u32, node: NodeId) {
        self.0.retain(|(_, _, when)| when.elapsed() < MOMENT);
        self.0.push((pid, node, Instant::now()));
    }

    pub fn is_by(&self, pid: u32, node: NodeId) -> bool {
        self.0.iter().any(|(who, which, when)| *who == pid && *which == node && when.elapsed() < MOMENT)
    }

    /// Whether that process has unlinked nodes a moment ago: it removes the whole directory. Asked while it goes on.
    pub fn goes_on(&mut self, pid: u32) -> bool {
        let latest = self.0.iter_mut().rfind(|(who, _, when)| *who == pid && when.elapsed() < MOMENT);
        latest.map(|(_, _, when)| *when = Instant::now()).is_some()
    }

    /// Whether it was gone for that process; it is there again.
    pub fn take(&mut self, pid: u32, node: NodeId) -> bool {
        let gone = self.is_by(pid, node);
        self.0.retain(|(who, which, _)| *who != pid || *which != node);
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_gone_for_who_unlinked_it_and_until_it_is_made_again() {
        let mut unlinked = Unlinked::default();
        unlinked.add(7, NodeId(0));
        assert!(unlinked.is_by(7, NodeId(0)));
        assert!(!unlinked.is_by(8, NodeId(0)));
        assert!(!unlinked.is_by(7, NodeId(1)));
        assert!(unlinked.take(7, NodeId(0)));
        assert!(!unlinked.take(7, NodeId(0)));
    }
}
