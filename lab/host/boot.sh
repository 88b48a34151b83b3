#!/bin/bash
# Run at each boot of a host, before its sshd: interfaces by their MAC, the bridge for the service VM, the storage.
set -euo pipefail
# shellcheck source=/dev/null
. /etc/ftvmm-lab/host.conf

# A clock whose rate is right: a public box may still be with the time stamp counter, which is calibrated far off when the
# machine beneath is busy and emulates it.
clock=/sys/devices/system/clocksource/clocksource0
if ! grep -qw kvm-clock "$clock/available_clocksource" && grep -qw hpet "$clock/available_clocksource"; then
    echo hpet >"$clock/current_clocksource"
fi
modprobe -q tun || true
if grep -qw svm /proc/cpuinfo; then modprobe kvm_amd; elif grep -qw vmx /proc/cpuinfo; then modprobe kvm_intel; fi

# links: one line an interface, `<MAC> <network>`.
while read -r mac network; do
    for link in /sys/class/net/*; do
        name=${link##*/}
        # A bridge takes over the address of its first port: only cards count.
        if [[ -e $link/device && $(<"$link/address") == "$mac" && $name != "$network" ]]; then
            ip link set dev "$name" down
            ip link set dev "$name" name "$network"
        fi
    done
done </etc/ftvmm-lab/links

echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 2>/dev/null || true
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6 2>/dev/null || true
ip -force -batch /etc/ftvmm-lab/network.batch
if [[ -e /sys/class/net/client ]]; then
    # Segments as they are on a wire: a guest behind a TAP and a capture want whole checksums and real sizes.
    ethtool -K client tx off tso off gso off gro off >/dev/null 2>&1 || true
fi
# Faults by sysrq, and a panic that stays one: a host that comes back by itself would be another fault.
echo 1 >/proc/sys/kernel/sysrq
echo 0 >/proc/sys/kernel/panic

mkdir -p /var/lib/ftvmm /etc/ftvmm
if [[ $ROLE == fault-tolerant && -b /dev/vdb ]] && ! mountpoint -q /var/lib/ftvmm; then
    # What the node writes of itself is evidence: on the disk before the next thing happens, or a power cut would take it.
    # No journal, because every write would be two; the check after a power cut is a matter of moments.
    # Without extents: a power cut within a change of their tree leaves what only a person can put in order.
    blkid /dev/vdb >/dev/null || mke2fs -q -t ext4 -O ^has_journal,^metadata_csum,^extents,^64bit /dev/vdb
    e2fsck -p /dev/vdb >/dev/null || (($? < 4)) || e2fsck -y /dev/vdb >/dev/null || (($? < 4))
    mount -t ext4 -o sync,noatime,errors=continue /dev/vdb /var/lib/ftvmm
fi
case $ROLE in
    storage) exec /usr/local/lib/ftvmm-lab/storage.sh ;;
    fault-tolerant)
        # While nothing is mounted on them nobody may write there: a node would win its own private arbiter.
        for directory in "$DISK_DIRECTORY" "$ARBITER_PATH"; do
            mkdir -p "$directory"
            mountpoint -q "$directory" || mount -t tmpfs -o ro,size=4k tmpfs "$directory"
        done ;;
esac
