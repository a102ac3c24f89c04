//! One GET, or several when the server says that it is its own fault.

use std::fs::File;
use std::io::{Seek, Write};
use std::sync::Once;

use futures_util::StreamExt;
use reqwest::header::{CONTENT_TYPE, HeaderName, LAST_MODIFIED};
use reqwest::redirect::{Attempt, Policy as Redirects};
use reqwest::{Client, Response, Url};

use super::digest::{Expected, Hasher};
use super::{Meter, Policy, Report};
use crate::error::{Error, Result};

const REDIRECTS_MAX: usize = 10;

/// What the server says about its data; the cache compares and keeps it as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamp {
    pub modified: Option<String>,
    pub content_type: Option<String>,
}

/// Downloads `url` into `file`, hashing on the way. A short body, an error status and a wrong digest are failures.
pub async fn download(
    url: &Url,
    file: &File,
    expected: Option<&Expected>,
    policy: &Policy,
    progress: &Report<'_>,
) -> Result<Stamp> {
    let client = client(policy)?;
    let meter = Meter::new("downloading", None);
    let work = async {
        let response = get(&client, url, policy).await?;
        meter.expect(response.content_length());
        let stamp = Stamp::of(&response);
        store(response, url, file, expected, &meter).await?;
        Ok(stamp)
    };
    meter.report(progress, work).await
}

/// Asks what the server has, without its data.
pub async fn stamp(url: &Url, policy: &Policy) -> Result<Stamp> {
    let response = client(policy)?.head(url.clone()).send().await.map_err(|error| failed(url, &error))?;
    match response.status() {
        status if status.is_success() => Ok(Stamp::of(&response)),
        status => Err(Error::failed(url.as_str(), format!("the server answered {status}"))),
    }
}

impl Stamp {
    fn of(response: &Response) -> Self {
        let text = |name: HeaderName| {
            let value = response.headers().get(name)?;
            Some(value.to_str().ok()?.to_owned())
        };
        Self { modified: text(LAST_MODIFIED), content_type: text(CONTENT_TYPE) }
    }
}

fn client(policy: &Policy) -> Result<Client> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error means that somebody else installed one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    Client::builder()
        .connect_timeout(policy.connect)
        .read_timeout(policy.idle)
        .redirect(Redirects::custom(redirect))
        .user_agent(concat!("limafs/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| Error::failed("http client", chain(&error)))
}

fn redirect(attempt: Attempt) -> reqwest::redirect::Action {
    match refusal(attempt.previous(), attempt.url()) {
        Some(why) => attempt.error(why),
        None => attempt.follow(),
    }
}

/// Why a redirect is not followed.
pub(super) fn refusal(previous: &[Url], next: &Url) -> Option<String> {
    let from = previous.last().map_or("", |url| url.scheme());
    match (from, next.scheme()) {
        _ if previous.len() > REDIRECTS_MAX => Some(format!("more than {REDIRECTS_MAX} redirects")),
        (_, "https") | ("http", "http") => None,
        ("https", "http") => Some("refused a redirect from https to http".to_owned()),
        (_, scheme) => Some(format!("refused a redirect to scheme {scheme:?}")),
    }
}

/// The answer to a GET. Errors of the server (5xx) are tried again after a pause.
async fn get(client: &Client, url: &Url, policy: &Policy) -> Result<Response> {
    let mut pauses = policy.retries.iter();
    loop {
        let response = client.get(url.clone()).send().await.map_err(|error| failed(url, &error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let pause = pauses.next().filter(|_| status.is_server_error());
        let Some(pause) = pause else {
            return Err(Error::failed(url.as_str(), format!("the server answered {status}")));
        };
        tracing::warn!(%url, %status, "image server failed, trying again in {pause:?}");
        tokio::time::sleep(*pause).await;
    }
}

async fn store(
    response: Response,
    url: &Url,
    mut file: &File,
    expected: Option<&Expected>,
    meter: &Meter,
) -> Result<()> {
    let promised = response.content_length();
    let mut hasher = expected.map(|expected| Hasher::new(expected.algorithm()));
    file.rewind().and_then(|()| file.set_len(0)).map_err(Error::io(url.as_str()))?;
    let mut received = 0;
    let mut body = response.bytes_stream();
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|error| failed(url, &error))?;
        // The page cache takes what the network gives; a thread for each piece would cost more.
        file.write_all(&bytes).map_err(Error::io(url.as_str()))?;
        hasher.iter_mut().for_each(|hasher| hasher.update(&bytes));
        received += bytes.len() as u64;
        meter.add(bytes.len() as u64)?;
    }
    if promised.is_some_and(|promised| promised != received) {
        return Err(Error::failed(url.as_str(), format!("ended after {received} bytes, too early")));
    }
    match expected.zip(hasher) {
        Some((expected, hasher)) => expected.check(url.as_str(), hasher),
        None => Ok(()),
    }
}

/// reqwest's errors name the URL, but hide the reason in their sources.
fn failed(url: &Url, error: &reqwest::Error) -> Error {
    Error::failed(url.as_str(), chain(error))
}

fn chain(error: &reqwest::Error) -> String {
    let mut reasons: Vec<String> = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        reasons.push(inner.to_string());
        source = inner.source();
    }
    if error.is_timeout() {
        reasons.insert(0, "no answer in time".to_owned());
    }
    if reasons.is_empty() { error.to_string() } else { reasons.join(": ") }
}
