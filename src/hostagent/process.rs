//! What a hostagent asks of its own process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const DESCRIPTORS: u64 = 16384;

/// Leaves the session and terminal of whoever started this process, unless it leads its own group: then it was started
/// from a shell, and Ctrl-C must reach it.
pub fn leave_session() {
    // Refused to a group leader, see above.
    let _ = rustix::process::setsid();
}

/// Takes as many file descriptors as are allowed, within reason: a guest may have many files of the host open.
pub fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if current.is_some_and(|current| current < wanted) {
        // Refused, there are fewer for the guest.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

/// As many open files as the system allows: each forwarded connection has some.
pub fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!("the number of open files stays limited: {error}");
    }
}
