//! One thing done for an instance that has neither hostagent nor VM: a snapshot of its disk, or the end of a suspension.
//! Holds the instance meanwhile, as a hostagent does.

use jiff::Timestamp;

use super::boot::Boot;
use super::steps::{Prepared, Steps};
use super::{logs, process, take_over, wishes};
use crate::drivers::Source;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::names::{Home, Name};
use crate::registry::Registry;
use crate::status::{Goal, Refusal, RestOrder, State};
use crate::store::{self, Record};

/// `limafs hostagent NAME --at-rest ORDER`: carries out the order and ends. What is refused is told on stdout.
pub fn run(home: Home, name: Name, order: &str) -> Result<()> {
    process::leave_session();
    logs::init();
    let order: RestOrder =
        serde_json::from_str(order).map_err(|error| Error::invalid("--at-rest", error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed("the runtime", error))?;
    let done = runtime.block_on(carry_out(home, name, order));
    if let Err(error) = &done {
        let refusal = Refusal { message: error.to_string(), errno: error.errno() };
        println!("{}", serde_json::json!(refusal));
    }
    done
}

async fn carry_out(home: Home, name: Name, order: RestOrder) -> Result<()> {
    let dir = home.instance(&name)?;
    let _lock = take_over(&name, &dir).await?;
    let record = store::record(&dir);
    let registry = Registry::of_process();
    let host = Host { drivers: registry.names(), ..Host::detect()? };
    let boot = Boot { home, name: name.clone(), dir: dir.clone(), host, registry };
    let Prepared { driver, .. } = boot.recover(record.as_ref()).await?;
    if driver.attach().await?.is_some() {
        return Err(Error::busy(name.to_string(), "its VM runs"));
    }
    match order {
        RestOrder::Snapshot(order) => wishes::snapshot(&*driver, &order, &dir).await,
        RestOrder::Discard => {
            driver.discard_suspended().await?;
            settle(&dir, record)?;
            boot.rest().await;
            Ok(())
        }
    }
}

fn settle(dir: &std::path::Path, record: Option<Record>) -> Result<()> {
    let Some(record) = record else { return Ok(()) };
    let (state, goal, since) = (State::Stopped, Goal::Stopped, Timestamp::now());
    let settled =
        Record { state, goal, since, driver_pid: None, started: None, suspended: false, errors: vec![], ..record };
    store::set_record(dir, &settled)
}
