//! Where a base or a file is, in the words of a document, and who may point where: a document from the network never
//! reaches into this host's files, nor from https down to http.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use crate::config::expand_path;
use crate::error::{Error, Result};

/// Where bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A template, by its path without `.yaml`, which may have directories; or a file beside one.
    Template(String),
    Path(PathBuf),
    /// http or https.
    Url(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    At(Place),
    Github(Github),
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Github {
    org: String,
    repo: String,
    path: String,
    branch: Option<String>,
}

/// The file that a directory of a repository stands for.
const DEFAULT_FILE: &str = ".lima.yaml";

impl Source {
    /// `within` is the document that says so; one that the user wrote has no place of its own.
    pub fn parse(text: &str, has_digest: bool, within: Option<&Self>, home: &Path) -> Result<Self> {
        let source = Self::absolute(text, within, home)?;
        let refused = |why: &str| Err(Error::invalid(format!("locator {text:?}"), why));
        match (&source, within) {
            (Self::At(Place::Path(_)), Some(Self::At(Place::Url(_)) | Self::Github(_))) => {
                refused("is in a document from the network, which cannot name files of this host")
            }
            (Self::At(Place::Url(url)), Some(Self::Github(_))) if url.starts_with("http:") => {
                refused("is http within https")
            }
            (Self::At(Place::Url(url)), Some(Self::At(Place::Url(parent))))
                if url.starts_with("http:") && parent.starts_with("https:") =>
            {
                refused("is http within https")
            }
            (Self::At(Place::Url(url)), _) if url.starts_with("http:") && !has_digest => {
                refused("needs a digest, because anybody on the way could change it; use https or add one")
            }
            _ => Ok(source),
        }
    }

    fn absolute(text: &str, within: Option<&Self>, home: &Path) -> Result<Self> {
        let refused = |why: &str| Error::invalid(format!("locator {text:?}"), why);
        if text.contains(|c: char| c.is_control() || c == ' ') && !text.starts_with(['/', '~']) || text.contains('\0') {
            return Err(refused("must not contain white space"));
        }
        if let Some(name) = text.strip_prefix("template:") {
            return template(name.strip_prefix("//").unwrap_or(name))
                .ok_or_else(|| refused("is no name of a template"));
        }
        if let Some(rest) = text.strip_prefix("github:") {
            let github = Github::parse(rest.strip_prefix("//").unwrap_or(rest));
            return github.map(Self::Github).ok_or_else(|| refused("is not github:ORG/REPO/PATH@BRANCH"));
        }
        if text.starts_with("https://") || text.starts_with("http://") {
            return Ok(Self::At(Place::Url(text.to_owned())));
        }
        let path = text.strip_prefix("file://").unwrap_or(text);
        if let Some(path) = expand_path(path, home) {
            return Ok(Self::At(Place::Path(path)));
        }
        if text.contains(':') || text.starts_with(['-', '~']) {
            return Err(refused("is of a kind that is not known (a path, template:, https:, github:)"));
        }
        let plain = Path::new(text).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !plain {
            return Err(refused("must not climb with .."));
        }
        let text = text.trim_start_matches("./");
        match within {
            Some(parent) => Ok(parent.beside(text)),
            None => Err(refused(
                "is relative, and a document in the tree has no place of its own; use an absolute path, template:, https: or github:",
            )),
        }
    }

    /// A file by its path from the directory of this one.
    fn beside(&self, text: &str) -> Self {
        let joined = |path: &str| match path.rsplit_once('/') {
            Some((dir, _)) => format!("{dir}/{text}"),
            None => text.to_owned(),
        };
        match self {
            Self::At(Place::Path(path)) => Self::At(Place::Path(path.with_file_name(text))),
            Self::At(Place::Template(name)) => Self::At(Place::Template(joined(name))),
            Self::At(Place::Url(url)) => Self::At(Place::Url(joined(url.split(['?', '#']).next().unwrap_or_default()))),
            Self::Github(github) => Self::Github(Github { path: joined(&github.path), ..github.clone() }),
        }
    }

    pub fn place(&self) -> Place {
        match self {
            Self::At(place) => place.clone(),
            Self::Github(Github { org, repo, path, branch }) => {
                // GitHub's own name for the default branch, whatever that is called.
                let branch = branch.as_deref().unwrap_or("HEAD");
                Place::Url(format!("https://raw.githubusercontent.com/{org}/{repo}/{branch}/{path}"))
            }
        }
    }

    /// The other source that this one's `bytes` stand for: a link within a repository, or a redirect within an
    /// organisation. GitHub serves a link's text in its place.
    pub fn points_to(&self, bytes: &[u8]) -> Result<Option<Self>> {
        let Self::Github(github) = self else { return Ok(None) };
        let Some(line) = std::str::from_utf8(bytes).ok().map(str::trim_end).filter(|line| line.len() < 1024) else {
            return Ok(None);
        };
        let refused = |why: &str| Error::invalid(self.to_string(), format!("points to {line:?}, {why}"));
        if let Some(rest) =
            line.strip_prefix("github:").filter(|rest| github.org == github.repo && !rest.contains('\n'))
        {
            let next = Github::parse(rest).filter(|next| next.org == github.org && next.branch.is_none());
            let next = next.ok_or_else(|| refused("which must be in the same organisation and name no branch"))?;
            return Ok(Some(Self::Github(Github { branch: github.branch.clone(), ..next })));
        }
        if line.is_empty() || line.contains(|c: char| c.is_whitespace() || c == ':') {
            return Ok(None);
        }
        let path = link(&github.path, line).ok_or_else(|| refused("which is outside of the repository"))?;
        Ok(Some(Self::Github(Github { path, ..github.clone() })))
    }
}

/// A path within the templates; hidden directories are for bases.
fn template(name: &str) -> Option<Source> {
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.');
    let name = name.strip_suffix(".yaml").unwrap_or(name);
    name.split('/').all(plain).then(|| Source::At(Place::Template(name.to_owned())))
}

/// Where a link at `path` leads, unless that is outside.
fn link(path: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop()?;
            }
            "" => return None,
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    is_plain(&path).then_some(path)
}

impl Github {
    /// `ORG[/REPO][/PATH][@BRANCH]`; the repository is the organisation's own unless it is named.
    fn parse(text: &str) -> Option<Self> {
        let (text, branch) = match text.split_once('@') {
            Some((text, branch)) => (text, Some(branch.to_owned())),
            None => (text, None),
        };
        let mut parts = text.splitn(3, '/');
        let org = parts.next()?.to_owned();
        let repo = parts.next().filter(|repo| !repo.is_empty()).unwrap_or(&org).to_owned();
        let mut path = parts.next().unwrap_or_default().to_owned();
        if path.is_empty() || path.ends_with('/') {
            path.push_str(DEFAULT_FILE);
        }
        if !path.rsplit('/').next().is_some_and(|file| file.contains('.')) {
            path.push_str(".yaml");
        }
        let words = [&org, &repo].into_iter().all(|word| is_plain(word) && !word.contains('/'));
        let plain = words && is_plain(&path) && branch.as_deref().is_none_or(is_plain);
        plain.then_some(Self { org, repo, path, branch })
    }
}

/// A path of a URL that needs no escapes and climbs nowhere.
fn is_plain(path: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-/+".contains(c);
    path.chars().all(known) && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Template(name) => write!(f, "template:{name}"),
            Self::Path(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(url),
        }
    }
}

/// As a locator that [`Source::parse`] reads back without a document around it.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::At(place) => place.fmt(f),
            Self::Github(Github { org, repo, path, branch }) => {
                write!(f, "github:{org}/{repo}/{path}")?;
                branch.iter().try_for_each(|branch| write!(f, "@{branch}"))
            }
        }
    }
}
