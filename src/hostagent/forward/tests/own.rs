//! The driver's own way to the agent.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use limafs_driver::{Driver, Error, Info, Instance, Result, Vm};
use tokio::net::UnixListener;

use super::super::Own;
use super::agent::{FakeAgent, port};
use super::world::{Setting, World, any, ask, echo, listener};

/// A driver that knows nothing but its way to the agent.
#[derive(Default)]
struct Pathfinder {
    by_ssh: bool,
    asked: AtomicUsize,
}

fn none<T>() -> Result<T> {
    Err(Error::failed("the driver", "has no VM"))
}

#[async_trait::async_trait]
impl Driver for Pathfinder {
    fn info(&self) -> Info {
        Info::default()
    }

    async fn configure(&self, _: Instance) -> Result<Instance> {
        none()
    }

    async fn validate(&self) -> Result<()> {
        none()
    }

    async fn create_disk(&self) -> Result<()> {
        none()
    }

    async fn start(&self) -> Result<Vm> {
        none()
    }

    async fn stop(&self, _: Duration) -> Result<()> {
        none()
    }

    async fn kill(&self) -> Result<()> {
        none()
    }

    async fn forward_guest_agent(&self) -> Result<bool> {
        Ok(self.by_ssh)
    }

    async fn guest_agent_conn(&self) -> Result<()> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

async fn world(driver: &Arc<Pathfinder>, dir: &Path) -> World {
    let own = Some(Own::new(Arc::clone(driver) as Arc<dyn Driver>, dir));
    World::new(Setting { rules: vec![any()], own, ..Setting::default() }).await
}

#[tokio::test]
async fn a_driver_is_asked_before_each_connection_and_ssh_carries_none() {
    let (dir, driver) = (tempfile::tempdir().unwrap(), Arc::new(Pathfinder::default()));
    let (server, host) = listener().await;
    let ports = vec![port("tcp", server.local_addr().unwrap())];
    let agent = FakeAgent::start(&dir.path().join("ga.sock"), ports.clone());
    let mut world = world(&driver, dir.path()).await;
    world.tasks.spawn(echo(server));
    world.forwarding(host).await;
    assert_eq!(ask(host, b"hello").await.unwrap(), b"hello");
    assert_eq!((driver.asked.load(Ordering::SeqCst), agent.said.tunnels.load(Ordering::SeqCst)), (1, 1));
    drop(agent);
    let agent = FakeAgent::start(&dir.path().join("ga.sock"), vec![]);
    world.until(|all| all.is_empty()).await;
    assert!(driver.asked.load(Ordering::SeqCst) > 1);
    assert_eq!(agent.said.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_driver_without_a_way_leaves_it_to_ssh() {
    let (dir, driver) = (tempfile::tempdir().unwrap(), Arc::new(Pathfinder { by_ssh: true, ..Pathfinder::default() }));
    let mut world = world(&driver, dir.path()).await;
    let (server, host) = listener().await;
    let _agent = world.agent(vec![port("tcp", server.local_addr().unwrap())]);
    world.forwarding(host).await;
    assert_eq!(driver.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_looked_for_over_ssh() {
    let (dir, driver) = (tempfile::tempdir().unwrap(), Arc::new(Pathfinder::default()));
    let nobody = UnixListener::bind(dir.path().join("ga.sock")).unwrap();
    let mut world = world(&driver, dir.path()).await;
    world.tasks.spawn(async move { while nobody.accept().await.is_ok() {} });
    let (server, host) = listener().await;
    let _agent = world.agent(vec![port("tcp", server.local_addr().unwrap())]);
    world.forwarding(host).await;
    assert!(driver.asked.load(Ordering::SeqCst) > 0);
}
