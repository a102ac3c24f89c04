//! Whether KVM really runs a guest: proven by a few instructions, in a child process that can be killed.
//!
//! There are hosts on which /dev/kvm opens and makes a vCPU, and which then interpret the guest or never return from
//! it. So the proof has a loop that hardware is done with in milliseconds and an interpreter is not.

use std::io;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(1);
const LATE: &str = "a tiny guest under KVM was not done within 1 s: it is stuck or interpreted";

/// Why KVM cannot be used, and whether that will be so until the host boots again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub reason: String,
    /// False for what may change at any time: permissions, modules, and how busy the host is.
    pub lasting: bool,
}

/// Proves KVM. Blocks for up to a second and a bit.
pub(crate) fn prove() -> Result<(), Refusal> {
    std::fs::File::options().read(true).write(true).open("/dev/kvm").map_err(|error| Refusal {
        reason: match error.kind() {
            io::ErrorKind::NotFound => "there is no /dev/kvm".into(),
            io::ErrorKind::PermissionDenied => {
                "no permission to open /dev/kvm (add the user to the group kvm)".to_owned()
            }
            _ => format!("/dev/kvm does not open: {error}"),
        },
        lasting: false,
    })?;
    let lasting = |reason: String| Refusal { reason, lasting: true };
    processor_virtualizes().map_err(lasting)?;
    // A host so busy that the guest was late must not go without KVM until it boots again.
    run_guest().map_err(|reason| Refusal { lasting: reason != LATE, reason })
}

/// KVM that finds no hardware support interprets (PVM does), slower than QEMU's translator.
fn processor_virtualizes() -> Result<(), String> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(());
    }
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    match flags.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm") {
        true => Ok(()),
        false => Err("/dev/kvm is there but the processor shows neither vmx nor svm".into()),
    }
}

/// Runs the tiny guest in a child and says how far it got.
fn run_guest() -> Result<(), String> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| format!("the proof of KVM did not start: {error}"))?;
    // SAFETY: the child only makes system calls until it exits: no allocation, no lock, no destructor.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(format!("the proof of KVM did not start: {}", io::Error::last_os_error())),
        0 => child::run(&writer),
        pid => pid,
    };
    drop(writer);
    let verdict = wait_for_verdict(&reader);
    // SAFETY: plain system calls on our own child, which is not reaped before.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        reap(child);
    }
    verdict
}

fn wait_for_verdict(reader: &std::os::fd::OwnedFd) -> Result<(), String> {
    let wait = rustix::event::Timespec { tv_sec: DEADLINE.as_secs().cast_signed(), tv_nsec: 0 };
    let mut fds = [rustix::event::PollFd::new(reader, rustix::event::PollFlags::IN)];
    let mut step = [0];
    match rustix::event::poll(&mut fds, Some(&wait)) {
        Ok(0) => Err(LATE.into()),
        Ok(_) => match rustix::io::read(reader, &mut step) {
            Ok(1) if step[0] == 0 => Ok(()),
            Ok(1) => Err(format!("a tiny guest under KVM failed: {}", STEPS[usize::from(step[0]) % STEPS.len()])),
            _ => Err("a tiny guest under KVM died".into()),
        },
        Err(error) => Err(format!("the proof of KVM was disturbed: {error}")),
    }
}

/// # Safety
/// `child` is a child of this process that nobody else reaps.
unsafe fn reap(child: libc::pid_t) {
    let start = Instant::now();
    // One that is stuck in the kernel is left behind rather than waited for.
    // SAFETY: no status is asked for.
    while unsafe { libc::waitpid(child, std::ptr::null_mut(), libc::WNOHANG) } == 0 && start.elapsed() < DEADLINE {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What the child says: the number of the step that failed.
const STEPS: &[&str] = &["", "making a VM", "its memory", "its processor", "its registers", "its output", "its halt"];

#[cfg(target_arch = "x86_64")]
mod child {
    //! The child of a fork: system calls and writes to memory it has mapped itself, nothing else.

    use std::os::fd::{AsRawFd, OwnedFd};
    use std::ptr;

    use libc::{c_int, c_ulong, c_void};

    const KVM_CREATE_VM: c_ulong = 0xae01;
    const KVM_GET_VCPU_MMAP_SIZE: c_ulong = 0xae04;
    const KVM_CREATE_VCPU: c_ulong = 0xae41;
    const KVM_SET_TSS_ADDR: c_ulong = 0xae47;
    const KVM_SET_USER_MEMORY_REGION: c_ulong = 0x4020_ae46;
    const KVM_RUN: c_ulong = 0xae80;
    const KVM_GET_REGS: c_ulong = 0x8090_ae81;
    const KVM_SET_REGS: c_ulong = 0x4090_ae82;
    const KVM_GET_SREGS: c_ulong = 0x8138_ae83;
    const KVM_SET_SREGS: c_ulong = 0x4138_ae84;
    const EXIT_IO: u32 = 2;
    const EXIT_HLT: u32 = 5;

    const MEMORY: usize = 0x10000;
    const ENTRY: usize = 0x1000;
    const PORT: u16 = 0x3f1;
    /// Real mode: 5 + 7, ten million turns of a loop, the sum to a port, halt.
    const PROGRAM: [u8; 23] = [
        0xb8, 0x05, 0x00, // mov ax, 5
        0x83, 0xc0, 0x07, // add ax, 7
        0x66, 0xb9, 0x80, 0x96, 0x98, 0x00, // mov ecx, 10_000_000
        0x66, 0x49, // dec ecx
        0x75, 0xfc, // jnz -4
        0xba, 0xf1, 0x03, // mov dx, PORT
        0xee, // out dx, al
        0xf4, // hlt
        0xeb, 0xfd, // jmp to hlt
    ];

    #[repr(C)]
    struct Region {
        slot: u32,
        flags: u32,
        guest_address: u64,
        size: u64,
        address: u64,
    }

    /// rax to r15, rip, rflags.
    type Registers = [u64; 18];
    const RAX: usize = 0;
    const RCX: usize = 2;
    const RIP: usize = 16;
    const RFLAGS: usize = 17;
    /// kvm_sregs; it begins with cs: base in word 0, selector in the bytes 12 and 13.
    type SpecialRegisters = [u64; 39];

    pub(super) fn run(verdict: &OwnedFd) -> ! {
        // SAFETY: system calls on descriptors and memory of this process alone, which nobody shares since the fork.
        unsafe {
            // Nothing that our process has open may live on in a child that hangs.
            libc::dup2(verdict.as_raw_fd(), 0);
            libc::syscall(libc::SYS_close_range, 1u32, u32::MAX, 0);
            let step = prove().err().unwrap_or(0);
            libc::write(0, (&raw const step).cast(), 1);
            libc::_exit(0)
        }
    }

    /// Returns the step that failed.
    unsafe fn prove() -> Result<(), u8> {
        // SAFETY: see `run`; every pointer handed to the kernel is to a value of the type that the ioctl has.
        unsafe {
            let kvm = check(libc::open(c"/dev/kvm".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC), 1)?;
            let vm = check(libc::ioctl(kvm, KVM_CREATE_VM, 0), 1)?;
            // Needed by old Intel processors, refused elsewhere.
            libc::ioctl(vm, KVM_SET_TSS_ADDR, 0xfffb_d000_u64);
            let memory = map(MEMORY, libc::MAP_ANONYMOUS | libc::MAP_SHARED, -1, 2)?;
            ptr::copy_nonoverlapping(PROGRAM.as_ptr(), memory.add(ENTRY), PROGRAM.len());
            let region = Region { slot: 0, flags: 0, guest_address: 0, size: MEMORY as u64, address: memory as u64 };
            check(libc::ioctl(vm, KVM_SET_USER_MEMORY_REGION, &raw const region), 2)?;
            let cpu = check(libc::ioctl(vm, KVM_CREATE_VCPU, 0), 3)?;
            let size = check(libc::ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), 3)?;
            let shared = map(size.unsigned_abs() as usize, libc::MAP_SHARED, cpu, 3)?;
            set_registers(cpu)?;
            check(libc::ioctl(cpu, KVM_RUN, 0), 5)?;
            expect(sent_twelve(shared), 5)?;
            check(libc::ioctl(cpu, KVM_RUN, 0), 6)?;
            let mut registers: Registers = [0; 18];
            check(libc::ioctl(cpu, KVM_GET_REGS, &raw mut registers), 6)?;
            let halted = shared.add(8).cast::<u32>().read_volatile() == EXIT_HLT;
            expect(halted && registers[RAX] == 12 && registers[RCX] == 0, 6)
        }
    }

    unsafe fn set_registers(cpu: c_int) -> Result<(), u8> {
        // SAFETY: as in `prove`.
        unsafe {
            let mut special: SpecialRegisters = [0; 39];
            check(libc::ioctl(cpu, KVM_GET_SREGS, &raw mut special), 4)?;
            special[0] = 0;
            (&raw mut special).cast::<u8>().add(12).cast::<u16>().write(0);
            check(libc::ioctl(cpu, KVM_SET_SREGS, &raw const special), 4)?;
            let mut registers: Registers = [0; 18];
            registers[RIP] = ENTRY as u64;
            registers[RFLAGS] = 2;
            check(libc::ioctl(cpu, KVM_SET_REGS, &raw const registers), 4).map(drop)
        }
    }

    /// kvm_run: exit_reason at 8; for I/O direction (1: out), size, port, count and offset of the data from 32 on.
    unsafe fn sent_twelve(shared: *mut u8) -> bool {
        // SAFETY: `shared` is the kernel's kvm_run, a page at least; the offset is the kernel's.
        unsafe {
            let is_out = shared.add(8).cast::<u32>().read_volatile() == EXIT_IO && shared.add(32).read_volatile() == 1;
            let port = shared.add(34).cast::<u16>().read_volatile();
            is_out && port == PORT && shared.add(shared.add(40).cast::<u64>().read_volatile() as usize).read() == 12
        }
    }

    unsafe fn map(size: usize, flags: c_int, file: c_int, step: u8) -> Result<*mut u8, u8> {
        // SAFETY: a new mapping, wherever the kernel likes.
        let address = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, file, 0) };
        if address == libc::MAP_FAILED { Err(step) } else { Ok(address.cast::<c_void>().cast()) }
    }

    fn check(result: c_int, step: u8) -> Result<c_int, u8> {
        if result < 0 { Err(step) } else { Ok(result) }
    }

    fn expect(truth: bool, step: u8) -> Result<(), u8> {
        if truth { Ok(()) } else { Err(step) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod child {
    //! Elsewhere than on x86 there is no KVM known that interprets: making a VM and its processor is the proof.

    use std::os::fd::{AsRawFd, OwnedFd};

    pub(super) fn run(verdict: &OwnedFd) -> ! {
        // SAFETY: system calls on descriptors of this process alone.
        unsafe {
            libc::dup2(verdict.as_raw_fd(), 0);
            libc::syscall(libc::SYS_close_range, 1u32, u32::MAX, 0);
            let kvm = libc::open(c"/dev/kvm".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            let vm = libc::ioctl(kvm, 0xae01, 0);
            let step: u8 = if vm < 0 {
                1
            } else if libc::ioctl(vm, 0xae41, 0) < 0 {
                3
            } else {
                0
            };
            libc::write(0, (&raw const step).cast(), 1);
            libc::_exit(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_ends_in_time_whatever_kvm_does() {
        let start = Instant::now();
        let verdict = prove();
        eprintln!("KVM here: {verdict:?}; the guest alone: {:?}", run_guest());
        assert!(start.elapsed() < 5 * DEADLINE);
        assert!(verdict.is_ok() || !verdict.unwrap_err().reason.is_empty());
    }
}
