//! Those who work beside a running guest, and what they share: its configuration and the line to it. Each is a task
//! that ends with the VM; what goes wrong with one is told to the actor and hurts no other.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::jobs;
use super::line::Line;
use super::state::Event;
use super::steps::Prepared;

/// The tasks beside one VM; dropping it ends them.
pub struct Company {
    pub news: mpsc::Receiver<Event>,
    _tasks: JoinSet<()>,
}

impl Company {
    /// Begins the work. `None` for a VM without a guest that can be reached.
    pub fn begin(prepared: &Arc<Prepared>, dir: &Path) -> Option<Self> {
        let line = Arc::clone(prepared.line.as_ref()?);
        let (tell, news) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(jobs::keep(Arc::clone(&line), dir.to_owned()));
        tasks.spawn(keep(line, tell));
        Some(Self { news, _tasks: tasks })
    }
}

async fn keep(line: Arc<Line>, tell: mpsc::Sender<Event>) {
    line.keep(&tell).await;
}
