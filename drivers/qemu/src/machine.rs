//! What differs between guest architectures, as one table. A new architecture is one row.

/// One guest architecture under QEMU.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Lima's name of the architecture.
    pub arch: &'static str,
    pub program: &'static str,
    /// Environment variable that names another program, with leading arguments.
    pub program_variable: &'static str,
    /// Debian package of the program.
    pub package: &'static str,
    pub machine: &'static str,
    /// Further `-machine` options under TCG.
    pub tcg_machine: &'static str,
    pub tcg_threads: &'static str,
    /// `-global` values under TCG.
    pub tcg_globals: &'static [&'static str],
    /// CPU model when the configuration names none and KVM does not run the guest.
    pub tcg_cpu: &'static str,
    pub firmware: Firmware,
    /// Whether `firmware.legacyBIOS` means anything.
    pub has_bios: bool,
    /// `pci` or `ccw`: how virtio devices are named.
    pub bus: &'static str,
    pub usb: bool,
    /// Device for CDs that the firmware boots, and its bus if it is not made by itself.
    pub cd: &'static str,
    /// Device by which the guest's kernel tells of a panic.
    pub panic: Option<&'static str>,
    /// Whether the PCI serial port is added (its own log, as Lima does on ARM).
    pub pci_serial: bool,
}

/// How a guest without its own kernel file gets booted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// A flash image: its name in QEMU's share directory, other places, and the Debian package.
    Flash { name: &'static str, places: &'static [&'static str], package: &'static str },
    /// A boot loader passed with `-kernel`.
    Loader { places: &'static [&'static str], package: &'static str },
    /// QEMU's own.
    BuiltIn,
}

const VIRT: Machine = Machine {
    arch: "",
    program: "",
    program_variable: "",
    package: "",
    machine: "virt",
    tcg_machine: "",
    tcg_threads: "",
    tcg_globals: &[],
    tcg_cpu: "max",
    firmware: Firmware::BuiltIn,
    has_bios: false,
    bus: "pci",
    usb: true,
    cd: "scsi-cd",
    panic: None,
    pci_serial: false,
};

pub(crate) const MACHINES: &[Machine] = &[
    Machine {
        arch: "x86_64",
        program: "qemu-system-x86_64",
        program_variable: "QEMU_SYSTEM_X86_64",
        package: "qemu-system-x86",
        machine: "q35",
        tcg_machine: "vmport=off",
        tcg_threads: "thread=multi",
        // Sleep states that a guest of TCG does not wake up from.
        tcg_globals: &["ICH9-LPC.disable_s3=1", "ICH9-LPC.disable_s4=1"],
        firmware: Firmware::Flash {
            name: "edk2-x86_64-code.fd",
            places: &[
                "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
                "/usr/share/OVMF/OVMF_CODE.fd",
                "/usr/share/OVMF/OVMF_CODE_4M.fd",
                "/usr/share/edk2/ovmf/OVMF_CODE.fd",
                "/usr/share/qemu/ovmf-x86_64.bin",
                "/usr/share/qemu/ovmf-x86_64-4m.bin",
            ],
            package: "ovmf",
        },
        has_bios: true,
        cd: "ide-cd",
        panic: Some("pvpanic"),
        ..VIRT
    },
    Machine {
        arch: "aarch64",
        program: "qemu-system-aarch64",
        program_variable: "QEMU_SYSTEM_AARCH64",
        package: "qemu-system-arm",
        firmware: Firmware::Flash {
            name: "edk2-aarch64-code.fd",
            places: &[
                "/usr/share/edk2/aarch64/QEMU_CODE.fd",
                "/usr/share/AAVMF/AAVMF_CODE.fd",
                "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
            ],
            package: "qemu-efi-aarch64",
        },
        panic: Some("pvpanic-pci"),
        pci_serial: true,
        ..VIRT
    },
    Machine {
        arch: "armv7l",
        program: "qemu-system-arm",
        program_variable: "QEMU_SYSTEM_ARM",
        package: "qemu-system-arm",
        firmware: Firmware::Flash {
            name: "edk2-arm-code.fd",
            places: &["/usr/share/AAVMF/AAVMF32_CODE.fd"],
            package: "qemu-efi-arm",
        },
        has_bios: true,
        pci_serial: true,
        ..VIRT
    },
    Machine {
        arch: "riscv64",
        program: "qemu-system-riscv64",
        program_variable: "QEMU_SYSTEM_RISCV64",
        package: "qemu-system-misc",
        firmware: Firmware::Loader {
            places: &["/usr/lib/u-boot/qemu-riscv64_smode/uboot.elf", "/usr/share/u-boot/qemu-riscv64_smode/uboot.elf"],
            package: "u-boot-qemu",
        },
        ..VIRT
    },
    Machine {
        arch: "ppc64le",
        program: "qemu-system-ppc64",
        program_variable: "QEMU_SYSTEM_PPC64",
        package: "qemu-system-ppc",
        machine: "pseries",
        ..VIRT
    },
    Machine {
        arch: "s390x",
        program: "qemu-system-s390x",
        program_variable: "QEMU_SYSTEM_S390X",
        package: "qemu-system-misc",
        machine: "s390-ccw-virtio",
        bus: "ccw",
        usb: false,
        ..VIRT
    },
];

/// Returns the row of a Lima architecture.
pub(crate) fn find(arch: &str) -> Option<&'static Machine> {
    MACHINES.iter().find(|machine| machine.arch == arch)
}
