//! The server with another's client, with OpenSSH's, and with bytes that no client would send.

mod files;
mod hostile;
mod openssh;
mod outside;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use russh_sftp::client::{RawSftpSession, SftpSession, error::Error};
use russh_sftp::protocol::StatusCode;
use tempfile::TempDir;
use tokio::io::DuplexStream;
use tokio::task::JoinSet;

use super::{Tree, serve};

const LIMIT: usize = 100;

/// A directory that is served, with things beside it that must stay out of reach.
///
/// ```text
/// secret  tree-evil/secret  tree/{file, sub/deep, inner -> sub/deep, up -> ../secret, abs -> DIR/secret, out -> ..}
/// ```
struct Served {
    dir: TempDir,
    writable: bool,
    servers: JoinSet<()>,
}

impl Served {
    fn new(writable: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::create_dir(dir.path().join("tree-evil")).unwrap();
        for path in ["secret", "tree-evil/secret"] {
            fs::write(dir.path().join(path), "secret").unwrap();
        }
        fs::write(tree.join("file"), "in the tree").unwrap();
        fs::write(tree.join("sub/deep"), "deep").unwrap();
        symlink("sub/deep", tree.join("inner")).unwrap();
        symlink("../secret", tree.join("up")).unwrap();
        symlink(dir.path().join("secret"), tree.join("abs")).unwrap();
        symlink("..", tree.join("out")).unwrap();
        Self { dir, writable, servers: JoinSet::new() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("tree").join(path)
    }

    fn tree(&self) -> Tree {
        Tree::open(&self.path(""), self.writable).unwrap()
    }

    /// A stream to a server of its own.
    fn stream(&mut self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let tree = self.tree();
        self.servers.spawn(async move { serve(tree, LIMIT, theirs).await.unwrap() });
        ours
    }

    async fn client(&mut self) -> SftpSession {
        SftpSession::new(self.stream()).await.unwrap()
    }

    async fn raw(&mut self) -> RawSftpSession {
        let session = RawSftpSession::new(self.stream());
        session.init().await.unwrap();
        session
    }

    /// All that is there, names and contents, to see that nothing changed.
    fn everything(&self) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = path.symlink_metadata().unwrap();
                let text = match (meta.is_dir(), meta.is_file()) {
                    (true, _) => String::new(),
                    (_, true) => fs::read_to_string(&path).unwrap(),
                    _ => fs::read_link(&path).unwrap().display().to_string(),
                };
                let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions());
                found.push((path.clone(), format!("{mode:o} {text} {:?}", meta.modified().unwrap())));
                dirs.extend(meta.is_dir().then_some(path));
            }
        }
        found.sort();
        found
    }
}

fn code<T>(result: Result<T, Error>) -> StatusCode {
    match result {
        Ok(_) => StatusCode::Ok,
        Err(Error::Status(status)) => status.status_code,
        Err(error) => panic!("{error}"),
    }
}
