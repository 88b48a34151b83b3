#!/bin/bash
# Makes a machine of a Vagrant box into a host of the lab. Run once by `vagrant up`, after the host's archive was unpacked;
# running it again changes nothing.
set -euo pipefail
cd /usr/local/lib/ftvmm-lab
# shellcheck source=/dev/null
. /etc/ftvmm-lab/host.conf

say() { echo "$HOST: $*"; }
units=()

# The box that lab/box/ builds has them all; a public one lacks some and needs a way out to its mirrors.
needed=(python3 nftables iproute2 iputils-ping ethtool kmod procps e2fsprogs dmsetup)
case $ROLE in
    storage) needed+=(nfs-kernel-server) ;;
    fault-tolerant) needed+=(nfs-common) ;;
    client) needed+=(redis-tools) ;;
esac
missing=()
for package in "${needed[@]}"; do
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
if ((${#missing[@]})); then
    say "installs ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -qy --no-install-recommends "${missing[@]}"
fi
if [[ $ROLE == storage ]]; then
    # NFSv4 needs neither portmapper nor lock daemon; the lab's own service starts the server when its disk is there.
    systemctl --quiet mask --now rpcbind.socket rpcbind rpc-statd rpc-statd-notify
    systemctl --quiet unmask nfs-server nfs-mountd nfs-idmapd nfsdcld proc-fs-nfsd.mount
    systemctl --quiet disable nfs-server
    echo "$STORAGE_DIRECTORY $STORAGE_NETWORK(rw,sync,no_subtree_check,no_root_squash,fsid=0)" >/etc/exports
    # A server that comes back waits this long for clients that held something.
    printf '%s\n' '[nfsd]' 'threads=4' 'vers3=n' 'vers4.0=n' 'udp=n' 'grace-time=5' 'lease-time=5' >/etc/nfs.conf
fi

install -d -m 700 /root/.ssh
install -m 600 /etc/ftvmm-lab/authorized_keys /root/.ssh/authorized_keys
cp /etc/ftvmm-lab/hosts /etc/hosts
echo "$HOST" >/etc/hostname
hostname "$HOST"
cat >/etc/systemd/system/ftvmm-lab.service <<'X'
[Unit]
Description=what makes this machine a host of the ftvmm lab: links, storage, Toxiproxy
After=systemd-udevd.service local-fs.target
Before=ssh.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/lib/ftvmm-lab/boot.sh
[Install]
WantedBy=multi-user.target
X
if [[ $ROLE == fault-tolerant ]]; then
    cat >/etc/systemd/system/ftvmm-toxiproxy.service <<X
[Unit]
Description=Toxiproxy on the logging channel
After=ftvmm-lab.service
[Service]
ExecStart=/usr/local/bin/ftvmm-toxiproxy -host 127.0.0.1 -port $TOXIPROXY_API_PORT -config /etc/ftvmm-lab/toxiproxy.json
StandardOutput=append:/var/log/toxiproxy.log
StandardError=inherit
[Install]
WantedBy=multi-user.target
X
    cat >/etc/systemd/system/ftvmm-mount@.service <<'X'
[Unit]
Description=the %i from the storage host
After=ftvmm-lab.service
[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=infinity
ExecStart=/usr/local/lib/ftvmm-lab/mounts.sh %i
[Install]
WantedBy=multi-user.target
X
    units=(ftvmm-toxiproxy ftvmm-mount@disk ftvmm-mount@arbiter)
fi
systemctl daemon-reload
systemctl --quiet enable ftvmm-lab "${units[@]}"
cat >/etc/ssh/sshd_config.d/ftvmm-lab.conf <<'X'
PermitRootLogin prohibit-password
PasswordAuthentication no
MaxSessions 1000
MaxStartups 100:30:200
UseDNS no
SetEnv PATH=/opt/ftvmm/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
X
systemctl reload ssh
systemctl start ftvmm-lab
((${#units[@]} == 0)) || systemctl start --no-block "${units[@]}"
# A power cut must find nothing unwritten of the installation itself.
sync
say "is a host of the lab"
