//! Small texts from the network: documents that others build upon, and scripts. Kept nowhere, unlike images.

use std::sync::Once;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::redirect::{Attempt, Policy as Redirects};
use reqwest::{Client, Url};

use super::digest::{Expected, Hasher};
use crate::error::{Error, Result};

/// From the first packet to the last byte.
const DEADLINE: Duration = Duration::from_secs(10);

const REDIRECTS_MAX: usize = 5;

/// Downloads `url` (http or https), of at most `limit` bytes, within ten seconds.
pub async fn fetch_text(url: &str, limit: usize) -> Result<Vec<u8>> {
    fetch_within(url, limit, DEADLINE).await
}

async fn fetch_within(url: &str, limit: usize, deadline: Duration) -> Result<Vec<u8>> {
    let parsed = Url::parse(url).map_err(|error| Error::invalid(url, error.to_string().to_lowercase()))?;
    match tokio::time::timeout(deadline, get(parsed, limit)).await {
        Ok(done) => done,
        Err(_) => Err(Error::Timeout { what: url.to_owned(), seconds: deadline.as_secs() }),
    }
}

/// Whether `bytes` have a digest as lima.yaml writes it. `what` names them.
pub fn verify_text(what: &str, bytes: &[u8], digest: &str) -> Result<()> {
    let expected = Expected::parse(digest)?;
    let mut hasher = Hasher::new(expected.algorithm());
    hasher.update(bytes);
    expected.check(what, hasher)
}

async fn get(url: Url, limit: usize) -> Result<Vec<u8>> {
    let failed = |error: reqwest::Error| Error::failed(url.as_str(), reason(&error));
    let response = client()?.get(url.clone()).send().await.map_err(failed)?;
    match response.status() {
        status if status.is_success() => {}
        status if status.as_u16() == 404 => return Err(Error::Missing { what: url.to_string() }),
        status => return Err(Error::failed(url.as_str(), format!("the server answered {status}"))),
    }
    let mut bytes = Vec::new();
    let mut body = response.bytes_stream();
    while let Some(part) = body.next().await {
        bytes.extend_from_slice(&part.map_err(failed)?);
        if bytes.len() > limit {
            return Err(Error::TooBig { what: url.to_string(), limit });
        }
    }
    Ok(bytes)
}

fn client() -> Result<Client> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error means that somebody else installed one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    Client::builder()
        .redirect(Redirects::custom(redirect))
        .user_agent(concat!("limafs/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| Error::failed("http client", reason(&error)))
}

fn redirect(attempt: Attempt) -> reqwest::redirect::Action {
    let was_https = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > REDIRECTS_MAX {
        attempt.error(format!("more than {REDIRECTS_MAX} redirects"))
    } else if was_https && attempt.url().scheme() != "https" {
        attempt.error("refused a redirect from https to http")
    } else {
        attempt.follow()
    }
}

/// The innermost reason: reqwest's own sentence only repeats the URL.
fn reason(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// The URL of a server that gives each caller the next of `answers` and then hangs up; one without answers is silent.
    async fn server(answers: Vec<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let base = url.clone();
        tokio::spawn(async move {
            let mut open = Vec::new();
            let mut answers = answers.into_iter();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                match answers.next() {
                    Some(answer) => stream.write_all(answer.replace("SELF", &base).as_bytes()).await.unwrap(),
                    None => open.push(stream),
                }
            }
        });
        url
    }

    fn body(text: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
    }

    const ELSEWHERE: &str = "HTTP/1.1 302 Found\r\nLocation: SELF\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

    #[tokio::test]
    async fn a_text_is_fetched_up_to_its_limit() {
        let url = server(vec![body("cpus: 2\n"), body("12345"), body("123456")]).await;
        assert_eq!(fetch_text(&url, 100).await.unwrap(), b"cpus: 2\n");
        assert_eq!(fetch_text(&url, 5).await.unwrap(), b"12345");
        assert_eq!(fetch_text(&url, 5).await.unwrap_err().errno(), libc::EFBIG);
    }

    #[tokio::test]
    async fn g07_a_refusal_names_the_url_and_the_code() {
        let answer = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let url = server(vec![answer("404 Not Found"), answer("500 Oh")]).await;
        assert_eq!(fetch_text(&url, 100).await.unwrap_err().to_string(), format!("{url} does not exist"));
        let why = fetch_text(&url, 100).await.unwrap_err().to_string();
        assert!(why.contains(&url) && why.contains("500"), "{why}");
    }

    #[tokio::test]
    async fn g08_redirects_are_followed_but_not_for_ever() {
        let url = server(vec![ELSEWHERE.into(), body("a")]).await;
        assert_eq!(fetch_text(&url, 100).await.unwrap(), b"a");
        let url = server(vec![ELSEWHERE.into(); 20]).await;
        let why = fetch_text(&url, 100).await.unwrap_err().to_string();
        assert!(why.contains("more than 5 redirects"), "{why}");
        let away = ELSEWHERE.replace("SELF", "file:///etc/passwd");
        assert!(fetch_text(&server(vec![away]).await, 100).await.is_err());
    }

    #[tokio::test]
    async fn g10_a_silent_server_is_given_up() {
        let url = server(Vec::new()).await;
        let error = fetch_within(&url, 100, Duration::from_millis(200)).await.unwrap_err();
        assert_eq!(error.errno(), libc::ETIMEDOUT);
    }

    #[test]
    fn a_digest_is_of_these_very_bytes() {
        let digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        verify_text("x", b"abc", digest).unwrap();
        assert!(verify_text("x", b"abd", digest).unwrap_err().to_string().starts_with("x: digest is sha256:"));
        assert_eq!(verify_text("x", b"abc", "decafbad").unwrap_err().errno(), libc::EINVAL);
    }
}
