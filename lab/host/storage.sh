#!/bin/bash
# The storage host's service: a file system on a device-mapper device (so that the device can fail), exported by NFSv4.
#
# Synchronous: an answer means that it is on the disk. One export carries the VM's disk image and the arbiter's directory;
# the FT hosts reach them by an address each, so that one can be cut without the other.
set -euo pipefail
# shellcheck source=/dev/null
. /etc/ftvmm-lab/host.conf

backing=/var/lib/ftvmm/$STORAGE_DEVICE.img
device=/dev/mapper/$STORAGE_DEVICE
if [[ ! -e $backing ]]; then
    truncate --size="${STORAGE_MIB}M" "$backing.new"
    mke2fs -q -t ext4 -E lazy_itable_init=1 -m 0 "$backing.new"
    mv "$backing.new" "$backing"
fi
if [[ ! -e $device ]]; then
    modprobe loop
    loop=$(losetup --find --show "$backing")
    dmsetup create "$STORAGE_DEVICE" --table "0 $(blockdev --getsz "$loop") linear $loop 0"
    dmsetup mknodes
fi
mkdir -p "$STORAGE_DIRECTORY"
mountpoint -q "$STORAGE_DIRECTORY" || mount -t ext4 "$device" "$STORAGE_DIRECTORY"
mkdir -p "$STORAGE_ARBITER" "$STORAGE_FAULTS"
# All its blocks from the beginning: a full file system must not be the VM's affair. What is there already stays.
fallocate --length "${DISK_MIB}M" "$STORAGE_IMAGE"
# No delegations: what a fault changes here would wait 90 s, the lease, for a dead host to give one back.
echo 0 >/proc/sys/fs/leases-enable
exec systemctl start --no-block nfs-server
