//! What every driver has to do, as cases for the tests of drivers: each is run with the driver in process and over its
//! socket. Knows drivers by their trait alone.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test panics")]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::{Driver, Error, Instance, Vm, VmEvent};

/// Whatever a driver does is done by then.
const DEADLINE: Duration = Duration::from_secs(60);

/// Drivers of one kind and an instance that they can run.
pub trait Subject {
    /// A new value, as a process that knows nothing makes it.
    fn driver(&self) -> Arc<dyn Driver>;

    /// An instance in a directory of its own, with all that `start` needs. Its guest heeds no power button and does
    /// not end by itself.
    fn instance(&self) -> Instance;
}

/// Makes a test of each case; the expression is an `Option` of a [`Subject`], without which nothing can be tested here.
#[macro_export]
macro_rules! conformance {
    ($subject:expr) => {
        $crate::conformance!($subject;
            it_says_what_it_is_before_it_is_configured,
            what_is_not_configured_does_not_start,
            configuring_keeps_the_instance_and_may_be_repeated,
            without_a_vm_there_is_nothing_to_attach_and_nothing_to_end,
            a_vm_starts_once_and_is_killed,
            a_guest_that_does_not_stop_is_killed_after_its_grace,
            a_vm_that_was_killed_starts_again,
            a_vm_outlives_its_driver_value_and_is_attached,
            a_vm_is_paused_and_goes_on,
            what_a_driver_cannot_do_is_said_to_be_so,
            the_status_of_an_instance_keeps_the_rest_of_it,
        );
    };
    ($subject:expr; $($case:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            match $subject {
                Some(subject) => $crate::conformance::$case(&subject).await,
                None => eprintln!("SKIPPED: this driver cannot run here"),
            }
        }
    )*};
}

async fn configured(subject: &dyn Subject) -> Arc<dyn Driver> {
    let driver = subject.driver();
    driver.configure(subject.instance()).await.unwrap();
    driver
}

/// Configured, with all that comes before a start.
async fn prepared(subject: &dyn Subject) -> Arc<dyn Driver> {
    let driver = configured(subject).await;
    driver.validate().await.unwrap();
    driver.create().await.unwrap();
    driver.create_disk().await.unwrap();
    driver
}

async fn next(vm: &mut Vm) -> VmEvent {
    timeout(DEADLINE, vm.events.recv()).await.expect("an event in time").expect("an event")
}

/// Reads to the last event.
async fn exited(vm: &mut Vm) -> (bool, String) {
    loop {
        if let VmEvent::Exited { clean, reason } = next(vm).await {
            let more = timeout(DEADLINE, vm.events.recv()).await.expect("the end of the events");
            assert_eq!(more, None, "after the last event");
            return (clean, reason);
        }
    }
}

async fn wait_for(vm: &mut Vm, wanted: &VmEvent) {
    loop {
        let event = next(vm).await;
        assert!(!matches!(event, VmEvent::Exited { .. }), "{event:?} before {wanted:?}");
        if event == *wanted {
            return;
        }
    }
}

pub async fn it_says_what_it_is_before_it_is_configured(subject: &dyn Subject) {
    let driver = subject.driver();
    assert!(!driver.info().name.is_empty());
    let health = driver.health().await;
    assert!(health.installed && health.healthy, "{health:?}");
    // What works may say what would be better, and then how to get it.
    assert!(health.error.is_empty() || (health.needs_improvement && !health.fix.is_empty()), "{health:?}");
}

pub async fn what_is_not_configured_does_not_start(subject: &dyn Subject) {
    assert!(timeout(DEADLINE, subject.driver().start()).await.unwrap().is_err());
}

pub async fn configuring_keeps_the_instance_and_may_be_repeated(subject: &dyn Subject) {
    let driver = subject.driver();
    let instance = subject.instance();
    for _ in 0..3 {
        let configured = driver.configure(instance.clone()).await.unwrap();
        assert_eq!((&configured.name, &configured.dir), (&instance.name, &instance.dir));
        assert_eq!(
            (configured.cpus, configured.memory, configured.disk),
            (instance.cpus, instance.memory, instance.disk)
        );
        assert_eq!(configured.config.images, instance.config.images);
    }
}

pub async fn without_a_vm_there_is_nothing_to_attach_and_nothing_to_end(subject: &dyn Subject) {
    let driver = configured(subject).await;
    assert!(driver.attach().await.unwrap().is_none());
    driver.kill().await.unwrap();
    driver.stop(Duration::from_secs(1)).await.unwrap();
    driver.delete().await.unwrap();
}

pub async fn a_vm_starts_once_and_is_killed(subject: &dyn Subject) {
    let driver = prepared(subject).await;
    let mut vm = driver.start().await.unwrap();
    assert!(driver.start().await.is_err(), "a second VM");
    timeout(DEADLINE, driver.kill()).await.unwrap().unwrap();
    let (clean, _) = exited(&mut vm).await;
    assert!(!clean, "a kill is not clean");
    driver.kill().await.unwrap();
    assert!(driver.attach().await.unwrap().is_none());
}

pub async fn a_guest_that_does_not_stop_is_killed_after_its_grace(subject: &dyn Subject) {
    let driver = prepared(subject).await;
    let mut vm = driver.start().await.unwrap();
    timeout(DEADLINE, driver.stop(Duration::from_secs(1))).await.unwrap().unwrap();
    exited(&mut vm).await;
    assert!(driver.attach().await.unwrap().is_none());
}

pub async fn a_vm_that_was_killed_starts_again(subject: &dyn Subject) {
    let driver = prepared(subject).await;
    let mut vm = driver.start().await.unwrap();
    driver.kill().await.unwrap();
    exited(&mut vm).await;
    let mut again = driver.start().await.unwrap();
    assert!(again.pid.is_none() || again.pid != vm.pid);
    driver.kill().await.unwrap();
    exited(&mut again).await;
}

pub async fn a_vm_outlives_its_driver_value_and_is_attached(subject: &dyn Subject) {
    let first = prepared(subject).await;
    let vm = first.start().await.unwrap();
    let pid = vm.pid;
    drop((first, vm));
    let second = configured(subject).await;
    let mut vm = second.attach().await.unwrap().expect("a VM to attach");
    assert_eq!(vm.pid, pid);
    second.kill().await.unwrap();
    exited(&mut vm).await;
}

pub async fn a_vm_is_paused_and_goes_on(subject: &dyn Subject) {
    let driver = prepared(subject).await;
    let mut vm = driver.start().await.unwrap();
    match driver.pause().await {
        Err(Error::Unsupported { .. }) => {}
        paused => {
            paused.unwrap();
            wait_for(&mut vm, &VmEvent::Paused).await;
            driver.resume().await.unwrap();
            wait_for(&mut vm, &VmEvent::Resumed).await;
        }
    }
    driver.kill().await.unwrap();
    exited(&mut vm).await;
}

pub async fn what_a_driver_cannot_do_is_said_to_be_so(subject: &dyn Subject) {
    let driver = configured(subject).await;
    // Each has it or says that it has not; that it does not run is another thing than that it cannot.
    for done in [driver.pause().await, driver.suspend().await, driver.resize(1, 1 << 30).await] {
        assert!(matches!(done, Err(Error::Unsupported { .. } | Error::NotRunning)), "{done:?}");
    }
    let shot = driver.screenshot().await;
    assert!(matches!(shot, Err(Error::Unsupported { .. } | Error::NotRunning)), "{shot:?}");
}

pub async fn the_status_of_an_instance_keeps_the_rest_of_it(subject: &dyn Subject) {
    let instance = subject.instance();
    let inspected = subject.driver().inspect_status(instance.clone()).await.unwrap();
    assert_eq!((&inspected.name, &inspected.dir), (&instance.name, &instance.dir));
    assert_eq!(inspected.config, instance.config);
}
