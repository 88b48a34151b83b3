#!/bin/bash
# Boots one host of the lab: started in its fresh namespaces as their init, ends as the host's sshd.
#
# Speaks with the lab on standard input and output: says the pid that the lab knows it by, waits until the
# cables are in, and says `up` when the network is.
# Environment: HOST, DISK (what the host keeps over a power cycle: upper layers of /etc and /var), KEEP_VISIBLE (directories
# that must stay visible below /tmp or /run), STORAGE_GROUP (the cgroup for the processes that serve mounted storage).
set -euo pipefail

# /proc is still the lab's: it shows this process under the pid that the lab knows.
read -r pid _ </proc/self/stat
exec 9>"$STORAGE_GROUP/cgroup.procs"

hostname "$HOST"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
for directory in etc var; do
    mount -t overlay overlay -o "lowerdir=/$directory,upperdir=$DISK/$directory/upper,workdir=$DISK/$directory/work" "/$directory"
done
# What must stay visible below /tmp or /run waits under /mnt while fresh ones are put over them.
# bash reads ~/.bashrc for a command over SSH; what this machine's user has there is no part of the host.
[[ -e /root/.bashrc ]] && mount --bind /dev/null /root/.bashrc
mount -t tmpfs tmpfs /mnt
for directory in $KEEP_VISIBLE; do
    if [[ $directory == /tmp/* || $directory == /run/* ]]; then
        mkdir -p "/mnt/held$directory"
        mount --rbind "$directory" "/mnt/held$directory"
    fi
done
for fresh in /tmp /run; do
    mount -t tmpfs -o mode=1777 tmpfs "$fresh"
done
for directory in $KEEP_VISIBLE; do
    if [[ -d /mnt/held$directory ]]; then
        mkdir -p "$directory"
        mount --rbind "/mnt/held$directory" "$directory"
        umount --lazy "/mnt/held$directory"
    fi
done
mkdir -p /run/sshd /var/lib/ftvmm /etc/ftvmm /mnt/storage/disk /mnt/storage/arbiter
# While nothing is mounted on them nobody may write there: a node would win its own private arbiter.
for directory in /mnt/storage/disk /mnt/storage/arbiter; do
    mount -t tmpfs -o ro,size=4k tmpfs "$directory"
done

for name in all default; do
    [[ -e /proc/sys/net/ipv6/conf/$name/disable_ipv6 ]] && echo 1 >/proc/sys/net/ipv6/conf/$name/disable_ipv6
done
# A healed network must be used at once again, not after the exponential back-off of a minute-long retransmission timer.
# The number of tries is raised along with it, or connections would be given up after 15 seconds instead of 15 minutes.
if [[ -e /proc/sys/net/ipv4/tcp_rto_max_ms ]]; then
    echo 1000 >/proc/sys/net/ipv4/tcp_rto_max_ms
    echo 255 >/proc/sys/net/ipv4/tcp_retries2
fi

echo "$pid"
read -r _
ip -batch /etc/ftvmm-lab/network.batch
# Segments as they are on a wire: a guest behind a TAP and a capture on a port both want whole checksums and real sizes.
if [[ -e /sys/class/net/client ]]; then
    ethtool -K client tx off tso off gso off gro off >/dev/null
fi
if [[ -e /etc/ftvmm-lab/services.sh ]]; then
    # shellcheck source=/dev/null
    source /etc/ftvmm-lab/services.sh
fi
exec 9>&-
echo up
exec /usr/sbin/sshd -D -e -f /etc/ftvmm-lab/sshd_config </dev/null >>/var/log/sshd.log 2>&1
