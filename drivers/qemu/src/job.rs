//! QEMU's own jobs for snapshots: begun over QMP, followed to their end, dismissed. They go on in QEMU when nobody
//! follows them any more; whoever comes next dismisses what has ended meanwhile.

use std::time::Duration;

use limafs_driver::{Error, Result};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::monitor::Client;

/// Between two looks. While it writes a VM's memory QEMU answers nobody at all.
const LOOK: Duration = Duration::from_millis(30);
const LIMIT: Duration = Duration::from_secs(600);
const ID: &str = "limafs-snapshot";

/// Runs a job to its end.
pub(crate) async fn run(qmp: &Client, command: &'static str, mut arguments: Value) -> Result<()> {
    settle(qmp).await?;
    arguments["job-id"] = ID.into();
    qmp.execute(command, Some(arguments)).await?;
    let why = ended(qmp).await?;
    dismiss(qmp).await;
    why.map_or(Ok(()), |why| Err(Error::failed(command, why)))
}

/// Waits for a job that somebody who is gone has begun, and dismisses it.
async fn settle(qmp: &Client) -> Result<()> {
    if look(qmp).await?.is_some() {
        ended(qmp).await?;
        dismiss(qmp).await;
    }
    Ok(())
}

/// Comes back when the job has ended, with QEMU's words when it has failed.
async fn ended(qmp: &Client) -> Result<Option<String>> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        match look(qmp).await {
            Ok(None) => return Ok(None),
            Ok(Some(job)) if job["status"] == "concluded" => return Ok(job["error"].as_str().map(str::to_owned)),
            // Busy with the job.
            Ok(Some(_)) | Err(Error::Timeout { .. }) => sleep(LOOK).await,
            Err(error) => return Err(error),
        }
    }
    Err(Error::Timeout { what: "the snapshot".into(), seconds: LIMIT.as_secs() })
}

async fn look(qmp: &Client) -> Result<Option<Value>> {
    let mut jobs = qmp.execute("query-jobs", None).await?;
    let job = jobs.as_array_mut().and_then(|jobs| jobs.iter_mut().find(|job| job["id"] == ID));
    Ok(job.map(Value::take))
}

async fn dismiss(qmp: &Client) {
    if let Err(error) = qmp.execute("job-dismiss", Some(json!({ "id": ID }))).await {
        tracing::debug!("{error}");
    }
}
