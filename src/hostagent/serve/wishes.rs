//! Snapshots, sizes, the display and the guest's memory over ha.sock. The first two go to the actor and are answered when
//! they are done, however long that takes: whoever waits hangs up. The others are asked of the driver directly.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use limafs_driver::{self as driver, Driver};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::{ANSWER, BODY_MAX, Body, answer, json, refuse};
use crate::error::Error;
use crate::hostagent::actor::Request;
use crate::hostagent::wishes::Wish;

/// How long a display may take.
const PICTURE: Duration = Duration::from_secs(5);
/// How long a guest may take to tell of its memory.
const MEMORY: Duration = Duration::from_secs(4);

pub type Drivers = watch::Receiver<Option<Arc<dyn Driver>>>;

/// Hands a wish to the actor, and its end to whoever asks.
pub async fn wish<T: DeserializeOwned>(
    request: hyper::Request<Incoming>,
    requests: mpsc::Sender<Request>,
    make: fn(T) -> Wish,
) -> Response<Body> {
    let body = match timeout(ANSWER, Limited::new(request.into_body(), BODY_MAX).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return refuse(StatusCode::BAD_REQUEST, error.to_string(), libc::EINVAL),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come".into(), libc::ETIMEDOUT),
    };
    let wish = match serde_json::from_slice(&body) {
        Ok(order) => make(order),
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.to_string(), libc::EINVAL),
    };
    let (answer, answered) = oneshot::channel();
    let asked = async {
        requests.send(Request::Wish { wish, answer }).await.ok()?;
        answered.await.ok()
    };
    match asked.await {
        Some(Ok(status)) => json(StatusCode::ACCEPTED, &status),
        Some(Err(refusal)) => json(StatusCode::CONFLICT, &refusal),
        None => refuse(StatusCode::CONFLICT, "the hostagent is exiting".into(), libc::EHOSTDOWN),
    }
}

/// `GET /v1/screenshot?format=png`, as Lima answers it.
pub async fn screenshot(query: Option<&str>, drivers: Drivers) -> Response<Body> {
    let format = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("format=")).unwrap_or("png");
    if format != "png" {
        return refuse(StatusCode::BAD_REQUEST, format!("format {format:.20?} (png)"), libc::EINVAL);
    }
    let Some(driver) = drivers.borrow().clone() else { return no_vm() };
    match timeout(PICTURE, driver.screenshot()).await {
        Ok(Ok(picture)) => answer(StatusCode::OK, "image/png", Full::new(Bytes::from(picture)).boxed()),
        Ok(Err(error)) => failed(error),
        Err(_) => late("the display", PICTURE),
    }
}

/// `GET /v1/memory`
pub async fn memory(drivers: Drivers) -> Response<Body> {
    let Some(driver) = drivers.borrow().clone() else { return no_vm() };
    match timeout(MEMORY, driver.memory()).await {
        Ok(Ok(memory)) => json(StatusCode::OK, &memory),
        Ok(Err(error)) => failed(error),
        Err(_) => late("the guest's memory", MEMORY),
    }
}

fn failed(error: driver::Error) -> Response<Body> {
    let code = match &error {
        driver::Error::Unsupported { operation: "screenshot" | "memory statistics", .. } => StatusCode::NOT_IMPLEMENTED,
        driver::Error::Unsupported { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let error = Error::from(error);
    refuse(code, error.to_string(), error.errno())
}

fn late(what: &str, limit: Duration) -> Response<Body> {
    let error = Error::Timeout { what: what.into(), seconds: limit.as_secs() };
    refuse(StatusCode::GATEWAY_TIMEOUT, error.to_string(), error.errno())
}

fn no_vm() -> Response<Body> {
    refuse(StatusCode::CONFLICT, "the VM is not running".into(), libc::EHOSTDOWN)
}
