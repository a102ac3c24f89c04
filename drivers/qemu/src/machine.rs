//! What differs between guest architectures, as one table. A new architecture is one row.

use crate::program::Version;

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
    /// A further `-machine` option that QEMU knows from a version on.
    pub machine_since: Option<(Version, &'static str)>,
    /// Further `-machine` options under TCG.
    pub tcg_machine: &'static str,
    pub tcg_threads: &'static str,
    /// `-global` values under TCG.
    pub tcg_globals: &'static [&'static str],
    /// CPU model when the configuration names none and KVM does not run the guest.
    pub tcg_cpu: &'static str,
    /// The same for QEMU before a version.
    pub old_tcg_cpu: Option<(Version, &'static str)>,
    /// What finds a boot loader on the disk, unless QEMU brings it.
    pub firmware: Option<Firmware>,
    /// Whether `firmware.legacyBIOS` means anything.
    pub has_bios: bool,
    /// `pci` or `ccw`: how virtio devices are named.
    pub bus: &'static str,
    pub usb: bool,
    /// Device for CDs that the firmware boots, and its bus if it is not made by itself.
    pub cd: &'static str,
    /// Screen for those who want one; `virtio-gpu` is on the machine's own bus.
    pub gpu: &'static str,
    /// Whether there are sound cards for it.
    pub sound: bool,
    pub tpm: Option<&'static str>,
    /// Device by which the guest's kernel tells of a panic.
    pub panic: Option<&'static str>,
    /// Whether the PCI serial port is added (its own log, as Lima does on ARM).
    pub pci_serial: bool,
    /// Memory comes in pieces of so many MiB.
    pub memory_step_mib: u64,
}

/// How a guest without its own kernel file gets booted: by a flash image, or else by a boot loader in its place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Firmware {
    /// The flash image's name in QEMU's share directory.
    pub name: &'static str,
    /// Other places of it.
    pub flash: &'static [&'static str],
    /// The QEMU that takes it.
    pub flash_since: Version,
    /// Bytes of flash where an image of another size is loaded by `-bios`.
    pub flash_size: Option<u64>,
    /// Whether it also starts an instance's own kernel, which then finds ACPI and its power button.
    pub starts_kernels: bool,
    /// Boot loaders passed with `-kernel`.
    pub loaders: &'static [&'static str],
    /// Debian package of it.
    pub package: &'static str,
}

const UEFI: Firmware = Firmware {
    name: "",
    flash: &[],
    flash_since: Version(0, 0, 0),
    flash_size: None,
    starts_kernels: false,
    loaders: &[],
    package: "",
};

/// Both flash banks of Arm's `virt`.
const ARM_FLASH: Option<u64> = Some(64 << 20);

const VIRT: Machine = Machine {
    arch: "",
    program: "",
    program_variable: "",
    package: "",
    machine: "virt",
    machine_since: None,
    tcg_machine: "",
    tcg_threads: "",
    tcg_globals: &[],
    tcg_cpu: "max",
    old_tcg_cpu: None,
    firmware: None,
    has_bios: false,
    bus: "pci",
    usb: true,
    cd: "scsi-cd",
    gpu: "virtio-gpu",
    sound: true,
    tpm: None,
    panic: Some("pvpanic-pci"),
    pci_serial: false,
    memory_step_mib: 1,
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
        firmware: Some(Firmware {
            name: "edk2-x86_64-code.fd",
            flash: &[
                "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
                "/usr/share/OVMF/OVMF_CODE.fd",
                "/usr/share/OVMF/OVMF_CODE_4M.fd",
                "/usr/share/edk2/ovmf/OVMF_CODE.fd",
                "/usr/share/qemu/ovmf-x86_64.bin",
                "/usr/share/qemu/ovmf-x86_64-4m.bin",
            ],
            package: "ovmf",
            ..UEFI
        }),
        has_bios: true,
        cd: "ide-cd",
        gpu: "virtio-vga",
        tpm: Some("tpm-crb"),
        panic: Some("pvpanic"),
        ..VIRT
    },
    Machine {
        arch: "aarch64",
        program: "qemu-system-aarch64",
        program_variable: "QEMU_SYSTEM_AARCH64",
        package: "qemu-system-arm",
        // Pointers signed by the architecture's own algorithm cost a guest of TCG half its speed.
        tcg_cpu: "max,pauth-impdef=on",
        old_tcg_cpu: Some((Version(6, 0, 0), "max")),
        firmware: Some(Firmware {
            name: "edk2-aarch64-code.fd",
            flash: &[
                "/usr/share/edk2/aarch64/QEMU_CODE.fd",
                "/usr/share/AAVMF/AAVMF_CODE.fd",
                "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
            ],
            flash_size: ARM_FLASH,
            starts_kernels: true,
            package: "qemu-efi-aarch64",
            ..UEFI
        }),
        tpm: Some("tpm-tis-device"),
        pci_serial: true,
        ..VIRT
    },
    Machine {
        arch: "armv7l",
        program: "qemu-system-arm",
        program_variable: "QEMU_SYSTEM_ARM",
        package: "qemu-system-arm",
        firmware: Some(Firmware {
            name: "edk2-arm-code.fd",
            flash: &["/usr/share/edk2/arm/QEMU_CODE.fd", "/usr/share/AAVMF/AAVMF32_CODE.fd"],
            flash_size: ARM_FLASH,
            package: "qemu-efi-arm",
            ..UEFI
        }),
        has_bios: true,
        tpm: Some("tpm-tis-device"),
        pci_serial: true,
        ..VIRT
    },
    Machine {
        arch: "riscv64",
        program: "qemu-system-riscv64",
        program_variable: "QEMU_SYSTEM_RISCV64",
        package: "qemu-system-misc",
        // EDK2 says that guests are not ready for its ACPI tables.
        machine_since: Some((Version(8, 0, 0), "acpi=off")),
        old_tcg_cpu: Some((Version(8, 1, 0), "rv64")),
        firmware: Some(Firmware {
            name: "edk2-riscv-code.fd",
            flash: &["/usr/share/qemu-efi-riscv64/RISCV_VIRT_CODE.fd", "/usr/share/edk2/riscv/RISCV_VIRT_CODE.fd"],
            // Older ones jump to the flash in place of OpenSBI, which is to come first.
            flash_since: Version(8, 1, 0),
            loaders: &[
                "/usr/lib/u-boot/qemu-riscv64_smode/uboot.elf",
                "/usr/share/u-boot/qemu-riscv64_smode/uboot.elf",
            ],
            package: "u-boot-qemu opensbi",
            ..UEFI
        }),
        gpu: "virtio-vga",
        tpm: Some("tpm-tis-device"),
        ..VIRT
    },
    Machine {
        arch: "ppc64le",
        program: "qemu-system-ppc64",
        program_variable: "QEMU_SYSTEM_PPC64",
        package: "qemu-system-ppc",
        machine: "pseries",
        memory_step_mib: 256,
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
        sound: false,
        // The machine tells of it without a device.
        panic: None,
        ..VIRT
    },
];

/// Returns the row of a Lima architecture.
pub(crate) fn find(arch: &str) -> Option<&'static Machine> {
    MACHINES.iter().find(|machine| machine.arch == arch)
}
