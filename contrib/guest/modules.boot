# Kernel modules that the initrd needs to reach the root.
virtio_pci virtio_blk virtio_scsi sd_mod nvme ext4
