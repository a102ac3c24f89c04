//! The host's end of a forward: how it is bound, and why it cannot be.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use tokio_util::either::Either;

use super::rules::{HostEnd, Proto};
use super::{Socket, holder};

/// How soon a place that was taken is tried again.
const SOON: Duration = Duration::from_secs(2);
/// The same for what time alone hardly mends.
const LATER: Duration = Duration::from_secs(30);
/// How long it is believed who has a place.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Of a privileged port that no rule names.
const UNASKED: &str = "a privileged port is forwarded only by a rule of portForwards";
const UNPRIVILEGED: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Where a forward begins: at most one has each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The host listens.
    Host(Proto, HostEnd),
    /// The guest listens, on a socket; the host dials.
    Guest { socket: String, host: PathBuf },
}

pub enum Bound {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Unix { listener: UnixListener, _file: SocketFile },
}

/// Why a forward does not work, for people, and when to try again.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub why: String,
    pub again: Duration,
}

impl Failure {
    pub fn new(why: impl ToString) -> Self {
        Self { why: why.to_string(), again: SOON }
    }

    fn from_bind(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self { why: "permission denied".into(), again: LATER },
            io::ErrorKind::AddrInUse => Self::new("address in use"),
            io::ErrorKind::AddrNotAvailable => Self::new("the host has no such address"),
            _ => Self::new(error),
        }
    }
}

/// A socket's name, removed when dropped.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else may have.
        let _ = fs::remove_file(&self.0);
    }
}

/// Who has a place that is taken, and when that was looked for: it costs far more than to try the place again.
#[derive(Debug, Default)]
pub struct Seen(Option<(Instant, Option<String>)>);

/// Binds. `asked`: a rule of lima.yaml names the place; otherwise a guest could have a privileged port for the asking.
pub async fn bind(proto: Proto, host: &HostEnd, asked: bool, seen: &mut Seen) -> Result<Bound, Failure> {
    match host {
        HostEnd::Socket(path) => bind_socket(path).await,
        HostEnd::Address(address) => {
            if !asked && is_privileged(address.port()) {
                return Err(Failure { why: UNASKED.into(), again: LATER });
            }
            let bound = match proto {
                Proto::Tcp => TcpListener::bind(address).await.map(Bound::Tcp),
                // Without SO_REUSEADDR, with which Linux lets two have one UDP port.
                Proto::Udp => UdpSocket::bind(address).await.map(Bound::Udp),
            };
            match bound {
                Ok(bound) => {
                    *seen = Seen::default();
                    Ok(bound)
                }
                Err(error) => Err(named(proto, *address, Failure::from_bind(&error), seen).await),
            }
        }
    }
}

/// Says who has the address, where that can be seen.
async fn named(proto: Proto, address: SocketAddr, failure: Failure, seen: &mut Seen) -> Failure {
    if failure.why != "address in use" {
        return failure;
    }
    if seen.0.as_ref().is_none_or(|(looked, _)| looked.elapsed() >= LOOK_AGAIN) {
        let found = tokio::task::spawn_blocking(move || holder::of(proto, address)).await;
        seen.0 = Some((Instant::now(), found.ok().flatten()));
    }
    match seen.0.as_ref().and_then(|(_, holder)| holder.as_ref()) {
        Some(holder) => Failure { why: format!("{} ({holder})", failure.why), ..failure },
        None => failure,
    }
}

fn is_privileged(port: u16) -> bool {
    let first = fs::read_to_string(UNPRIVILEGED).ok().and_then(|text| text.trim().parse().ok());
    port < first.unwrap_or(1024)
}

/// A socket that only its owner can connect to, from its first moment on. What a dead process left is replaced.
async fn bind_socket(path: &Path) -> Result<Bound, Failure> {
    let parent = path.parent().ok_or_else(|| Failure::new("no such directory"))?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(|error| Failure::from_bind(&error))?;
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(Failure { why: "a file that is no socket is in its place".into(), again: LATER });
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => return Err(Failure::new("address in use")),
        _ => {}
    }
    let fresh = parent.join(format!(".{}", std::process::id()));
    let bound = bind_and_move(&fresh, path);
    // There only when something failed.
    let _ = fs::remove_file(&fresh);
    bound.map_err(|error| Failure::from_bind(&error))
}

fn bind_and_move(fresh: &Path, path: &Path) -> io::Result<Bound> {
    let listener = UnixListener::bind(fresh)?;
    fs::set_permissions(fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(fresh, path)?;
    Ok(Bound::Unix { listener, _file: SocketFile(path.to_owned()) })
}

impl Bound {
    /// The next connection. Cancel-safe. Pending for datagrams.
    pub async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => Ok(tcp(listener.accept().await?.0)),
            Self::Unix { listener, .. } => Ok(Either::Right(listener.accept().await?.0)),
            Self::Udp(_) => std::future::pending().await,
        }
    }
}

fn tcp(stream: TcpStream) -> Socket {
    // A stream that is gone already is seen by whoever reads it.
    let _ = stream.set_nodelay(true);
    Either::Left(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(port: u16) -> HostEnd {
        HostEnd::Address(([127, 0, 0, 1], port).into())
    }

    async fn why(proto: Proto, host: &HostEnd) -> String {
        bind(proto, host, true, &mut Seen::default()).await.err().unwrap().why
    }

    #[tokio::test]
    async fn c52_a_port_that_is_taken_says_by_whom() {
        let holder = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let host = loopback(holder.local_addr().unwrap().port());
        let why = why(Proto::Tcp, &host).await;
        assert!(why.starts_with(&format!("address in use (pid {} ", std::process::id())), "{why}");
        drop(holder);
        assert!(bind(Proto::Tcp, &host, true, &mut Seen::default()).await.is_ok());
    }

    /// A hundred ports that others have are tried again every other second.
    #[tokio::test]
    async fn c52_who_has_a_port_is_not_looked_for_at_every_try() {
        let holder = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let host = loopback(holder.local_addr().unwrap().port());
        let mut seen = Seen(Some((Instant::now(), Some("pid 1 other".into()))));
        let failure = bind(Proto::Tcp, &host, true, &mut seen).await.err().unwrap();
        assert_eq!(failure.why, "address in use (pid 1 other)");
        drop(holder);
        assert!(bind(Proto::Tcp, &host, true, &mut seen).await.is_ok());
        assert!(seen.0.is_none(), "the next holder is another");
    }

    #[tokio::test]
    async fn c52_no_two_have_one_udp_port() {
        let holder = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let why = why(Proto::Udp, &loopback(holder.local_addr().unwrap().port())).await;
        assert!(why.starts_with("address in use (pid "), "{why}");
    }

    #[tokio::test]
    async fn r11_a_privileged_port_needs_a_rule() {
        let failure = bind(Proto::Tcp, &loopback(1), false, &mut Seen::default()).await.err().unwrap();
        assert_eq!(failure, Failure { why: UNASKED.into(), again: LATER });
    }

    #[tokio::test]
    async fn c46_a_socket_is_its_owners_alone_and_goes_with_the_forward() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock/a.sock");
        let bound = bind(Proto::Tcp, &HostEnd::Socket(path.clone()), true, &mut Seen::default())
            .await
            .unwrap_or_else(|_| panic!());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(why(Proto::Tcp, &HostEnd::Socket(path.clone())).await, "address in use");
        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_a_dead_process_left_is_replaced_and_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (left, file) = (dir.path().join("left"), dir.path().join("file"));
        drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
        fs::write(&file, "mine").unwrap();
        assert!(bind(Proto::Tcp, &HostEnd::Socket(left), true, &mut Seen::default()).await.is_ok());
        assert_eq!(why(Proto::Tcp, &HostEnd::Socket(file.clone())).await, "a file that is no socket is in its place");
        assert_eq!(fs::read(file).unwrap(), b"mine");
    }
}
