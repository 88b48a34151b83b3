"""Builds the evidence of a run that never happened: a pair, four clients, a primary that dies, a survivor that goes on.

A test takes the good run apart by changing what is in the lists of a `Run` before it is written. All times in the
builder are milliseconds since its start; both clocks run at the same rate, a constant apart.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import dpkt

from harness.evidence.capture import CaptureCount, Direction, Frame, capture_name, write_capture_counts
from harness.evidence.digest import digest
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.disk import SECTOR_BYTES, Extent, write_disk
from harness.evidence.ownership import ArbiterEvent, ArbiterRecord, write_arbiter_records
from harness.evidence.read_back import ReadBack, write_read_back
from harness.evidence.recording import Recording
from harness.evidence.replay import Replay, ReplayedOutput
from harness.evidence.scenario import Scenario
from harness.evidence.standstills import MachineRecord, Overdue, write_standstills
from harness.evidence.wire.messages import Answer, Body, Commit, Entries, Heartbeat, Hello, LogEntry, Terms, Welcome
from harness.evidence.wire.storage import StorageWrite
from harness.evidence.wire.wire import Refused, Said, Wire
from harness.promise import ClientKind, Expect

BOOT_NS = 5_000_000_000_000
WALL_NS = 1_795_000_000_000_000_000
VM_MAC = bytes.fromhex("020000000002")
CLIENT_MAC = bytes.fromhex("020000000001")
VM_ADDRESS, CLIENT_ADDRESS = bytes([10, 0, 0, 2]), bytes([10, 0, 0, 1])
PRIMARY, BACKUP = "host-a", "host-b"
INCARNATIONS = {PRIMARY: "a" * 16, BACKUP: "b" * 16}
LOG, HEARTBEATS = "log", ("heartbeat-logging", "heartbeat-management")
POLL, NETWORK_READ, COUNTER, WALLTIME = 2, 5, 6, 1
KILL_MS, LIVE_MS, END_MS = 1000.0, 1230.0, 2000.0
CLIENTS = 4
TERMS = Terms(
    "00" * 32, 2, "00" * 18, 50_000_000, 100_000_000, 150_000_000, 1_000_000_000, 2_000_000_000, 50_000_000, 1000
)
# CLOCK_REALTIME less CLOCK_BOOTTIME, on all hosts.
PAIR_NS = WALL_NS - BOOT_NS

Record = dict[str, Any]


def boot_ns(at_ms: float) -> int:
    """CLOCK_BOOTTIME of a time of the builder."""
    return BOOT_NS + int(at_ms * 1e6)


def wall_ns(at_ms: float) -> int:
    """CLOCK_REALTIME of a time of the builder."""
    return WALL_NS + int(at_ms * 1e6)


@dataclass
class Run:
    """The evidence, file by file, before it is written."""

    scenario: Record = field(default_factory=dict)
    traces: dict[str, list[Record]] = field(default_factory=lambda: {PRIMARY: [], BACKUP: []})
    # What each host sent into the client network.
    captures: dict[str, list[Frame]] = field(default_factory=lambda: {PRIMARY: [], BACKUP: []})
    messages: list[Said] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    # What the replay of each host's log gives, and what its node answered live.
    outputs: dict[str, list[ReplayedOutput]] = field(default_factory=lambda: {PRIMARY: [], BACKUP: []})
    recorded: dict[str, list[LogEntry]] = field(default_factory=lambda: {PRIMARY: [], BACKUP: []})
    divergence: dict[str, str] = field(default_factory=dict)
    # Hosts whose nodes left no recording.
    unrecorded: set[str] = field(default_factory=set)
    disagreement: dict[str, str] = field(default_factory=dict)
    # What a guest's state is where it was carried, by the source's incarnation and position.
    carried: dict[tuple[str, int], str] = field(default_factory=dict)
    writes: list[StorageWrite] = field(default_factory=list)
    records: list[ArbiterRecord] = field(default_factory=list)
    arbiter_events: list[ArbiterEvent] = field(default_factory=list)
    # How many frames each capture missed; none where nothing is said.
    dropped: dict[str, int] = field(default_factory=dict)
    # How many frames were counted that its file does not hold.
    lost: dict[str, int] = field(default_factory=dict)
    history: list[Record] = field(default_factory=list)
    connections: list[Record] = field(default_factory=list)
    faults: list[Record] = field(default_factory=list)
    # What the image holds at the end; None: what was written.
    disk: list[Extent] | None = None
    # What a fresh VM reads from the image; None: nobody booted one.
    read_back: ReadBack | None = None
    consoles: dict[str, bytes] = field(default_factory=lambda: {PRIMARY: b"", BACKUP: b""})
    ticks: list[Record] = field(default_factory=list)
    looks: list[Record] = field(default_factory=list)
    # When each of two processors did not run; None: nobody observed them.
    overdue: list[Overdue] | None = None
    # One exchange: (client, output index, the frame's bytes), for tests that look for a certain one.
    replies: list[tuple[int, int, bytes]] = field(default_factory=list)

    def stand_still(self, from_ms: float, to_ms: float, *, processors: Sequence[int] = (0, 1)) -> None:
        """The machine, or a processor of it, does not run for a while; what the run says of that time stays."""
        self.overdue = self.overdue or []
        self.overdue += [Overdue(processor, boot_ns(from_ms), boot_ns(to_ms)) for processor in processors]

    def trace(self, host: str, at_ms: float, event: str, generation: int, **fields: Any) -> Record:
        """Append an event to a trace."""
        record = {"event": event, "node": host, "incarnation": INCARNATIONS[host], "generation": generation}
        record |= {"monotonic_ns": boot_ns(at_ms), "wall_ns": wall_ns(at_ms), **fields}
        self.traces[host].append(record)
        return record

    def frame(self, host: str, at_ms: float, content: bytes) -> None:
        """Append a frame to a capture."""
        number = len(self.captures[host]) + 1
        self.captures[host].append(Frame(host, "client", Direction.SENT, number, wall_ns(at_ms), content))

    def say(
        self,
        sender: str,
        at_ms: float,
        body: Body,
        *,
        path: str = LOG,
        generation: int = 1,
        echo_ms: float | None = None,
        takes_ms: float = 0.05,
    ) -> Said:
        """Append a message that leaves when it is made and arrives a little later."""
        receiver = BACKUP if sender == PRIMARY else PRIMARY
        echo_ns = 0 if echo_ms is None else boot_ns(echo_ms)
        said = Said(
            sender,
            receiver,
            path,
            wall_ns(at_ms + 0.002),
            wall_ns(at_ms + takes_ms),
            generation,
            INCARNATIONS[sender],
            1,
            len(self.messages) + 1,
            boot_ns(at_ms),
            echo_ns,
            body,
        )
        self.messages.append(said)
        return said

    def write_block(self, host: str, at_ms: float, output: ReplayedOutput, content: bytes) -> None:
        """Append a block write that the storage answers a little later."""
        assert output.offset is not None
        asked_ns, answered_ns = wall_ns(at_ms + 0.01), wall_ns(at_ms + 0.04)
        self.writes.append(
            StorageWrite(host, output.offset, len(content), digest(content), content, asked_ns, answered_ns, 0)
        )

    def replays(self) -> dict[str, Replay]:
        """The replays of the hosts that owned the VM."""
        return {
            host: Replay(
                host,
                INCARNATIONS[host],
                outputs,
                outputs[-1].depends_on,
                {},
                self.divergence.get(host),
                self.recorded[host][0].position if self.recorded[host] else None,
                self.disagreement.get(host),
            )
            for host, outputs in self.outputs.items()
            if outputs
        }

    def events(self, host: str, event: str, **wanted: Any) -> list[Record]:
        """The events of a trace with these fields."""
        return [one for one in self.traces[host] if one["event"] == event and wanted.items() <= one.items()]

    def write(self, directory: Path) -> Path:
        """Write the directory; each file in the order of its lists, traces in order of time."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "scenario.json").write_text(json.dumps(self.scenario))
        for host, events in self.traces.items():
            ordered = sorted(events, key=lambda one: one["monotonic_ns"])
            _write_lines(directory / "hosts" / host / "trace.jsonl", ordered)
        counts = {}
        for host, frames in self.captures.items():
            write_frames(directory / "captures", sorted(frames, key=lambda one: one.wall_ns))
            counts[f"client.{host}"] = CaptureCount(len(frames) + self.lost.get(host, 0), self.dropped.get(host, 0))
            counts |= {f"{network}.{host}": CaptureCount(0, 0) for network in ("logging", "management", "storage")}
        counts["storage.storage"] = CaptureCount(0, 0)
        write_capture_counts(directory / "captures" / "counts.json", counts)
        for name in ("history", "connections", "faults", "ticks", "looks"):
            if records := getattr(self, name):
                _write_lines(directory / f"{name}.jsonl", records)
        if self.overdue is not None:
            write_standstills(directory / "standstills.json", MachineRecord(2, self.overdue))
        for host, console in self.consoles.items():
            (directory / "hosts" / host).mkdir(parents=True, exist_ok=True)
            (directory / "hosts" / host / "console.log").write_bytes(console)
        write_arbiter_records(directory / "arbiter.json", self.records)
        _write_lines(directory / "arbiter-events.jsonl", [asdict(event) for event in self.arbiter_events])
        if self.read_back is not None:
            write_read_back(directory / "readback.json", self.read_back)
        write_disk(directory / "disk.json", self.written if self.disk is None else self.disk)
        return directory

    @property
    def written(self) -> list[Extent]:
        """The extents that the block writes of the traces make."""
        outputs = [one for events in self.traces.values() for one in events if one["event"] == "output"]
        return [Extent(one["offset"], one["length"], one["digest"]) for one in outputs if "offset" in one]


class BuiltEvidence(EvidenceDirectory):
    """A run's evidence where the wire, the replays and the storage's writes were never files."""

    def __init__(self, path: Path, run: Run, *, uncertainty_ns_max: int | None = None) -> None:
        super().__init__(path, uncertainty_ns_max=uncertainty_ns_max)
        self._run = run

    @cached_property
    def wire(self) -> Wire:
        return Wire(sorted(self._run.messages, key=lambda one: one.left_ns or one.arrived_ns or 0), self._run.refused)

    @cached_property
    def replays(self) -> dict[str, Replay]:
        return self._run.replays()

    @cached_property
    def carried_states(self) -> dict[tuple[str, int], str]:
        return self._run.carried

    @cached_property
    def recordings(self) -> list[Recording]:
        return [
            Recording(host, INCARNATIONS[host], b"", entries, b"")
            for host, entries in self._run.recorded.items()
            if host not in self._run.unrecorded
        ]

    @cached_property
    def storage_writes(self) -> list[StorageWrite] | None:
        return self._run.writes

    def recorded_entries(self, host: str) -> list[LogEntry]:
        return self._run.recorded[host]

    def strictly(self, uncertainty_ns_max: int) -> EvidenceDirectory:
        return BuiltEvidence(self.path, self._run, uncertainty_ns_max=uncertainty_ns_max)


def _write_lines(path: Path, records: list[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_frames(directory: Path, frames: list[Frame]) -> None:
    """Write a capture; all frames are of one port and direction."""
    directory.mkdir(parents=True, exist_ok=True)
    if frames:
        path = directory / capture_name(frames[0].network, frames[0].host, frames[0].direction)
        with gzip.open(path, "wb", compresslevel=1) as file:
            stamped = [(Decimal(frame.wall_ns).scaleb(-9), frame.content) for frame in frames]
            dpkt.pcap.Writer(file, snaplen=1 << 18, nano=True).writepkts(stamped)


def segment(client: int, number: int, payload: bytes, *, flags: int = dpkt.tcp.TH_ACK | dpkt.tcp.TH_PUSH) -> bytes:
    """A frame of the VM to a client's port."""
    tcp = dpkt.tcp.TCP(sport=6379, dport=40000 + client, seq=number, ack=1, flags=flags, data=payload)
    packet = dpkt.ip.IP(src=VM_ADDRESS, dst=CLIENT_ADDRESS, p=dpkt.ip.IP_PROTO_TCP, data=tcp)
    packet.len = len(packet)
    return bytes(dpkt.ethernet.Ethernet(src=VM_MAC, dst=CLIENT_MAC, data=packet))


def gratuitous_arp() -> bytes:
    """The announcement of a node that goes live."""
    arp = dpkt.arp.ARP(sha=VM_MAC, spa=VM_ADDRESS, tha=b"\0" * 6, tpa=VM_ADDRESS)
    return bytes(dpkt.ethernet.Ethernet(src=VM_MAC, dst=b"\xff" * 6, type=dpkt.ethernet.ETH_TYPE_ARP, data=arp))


class Store:
    """What the VM holds: a key-value store that answers as Redis does."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def apply(self, operation: str, key: str, value: str | None) -> str | int | None:
        """Carry an operation out."""
        before = self.values.get(key)
        if operation == "GET":
            return before
        if operation == "DEL":
            return int(self.values.pop(key, None) is not None)
        if operation == "INCR":
            self.values[key] = str(int(before or 0) + 1)
            return int(self.values[key])
        self.values[key] = (before or "") + (value or "") if operation == "APPEND" else value or ""
        return "OK" if operation == "SET" else len(self.values[key])


class Builder:
    """Plays the run forward.

    Every exchange is a network read, a look at the counter and a poll, and one frame; a write is a block write too, and
    every twentieth exchange prints a line.
    """

    def __init__(self, **scenario: Any) -> None:
        self.run = Run()
        self._store = Store()
        self._position = self._index = 0
        self._released = 0
        self._sent = 0
        self._heartbeat_ms = 50.0
        self._scenario = scenario

    def good_failover(self) -> Run:
        """A primary that is killed under load, and a survivor that does everything right."""
        run = self.run
        base = Scenario(
            expect=Expect.FAILOVER,
            stall_ms_max=500.0,
            name="primary_killed",
            lab="netns",
            seed=7,
            start_ns=wall_ns(0),
            end_ns=wall_ns(END_MS),
            mac=VM_MAC.hex(":"),
            addresses=("10.0.0.2",),
            lease_ms=TERMS.lease_ns // 1_000_000,
            detect_ms=TERMS.detect_ns // 1_000_000,
            heartbeat_ms=TERMS.heartbeat_ns // 1_000_000,
            write_bound_ms=TERMS.write_bound_ns // 1_000_000,
            faults=("power-off",),
            load_seconds_after_min=0.5,
        )
        run.scenario = asdict(base) | self._scenario
        self._begin()
        for number in range(199):
            self._exchange(20 + number * 4.9, number, self._emit_protected)
        # Acknowledged and never emitted: the survivor alone can say it.
        operation = ("SET", "key:1", "<uncertain>")
        self._exchange(KILL_MS - 0.9, 199, self._emit_after_go_live, operation=operation)
        self._fail_over()
        for number in range(200, 200 + CLIENTS - 1):
            self._exchange(KILL_MS + (number - 199) * 2, number, self._emit_alone, answered_ms=LIVE_MS + number - 196)
        for number in range(204, 340):
            self._exchange(LIVE_MS + 20 + (number - 204) * 4.9, number, self._emit_alone)
        for number, key in enumerate(sorted({one["key"] for one in run.history if "key" in one})):
            at_ms = LIVE_MS + 700 + number * 2
            self._exchange(at_ms, 400 + number, self._emit_alone, operation=("GET", key, None), phase="final")
        self._finish()
        return run

    def _begin(self) -> None:
        run = self.run
        run.history.append({"event": "start", "monotonic_ns": boot_ns(0), "wall_ns": wall_ns(0)})
        for host in (PRIMARY, BACKUP):
            run.trace(host, 1, "node-started", 0, vm="6f1c", pid=10, mutants=[], timing={})
        run.trace(PRIMARY, 2, "arbiter", 0, operation="bootstrap", wanted=1, outcome="won")
        self._claim(PRIMARY, 1, 1.8)
        run.trace(PRIMARY, 3, "role", 1, **{"from": "SPARE", "to": "ALONE", "reason": "bootstrap"})
        run.trace(PRIMARY, 4, "live", 1)
        run.trace(PRIMARY, 5, "session", 1, state="opened", session=1, reason=None)
        run.say(PRIMARY, 5, Hello("0" * 16, TERMS))
        run.say(BACKUP, 5.2, Welcome(0, 0, TERMS), echo_ms=5)
        run.trace(PRIMARY, 6, "role", 1, **{"from": "ALONE", "to": "PROTECTED", "reason": "committed"})
        run.say(PRIMARY, 6.1, Commit(0, 0))
        run.trace(BACKUP, 6.5, "committed", 1, session=1, position=0)
        run.say(BACKUP, 6.6, Answer(0, 0), echo_ms=6.1)
        run.trace(BACKUP, 7, "role", 1, **{"from": "JOINING", "to": "BACKUP", "reason": "committed"})
        for client in range(CLIENTS):
            run.connections.append(connection(client, "opened", 10))
        self._enter(9, WALLTIME, wall_ns(9).to_bytes(8, "little"), PRIMARY)
        self._emit_protected(9, "console", b"kv: a store\n")

    def _claim(self, host: str, generation: int, at_ms: float) -> None:
        """The storage host's stamps of a claim: its file's are up to 4 ms old."""
        run = self.run
        coarse_ns = wall_ns(at_ms) - 1_500_000
        who = INCARNATIONS[host]
        run.records.append(ArbiterRecord(generation, who, host, coarse_ns, 4_000_000, coarse_ns + 4_000_000, PAIR_NS))
        name = f"claim-{generation:08d}-{who}-{'0' * 16}"
        run.arbiter_events += [
            ArbiterEvent("created", name, wall_ns(at_ms - 0.6)),
            ArbiterEvent("created", f"generation-{generation:08d}", wall_ns(at_ms + 0.1)),
        ]

    def _enter(self, at_ms: float, kind: int, answer: bytes, host: str) -> None:
        self._position += 1
        self.run.recorded[host].append(LogEntry(self._position, f"{self._position:032x}", kind, answer, b""))

    def _exchange(
        self,
        at_ms: float,
        number: int,
        emit: Callable[[float, str, bytes], float],
        *,
        answered_ms: float | None = None,
        operation: tuple[str, str, str | None] | None = None,
        phase: str = "load",
    ) -> None:
        client = number % CLIENTS
        name, key, value = operation or _operation(number, client)
        result = self._store.apply(name, key, value)
        host = BACKUP if emit == self._emit_alone else PRIMARY
        served_ms = answered_ms or at_ms
        while host == PRIMARY and self._heartbeat_ms < at_ms:
            self._heartbeat(self._heartbeat_ms)
            self._heartbeat_ms += 50
        self._enter(served_ms, NETWORK_READ, f"{name} {key}".encode(), host)
        self._enter(served_ms, COUNTER, int(served_ms * 1e6).to_bytes(8, "little"), host)
        if number % 20 == 19:
            emit(served_ms, "console", f"kv: {number} commands\n".encode())
        if name not in ("GET",):
            emit(served_ms, "block", f"record {number}".encode())
        self._enter(served_ms, POLL, b"\1", host)
        content = segment(client, number, f"{result}".encode())
        return_ms = emit(served_ms, "frame", content)
        self.run.replies.append((client, self._index, content))
        record = {"client": client, "operation": name, "key": key, "value": value, "result": result, "phase": phase}
        record |= {"call_ns": boot_ns(at_ms), "return_ns": boot_ns(return_ms), "error": None}
        self.run.history.append(record)

    def _heartbeat(self, at_ms: float) -> None:
        for path in HEARTBEATS:
            self.run.say(PRIMARY, at_ms, Heartbeat(self._released), path=path, echo_ms=at_ms - 50)
            self.run.say(BACKUP, at_ms + 0.1, Answer(self._sent, self._sent), path=path, echo_ms=at_ms)

    def _output(self, kind: str, content: bytes) -> ReplayedOutput:
        self._index += 1
        device = {"frame": 1, "block": 2, "console": None}[kind]
        offset = self._index * SECTOR_BYTES if kind == "block" else None
        return ReplayedOutput(self._index, kind, device, offset, self._position, len(content), digest(content))

    def _replay(self, at_ms: float, output: ReplayedOutput) -> None:
        """The entries go to the backup, which acknowledges them and replays the output that they lead to."""
        run = self.run
        entries = tuple(entry for entry in run.recorded[PRIMARY] if entry.position > self._sent)
        if entries:
            run.say(PRIMARY, at_ms + 0.05, Entries(self._released, self._sent + 1, self._position, entries))
            run.trace(BACKUP, at_ms + 0.15, "acknowledged", 1, position=self._position, by="backup")
            run.say(BACKUP, at_ms + 0.16, Answer(self._position, self._sent), echo_ms=at_ms + 0.05)
            run.trace(PRIMARY, at_ms + 0.35, "acknowledged", 1, position=self._position, by="primary")
            self._sent = self._position
        run.trace(BACKUP, at_ms + 0.25, "replayed-output", 1, **_fields(output))
        for host in (PRIMARY, BACKUP):
            run.outputs[host].append(output)

    def _emit(self, host: str, at_ms: float, output: ReplayedOutput, content: bytes, why: str) -> None:
        """Lets an output go: traced first."""
        run = self.run
        run.trace(host, at_ms, "output", 1 if host == PRIMARY else 2, why=why, **_fields(output))
        if output.kind == "frame":
            run.frame(host, at_ms + 0.05, content)
        elif output.kind == "block":
            run.write_block(host, at_ms, output, content)
        else:
            run.consoles[host] += content

    def _emit_protected(self, at_ms: float, kind: str, content: bytes) -> float:
        output = self._output(kind, content)
        late_ms = {"console": 0.0, "block": 0.2, "frame": 0.6}[kind]
        self._replay(at_ms + late_ms, output)
        self._emit(PRIMARY, at_ms + late_ms + 0.4, output, content, "release")
        self.run.trace(PRIMARY, at_ms + late_ms + 0.5, "output-done", 1, through=output.index)
        self._released = output.index
        return at_ms + late_ms + 0.55

    def _emit_after_go_live(self, at_ms: float, kind: str, content: bytes) -> float:
        output = self._output(kind, content)
        self._replay(at_ms + {"console": 0.0, "block": 0.1, "frame": 0.2}[kind], output)
        late_ms = {"console": 0.1, "block": 0.2, "frame": 0.3}[kind]
        self._emit(BACKUP, LIVE_MS + late_ms, output, content, "re-issue")
        return LIVE_MS + 0.4

    def _emit_alone(self, at_ms: float, kind: str, content: bytes) -> float:
        output = self._output(kind, content)
        self.run.outputs[BACKUP].append(output)
        late_ms = {"console": 0.1, "block": 0.2, "frame": 0.3}[kind]
        self._emit(BACKUP, at_ms + late_ms, output, content, "release")
        self.run.trace(BACKUP, at_ms + late_ms + 0.05, "output-done", 2, through=output.index)
        return at_ms + 0.5

    def _fail_over(self) -> None:
        run = self.run
        run.faults.append(
            {
                "fault": "power-off",
                "target": PRIMARY,
                "parameters": {},
                "injected_ns": wall_ns(KILL_MS),
                "confirmed_ns": wall_ns(KILL_MS + 40),
                "healed_ns": None,
                "verdict": "confirmed",
                "evidence": ["its processes are gone"],
            }
        )
        run.trace(BACKUP, KILL_MS + 150, "suspect", 1, reason="silence")
        run.trace(BACKUP, KILL_MS + 150.1, "role", 1, **{"from": "BACKUP", "to": "CANDIDATE", "reason": "silence"})
        run.trace(BACKUP, KILL_MS + 150.2, "closed-log", 1, position=self._position)
        run.trace(BACKUP, KILL_MS + 158, "drained", 1, position=self._position, released=self._released)
        run.trace(BACKUP, KILL_MS + 205, "arbiter", 1, operation="read", wanted=2, outcome=1)
        self._claim(BACKUP, 2, KILL_MS + 219)
        run.trace(BACKUP, KILL_MS + 220, "arbiter", 1, operation="ask", wanted=2, outcome="won")
        run.trace(BACKUP, KILL_MS + 220.1, "role", 2, **{"from": "CANDIDATE", "to": "WON", "reason": "arbiter"})
        run.trace(BACKUP, KILL_MS + 222, "attached", 2)
        run.trace(BACKUP, KILL_MS + 224, "announced", 2)
        run.frame(BACKUP, KILL_MS + 224.1, gratuitous_arp())
        run.trace(BACKUP, LIVE_MS - 0.1, "role", 2, **{"from": "WON", "to": "ALONE", "reason": "live"})
        run.trace(BACKUP, LIVE_MS, "live", 2)
        run.trace(BACKUP, LIVE_MS + 0.15, "first-output", 2)
        run.frame(BACKUP, LIVE_MS + 300, gratuitous_arp())

    def _finish(self) -> None:
        run = self.run
        keys = {one["key"] for one in run.history if "key" in one}
        console = "kv: recovered 5 keys\nkv: serving 10.77.0.2/24 port 6379\n"
        values = {key: self._store.values.get(key) for key in sorted(keys)}
        run.read_back = ReadBack("host-c", values, console=console)
        answered = sum(one.get("return_ns") is not None for one in run.history)
        for host in (PRIMARY, BACKUP):
            for step in range(20):
                at_ms = 20 + step * (49 if host == PRIMARY else 98)
                generation = 1 if at_ms < KILL_MS else 2
                lag = {"milliseconds": 0.4 * (step % 5), "bytes": 70 * (step % 4), "share": 1.0}
                run.trace(host, at_ms, "lag", generation, **lag)
        for number, at_ms in enumerate((*range(100, 1000, 100), *range(1300, 2000, 100))):
            visitor = CLIENTS + number
            run.connections.append(connection(visitor, "opened", at_ms + 0.5, asked_ms=at_ms, long_lived=False))
            run.connections.append(connection(visitor, "closed-by-client", at_ms + 5, asked_ms=at_ms, long_lived=False))
        for client in range(CLIENTS):
            run.connections.append(connection(client, "closed-by-client", END_MS))
        end = {"event": "end", "monotonic_ns": boot_ns(END_MS), "wall_ns": wall_ns(END_MS)}
        run.history.append({**end, "answered": answered, "unanswered": 0})


def connection(
    client: int, event: str, at_ms: float, *, asked_ms: float = 9.5, long_lived: bool = True, error: str | None = None
) -> Record:
    """What happened to a client's connection."""
    record = {"client": client, "event": event, "at_ns": boot_ns(at_ms), "asked_ns": boot_ns(asked_ms)}
    return record | {"local_port": 40000 + client, "long_lived": long_lived, "error": error}


def _fields(output: ReplayedOutput) -> Record:
    """An output as the traces have it."""
    return {name: value for name, value in asdict(output).items() if value is not None}


def _operation(number: int, client: int) -> tuple[str, str, str | None]:
    key = f"key:{number % 6}"
    if number % 6 == 0:
        return "INCR", key, None
    name = ("SET", "GET", "APPEND", "GET", "SET", "GET", "DEL")[number % 7]
    return name, key, f"<{client}.{number}>" if name in ("SET", "APPEND") else None


def good_ticker_run() -> Run:
    """The same failover under the ticker: the key-value evidence gives way to datagrams."""
    run = Builder(client=ClientKind.TICKER).good_failover()
    run.history, run.connections = [], []
    run.ticks.append({"event": "start", "monotonic_ns": boot_ns(0), "wall_ns": wall_ns(0)})
    for number in range(1, 190):
        at_ms = 10 * number + (0 if 10 * number < KILL_MS else max(0.0, LIVE_MS - 10 * number))
        payload = f"tick {number:06} {number * 10_000_000}"
        guest_ns = number * 10_000_000
        run.ticks.append({"number": number, "guest_ns": guest_ns, "arrived_ns": boot_ns(at_ms), "payload": payload})
    run.ticks.append({"event": "end", "monotonic_ns": boot_ns(END_MS), "wall_ns": wall_ns(END_MS)})
    return run
