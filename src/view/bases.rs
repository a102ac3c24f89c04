//! What a document is built upon, gathered when it is defined: read from this host or downloaded.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::commands::blocking;
use super::snapshot::{Definition, Snapshot};
use crate::config::embed::{self, Library, Place, Request, Step};
use crate::error::{Error, Result};
use crate::names::{BASE_YAML, Home, LIMA_YAML};
use crate::{images, store, templates};

/// For all of them together: whoever writes the document waits in close(2), whose answer has a deadline too, but no sentence.
const DEADLINE: Duration = Duration::from_secs(8);

/// Whether anything may be downloaded meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// close(2) holds nobody else up.
    Waits,
    /// rename(2): the kernel holds the directory.
    Hurries,
}

/// The document that stands alone, as it is to be stored.
pub async fn embedded(home: &Home, snapshot: &Snapshot, text: Vec<u8>, patience: Patience) -> Result<Vec<u8>> {
    let is_new = matches!(snapshot.definition, Definition::Draft);
    in_time(gather(home, &snapshot.host.user.home, is_new, text, patience)).await
}

/// The same for an instance that somebody else makes; `user` is the directory of the user.
#[cfg(feature = "machine")]
pub async fn stand_alone(home: &Home, user: &Path, text: Vec<u8>) -> Result<Vec<u8>> {
    in_time(gather(home, user, true, text, Patience::Waits)).await
}

async fn in_time(gathering: impl Future<Output = Result<Vec<u8>>>) -> Result<Vec<u8>> {
    tokio::time::timeout(DEADLINE, gathering).await.unwrap_or_else(|_| {
        Err(Error::Timeout { what: "fetching what lima.yaml is built upon".into(), seconds: DEADLINE.as_secs() })
    })
}

/// The faults of a document that its writer has never seen: lines and columns of it would only mislead.
pub fn without_places(error: Error) -> Error {
    let Error::Document(faults) = error else { return error };
    let told = |fault: String| match fault.split_once(": line ") {
        Some((file, behind)) if file.ends_with(LIMA_YAML) => {
            format!("{file}: {}", behind.split_once(": ").map_or(behind, |(_, sentence)| sentence))
        }
        _ => fault,
    };
    Error::Document(faults.into_iter().map(told).collect())
}

async fn gather(home: &Home, user: &Path, is_new: bool, text: Vec<u8>, patience: Patience) -> Result<Vec<u8>> {
    let first = if is_new { first(home).await? } else { None };
    let mut library = Library::new();
    loop {
        let (text, user, first, known) = (text.clone(), user.to_owned(), first.clone(), library.clone());
        match blocking(move || embed::embed(&text, first.as_deref(), &user, &known)).await? {
            Step::Done(text) => return Ok(text),
            Step::Fetch(Request { place: Place::Url(url), .. }) if patience == Patience::Hurries => {
                let why = format!("{url} is to be downloaded, for which a rename cannot wait; use cp or > instead");
                return Err(Error::invalid(LIMA_YAML, why));
            }
            Step::Fetch(request) => {
                let bytes = fetch(home, &request).await?;
                library.insert(request, bytes);
            }
        }
    }
}

/// The home's own base, for an instance that is made now. A later document has it in itself.
async fn first(home: &Home) -> Result<Option<PathBuf>> {
    let base = home.config(BASE_YAML);
    blocking(move || Ok(base.exists().then_some(base))).await
}

async fn fetch(home: &Home, request: &Request) -> Result<Vec<u8>> {
    let bytes = match request.place.clone() {
        Place::Url(url) => images::fetch_text(&url, embed::MOST_BYTES).await,
        Place::Path(path) => {
            let what = path.display().to_string();
            blocking(move || store::read_small(&path)?.ok_or(Error::Missing { what })).await
        }
        Place::Template(name) => {
            let home = home.clone();
            blocking(move || templates::part(&home, &name)).await
        }
    };
    // What does not exist is the document's fault, not the absence of what was written to.
    let bytes = bytes.map_err(|error| match error {
        Error::Missing { what } => Error::invalid("lima.yaml", format!("{what} does not exist")),
        error => error,
    })?;
    if let Some(digest) = &request.digest {
        images::verify_text(&request.to_string(), &bytes, digest)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_other_files_keep_their_places() {
        let faults = [
            "lima.yaml: line 3, column 1: memory: invalid size \"a: line b\"",
            "lima.yaml: images must be set",
            "_config/override.yaml: line 1, column 1: cpus: must be from 1 to 4096",
            "warning: lima.yaml: line 2, column 1: cpu: unknown key",
        ];
        let told = without_places(Error::Document(faults.map(str::to_owned).into())).to_string();
        let expected = [
            "lima.yaml: memory: invalid size \"a: line b\"",
            "lima.yaml: images must be set",
            "_config/override.yaml: line 1, column 1: cpus: must be from 1 to 4096",
            "warning: lima.yaml: cpu: unknown key",
        ];
        assert_eq!(told, expected.join("\n"));
    }
}
