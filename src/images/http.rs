//! How we speak HTTP: one client, redirects within bounds, errors with their reasons. The only user of reqwest's builder.

use std::sync::Once;

use reqwest::redirect::{Attempt, Policy as Redirects};
use reqwest::{Client, Response, StatusCode, Url};

use super::Policy;
use super::part::Stamp;
use crate::error::{Error, Result};

const REDIRECTS_MAX: usize = 10;

pub fn client(policy: &Policy) -> Result<Client> {
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

/// Asks what the server has, without its data.
pub async fn stamp(url: &Url, policy: &Policy) -> Result<Stamp> {
    let response = client(policy)?.head(url.clone()).send().await.map_err(|error| failed(url, &error))?;
    match response.status() {
        status if status.is_success() => Ok(Stamp::of(url.as_str(), &response)),
        status => Err(refused(url, status)),
    }
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

/// First byte and total of the part that a 206 says it is (RFC 9110, 14.4).
pub fn content_range(response: &Response) -> Option<(u64, Option<u64>)> {
    let text = response.headers().get(reqwest::header::CONTENT_RANGE)?.to_str().ok()?;
    parse_range(text)
}

pub(super) fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (span, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, total))
}

pub fn refused(url: &Url, status: StatusCode) -> Error {
    Error::failed(url.as_str(), format!("the server answered {status}"))
}

/// reqwest's errors name the URL, but hide the reason in their sources.
pub fn failed(url: &Url, error: &reqwest::Error) -> Error {
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
