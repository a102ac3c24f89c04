//! QEMU's own jobs for snapshots: begun over QMP, followed to their end, dismissed. They go on in QEMU when nobody
//! follows them any more; whoever comes next waits for what is left, and dismisses it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use limafs_driver::{Error, Result};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::monitor::Client;

/// Between two looks. While it writes a VM's memory QEMU answers nobody at all.
const LOOK: Duration = Duration::from_millis(30);
const LIMIT: Duration = Duration::from_secs(600);
/// How the names of all our jobs begin.
const OURS: &str = "limafs-";

/// Runs a job to its end.
pub(crate) async fn run(qmp: &Client, command: &'static str, mut arguments: Value) -> Result<()> {
    static LAST: AtomicU32 = AtomicU32::new(0);
    settle(qmp).await?;
    let id = format!("{}{}", own_prefix(), LAST.fetch_add(1, Ordering::Relaxed));
    arguments["job-id"] = id.as_str().into();
    qmp.execute(command, Some(arguments)).await?;
    let end = ended(qmp, &id).await?;
    dismiss(qmp, &id).await;
    end.map_err(|why| Error::failed(command, why))
}

/// Waits for jobs that somebody who is gone has begun, and dismisses them.
pub(crate) async fn settle(qmp: &Client) -> Result<()> {
    let own = own_prefix();
    let begun = Instant::now();
    let all = loop {
        match jobs(qmp).await {
            // Busy with one of them.
            Err(Error::Timeout { .. }) if begun.elapsed() < LIMIT => sleep(LOOK).await,
            jobs => break jobs?,
        }
    };
    for id in all.iter().filter_map(|job| job["id"].as_str()) {
        if id.starts_with(OURS) && !id.starts_with(&own) {
            // However it went: what it has led to is looked at.
            let _ = ended(qmp, id).await?;
            dismiss(qmp, id).await;
        }
    }
    Ok(())
}

/// A job of this process is followed by whoever began it.
fn own_prefix() -> String {
    format!("{OURS}{}-", std::process::id())
}

/// Comes back when a job has ended, with QEMU's words when it has failed.
async fn ended(qmp: &Client, id: &str) -> Result<std::result::Result<(), String>> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        match look(qmp, id).await {
            Ok(None) => return Ok(Err("it has vanished".into())),
            Ok(Some(job)) if job["status"] == "concluded" => {
                return Ok(job["error"].as_str().map_or(Ok(()), |why| Err(why.to_owned())));
            }
            // Busy with the job.
            Ok(Some(_)) | Err(Error::Timeout { .. }) => sleep(LOOK).await,
            Err(error) => return Err(error),
        }
    }
    Err(Error::Timeout { what: "the snapshot".into(), seconds: LIMIT.as_secs() })
}

async fn look(qmp: &Client, id: &str) -> Result<Option<Value>> {
    Ok(jobs(qmp).await?.into_iter().find(|job| job["id"] == id))
}

async fn jobs(qmp: &Client) -> Result<Vec<Value>> {
    let jobs = qmp.execute("query-jobs", None).await?;
    Ok(jobs.as_array().cloned().unwrap_or_default())
}

async fn dismiss(qmp: &Client, id: &str) {
    if let Err(error) = qmp.execute("job-dismiss", Some(json!({ "id": id }))).await {
        tracing::debug!("{error}");
    }
}
