"""What `ftvmm doctor` looks at: what this host can do, and whether what a `node.toml` names is usable from here.

Everything is tried out: a guest of a few bytes is run, TAP interfaces are attached to, the disk is read, the arbiter
is asked as for a claim, under a name that is removed again. What hangs is named after a bounded time.
"""

from __future__ import annotations

import enum
import os
import pickle
import platform
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ftvmm import _core, control
from ftvmm.arbiters import ArbiterUnreachableError, NotSharedError
from ftvmm.configuration import Configuration

# How long one look may take.
_SECONDS_MAX = 5.0
# capabilities(7)
_CAP_NET_ADMIN = 12
# epoll_pwait2(2), by which a node waits.
_LINUX_MIN = (5, 11)
_KVM_MODULES = {"GenuineIntel": "kvm_intel", "AuthenticAMD": "kvm_amd", "HygonGenuine": "kvm_amd"}


class Ability(enum.StrEnum):
    """What a host may be asked for."""

    RUN = "run"
    RECORD = "record"
    REPLAY = "replay"
    PROTECT = "protect"


ALL = frozenset(Ability)
PROTECTION = frozenset({Ability.PROTECT})


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        found: what came out.
        is_well: whether it is as it should be.
        remedy: how to get it, where it is not; may be None.
        needed_for: what cannot be done without it; empty where it can be done, and less well.
    """

    what: str
    found: str
    is_well: bool = True
    remedy: str | None = None
    needed_for: frozenset[Ability] = ALL


def can(findings: list[Finding], ability: Ability) -> bool:
    """Whether nothing that this needs is missing."""
    return all(finding.is_well or ability not in finding.needed_for for finding in findings)


def examine_host() -> tuple[Mapping[str, Any] | None, list[Finding]]:
    """Looks at this host: what its KVM is like (None where it has none that can be used), and what was found."""
    findings = [_kernel(), _kvm_device()]
    report: Mapping[str, Any] | None = None
    if findings[-1].is_well:
        try:
            report = _core.examine_host()
        except _core.CoreError as error:
            findings.append(Finding("KVM", str(error.args[0]), False))
        else:
            findings.append(Finding("KVM", f"runs guests: {report['kvm']}"))
    findings += [_tun_device(), _real_time()]
    return report, findings


def _read(path: str) -> str:
    """A file of /proc, as far as there is one."""
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _kernel() -> Finding:
    release = platform.release()
    found = f"{platform.system()} {release} {platform.machine()}"
    version = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    if platform.system() == "Linux" and version < _LINUX_MIN:
        return Finding("kernel", found, False, "a node waits by epoll_pwait2: Linux 5.11 or newer", PROTECTION)
    return Finding("kernel", found, needed_for=PROTECTION)


def _device(path: str, *, missing: str, needed_for: frozenset[Ability]) -> Finding:
    if not Path(path).exists():
        return Finding(path, "missing", False, missing, needed_for)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        remedy = f"run as root, or let this user read and write it: see `ls -l {path}`"
        return Finding(path, "there, but this user has no right to it", False, remedy, needed_for)
    except OSError as error:
        return Finding(path, f"there, and cannot be opened: {error.strerror}", False, missing, needed_for)
    return Finding(path, "readable and writable", needed_for=needed_for)


def _kvm_device() -> Finding:
    vendor = match[1] if (match := re.search(r"vendor_id\s*:\s*(\S+)", _read("/proc/cpuinfo"))) else ""
    module = _KVM_MODULES.get(vendor, "kvm_intel` or `modprobe kvm_amd")
    missing = (
        f"`modprobe {module}`; inside a virtual machine its own host has to allow nested virtualisation, or this "
        "kernel has to have KVM-PVM (kvm_pvm)"
    )
    return _device("/dev/kvm", missing=missing, needed_for=ALL)


def _tun_device() -> Finding:
    finding = _device("/dev/net/tun", missing="`modprobe tun`", needed_for=PROTECTION)
    match = re.search(r"CapEff:\s*([0-9a-f]+)", _read("/proc/self/status"))
    if finding.is_well and match and not int(match[1], 16) >> _CAP_NET_ADMIN & 1:
        found = "readable and writable, and this user may not administer networks"
        remedy = (
            "start nodes as root or with CAP_NET_ADMIN, or give their user the interface: `ip tuntap add ... user NAME`"
        )
        return Finding("/dev/net/tun", found, False, remedy, frozenset())
    return finding


def _real_time() -> Finding:
    """Tries it out on a thread of its own, which ends with it."""
    result: list[Finding] = []

    def attempt() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        except OSError as error:
            remedy = "a busy host can make its node look dead: start nodes as root, or with CAP_SYS_NICE"
            result.append(Finding("real-time threads", f"refused: {error.strerror}", False, remedy, frozenset()))
        else:
            result.append(Finding("real-time threads", "allowed", needed_for=frozenset()))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return result[0]


def examine_node(config: Configuration, report: Mapping[str, Any] | None) -> list[Finding]:
    """Looks whether what a node's configuration names is usable from this host; `report` is `examine_host`'s."""
    node = _running_node(config)
    is_running = node is not None
    findings = [node] if node is not None else []
    virtual_machine = config.document["vm"]
    findings.append(_image(virtual_machine["image"]))
    if not is_running:
        findings.append(_memory(virtual_machine["memory_mib"]))
    if (lacking := _lacking_features(virtual_machine["features"], report)) is not None:
        findings.append(lacking)
    findings += (_disk(block) for block in virtual_machine["block"])
    findings += (_tap(network, is_running=is_running) for network in virtual_machine["network"])
    findings.append(_arbiter(config))
    findings += _addresses(config.document, is_running=is_running)
    return findings


def _running_node(config: Configuration) -> Finding | None:
    """The node that runs with this configuration, and what its pair lacks to be protected; None: there is none."""
    try:
        status = control.request(config.control_socket, "status")
    except control.ControlError as error:
        if isinstance(error.__cause__, PermissionError):
            return Finding("node", str(error), False, "ask as the user that the node runs as", PROTECTION)
        return None
    found = f"runs here, as {status['role']}"
    if reason := status["not_protected"]:
        return Finding("node", f"{found}; not protected: {reason}", False, None, PROTECTION)
    return Finding("node", found, needed_for=PROTECTION)


def _within(what: str, look: Callable[[], Finding], seconds: float = _SECONDS_MAX) -> Finding:
    """What a look comes to, or that nothing has come of it in time.

    A dead share or disk holds whoever asks it, deaf to every signal, and a process does not end before its last thread:
    so a child looks, which this process need not wait for.
    """
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        _look_as_child(writer, look)
    os.close(writer)
    with open(reader, "rb") as answer:
        if select.select([answer], [], [], seconds)[0]:
            try:
                result: Finding | str = pickle.load(answer)
            except (EOFError, pickle.UnpicklingError):
                result = "whoever looked was ended"
            if isinstance(result, Finding):
                return result
            return Finding(what, f"cannot be looked at: {result}", False, None, PROTECTION)
    remedy = "it hangs: look at the network to its server, and at the server"
    return Finding(what, f"gave no answer in {seconds:g} s", False, remedy, PROTECTION)


def _look_as_child(writer: int, look: Callable[[], Finding]) -> NoReturn:
    # Who reads what this command prints waits until nobody has the other end any more.
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    try:
        result: Finding | str = look()
    except Exception as error:
        result = repr(error)
    with open(writer, "wb") as answer:
        pickle.dump(result, answer)
    os._exit(0)


def _image(path: str) -> Finding:
    what = f"image {path}"

    def look() -> Finding:
        try:
            refused = _core.examine_image(path)["refused"]
        except _core.CoreError as error:
            return Finding(what, str(error.args[0]), False, None, PROTECTION)
        if refused:
            found = f"{len(refused)} of its instructions are refused, the first at {refused[0]['address']:#x}"
            return Finding(what, found, False, f"`ftvmm verify {path}` says which and why", PROTECTION)
        return Finding(what, "every instruction of it can be replayed", needed_for=PROTECTION)

    return _within(what, look)


def _memory(guest_mib: int) -> Finding:
    what = "memory"
    match = re.search(r"MemAvailable:\s*(\d+) kB", _read("/proc/meminfo"))
    if match is None:
        return Finding(what, "nothing is known of it", False, None, frozenset())
    available_mib = int(match[1]) // 1024
    found = f"{available_mib} MiB available for a guest of {guest_mib} MiB"
    if available_mib < guest_mib:
        return Finding(what, found, False, "a smaller vm.memory_mib, or fewer programs beside", PROTECTION)
    return Finding(what, found, needed_for=PROTECTION)


def _lacking_features(shown: list[str], report: Mapping[str, Any] | None) -> Finding | None:
    """What the guest is to be shown of the processor, where the host is known; None where nothing is asked for."""
    if not shown or report is None:
        return None
    own = {name for name, is_there in report["features"] if is_there}
    if lacking := [name for name in shown if name not in own]:
        remedy = "leave them out of vm.features on every host of this VM"
        return Finding("vm.features", f"this processor lacks {', '.join(lacking)}", False, remedy, PROTECTION)
    return Finding("vm.features", "this processor has them all", needed_for=PROTECTION)


def _disk(block: Mapping[str, Any]) -> Finding:
    what = f"disk {block['name']}"

    def look() -> Finding:
        try:
            capacity_bytes, unit_bytes = _core.examine_disk(block["path"], block["sector_bytes"])
        except _core.CoreError as error:
            return Finding(what, str(error.args[0]), False, None, PROTECTION)
        found = f"{block['path']}: {capacity_bytes} bytes, read and written directly in units of {unit_bytes}"
        return Finding(what, found, needed_for=PROTECTION)

    return _within(what, look)


def _tap(network: Mapping[str, Any], *, is_running: bool) -> Finding:
    what, tap = f"network {network['name']}", network["tap"]
    if is_running:
        return Finding(what, f"the node that runs here has {tap}", needed_for=PROTECTION)
    try:
        mtu_bytes = _core.examine_tap(tap)
    except _core.CoreError as error:
        remedy = (
            f"`ip tuntap add {tap} mode tap && ip link set {tap} up`, and into the bridge of the clients' network: "
            f"`ip link set {tap} master BRIDGE`"
        )
        return Finding(what, str(error.args[0]), False, remedy, PROTECTION)
    return Finding(what, f"{tap} is up, MTU {mtu_bytes} bytes", needed_for=PROTECTION)


def _arbiter(config: Configuration) -> Finding:
    arbiter = config.arbiter
    what = f"arbiter {arbiter.kind} {arbiter.place}"

    def look() -> Finding:
        try:
            arbiter.require_shared()
            begun = time.monotonic()
            record = arbiter.read()
            took_ms = round((time.monotonic() - begun) * 1000)
            complaints = arbiter.try_out()
        except (NotSharedError, ArbiterUnreachableError) as error:
            return Finding(what, str(error), False, None, PROTECTION)
        said = f"generation {record.generation} is {record.node}'s" if record.generation else "the VM never ran"
        if took_ms > config.arbiter_timeout_ms:
            found = f"answers in {took_ms} ms, and arbiter.timeout_ms is {config.arbiter_timeout_ms}: {said}"
            return Finding(what, found, False, "a longer timeout_ms, or a faster share", PROTECTION)
        found = f"readable and writable, answers in {took_ms} ms: {said}"
        if complaints:
            return Finding(what, f"{found}; {'; '.join(complaints)}", False, None, frozenset())
        return Finding(what, found, needed_for=PROTECTION)

    return _within(what, look, _SECONDS_MAX + 3 * config.arbiter_timeout_ms / 1000)


def _addresses(document: Mapping[str, Any], *, is_running: bool) -> Iterator[Finding]:
    logging = document["logging"]
    yield _address("logging", logging, socket.SOCK_STREAM, is_running=is_running)
    for heartbeat in document["heartbeat"]:
        yield _address(f"heartbeat {heartbeat['network']}", heartbeat, socket.SOCK_DGRAM, is_running=is_running)


def _address(what: str, table: Mapping[str, Any], kind: socket.SocketKind, *, is_running: bool) -> Finding:
    """Whether this host can listen there, and has a way to the peer. Nothing is sent."""
    listen, peer = table["listen"], table["peer"]
    try:
        with _socket_for(listen, kind) as own:
            if kind is socket.SOCK_STREAM:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if not is_running:
                own.bind(_parts(listen))
    except OSError as error:
        remedy = "an address of this host and a free port: `ip address`, `ss -lntup`"
        return Finding(what, f"{listen}: {error.strerror}", False, remedy, PROTECTION)
    try:
        with _socket_for(peer, socket.SOCK_DGRAM) as way:
            way.connect(_parts(peer))
    except OSError as error:
        found = f"no way to the peer's {peer}: {error.strerror}"
        return Finding(what, found, False, "`ip route`", PROTECTION)
    return Finding(what, f"{listen}, with a way to {peer}", needed_for=PROTECTION)


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _socket_for(address: str, kind: socket.SocketKind) -> socket.socket:
    return socket.socket(socket.AF_INET6 if address.startswith("[") else socket.AF_INET, kind)
