//! Those who work beside a running guest, and what they share: its configuration and the line to it. Each is a task
//! that ends with the VM; what goes wrong with one is told to the actor and hurts no other.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::forward;
use super::line::Line;
use super::state::Event;
use super::steps::Prepared;
use crate::status::Forward;

/// What those beside a guest are told of its VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scene {
    /// The guest has booted.
    pub settled: bool,
    pub paused: bool,
}

pub enum News {
    Event(Event),
    /// All of the ports and sockets, without the guest's ssh.
    Forwards(Arc<[Forward]>),
}

/// The tasks beside one VM; dropping it ends them.
pub struct Company {
    news: mpsc::Receiver<Event>,
    forwards: watch::Receiver<Arc<[Forward]>>,
    scene: watch::Sender<Scene>,
    _tasks: JoinSet<()>,
}

impl Company {
    /// Begins the work. `None` for a VM without a guest that can be reached.
    pub fn begin(prepared: &Arc<Prepared>) -> Option<Self> {
        let line = Arc::clone(prepared.line.as_ref()?);
        let (tell, news) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        let (scene, look) = watch::channel(Scene::default());
        let (forwards_to, forwards) = watch::channel(Arc::from([]));
        tasks.spawn(keep(Arc::clone(&line), tell.clone()));
        let wishes = forward::Wishes::of(prepared);
        tasks.spawn(forward::run(wishes, forward::Company { line, scene: look, forwards: forwards_to, tell }));
        Some(Self { news, forwards, scene, _tasks: tasks })
    }

    /// What they have to say. Cancel-safe.
    pub async fn next(&mut self) -> Option<News> {
        tokio::select! {        // cancel-safe: channels
            biased;
            event = self.news.recv() => event.map(News::Event),
            Ok(()) = self.forwards.changed() => Some(News::Forwards(self.forwards.borrow_and_update().clone())),
        }
    }

    /// Tells them how the VM is.
    pub fn show(&self, scene: Scene) {
        self.scene.send_if_modified(|known| std::mem::replace(known, scene) != scene);
    }
}

async fn keep(line: Arc<Line>, tell: mpsc::Sender<Event>) {
    line.keep(&tell).await;
}
