//! Lets the kernel say when it is worth asking what listens: perf_event_open(2), without BPF. Nothing is read from its
//! buffers but that there is something.
//!
//! A tracepoint tells of each TCP socket that begins or ends to listen, whatever the process or namespace; probes at the
//! end of bind(2)'s functions tell of UDP. No tracepoint of a system call is used: one alone makes all calls slower.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

const LISTEN_EVENT: &str = "events/sock/inet_sock_set_state/id";
/// 10 is TCP_LISTEN.
const LISTEN_FILTER: &std::ffi::CStr = c"newstate == 10 || oldstate == 10";
const BIND_FUNCTIONS: [&std::ffi::CStr; 2] = [c"inet_bind", c"inet6_bind"];
const PROBE_TYPE: &str = "/sys/bus/event_source/devices/kprobe/type";
const ONLINE: &str = "/sys/devices/system/cpu/online";
const TRACEPOINT: u32 = 2;
/// In `config` of a probe: when the function returns.
const ON_RETURN: u64 = 1;

const IOC_ENABLE: libc::Ioctl = 0x2400;
const IOC_SET_OUTPUT: libc::Ioctl = 0x2405;
const IOC_SET_FILTER: libc::Ioctl = 0x4008_2406;

/// The beginning of struct perf_event_attr, PERF_ATTR_SIZE_VER1.
#[repr(C)]
#[derive(Debug, Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    /// Bit 0: begins disabled.
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
}

/// What is watched, on every processor.
#[derive(Debug)]
pub struct Events {
    rings: Vec<Ring>,
    /// The further events of a processor, which use its ring.
    _others: Vec<OwnedFd>,
    online: String,
    /// Whether bind(2) is watched, too.
    pub sees_udp: bool,
}

impl Events {
    /// Fails where the kernel was built without, or does not allow it.
    pub fn open() -> io::Result<Self> {
        let online = fs::read_to_string(ONLINE)?;
        let id = tracepoint(LISTEN_EVENT)?;
        let mut events = Self { rings: Vec::new(), _others: Vec::new(), online, sees_udp: false };
        for cpu in cpus(&events.online) {
            let listen = event(&Attr { kind: TRACEPOINT, config: id, ..Attr::default() }, cpu)?;
            control(&listen, IOC_SET_FILTER, LISTEN_FILTER.as_ptr() as libc::c_ulong)?;
            events.rings.push(Ring::map(listen)?);
        }
        // Many kernels have them; where not, UDP is looked at now and then.
        match events.probes() {
            Ok(probes) => (events._others, events.sees_udp) = (probes, true),
            Err(error) => tracing::info!("no probes of bind: {error}"),
        }
        for event in events.rings.iter().map(|ring| &ring.event).chain(&events._others) {
            control(event, IOC_ENABLE, 0)?;
        }
        Ok(events)
    }

    fn probes(&self) -> io::Result<Vec<OwnedFd>> {
        let kind = number(&fs::read_to_string(PROBE_TYPE)?)? as u32;
        let mut probes = Vec::new();
        for (ring, cpu) in self.rings.iter().zip(cpus(&self.online)) {
            for function in BIND_FUNCTIONS {
                let attr = Attr { kind, config: ON_RETURN, config1: function.as_ptr() as u64, ..Attr::default() };
                let probe = event(&attr, cpu)?;
                control(&probe, IOC_SET_OUTPUT, ring.event.as_raw_fd() as libc::c_ulong)?;
                probes.push(probe);
            }
        }
        Ok(probes)
    }

    /// Sleeps until something happened since the last call, or `limit` is over; says whether something has.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let mut fds: Vec<PollFd<'_>> = self.rings.iter().map(|ring| PollFd::new(&ring.event, PollFlags::IN)).collect();
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        let count = match poll(&mut fds, Some(&limit)) {
            Err(rustix::io::Errno::INTR) => 0,
            other => other?,
        };
        self.rings.iter().for_each(Ring::empty);
        Ok(count > 0)
    }

    /// Whether a processor came or went, which is not watched or whose events are gone.
    pub fn is_outdated(&self) -> bool {
        fs::read_to_string(ONLINE).is_ok_and(|online| online != self.online)
    }
}

/// The buffer of one processor's events: a page that says how full it is, and one for the events.
#[derive(Debug)]
struct Ring {
    event: OwnedFd,
    pages: *mut libc::c_void,
    length: usize,
}

// SAFETY: the pages belong to this value alone, and are only used through atomics.
unsafe impl Send for Ring {}

impl Ring {
    fn map(event: OwnedFd) -> io::Result<Self> {
        let length = 2 * rustix::param::page_size();
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let pages = unsafe { libc::mmap(std::ptr::null_mut(), length, access, shared, event.as_raw_fd(), 0) };
        if pages == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { event, pages, length })
    }

    /// Makes room: in a full buffer nothing is put, and nobody is woken for it.
    fn empty(&self) {
        const DATA_HEAD: usize = 1024;
        // SAFETY: struct perf_event_mmap_page has data_head and data_tail, each eight aligned bytes, at this place of
        // the first page, which stays mapped as long as `self`; the kernel uses them at the same time, hence atomics.
        let [head, tail] = unsafe { &*self.pages.cast::<u8>().add(DATA_HEAD).cast::<[AtomicU64; 2]>() };
        tail.store(head.load(Ordering::Acquire), Ordering::Release);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and used by nobody else.
        unsafe { libc::munmap(self.pages, self.length) };
    }
}

/// An event of all processes on one processor, disabled.
fn event(attr: &Attr, cpu: i32) -> io::Result<OwnedFd> {
    let size = size_of::<Attr>() as u32;
    let attr = Attr { size, sample_period: 1, wakeup_events: 1, flags: 1, ..*attr };
    let (any_process, no_group, close_on_exec) = (-1, -1, 8_u64);
    // SAFETY: `attr` has the size that it says, and the kernel only reads it.
    let fd =
        unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, any_process, cpu, no_group, close_on_exec) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn control(event: &OwnedFd, request: libc::Ioctl, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the argument is a number, or a text that lives as long as the program.
    let done = unsafe { libc::ioctl(event.as_raw_fd(), request, argument) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The kernel's number of a tracepoint, from tracefs: where it is mounted, or from a mount that only we see.
fn tracepoint(path: &str) -> io::Result<u64> {
    for place in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
        if let Ok(text) = fs::read_to_string(format!("{place}/{path}")) {
            return number(&text);
        }
    }
    let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let mut text = String::new();
    fs::File::from(openat(&mount, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?).read_to_string(&mut text)?;
    number(&text)
}

fn number(text: &str) -> io::Result<u64> {
    text.trim().parse().map_err(|_| io::Error::other(format!("{text:?} is no number")))
}

/// The processors of a list such as `0-3,8`.
fn cpus(list: &str) -> impl Iterator<Item = i32> {
    list.trim().split(',').flat_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first: i32 = first.parse().unwrap_or(0);
        first..=last.parse().unwrap_or(first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(cpus("0-3,8,10-11\n").collect::<Vec<_>>(), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(cpus("0\n").collect::<Vec<_>>(), [0]);
    }
}
