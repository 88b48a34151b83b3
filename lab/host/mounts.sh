#!/bin/bash
# An FT host's storage, `disk` or `arbiter`: by NFSv4, synchronous and without any caching of attributes or names, so that
# what one host linked or wrote is what the other sees. Waits until the storage host serves it.
#
# Two protocol versions make two clients to the kernel: with one, it would find that both addresses are the same server and
# send everything over one connection. The disk's requests end with EIO when the server is silent for too long (`soft`), as
# a disk's do; the arbiter's wait.
set -euo pipefail
# shellcheck source=/dev/null
. /etc/ftvmm-lab/host.conf

case $1 in
    disk) source=$DISK_ADDRESS:/ directory=$DISK_DIRECTORY options=vers=4.2,soft,timeo=$DISK_TIMEOUT_DECISECONDS,retrans=1 ;;
    arbiter) source=$ARBITER_ADDRESS:/arbiter directory=$ARBITER_PATH options=vers=4.1,hard ;;
esac
grep -q " $directory nfs4" /proc/mounts && exit
modprobe nfsv4
# Without its own retrying, which gives up: the storage host may be off for as long as a scenario likes.
until mount -t nfs4 -o "sync,noac,lookupcache=none,proto=tcp,retry=0,$options" "$source" "$directory"; do sleep 0.5; done
