"""What a scenario may use of a lab, whichever lab it is: hosts reached over SSH, networks, power, captures."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from harness.evidence.capture import CaptureCount
from harness.evidence.looks import Look
from harness.evidence.standstills import MachineRecord


class LabError(Exception):
    """The lab could not do what was asked of it; the message says what to do or where to look."""


class HostUnreachableError(LabError):
    """The host is off, frozen or did not answer in time."""


class CommandFailedError(LabError):
    """A command that had to succeed ended with another exit status."""


class HostRole(enum.Enum):
    """What a host is there for."""

    FAULT_TOLERANT = "fault-tolerant"
    STORAGE = "storage"
    CLIENT = "client"


class HostState(enum.Enum):
    """What a host is, seen from outside of it."""

    # Without power.
    OFF = "off"
    RUNNING = "running"
    # All of its processes are stopped.
    FROZEN = "frozen"
    # Suspended to RAM.
    ASLEEP = "asleep"


class Capability(enum.Enum):
    """What not every lab can do; a fault names it in `requires`."""

    POWER = "power"
    FREEZE = "freeze"
    CAPTURE = "capture"
    # A clock of its own on each host, which can be stepped, and which goes on while the host sleeps.
    CLOCK = "clock"
    SLEEP = "sleep"
    # A kernel of its own on each host: it can panic, hang, reboot, run out of memory and delay packets (netem).
    KERNEL = "kernel"
    # Cables that can be pulled: the host sees its carrier go.
    LINK = "link"
    # The VM's disk lies on a device-mapper device of the storage host, `harness.lab.topology.STORAGE_DEVICE`.
    DEVICE_MAPPER = "device-mapper"
    # Each FT host's disk has a server of its own, which can be slow, or fail one kind of operation.
    DISK_SERVER = "disk-server"
    # The FT hosts have etcd, and each can run a member of one cluster.
    ETCD = "etcd"
    # The storage host's server can be stopped while the host stays up, and its clients find it again afterwards.
    STORAGE_SERVER = "storage-server"


@dataclass(frozen=True)
class CommandResult:
    """How a command on a host ended."""

    command: str
    exit_status: int
    stdout: str
    stderr: str

    @property
    def succeeded(self) -> bool:
        """Whether the exit status is 0."""
        return self.exit_status == 0

    def check(self) -> CommandResult:
        """Return self, or raise `CommandFailedError` when the exit status is not 0."""
        if not self.succeeded:
            said = self.stderr.strip() or self.stdout.strip()
            raise CommandFailedError(f"`{self.command}` ended with exit status {self.exit_status}: {said}")
        return self


@dataclass(frozen=True)
class ClockReading:
    """The clocks of a host, read together (nanoseconds)."""

    realtime_ns: int
    boottime_ns: int


@dataclass(frozen=True)
class Endpoint:
    """A TCP service, as the hosts reach it."""

    address: str
    port: int


@dataclass(frozen=True)
class Pace:
    """How slow a lab is, found by measuring it (`harness.lab.calibration`); every bound on time is stretched by it.

    Attributes:
        work: how many times as long as on this machine a command takes on a host, at least 1.
        timing: how many times the VMM's default detection times the failure detector needs here, at least 1.
    """

    work: float = 1.0
    timing: float = 1.0

    @property
    def factor(self) -> float:
        """What a bound on a whole step (detect, take over, serve) is stretched by."""
        return max(self.work, self.timing)

    def stretch(self, duration: float) -> float:
        """A duration that fits hosts at this machine's speed, in any unit, as this lab needs it."""
        return duration * self.factor


@dataclass(frozen=True)
class Network:
    """One network of the lab, as an IPv4 prefix such as `10.1.0.0/24`."""

    name: str
    prefix: str


class RemoteProcess(Protocol):
    """A process that was started on a host and outlives the call."""

    @property
    def pid(self) -> int:
        """The process's pid as its host knows it."""

    @property
    def command(self) -> str:
        """The command line that it was started with."""

    @property
    def log(self) -> str | None:
        """The file on the host that takes its standard output and error, if any."""

    @property
    def exit_status(self) -> int | None:
        """The exit status; None while it runs or when its host went away; -1 when a signal ended it."""

    def is_running(self) -> bool:
        """Whether the host says that the process exists and is no zombie."""

    def signal(self, name: str) -> None:
        """Send the signal of this name, such as `TERM` or `KILL`."""

    def wait(self, timeout_seconds: float) -> int:
        """Wait until it ends and return the exit status; `LabError` when it has not ended in time."""


class Conversation(Protocol):
    """A program on a host that answers each line that it reads with one line, and flushes it."""

    def ask(self, line: str, *, timeout_seconds: float | None = None) -> str:
        """Send a line and wait for the answer; `HostUnreachableError` when none comes in time."""

    def tell(self, line: str) -> None:
        """Send a line and wait for nothing; `HostUnreachableError` when the connection is gone."""


@runtime_checkable
class Host(Protocol):
    """A host of the lab. It is reached by SSH only, over a connection that is kept."""

    @property
    def name(self) -> str:
        """The host's name, which is its host name too."""

    @property
    def role(self) -> HostRole:
        """What the host is there for."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """The host's IPv4 address on each network that it has one on, by the network's name."""

    @property
    def interfaces(self) -> Mapping[str, str]:
        """The name of the host's interface to each network, by the network's name."""

    @property
    def python(self) -> str:
        """The Python interpreter on the host that can import `harness` and `ftvmm`, as a command prefix."""

    @property
    def testinfra(self) -> Any:
        """This host as a `testinfra.host.Host`."""

    def run(
        self, command: str | Sequence[str], *, timeout_seconds: float = 30.0, check: bool = False, input: bytes = b""
    ) -> CommandResult:
        """Run a command to its end. A string goes to the shell, a sequence is quoted first.

        Raises `HostUnreachableError` when the host does not answer in time, `CommandFailedError` with `check`.
        """

    def start(self, command: str | Sequence[str], *, log: str | None = None) -> RemoteProcess:
        """Start a command and come back at once; its output goes to the file `log` on the host, or nowhere."""

    def converse(
        self, command: str | Sequence[str], *, timeout_seconds: float = 30.0
    ) -> AbstractContextManager[Conversation]:
        """Run a command that is talked to line by line; it ends with the `with` block. Each answer has the time given,
        unless its question gives another.

        Raises `HostUnreachableError` when it cannot be started.
        """

    def read_file(self, path: str) -> bytes:
        """The content of a file; `FileNotFoundError` when there is none.

        Without power a host still gives what its disk holds below `harness.lab.topology.NODE_DIRECTORY`.
        """

    def write_file(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """Replace a file's content, directories above it made as needed."""

    def forward(self, port: int, *, address: str = "127.0.0.1") -> tuple[str, int]:
        """Forward a TCP port of the host over SSH; gives the local address and port to connect to."""

    def clock(self) -> ClockReading:
        """Read the host's clocks."""

    def is_alive(self, *, timeout_seconds: float = 2.0) -> bool:
        """Whether the host answers over SSH within the time given."""

    @property
    def state(self) -> HostState:
        """What the host is now, seen from outside."""

    def power_off(self) -> None:
        """Take the power away: nothing leaves the host from now on, memory and /run are lost, the disk is kept."""

    def power_on(self) -> None:
        """Give the power back and wait until the host answers."""

    def freeze(self) -> None:
        """Stop all of the host's processes at once, without their noticing."""

    def thaw(self) -> None:
        """Let the processes of a frozen host run on."""

    def await_up(self) -> None:
        """Wait until a host that went down by itself (reboot) answers again, its storage mounted.

        `HostUnreachableError` when it has not in time.
        """

    def set_cable(self, network: str, *, plugged: bool) -> None:
        """Pull or plug the cable between the host's interface and a network. Needs `Capability.LINK`."""

    def sleep(self) -> None:
        """Suspend the host to RAM; back when it sleeps. Needs `Capability.SLEEP`."""

    def wake(self, *, slept_seconds: int = 0) -> None:
        """Wake a sleeping host; by its own clock it has slept `slept_seconds` longer than it really has."""


@dataclass(frozen=True)
class TearResult:
    """A write of which only the first part landed, as the storage host saw it.

    Attributes:
        offset: where it begins on the disk, in bytes.
        count: its length in bytes.
        landed: how many bytes of it are on the disk.
        status: what the server answered, -1 for an error; None: nothing.
        head_is_new: what landed changed the disk.
        tail_is_old: the rest of its place is what it was.
    """

    offset: int
    count: int
    landed: int
    status: int | None
    head_is_new: bool
    tail_is_old: bool


class Storage(Protocol):
    """What the storage host serves to the FT hosts: the VM's disk and the arbiter's directory."""

    @property
    def disk(self) -> Endpoint:
        """The service through which every FT host reaches the disk, as far as one endpoint serves all."""

    @property
    def arbiter(self) -> Endpoint:
        """The service through which every FT host reaches the arbiter, apart from the disk's."""

    def fail_disk(self, host: Host, operations: Sequence[str]) -> None:
        """From now on `read` or `write` operations, or both, of one FT host's disk end with EIO.

        `LabError` when this storage cannot fail just these.
        """

    def slow_disk(self, host: Host, *, pause_ms: float, serve_ms: float) -> None:
        """From now on one FT host's disk is served for a while, and lets it wait for a while, by turns.

        Needs `Capability.DISK_SERVER`.
        """

    def tear_write(self, host: Host) -> TearResult | None:
        """Let the first half of one FT host's next write of several sectors land, and fail the rest.

        None when there was none. What is written further behind on the disk fails as well from then on.
        Needs `Capability.DISK_SERVER`.
        """

    def restore_disk(self, host: Host) -> None:
        """End what `fail_disk`, `slow_disk` or `tear_write` began."""

    def failed_operations(self, host: Host) -> Sequence[str]:
        """What the storage side saw of operations that failed since `fail_disk`: lines for a reader.

        Each begins with the operation, `read` or `write`.
        """

    def stop_server(self, storage_host: Host) -> None:
        """End what serves disk and arbiter, in order. Needs `Capability.STORAGE_SERVER`."""

    def start_server(self, storage_host: Host) -> None:
        """Serve both again; back when connections are accepted."""

    def forget_cached(self, host: Host) -> None:
        """Make the host's next reads of the disk ask the storage host."""


class Lab(Protocol):
    """Hosts and networks. A scenario cannot tell which lab it runs in."""

    @property
    def name(self) -> str:
        """Which lab this is, for reports."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this lab can do beyond running commands."""

    @property
    def networks(self) -> Mapping[str, Network]:
        """`management`, `logging`, `client` and `storage`."""

    @property
    def hosts(self) -> Mapping[str, Host]:
        """All hosts by name."""

    @property
    def fault_tolerant_hosts(self) -> Sequence[Host]:
        """The hosts that FT nodes run on: host-a, host-b, host-c."""

    @property
    def storage_host(self) -> Host:
        """The host that serves the disk image and the arbiter's directory."""

    @property
    def storage(self) -> Storage:
        """What that host serves, and how it can be made to fail."""

    @property
    def pace(self) -> Pace:
        """How slow the lab is."""

    @property
    def pace_in_words(self) -> str:
        """What was measured to find the pace, for people."""

    @property
    def image_directory(self) -> str:
        """Where the FT hosts have the guests' images."""

    @property
    def client_host(self) -> Host:
        """The host that the clients of the VM run on."""

    def start(self) -> None:
        """Bring everything up and wait until every host answers."""

    def stop(self) -> None:
        """Take everything down and leave nothing behind. May be called at any time, more than once."""

    def keep(self) -> str:
        """Leave everything as it is, for somebody to look at; says how. `stop` changes nothing then."""

    def collect_captures(self, directory: Path) -> Mapping[str, CaptureCount]:
        """Write what has passed the switch's ports so far, as `<network>.<host>.<sent|received>.pcap.gz`
        (nanosecond stamps of CLOCK_REALTIME; `sent`: by the host).

        Gives the frames captured and missed, by `<network>.<host>`; a port that was not captured is none of them.
        """

    def looks(self) -> Sequence[Look]:
        """What the lab itself has seen of its hosts so far, every few milliseconds. Nothing where they have kernels of
        their own.
        """

    def machine_record(self) -> MachineRecord | None:
        """When this machine did not run so far; None where nobody observed it, or hosts have kernels of their own."""
