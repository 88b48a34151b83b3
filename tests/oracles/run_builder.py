"""Builds the evidence of a run that never happened: a pair, four clients, a primary that dies, a survivor that goes on.

A test takes the good run apart by changing what is in the lists of a `Run` before it is written. All times in the
builder are milliseconds since its start; both clocks run at the same rate, a constant apart.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import dpkt

from harness.evidence.capture import Direction, Frame, capture_name
from harness.evidence.capture_counts import CaptureCount, write_capture_counts
from harness.evidence.digest import digest
from harness.evidence.disk import SECTOR_BYTES, Extent, write_disk
from harness.evidence.read_back import ReadBack, write_read_back
from harness.evidence.scenario import Scenario
from harness.promise import ClientKind, Expect

BOOT_NS = 5_000_000_000_000
WALL_NS = 1_795_000_000_000_000_000
VM_MAC = bytes.fromhex("020000000002")
CLIENT_MAC = bytes.fromhex("020000000001")
VM_ADDRESS, CLIENT_ADDRESS = bytes([10, 0, 0, 2]), bytes([10, 0, 0, 1])
PRIMARY, BACKUP = "host-a", "host-b"
INCARNATIONS = {PRIMARY: "aaaa", BACKUP: "bbbb"}
KILL_MS, LIVE_MS, END_MS = 1000.0, 1230.0, 2000.0
CLIENTS = 4

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
    # How many frames each capture missed; none where nothing is said.
    dropped: dict[str, int] = field(default_factory=dict)
    history: list[Record] = field(default_factory=list)
    connections: list[Record] = field(default_factory=list)
    faults: list[Record] = field(default_factory=list)
    # What the image holds at the end; None: what was written.
    disk: list[Extent] | None = None
    # What a fresh VM reads from the image; None: nobody booted one.
    read_back: ReadBack | None = None
    consoles: dict[str, str] = field(default_factory=dict)
    ticks: list[Record] = field(default_factory=list)
    # One exchange: (client, output index, the frame's bytes), for tests that look for a certain one.
    replies: list[tuple[int, int, bytes]] = field(default_factory=list)

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
            counts[f"client.{host}"] = CaptureCount(len(frames), self.dropped.get(host, 0))
            counts |= {f"{network}.{host}": CaptureCount(0, 0) for network in ("logging", "management")}
        write_capture_counts(directory / "captures" / "counts.json", counts)
        for name in ("history", "connections", "faults", "ticks"):
            if records := getattr(self, name):
                _write_lines(directory / f"{name}.jsonl", records)
        for host, console in self.consoles.items():
            (directory / "hosts" / host / "console.log").write_text(console)
        if self.read_back is not None:
            write_read_back(directory / "readback.json", self.read_back)
        write_disk(directory / "disk.json", self.written if self.disk is None else self.disk)
        return directory

    @property
    def written(self) -> list[Extent]:
        """The extents that the block writes of the traces make."""
        outputs = [one for events in self.traces.values() for one in events if one["event"] == "output"]
        return [Extent(one["offset"], one["length"], one["digest"]) for one in outputs if "offset" in one]


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
    """Plays the run forward; every exchange is one log entry, one frame and one reply, the writes a block write too."""

    def __init__(self, **scenario: Any) -> None:
        self.run = Run()
        self._store = Store()
        self._position = self._index = 0
        self._released = 0
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
            faults=("power-off",),
        )
        run.scenario = asdict(base) | self._scenario
        self._begin()
        for number in range(199):
            self._exchange(20 + number * 4.9, number, self._emit_protected)
        # Acknowledged and never emitted: the survivor alone can say it.
        self._exchange(KILL_MS - 0.9, 199, self._emit_after_go_live)
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
        run.trace(PRIMARY, 3, "role", 1, **{"from": "SPARE", "to": "ALONE", "reason": "bootstrap"})
        run.trace(PRIMARY, 4, "live", 1)
        run.trace(PRIMARY, 5, "session", 1, state="opened", session=1, reason=None)
        run.trace(PRIMARY, 6, "role", 1, **{"from": "ALONE", "to": "PROTECTED", "reason": "committed"})
        run.trace(BACKUP, 6.5, "committed", 1, session=1, position=0)
        run.trace(BACKUP, 7, "role", 1, **{"from": "JOINING", "to": "BACKUP", "reason": "committed"})
        for client in range(CLIENTS):
            run.connections.append(connection(client, "opened", 10))

    def _exchange(
        self,
        at_ms: float,
        number: int,
        emit: Callable[[float, int, bytes], float],
        *,
        answered_ms: float | None = None,
        operation: tuple[str, str, str | None] | None = None,
        phase: str = "load",
    ) -> None:
        client = number % CLIENTS
        name, key, value = operation or _operation(number, client)
        result = self._store.apply(name, key, value)
        self._position += 1
        if name not in ("GET",):
            self._index += 1
            emit(answered_ms or at_ms, -self._index, f"record {number}".encode())
            self._position += 1
        self._index += 1
        content = segment(client, number, f"{result}".encode())
        self.run.replies.append((client, self._index, content))
        return_ms = emit(answered_ms or at_ms, self._index, content)
        record = {"client": client, "operation": name, "key": key, "value": value, "result": result, "phase": phase}
        record |= {"call_ns": boot_ns(at_ms), "return_ns": boot_ns(return_ms), "error": None}
        self.run.history.append(record)

    def _output(self, index: int, content: bytes) -> Record:
        kind = "frame" if index > 0 else "block"
        return {
            "index": abs(index),
            "kind": kind,
            "depends_on": self._position,
            "length": len(content),
            "digest": digest(content),
            **({"offset": -index * SECTOR_BYTES} if kind == "block" else {}),
        }

    def _replay(self, at_ms: float, output: Record) -> None:
        self.run.trace(BACKUP, at_ms, "acknowledged", 1, position=self._position, by="backup")
        self.run.trace(BACKUP, at_ms + 0.05, "replayed-output", 1, **output)

    def _emit_protected(self, at_ms: float, index: int, content: bytes) -> float:
        output = self._output(index, content)
        late_ms = 0.0 if index < 0 else 0.6
        self._replay(at_ms + late_ms + 0.2, output)
        self.run.trace(PRIMARY, at_ms + late_ms + 0.35, "acknowledged", 1, position=self._position, by="primary")
        self.run.trace(PRIMARY, at_ms + late_ms + 0.4, "output", 1, why="release", **output)
        if index > 0:
            self.run.frame(PRIMARY, at_ms + late_ms + 0.45, content)
        self.run.trace(PRIMARY, at_ms + late_ms + 0.5, "output-done", 1, through=abs(index))
        self._released = abs(index)
        return at_ms + late_ms + 0.55

    def _emit_after_go_live(self, at_ms: float, index: int, content: bytes) -> float:
        output = self._output(index, content)
        self._replay(at_ms + 0.2, output)
        self.run.trace(BACKUP, LIVE_MS + 0.1, "output", 2, why="re-issue", **output)
        if index > 0:
            self.run.frame(BACKUP, LIVE_MS + 0.2, content)
        return LIVE_MS + 0.3

    def _emit_alone(self, at_ms: float, index: int, content: bytes) -> float:
        self.run.trace(BACKUP, at_ms + 0.3, "output", 2, why="release", **self._output(index, content))
        if index > 0:
            self.run.frame(BACKUP, at_ms + 0.35, content)
        self.run.trace(BACKUP, at_ms + 0.4, "output-done", 2, through=abs(index))
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
                run.trace(host, at_ms, "lag", generation, entries=step % 4, milliseconds=0.4 * (step % 5))
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
