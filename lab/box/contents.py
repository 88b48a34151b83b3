"""What is in the box: Debian packages, kernel modules that must be there, units that run or must not."""

SUITE = "bookworm"

PACKAGES = {
    "systemd": "the hosts' own power, services and journal",
    "systemd-sysv": "systemd as PID 1",
    "udev": "names of network cards and disks",
    "kmod": "modprobe",
    "linux-image-cloud-amd64": "a small kernel with KVM, nfsd, device mapper and netem",
    "initramfs-tools": "the initial RAM disk",
    "lz4": "its compression: the quickest to unpack on an emulated CPU",
    "openssh-server": "the only way in",
    "sudo": "Vagrant's way to root",
    "python3": "the harness' helpers on the hosts",
    "iproute2": "links, bridges, netem",
    "iputils-ping": "reachability as a person asks for it",
    "nftables": "cuts of networks",
    "ethtool": "whole checksums and real segment sizes",
    "redis-tools": "redis-cli and redis-benchmark against the kv guest",
    "nfs-kernel-server": "the storage host's export",
    "nfs-common": "mounts of it",
    "dmsetup": "disks that fail: dm-flakey, dm-error",
    "e2fsprogs": "file systems on them",
    "procps": "processes and sysctls",
    "psmisc": "fuser, killall: who holds a mount",
    "netbase": "names of protocols and services",
    "libnss-myhostname": "a host's own name without a name server",
}
"""Package name to what it is in the box for. dbus is not: each service costs seconds of an emulated boot."""

LEFT_OUT = (
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
    "/usr/lib/udev/hwdb.d/*",
    "/lib/udev/hwdb.d/*",
    "/usr/share/initramfs-tools/*/udev",
    "/usr/share/initramfs-tools/scripts/init-*/udev",
    "/usr/share/initramfs-tools/hooks/dmsetup",
)
"""Paths that are not unpacked: nobody reads a manual in the lab, udev's database of USB devices is 10 MB, and the
initial RAM disk finds its one disk without a udev of its own, which would look at every device once more."""

KERNEL_MODULES = {
    "kvm": "the hypervisor",
    "kvm-amd": "hardware or emulated SVM",
    "kvm-intel": "hardware VMX",
    "tun": "the VM's TAP devices",
    "bridge": "the VM on a host's network",
    "veth": "cables inside a host",
    "sch_netem": "delay, loss, reordering, corruption",
    "nf_tables": "cuts of networks",
    "nft_meta_bridge": "cuts inside a bridge",
    "nft_reject_bridge": "refusals inside a bridge",
    "dm-mod": "device mapper, with its targets linear and error",
    "dm-flakey": "a disk that fails at times",
    "nfsd": "the storage host",
    "nfs": "mounts of it",
    "nfsv4": "by the protocol that needs one port",
    "virtio_blk": "the hosts' disks",
    "virtio_net": "the hosts' network cards",
    "ext4": "the hosts' file system",
}
"""Module to what the lab needs it for. Built into the kernel counts, too."""

ENABLED_UNITS = {
    "ftvmm-host-key.service": "multi-user.target",
    "ftvmm-kvm.service": "multi-user.target",
    "ssh.service": "multi-user.target",
    "systemd-networkd.service": "multi-user.target",
    "serial-getty@ttyS0.service": "getty.target",
}
"""Unit to the target that wants it. No other unit is enabled: what packages enabled on their own is taken back."""

MASKED_UNITS = (
    # Waiting for a network, time, mail, upgrades: the tests' own business, or nobody's.
    *("systemd-networkd-wait-online.service", "systemd-timesyncd.service", "apt-daily.timer"),
    *("apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer"),
    # NFS version 3, its locks, Kerberos and pNFS: the export is NFSv4 alone.
    *("rpcbind.service", "rpcbind.socket", "rpc-statd.service", "rpc-statd-notify.service", "rpc-gssd.service"),
    *("rpc-svcgssd.service", "auth-rpcgss-module.service", "nfs-blkmap.service", "nfs-client.target"),
    # What costs 0.1 to 3 s each at every boot on an emulated CPU and serves no lab host.
    *("systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "sys-kernel-config.mount"),
    *("sys-fs-fuse-connections.mount", "sys-kernel-tracing.mount", "sys-kernel-debug.mount", "dev-mqueue.mount"),
    *("dev-hugepages.mount", "getty@tty1.service", "getty-static.service", "autovt@.service"),
    *("systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-network-generator.service"),
    *("systemd-pstore.service", "systemd-hibernate-resume@.service", "systemd-logind.service"),
    *("systemd-initctl.socket", "systemd-rfkill.socket", "systemd-ask-password-console.path"),
    *("systemd-ask-password-wall.path", "systemd-fsck-root.service", "systemd-sysusers.service"),
    *("systemd-firstboot.service", "systemd-update-done.service", "systemd-hwdb-update.service"),
    *("systemd-journal-catalog-update.service", "ldconfig.service", "systemd-boot-system-token.service"),
    *("systemd-machine-id-commit.service", "systemd-tmpfiles-clean.timer"),
    *("systemd-random-seed.service", "systemd-journald-audit.socket", "systemd-pcrphase-sysinit.service"),
    *("systemd-pcrphase.service", "systemd-repart.service"),
    *("modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@drm.service", "modprobe@efi_pstore.service"),
    *("modprobe@fuse.service", "modprobe@loop.service"),
)

MASKED_GENERATORS = (
    *("nfs-server-generator", "rpc-pipefs-generator", "systemd-cryptsetup-generator", "systemd-debug-generator"),
    *("systemd-getty-generator", "systemd-gpt-auto-generator", "systemd-hibernate-resume-generator"),
    *("systemd-integritysetup-generator", "systemd-rc-local-generator", "systemd-run-generator"),
    *("systemd-system-update-generator", "systemd-sysv-generator", "systemd-veritysetup-generator"),
)
"""Programs that systemd would run at boot and at each reload to make units of what the lab does not have."""

MASKED_UDEV_RULES = (
    *("50-firmware.rules", "60-autosuspend.rules", "60-cdrom_id.rules", "60-drm.rules", "60-evdev.rules"),
    *("60-fido-id.rules", "60-infiniband.rules", "60-input-id.rules", "60-persistent-alsa.rules"),
    *("60-persistent-input.rules", "60-persistent-storage-tape.rules", "60-persistent-v4l.rules", "60-sensor.rules"),
    *("60-serial.rules", "64-btrfs.rules", "70-camera.rules", "70-joystick.rules", "70-memory.rules"),
    *("70-mouse.rules", "70-power-switch.rules", "70-touchpad.rules", "70-uaccess.rules", "71-seat.rules"),
    *("73-seat-late.rules", "73-special-net-names.rules", "75-net-description.rules", "75-probe_mtd.rules"),
    *("78-sound-card.rules", "80-debian-compat.rules", "81-net-dhcp.rules", "85-hwclock.rules", "96-e2scrub.rules"),
)
"""Rules for devices that a lab host does not have; udev goes through all rules for each device at boot."""
