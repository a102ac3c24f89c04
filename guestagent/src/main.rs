//! `lima-guestagent`: sub-commands and flags of Lima's, so that either can take the other's place in a guest.

mod install;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use limafs_guestagent::ports::{Ports, kubernetes, watch};
use limafs_guestagent::server::listen::{self, Place};
use limafs_guestagent::service::Agent;
use limafs_guestagent::yq::{self, Format, Task};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const SOCKET: &str = "/run/lima-guestagent.sock";

/// Tells the host what listens in this guest, and opens connections for it.
#[derive(Debug, Parser)]
#[command(name = "lima-guestagent", version)]
struct Cli {
    /// Logs more.
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_value = "false",
        default_missing_value = "true", value_parser = boolean)]
    debug: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the host; needs root.
    Daemon(Daemon),
    /// Makes this program a service of systemd, and starts it.
    InstallSystemd(Install),
    /// Makes this program a service of OpenRC, and starts it.
    InstallOpenrc(Install),
    /// Applies an expression to a file of YAML, JSON or INI; the expressions are jq's.
    Yq(Yq),
}

#[derive(Debug, Args)]
struct Daemon {
    /// Directory of what is remembered until the guest ends.
    #[arg(long, default_value = "/run/lima-guestagent")]
    runtime_dir: PathBuf,
    /// How often to look at what listens even if the kernel tells nothing, as 3s or 500ms.
    #[arg(long, default_value = "3s", value_parser = duration)]
    tick: Duration,
    /// The Unix socket; not served beside vsock.
    #[arg(long, default_value = SOCKET)]
    socket: PathBuf,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Where to serve: the first that is given, and beside a virtio port the Unix socket.
#[derive(Debug, Args)]
struct PlaceArgs {
    /// A virtio port, by its name below /dev/virtio-ports.
    #[arg(long, default_value = "", value_parser = port_name)]
    virtio_port: String,
    /// A vsock port; 0 is none.
    #[arg(long, default_value = "0", value_parser = vsock_port)]
    vsock_port: u32,
    /// UID of the user whose the Unix socket is; 0 is root.
    #[arg(long, default_value_t = 0)]
    socket_owner: u32,
}

#[derive(Debug, Args)]
struct Install {
    /// The program was replaced: a service that runs is restarted.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
        value_parser = boolean)]
    guestagent_updated: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, Args)]
struct Yq {
    /// Replaces the file, instead of printing the result.
    #[arg(short, long, conflicts_with = "null_input")]
    inplace: bool,
    /// Begins with nothing, instead of a file.
    #[arg(short, long)]
    null_input: bool,
    /// A file that has the expression.
    #[arg(long)]
    from_file: Option<PathBuf>,
    /// yaml, json, ini; auto goes by the file's name.
    #[arg(short = 'p', long, default_value = "auto")]
    input_format: String,
    #[arg(short, long, default_value = "auto")]
    output_format: String,
    /// The expression, unless it is in a file, and the file.
    #[arg(value_name = "EXPRESSION|FILE")]
    words: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(cli.debug);
    let done = match cli.command {
        Command::Daemon(daemon) => serve(daemon),
        Command::InstallSystemd(install) => {
            install::systemd(&options(&install.place, cli.debug), install.guestagent_updated)
        }
        Command::InstallOpenrc(install) => {
            install::openrc(&options(&install.place, cli.debug), install.guestagent_updated)
        }
        Command::Yq(yq) => apply(yq),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// To stderr without time: systemd's journal and supervise-daemon add what they want. Of ours alone: HTTP/2 has a line
/// for each frame.
fn log(is_debug: bool) {
    let level = if is_debug { tracing::Level::DEBUG } else { tracing::Level::INFO };
    let ours = Targets::new().with_targets([("limafs_guestagent", level), ("lima_guestagent", level)]);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time().with_target(false);
    tracing_subscriber::registry().with(lines).with(ours).init();
}

fn serve(daemon: Daemon) -> Result<(), Box<dyn Error>> {
    if !rustix::process::geteuid().is_root() {
        return Err("must run as root".into());
    }
    fs::create_dir_all(&daemon.runtime_dir).map_err(|error| named(&daemon.runtime_dir, error))?;
    raise_file_limit();
    let (place, beside) = (place(&daemon), beside(&daemon));
    // One thread: what there is to do is little, and mostly waiting.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    runtime.block_on(async {
        let sockets = watch::start(daemon.tick)?;
        let (sender, services) = tokio::sync::watch::channel(Ports::new());
        let agent = Agent { runtime_dir: daemon.runtime_dir, sockets, services };
        let mut terminated = signal(SignalKind::terminate())?;
        tracing::info!("serving on {place}");
        tokio::select! {
            result = listen::run(&place, agent.clone()) => result.map_err(|error| format!("{place}: {error}").into()),
            result = listen::run(&beside, agent), if beside != place => {
                result.map_err(|error| format!("{beside}: {error}").into())
            }
            () = kubernetes::follow(sender) => Ok(()),
            _ = terminated.recv() => Ok(()),
        }
    })
}

fn apply(yq: Yq) -> Result<(), Box<dyn Error>> {
    let mut words = yq.words.into_iter();
    let expression = match &yq.from_file {
        Some(file) => Some(fs::read_to_string(file).map_err(|error| named(file, error))?),
        None => words.next(),
    };
    let file = words.next().map(PathBuf::from);
    if words.next().is_some() || file.is_some() == yq.null_input {
        return Err("needs one file, or none with --null-input".into());
    }
    let input = Format::named(&yq.input_format, file.as_deref())?;
    let output = match yq.output_format.as_str() {
        "auto" if file.is_some() => input,
        word => Format::named(word, None)?,
    };
    let expression = expression.ok_or("needs an expression")?;
    Ok(yq::run(&Task { expression, file, input, output, is_in_place: yq.inplace })?)
}

fn place(daemon: &Daemon) -> Place {
    let PlaceArgs { virtio_port, vsock_port, .. } = &daemon.place;
    if !virtio_port.is_empty() {
        Place::Virtio(virtio_port.clone())
    } else if *vsock_port != 0 {
        Place::Vsock(*vsock_port)
    } else {
        unix(daemon)
    }
}

/// A virtio port is for one host at a time: others find the Unix socket as well.
fn beside(daemon: &Daemon) -> Place {
    match place(daemon) {
        Place::Virtio(_) => unix(daemon),
        only => only,
    }
}

fn unix(daemon: &Daemon) -> Place {
    let owner = daemon.place.socket_owner;
    Place::Unix { path: daemon.socket.clone(), owner: (owner != 0).then_some(owner) }
}

/// The options of a daemon for the same place, as a service has them.
fn options(place: &PlaceArgs, is_debug: bool) -> Vec<String> {
    let PlaceArgs { virtio_port, vsock_port, socket_owner } = place;
    let is_vsock = virtio_port.is_empty() && *vsock_port != 0;
    let mut options = Vec::new();
    options.extend((!virtio_port.is_empty()).then(|| format!("--virtio-port={virtio_port}")));
    options.extend(is_vsock.then(|| format!("--vsock-port={vsock_port}")));
    options.extend((!is_vsock && *socket_owner != 0).then(|| format!("--socket-owner={socket_owner}")));
    options.extend(is_debug.then(|| "--debug".to_owned()));
    options
}

/// Each tunnel has a descriptor; the usual limit of 1024 is for programs that use select(2).
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("limit of open files: {error}");
    }
}

fn named(path: &Path, error: std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// What Go's flags take for a truth value; boot scripts pass an empty text where nothing is set.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("is neither true nor false".into()),
    }
}

fn port_name(text: &str) -> Result<String, String> {
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if is_plain { Ok(text.to_owned()) } else { Err("is no name of a port".into()) }
}

fn vsock_port(text: &str) -> Result<u32, String> {
    if text.is_empty() { Ok(0) } else { text.parse().map_err(|_| "is no number".into()) }
}

/// A duration as Go writes it: numbers, each with a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let split = |at: Option<usize>, rest: &str| at.unwrap_or(rest.len());
        let (number, after) = rest.split_at(split(rest.find(|c: char| c != '.' && !c.is_ascii_digit()), rest));
        let (unit, after) = after.split_at(split(after.find(|c: char| c == '.' || c.is_ascii_digit()), after));
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err("is no duration such as 3s, 500ms or 1m30s".into()),
        };
        let number: f64 = number.parse().map_err(|_| format!("{number:?} is no number"))?;
        total += Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())?;
        rest = after;
    }
    if total.is_zero() { Err("must be more than nothing".into()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(line: &str) -> Daemon {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Daemon(daemon) => daemon,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn virtio_goes_before_vsock_and_vsock_before_the_socket() {
        let all = "lima-guestagent daemon --virtio-port a.0 --vsock-port 2222 --socket-owner 501";
        assert_eq!(place(&daemon(all)), Place::Virtio("a.0".into()));
        assert_eq!(beside(&daemon(all)), Place::Unix { path: SOCKET.into(), owner: Some(501) });
        assert_eq!(options(&daemon(all).place, false), ["--virtio-port=a.0", "--socket-owner=501"]);
        let two = "lima-guestagent daemon --virtio-port= --vsock-port 2222 --socket-owner 501";
        assert_eq!(place(&daemon(two)), Place::Vsock(2222));
        let one = daemon("lima-guestagent daemon --debug=false --vsock-port 0 --socket-owner 501");
        assert_eq!(place(&one), Place::Unix { path: SOCKET.into(), owner: Some(501) });
        assert_eq!(options(&one.place, true), ["--socket-owner=501", "--debug"]);
    }

    #[test]
    fn durations_are_go_s() {
        for (text, millis) in [("3s", 3000), ("500ms", 500), ("1m30s", 90_000), ("1.5h", 5_400_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "3", "s", "0s", "-1s", "3 s", "1e400h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn flags_are_go_s() {
        for (text, is_debug) in [("", false), ("=", false), ("=1", true), ("=true", true), ("=false", false)] {
            let line = ["lima-guestagent".to_owned(), "install-systemd".to_owned(), format!("--debug{text}")];
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.debug, is_debug || text.is_empty(), "{text}");
        }
    }
}
