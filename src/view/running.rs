//! What is asked of a running VM by the way: a new size, and what its guest makes of its memory.

use std::time::{Duration, Instant};

use super::View;
use super::ino::Key;
use super::snapshot::{Live, Snapshot};
use crate::agent;
use crate::status::{Resize, State};

/// For so long what a guest said of its memory is said again.
const MEMORY_AGE: Duration = Duration::from_secs(5);

impl View {
    /// Gives a running VM what its definition says by now. What cannot be is pending, as any other edit is.
    pub(super) async fn resize_running(&self, key: Key) {
        let Ok(snapshot) = self.snapshot(key) else { return };
        let runs = matches!(snapshot.state(), State::Running | State::Degraded | State::Paused);
        let size = snapshot.loaded().and_then(|loaded| {
            let cpus = u32::try_from(loaded.filled.cpus?).ok()?;
            Some(Resize { cpus, memory: loaded.filled.memory.clone()? })
        });
        let (Live::Agent(_), true, Some(size)) = (&snapshot.live, runs, size) else { return };
        match agent::resize(&snapshot.dir, &size).await {
            Ok(_) => self.changed(key, Snapshot::reread),
            Err(error) => tracing::info!("{}: {error}", snapshot.name),
        }
    }

    /// Asks a running guest what it makes of its memory, unless that was asked a moment ago. Whoever reads is not kept
    /// waiting: the next one sees it.
    pub(super) fn ask_for_memory(&self, key: Key, node: &str) {
        if !matches!(node, "status" | "status.json") {
            return;
        }
        let mut ask = None;
        if let Ok(snapshot) = self.0.tree.lock().snapshot(key, &self.0.host)
            && matches!(snapshot.live, Live::Agent(_))
            && matches!(snapshot.state(), State::Running | State::Degraded)
            && snapshot.memory.as_ref().is_none_or(|(_, when)| when.elapsed() > MEMORY_AGE)
        {
            // Noted at once: a crowd of readers asks once.
            let known = snapshot.memory.take().map(|(memory, _)| memory).unwrap_or_default();
            snapshot.memory = Some((known, Instant::now()));
            ask = Some(snapshot.dir.clone());
        }
        let Some(dir) = ask else { return };
        let view = self.clone();
        self.spawn(async move {
            match agent::memory(&dir).await {
                Ok(memory) => view.changed(key, |snapshot| snapshot.memory = Some((memory, Instant::now()))),
                Err(error) => tracing::debug!("{}: {error}", dir.display()),
            }
        });
    }
}
