"""The Debian packages that the Vagrant lab needs on this machine, beside those of the set-up."""

PACKAGES = {
    "vagrant": "brings the machines up as lab/Vagrantfile says",
    "vagrant-libvirt": "its provider for libvirt",
    "libvirt-daemon-system": "libvirtd, which keeps the machines",
    "libvirt-clients": "virsh",
    "qemu-system-x86": "the machines themselves",
    "qemu-utils": "their disks, and the box's",
    "e2fsprogs": "what the disk of a host without power holds",
    "dnsmasq-base": "their addresses on the operator's network",
}
"""Package name to what it is here for."""
