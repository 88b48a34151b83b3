#!/bin/bash
# The rack: a libvirt of the lab's own, in namespaces of its own. This is their init; when it ends, all in it ends.
#
# Whatever libvirt does to a machine (bridges, filter rules, ip_forward, dnsmasq, sockets in /run) it does in here: the
# machine itself, and a libvirt that may run on it, see nothing of it, and there is nothing to put back.
# Arguments: the lab's directory. Says `ready` on standard output when libvirt answers.
set -euo pipefail
directory=$1

mount --make-rprivate /
mount -t proc proc /proc
# This network's links, and no cgroups: libvirt does without, and would leave its own behind.
umount --lazy --recursive /sys
mount -t sysfs sysfs /sys
mkdir -p "$directory"/libvirt/{images,qemu,dnsmasq,boot} "$directory"/{log,cache,etc/qemu/networks}
chmod 711 "$directory"/libvirt "$directory"/libvirt/images
chown libvirt-qemu:libvirt-qemu "$directory"/libvirt/qemu
# Pid files, sockets and the bus of the machine's own services are not to be seen: without a bus libvirt does not ask systemd
# for slices, scopes and names either.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/libvirt
mount --bind "$directory/libvirt" /var/lib/libvirt
mount --bind "$directory/log" /var/log/libvirt
mount --bind "$directory/cache" /var/cache/libvirt
mount --bind "$directory/etc" /etc/libvirt
printf '%s\n' 'auth_unix_rw = "none"' 'unix_sock_rw_perms = "0700"' >/etc/libvirt/libvirtd.conf
printf '%s\n' 'security_driver = "none"' >/etc/libvirt/qemu.conf
if [[ -e /dev/kvm ]]; then
    # libvirt asks QEMU anew at each call (4 s) where root may open the device and the user libvirt-qemu may not.
    [[ -e $directory/kvm ]] || mknod -m 660 "$directory/kvm" c 10 232
    chgrp kvm "$directory/kvm"
    mount --bind "$directory/kvm" /dev/kvm
fi
for name in all default; do
    [[ ! -e /proc/sys/net/ipv6/conf/$name/disable_ipv6 ]] || echo 1 >/proc/sys/net/ipv6/conf/$name/disable_ipv6
done
ip link set lo up

await() { # a socket, and the daemon that makes it
    for _ in $(seq 600); do
        [[ ! -S $1 ]] || return 0
        sleep 0.05
    done
    echo "$2 did not start: see $directory/log" >&2
    exit 1
}
# libvirtd starts without its log daemon, and then no machine starts.
virtlogd --daemon
await /run/libvirt/virtlogd-sock virtlogd
libvirtd --daemon
await /run/libvirt/libvirt-sock libvirtd
virsh --connect qemu:///system version >/dev/null
echo ready
trap 'exit 0' TERM
# An init has to reap what others leave to it; bash does between two waits.
while :; do
    sleep 3600 >/dev/null 2>&1 </dev/null &
    wait $! || true
done
