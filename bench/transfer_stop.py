"""How long a guest is stopped while its VM gets a backup again, by its memory and by how fast it writes.

Measured with `kv` of several sizes, and with a packed redis-server whose values take half of its memory. Both are
filled first: of a page that is all zero only its number is sent. The stop is read off the nodes' traces, where its
parts are, and off the client's history: the longest wait for an answer that touches the transfer.
"""

import dataclasses
import enum
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench.deployment import fresh_lab, running_pair
from bench.distribution import Distribution
from bench.figure import Figure
from bench.key_value_speed import await_server
from harness.evidence.client import History, longest_wait_ms, read_history
from harness.evidence.trace import Trace, read_trace
from harness.evidence.transfer import PARTS, LiveTransfer, find_transfers
from harness.lab import topology
from harness.lab.interface import Host, Lab
from harness.promise import ClientKind, Workload
from harness.vm.client import Client, ClientError
from harness.vm.guests import KEY_VALUE_PORT, key_value
from harness.vm.node_file import Guest
from harness.vm.pair import TRACE, Node, Pair

# The promise is for a guest of this size that serves clients.
GOAL_MS, GOAL_MIB = 50, 512
MEMORY_MIB = (64, 256, 512)
# `kv` takes live data for an eighth of its memory. What a value takes in its log beside its bytes comes on top, and so
# does what is not compacted yet.
FILLED_OF_KV = 1 / 16
FILLED_OF_REDIS = 1 / 2
# `kv` keeps its log on half of its disk, and reads that when it starts.
DISK_PARTS = 4
WRITERS = 50
SECONDS_OF_LOAD_BEFORE = 1.0
FILL_SECONDS_MAX = 240
# What a transfer is read from, of a trace that has a line for each output as well.
EVENTS = ("node-started", "role", "transfer")


class Load(enum.StrEnum):
    """What the guest has to do while it is carried."""

    IDLE = "idle"
    # The clients of the scenarios: 8 connections with 300 operations a second, and ten visitors a second.
    LIGHT = "light"
    # The same, beside 50 connections that write as fast as they are answered, all over the filled memory.
    FULL = "full"


@dataclass(frozen=True)
class Sample:
    """One transfer, what was sent for it, and what the clients saw."""

    transfer: LiveTransfer
    sent_mib: float
    # The longest wait that touches it, the longest that touches its stop, and the longest in the second before it.
    wait_ms: float | None
    wait_at_stop_ms: float | None
    wait_before_ms: float | None


@dataclass(frozen=True)
class Subject:
    """A guest that is carried.

    Attributes:
        workload: what it is.
        memory_mib: its memory.
        value_bytes: how long its values are.
        filled: what part of its memory they take.
    """

    workload: Workload
    memory_mib: int
    value_bytes: int
    filled: float

    def __str__(self) -> str:
        return f"{self.workload}, {self.memory_mib} MiB"

    @property
    def disk_mib(self) -> int:
        """The part of the disk that `kv` uses."""
        return self.memory_mib // DISK_PARTS

    def guest(self) -> Guest:
        """The same guest as in the scenarios, with this memory."""
        usual = key_value(self.workload)
        if self.workload is not Workload.KV:
            return dataclasses.replace(usual, memory_mib=self.memory_mib)
        arguments = [argument for argument in usual.arguments if not argument.startswith("--disk-mib=")]
        return dataclasses.replace(
            usual, memory_mib=self.memory_mib, arguments=(*arguments, f"--disk-mib={self.disk_mib}")
        )

    @property
    def keys(self) -> int:
        """How many of the values it holds."""
        return round((self.memory_mib << 20) * self.filled / self.value_bytes)

    def writers(self, *, requests: int, in_flight: int = 1) -> str:
        """The command that writes so many values, each to some key."""
        return (
            f"redis-benchmark -h {topology.VM_ADDRESS} -p {KEY_VALUE_PORT} -t set -r {self.keys}"
            f" -d {self.value_bytes} -c {WRITERS} -n {requests} -P {in_flight} --csv"
        )


def subjects(memory_mib: Sequence[int] | None) -> list[Subject]:
    """Who is carried: `kv` of the sizes that are asked for, or of all, and then redis as well."""
    of_kv = [Subject(Workload.KV, size, 1024, FILLED_OF_KV) for size in memory_mib or MEMORY_MIB]
    return of_kv if memory_mib else [*of_kv, Subject(Workload.REDIS, GOAL_MIB, 4096, FILLED_OF_REDIS)]


def measure(chosen: Sequence[Subject], *, repetitions: int, progress: Callable[[str], None]) -> list[Figure]:
    """Renew the protection of a VM that serves, ``repetitions`` times for each guest and load."""
    figures = []
    for subject in chosen:
        progress(f"transfer of {subject}: the guest's memory is filled")
        with fresh_lab(disk_mib=subject.disk_mib) as lab, running_pair(lab, subject.guest()) as pair:
            await_server(lab.client_host, subject.workload)
            _fill(lab.client_host, subject)
            for load in Load:
                progress(f"transfer of {subject}, {load}: {repetitions} times")
                figures.append(figure_of(subject, load, _samples(lab, pair, subject, load, repetitions)))
    return figures


def _fill(client: Host, subject: Subject) -> None:
    """Write twice as many values as there are keys: by then 86 % of them are there."""
    client.run(
        subject.writers(requests=2 * subject.keys, in_flight=8),
        check=True,
        timeout_seconds=FILL_SECONDS_MAX,
    )


@contextmanager
def _writing(client: Host, subject: Subject) -> Iterator[None]:
    """As many writes as the guest answers, for the length of a `with` block."""
    process = client.start(subject.writers(requests=1_000_000_000))
    try:
        yield
    finally:
        process.signal("TERM")
        process.wait(10)


def _samples(lab: Lab, pair: Pair, subject: Subject, load: Load, repetitions: int) -> list[Sample]:
    owner, backup = pair.primary, pair.backup
    client = None
    if load is not Load.IDLE:
        client = Client(lab, ClientKind.KEY_VALUE, seed=subject.memory_mib, workload=subject.workload)
    if client is not None:
        client.start()
    from_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    sent_mib = []
    for _ in range(repetitions):
        backup.process.signal("KILL")
        pair.wait_until_alone(owner)
        pair.start_again(backup)
        pair.wait_until_spare(backup)
        with _writing(lab.client_host, subject) if load is Load.FULL else nullcontext():
            if client is not None:
                client.load_for(SECONDS_OF_LOAD_BEFORE)
            before = _sent_bytes(owner.host)
            pair.protect(owner, backup)
            sent_mib.append((_sent_bytes(owner.host) - before) / (1 << 20))
    history = None if client is None else _history(client)
    transfers = [one for one in find_transfers(_traces(owner, backup)) if one.begun_ns >= from_ns]
    if len(transfers) != repetitions:
        raise ValueError(f"{repetitions} transfers were asked for, and the traces tell of {len(transfers)}")
    return [_sample(transfer, sent, history) for transfer, sent in zip(transfers, sent_mib, strict=True)]


def _sample(transfer: LiveTransfer, sent_mib: float, history: History | None) -> Sample:
    if history is None:
        return Sample(transfer, sent_mib, None, None, None)
    before_ns = transfer.begun_ns - round(SECONDS_OF_LOAD_BEFORE * 1e9)
    return Sample(
        transfer,
        sent_mib,
        longest_wait_ms(history, transfer.begun_ns, transfer.resumed_ns),
        longest_wait_ms(history, transfer.stopping_ns, transfer.resumed_ns),
        # Whoever waits as it begins waits in it.
        longest_wait_ms(_ended_by(history, transfer.begun_ns), before_ns, transfer.begun_ns),
    )


def _ended_by(history: History, until_ns: int) -> History:
    answered = [one for one in history.operations if one.return_ns is not None and one.return_ns < until_ns]
    return dataclasses.replace(history, operations=answered)


def _history(client: Client) -> History:
    """What the clients saw: nothing is a figure of which somebody lost a connection or an answer."""
    lost = client.progress().lost_connections
    client.stop()
    with tempfile.TemporaryDirectory(prefix="ftvmm-bench-") as directory:
        client.collect(Path(directory))
        history = read_history(Path(directory) / "history.jsonl")
    unanswered = sum(not one.is_answered for one in history.operations)
    if lost or unanswered:
        raise ClientError(f"{lost} connections were lost, and {unanswered} operations stayed without an answer")
    return history


def _traces(*nodes: Node) -> list[Trace]:
    return [_trace(node) for node in nodes]


def _trace(node: Node) -> Trace:
    wanted = "|".join(EVENTS)
    lines = node.host.run(f'grep -E \'"event": ?"({wanted})"\' {TRACE}', check=True).stdout
    with tempfile.TemporaryDirectory(prefix="ftvmm-bench-") as directory:
        path = Path(directory) / "trace.jsonl"
        path.write_text(lines)
        return read_trace(path, node.name)


def _sent_bytes(host: Host) -> int:
    """As the kernel counts them on the network that the log and the guest's state take."""
    path = f"/sys/class/net/{host.interfaces[topology.LOGGING]}/statistics/tx_bytes"
    return int(host.run(f"cat {path}", check=True).stdout)


def figure_of(subject: Subject, load: Load, samples: Sequence[Sample]) -> Figure:
    """What the samples of one guest and one load say: the stop, and a row of what it is made of."""
    transfers = [sample.transfer for sample in samples]
    stop = Distribution.of(one.stop_ms for one in transfers)
    is_promised = subject.memory_mib == GOAL_MIB and load is not Load.IDLE
    parts = {name: [one.parts_ms()[name] for one in transfers] for name in PARTS}
    measured: Mapping[str, list[float]] = {
        "stop_ms": list(stop.samples),
        "copy_ms": [one.copy_ms for one in transfers],
        "sent_mib": [one.sent_mib for one in samples],
        "pages_per_second": [rate for one in transfers if (rate := one.pages_written_per_second) is not None],
        "last_pages": [float(one.rounds[-1].pages) for one in transfers if one.rounds],
        "wait_ms": [one.wait_ms for one in samples if one.wait_ms is not None],
        "wait_at_stop_ms": [one.wait_at_stop_ms for one in samples if one.wait_at_stop_ms is not None],
        "wait_before_ms": [one.wait_before_ms for one in samples if one.wait_before_ms is not None],
        **{f"{name}_ms": values for name, values in parts.items()},
    }
    return Figure(
        title=f"{subject}, {load}: stop for a new backup",
        protected=stop.summary(unit="ms"),
        result=f"{stop.median:.0f} ms, max {stop.largest:.0f}",
        goal=f"median under {GOAL_MS} ms" if is_promised else "",
        reached=stop.median < GOAL_MS if is_promised else None,
        samples=dict(measured),
        details=_details(subject, load, measured),
    )


def _details(subject: Subject, load: Load, measured: Mapping[str, list[float]]) -> dict[str, str]:
    """A row of the second table: medians, with the largest in brackets.

    `pages/s`: how fast the guest wrote to pages during the first round; `MiB`: what was sent; `wait`: the clients'
    longest wait that touches the transfer, `at stop` its stop, `before` the second before it.
    """

    def told(name: str) -> str:
        values = measured[name]
        if not values:
            return "-"
        distribution = Distribution.of(values)
        return f"{distribution.median:.0f} ({distribution.largest:.0f})"

    return {
        "guest, MiB": f"{subject.workload} {subject.memory_mib}",
        "load": str(load),
        "pages/s": told("pages_per_second").split(" ")[0],
        "MiB": told("sent_mib"),
        "copy": told("copy_ms"),
        "stop": told("stop_ms"),
        **{name.replace("_", " "): told(f"{name}_ms") for name in PARTS},
        "wait": told("wait_ms"),
        "at stop": told("wait_at_stop_ms"),
        "before": told("wait_before_ms"),
    }
