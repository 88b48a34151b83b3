"""What the storage host serves here: the disk by nbdkit, one server an FT host; the arbiter's directory by SSH."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from harness.lab import topology
from harness.lab.interface import (
    Endpoint,
    Host,
    HostState,
    HostUnreachableError,
    LabError,
    RemoteProcess,
    TearResult,
)
from harness.lab.netns.provision import block_pause
from harness.lab.topology import DISK_PATH, STORAGE_FAULTS, STORAGE_PLAN, block_port

_SSH_PORT = 22
_ALL_OPERATIONS = ("read", "write")
# What nbdkit's log filter calls them.
_LOGGED_AS = {"...Read": "read", "...Write": "write"}

# Pauses a server and lets it go on, by turns (nbdkit-pause-filter(1)); when it is ended the server goes on for good.
_PAUSE = """
import signal, socket, sys, time
control = socket.socket(socket.AF_UNIX)
control.connect(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
def say(word):
    control.sendall(word)
    control.recv(1)
try:
    while True:
        say(b"p")
        time.sleep(float(sys.argv[2]))
        say(b"r")
        time.sleep(float(sys.argv[3]))
finally:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(b"r")
"""

# Holds a server (nbdkit-pause-filter(1)) until a write of several sectors waits, lets the process write no further in
# any file than to that write's middle (setrlimit(2), RLIMIT_FSIZE), and lets it go on. Prints what came of it.
_TEAR = """
import json, os, re, resource, socket, subprocess, sys, time
path, log, image, server = sys.argv[1:]
pid = int(subprocess.run(["pgrep", "--full", "--newest", server], capture_output=True, check=True).stdout)
control = socket.socket(socket.AF_UNIX)
control.connect(path)
def say(word):
    control.sendall(word)
    control.recv(1)
lines = open(log)
def follow(pattern, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := re.search(pattern, lines.readline()):
            return found
        time.sleep(0.0005)
disk = os.open(image, os.O_RDONLY)
told = None
deadline = time.monotonic() + 5
while told is None and time.monotonic() < deadline:
    say(b"p")
    try:
        lines.seek(0, os.SEEK_END)
        write = follow(r"connection=(\\d+) Write id=(\\d+) offset=0x([0-9a-f]+) count=0x([0-9a-f]+)", 0.02)
        count = int(write[4], 16) if write else 0
        if count >= 1024:
            offset = int(write[3], 16)
            middle = offset + count // 1024 * 512
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (middle, resource.RLIM_INFINITY))
            before = os.pread(disk, count, offset)
            told = {"offset": offset, "count": count, "landed": middle - offset}
    finally:
        say(b"r")
if told:
    end = follow(rf"connection={write[1]} \\.\\.\\.Write id={write[2]} return=(-?\\d+)", 0.05)
    after = os.pread(disk, count, offset)
    told["status"] = int(end[1]) if end else None
    told["head_is_new"] = before[: told["landed"]] != after[: told["landed"]]
    told["tail_is_old"] = before[told["landed"] :] == after[told["landed"] :]
print(json.dumps(told))
"""


class NetnsStorage:
    """See `harness.lab.interface.Storage`."""

    def __init__(self, hosts: Mapping[str, Host]) -> None:
        """`hosts` are the lab's, by name; they may come up later."""
        self._hosts = hosts
        self._lines_before: dict[str, int] = {}
        self._pausing: dict[str, RemoteProcess] = {}

    @property
    def disk(self) -> Endpoint:
        """The first FT host's server: here each host has one of its own, told apart by the port."""
        return Endpoint(self._address, block_port(topology.FAULT_TOLERANT_PLANS[0]))

    @property
    def arbiter(self) -> Endpoint:
        return Endpoint(self._address, _SSH_PORT)

    @property
    def _host(self) -> Host:
        return self._hosts[STORAGE_PLAN.name]

    @property
    def _address(self) -> str:
        return STORAGE_PLAN.address(topology.STORAGE)

    def fail_disk(self, host: Host, operations: Sequence[str]) -> None:
        lines = self._host.run(["wc", "-l", _log(host)], check=True).stdout
        self._lines_before[host.name] = int(lines.split()[0])
        # nbdkit's error filter fails an operation while its file is there.
        self._host.run(["touch", *_files(host, operations)], check=True)
        self.forget_cached(host)

    def slow_disk(self, host: Host, *, pause_ms: float, serve_ms: float) -> None:
        if host.name in self._pausing:
            raise LabError(f"the disk of {host.name} is slow already")
        storage = self._host
        words = ["-c", _PAUSE, block_pause(host.name), str(pause_ms / 1000), str(serve_ms / 1000)]
        self._pausing[host.name] = storage.start(f"exec {storage.python} {shlex.join(words)}")

    def tear_write(self, host: Host) -> TearResult | None:
        storage = self._host
        words = ["-c", _TEAR, block_pause(host.name), _log(host), topology.STORAGE_IMAGE, _server(host)]
        told = json.loads(storage.run(f"{storage.python} {shlex.join(words)}", check=True).stdout)
        return None if told is None else TearResult(**told)

    def restore_disk(self, host: Host) -> None:
        self._host.run(
            f"prlimit --fsize=unlimited --pid $(pgrep --full --newest {shlex.quote(_server(host))})", check=True
        )
        if pausing := self._pausing.pop(host.name, None):
            pausing.signal("TERM")
            pausing.wait(10)
        self._host.run(["rm", "-f", *_files(host, _ALL_OPERATIONS)], check=True)

    def failed_operations(self, host: Host) -> Sequence[str]:
        log = self._host.run(f"tail -n +{self._lines_before.get(host.name, 0) + 1} {_log(host)}").stdout
        return [
            f"{operation}: {line}"
            for line in log.splitlines()
            for logged, operation in _LOGGED_AS.items()
            if logged in line and "return=-1" in line
        ]

    def stop_server(self, storage_host: Host) -> None:
        raise LabError(f"{storage_host.name} serves the arbiter by its sshd, which is the operator's way in as well")

    def start_server(self, storage_host: Host) -> None:
        raise LabError(f"what {storage_host.name} serves was never stopped")

    def forget_cached(self, host: Host) -> None:
        """Opening a FUSE file drops the pages that the kernel cached of it."""
        if host.state is HostState.RUNNING:
            try:
                host.run(f": <{DISK_PATH}", timeout_seconds=2)
            except HostUnreachableError:
                return  # it cannot read either


def _log(host: Host) -> str:
    return f"/var/log/block-{host.name}.log"


def _server(host: Host) -> str:
    """What the command line of a host's server is told by."""
    return f"^nbdkit .*logfile={_log(host)} "


def _files(host: Host, operations: Sequence[str]) -> list[str]:
    return [f"{STORAGE_FAULTS}/{host.name}.{operation}" for operation in operations]
