//! Receives data into a [`Part`], in as many attempts as that takes and the policy allows: each goes on where the last
//! one ended, if the server still has the same bytes. Believes nothing of a server that contradicts itself.

use std::slice::Iter;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, IF_RANGE, RANGE, TRANSFER_ENCODING};
use reqwest::{Client, Response, StatusCode, Url, Version};
use tokio::time::Instant;

use super::part::{Part, Stamp};
use super::{Meter, Policy, Report, http};
use crate::error::{Error, Result};

/// An attempt that brought as much was worth it: the next one has all pauses before it again.
const PROGRESS: u64 = 1 << 20;
/// Less than this in the time of [`Policy::idle`] is as good as silence.
const LEAST: u64 = 16 << 10;
/// No image is larger.
const LIMIT: u64 = 256 << 30;

/// How an attempt failed.
enum Fault {
    /// Another one may do better.
    Passing(Error),
    Final(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

type Attempt<T> = std::result::Result<T, Fault>;

/// What to download, and how.
pub struct Job<'a> {
    /// The URL as it is written.
    pub location: &'a str,
    pub url: &'a Url,
    /// The data will be verified afterwards.
    pub has_digest: bool,
    pub policy: &'a Policy,
}

/// Receives all of the data into `part`. Short and contradictory answers, silence and error statuses are failures.
pub async fn download(job: &Job<'_>, part: &mut Part, progress: &Report<'_>) -> Result<()> {
    let client = http::client(job.policy)?;
    let meter = Meter::new("downloading", None);
    meter.report(progress, repeat(job, &client, part, &meter)).await
}

async fn repeat(job: &Job<'_>, client: &Client, part: &mut Part, meter: &Meter) -> Result<()> {
    let mut pauses = job.policy.retries.iter();
    let mut received = 0;
    loop {
        let before = part.len();
        let Err(fault) = job.attempt(client, part, meter, received > 0).await else { return Ok(()) };
        let more = part.len().saturating_sub(before);
        received += more;
        if more >= PROGRESS {
            pauses = job.policy.retries.iter();
        }
        pause(fault, &mut pauses).await?;
    }
}

async fn pause(fault: Fault, pauses: &mut Iter<'_, Duration>) -> Result<()> {
    match (fault, pauses.next()) {
        (Fault::Passing(error), Some(pause)) => {
            tracing::warn!("{error}, trying again in {pause:?}");
            tokio::time::sleep(*pause).await;
            Ok(())
        }
        (Fault::Passing(error) | Fault::Final(error), _) => Err(error),
    }
}

impl Job<'_> {
    /// `was_heard`: the server sent data before, so that being out of reach now will pass.
    async fn attempt(&self, client: &Client, part: &mut Part, meter: &Meter, was_heard: bool) -> Attempt<()> {
        let response = self.ask(client, part, was_heard).await?;
        self.judge(&response, part)?;
        part.check_room()?;
        meter.begin(part.len(), part.stamp.total);
        self.receive(response, part, meter).await?;
        match part.stamp.total {
            Some(total) if part.len() < total => {
                Err(self.passing(format!("ended after {} of {total} bytes, too early", part.len())))
            }
            Some(total) if part.len() > total => {
                part.discard()?;
                Err(self.passing(format!("sent more than the {total} bytes that it has")))
            }
            _ => Ok(()),
        }
    }

    async fn ask(&self, client: &Client, part: &Part, was_heard: bool) -> Attempt<Response> {
        let mut request = client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(validator) = part.stamp.validator().filter(|_| part.len() > 0) {
            request = request.header(RANGE, format!("bytes={}-", part.len())).header(IF_RANGE, validator);
        }
        request.send().await.map_err(|error| {
            let is_final = error.is_redirect() || (!was_heard && (error.is_connect() || error.is_timeout()));
            let fault = http::failed(self.url, &error);
            if is_final { Fault::Final(fault) } else { Fault::Passing(fault) }
        })
    }

    /// Decides what the answer is: the rest of what is there, all of it, or none.
    fn judge(&self, response: &Response, part: &mut Part) -> Attempt<()> {
        let status = response.status();
        match status {
            StatusCode::PARTIAL_CONTENT if part.len() > 0 => self.judge_rest(response, part),
            StatusCode::OK => self.judge_whole(response, part),
            StatusCode::RANGE_NOT_SATISFIABLE if part.len() > 0 => {
                part.discard()?;
                Err(self.passing("has less than was received already".to_owned()))
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(Fault::Passing(http::refused(self.url, status)))
            }
            _ if status.is_server_error() => Err(Fault::Passing(http::refused(self.url, status))),
            _ => Err(Fault::Final(http::refused(self.url, status))),
        }
    }

    fn judge_rest(&self, response: &Response, part: &mut Part) -> Attempt<()> {
        let now = Stamp::of(self.location, response);
        let differs = |a: Option<&str>, b: Option<&str>| a.zip(b).is_some_and(|(a, b)| a != b);
        let is_right = http::content_range(response).is_some_and(|(first, total)| {
            let same_total = total.zip(part.stamp.total).is_none_or(|(now, before)| now == before);
            first == part.len() && same_total
        });
        let has_changed = differs(now.etag.as_deref(), part.stamp.etag.as_deref())
            || differs(now.modified.as_deref(), part.stamp.modified.as_deref());
        if is_right && !has_changed && !response.headers().contains_key(CONTENT_ENCODING) {
            part.is_resumed = true;
            return Ok(());
        }
        part.discard()?;
        Err(self.passing("sent another part than it was asked for".to_owned()))
    }

    fn judge_whole(&self, response: &Response, part: &mut Part) -> Attempt<()> {
        let headers = response.headers();
        if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            return Err(self.refuse(format!("sent in encoding {encoding:?}, which was not asked for")));
        }
        let stamp = Stamp::of(self.location, response);
        let is_delimited =
            stamp.total.is_some() || headers.contains_key(TRANSFER_ENCODING) || response.version() > Version::HTTP_11;
        if !is_delimited && !self.has_digest {
            return Err(self.refuse("does not say where its data ends, and there is no digest".to_owned()));
        }
        let is_page = stamp.content_type.as_deref().is_some_and(|kind| kind.starts_with("text/html"));
        if is_page && !self.has_digest {
            return Err(self.refuse("sent a web page, and there is no digest".to_owned()));
        }
        Ok(part.begin(stamp)?)
    }

    async fn receive(&self, response: Response, part: &mut Part, meter: &Meter) -> Attempt<()> {
        let mut body = response.bytes_stream();
        let (mut since, mut got) = (Instant::now(), 0);
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|error| Fault::Passing(http::failed(self.url, &error)))?;
            part.append(&bytes)?;
            meter.add(bytes.len() as u64)?;
            if part.len() > LIMIT {
                part.discard()?;
                return Err(self.refuse(format!("sent more than {} GiB", LIMIT >> 30)));
            }
            got += bytes.len() as u64;
            if since.elapsed() >= self.policy.idle {
                if got < LEAST {
                    return Err(self.passing(format!("sent {got} bytes in {:?}, too slow", self.policy.idle)));
                }
                (since, got) = (Instant::now(), 0);
            }
        }
        Ok(())
    }

    fn passing(&self, why: String) -> Fault {
        Fault::Passing(self.said(why))
    }

    fn refuse(&self, why: String) -> Fault {
        Fault::Final(self.said(why))
    }

    fn said(&self, why: String) -> Error {
        Error::failed(self.url.as_str(), format!("the server {why}"))
    }
}
