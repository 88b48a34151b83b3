"""One scenario's evidence directory, each file read when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Protocol

from harness.evidence.capture import CaptureCount, Direction, Frame, capture_name, read_capture_counts, read_frames
from harness.evidence.client import ConnectionEvent, History, Ticks, read_connections, read_history, read_ticks
from harness.evidence.clocks import ClockPair, Clocks, Pair, read_clock_record
from harness.evidence.disk import read_disk
from harness.evidence.faults import Disturbances, InjectedFault, read_faults
from harness.evidence.host_clocks import ClientMapping, HostClocks, map_trace
from harness.evidence.json_lines import EvidenceError
from harness.evidence.looks import Looks, read_looks
from harness.evidence.ownership import (
    ArbiterRecord,
    Ownership,
    find_ownership,
    read_arbiter_events,
    read_arbiter_records,
)
from harness.evidence.read_back import ReadBack, read_read_back
from harness.evidence.recording import Recording, read_recordings
from harness.evidence.replay import (
    Log,
    Replay,
    Replayer,
    assemble_logs,
    read_carried_states,
    read_replays,
    replay_here,
    replayed_already,
)
from harness.evidence.scenario import Scenario, read_scenario
from harness.evidence.standstills import Standstills, read_standstills
from harness.evidence.trace import Trace, read_trace
from harness.evidence.wire.messages import LogEntry
from harness.evidence.wire.nfs import read_nfs_writes
from harness.evidence.wire.storage import StorageWrite, read_storage_writes
from harness.evidence.wire.wire import Wire, read_wire

STORAGE_HOST = "storage"


class Stamp(Protocol):
    """Anything that a host stamped."""

    @property
    def uncertainty_ns(self) -> int: ...


class EvidenceDirectory:
    """`reports/evidence/<scenario>/`. Every property raises `EvidenceError` when its file is missing or malformed.

    Where the hosts have clocks of their own (`clocks.json`), every stamp of theirs is read as this machine's.

    Args:
        path: the directory.
        uncertainty_ns_max: see `HostClocks`.
    """

    def __init__(self, path: Path, *, uncertainty_ns_max: int | None = None) -> None:
        self.path = path
        self._uncertainty_ns_max = uncertainty_ns_max
        self._frames: dict[tuple[str, str, Direction], list[Frame]] = {}

    @cached_property
    def host_clocks(self) -> HostClocks | None:
        """The hosts' own clocks; None where they share this machine's."""
        path = self.path / "clocks.json"
        if not path.exists():
            return None
        return HostClocks(read_clock_record(path), uncertainty_ns_max=self._uncertainty_ns_max)

    @cached_property
    def scenario(self) -> Scenario:
        """What ran."""
        return read_scenario(self.path / "scenario.json")

    @cached_property
    def faults(self) -> list[InjectedFault]:
        """What was injected; a scenario without faults may leave no file."""
        path = self.path / "faults.jsonl"
        return read_faults(path) if path.exists() or self.scenario.expects_faults else []

    @cached_property
    def history(self) -> History:
        """What the key-value client saw."""
        return self._client.history(self._own_history) if self._client else self._own_history

    @cached_property
    def connections(self) -> list[ConnectionEvent]:
        """What happened to its connections."""
        events = read_connections(self.path / "connections.jsonl")
        return self._client.connections(events) if self._client else events

    @cached_property
    def ticks(self) -> Ticks:
        """What the ticker's listener received."""
        return self._client.ticks(self._own_ticks) if self._client else self._own_ticks

    def frames(self, network: str, host: str, direction: Direction) -> list[Frame]:
        """What a host sent into a network or received from it, in order of time; empty without such a file."""
        key = network, host, direction
        if key not in self._frames:
            path = self.path / "captures" / capture_name(*key)
            self._frames[key] = read_frames(path, *key) if path.exists() else []
        return self._frames[key]

    @cached_property
    def capture_counts(self) -> dict[str, CaptureCount]:
        """What the captures took in and missed, by `<network>.<host>`; a port that was not captured is none of them."""
        path = self.path / "captures" / "counts.json"
        return read_capture_counts(path) if path.exists() else {}

    @cached_property
    def vm_frames(self) -> dict[str, list[Frame]]:
        """The frames that each FT host sent into the client network under the VM's address, by host."""
        source = bytes.fromhex(self.scenario.mac.replace(":", ""))
        hosts = [port.removeprefix("client.") for port in self.capture_counts if port.startswith("client.")]
        return {
            host: [frame for frame in self.frames("client", host, Direction.SENT) if frame.source == source]
            for host in hosts
            if host != "client"
        }

    @cached_property
    def wire(self) -> Wire:
        """What the nodes said to each other."""
        try:
            key = bytes.fromhex(self.scenario.key)
        except ValueError as error:
            raise EvidenceError(f"{self.path / 'scenario.json'}: the key is not hexadecimal: {error}") from error
        if len(key) != 32:
            raise EvidenceError(f"{self.path / 'scenario.json'}: the VM's key is missing")
        return read_wire(key, self.frames)

    @cached_property
    def storage_writes(self) -> list[StorageWrite] | None:
        """The writes that came to the storage host; None in a lab that cannot capture what passes its ports."""
        if self.scenario.lab == "netns":
            return read_storage_writes(self.frames)
        return read_nfs_writes(self.frames) if "storage.storage" in self.capture_counts else None

    @cached_property
    def recordings(self) -> list[Recording]:
        """What the nodes told their guests live, by their own account."""
        return read_recordings(self.path)

    @cached_property
    def replays(self) -> dict[str, Replay]:
        """What each owner of the VM must have said, by host."""
        return read_replays(self.path, self._logs, self.wire, self._replayer)

    @cached_property
    def carried_states(self) -> dict[tuple[str, int], str]:
        """The digest of each guest's state that a joiner was committed to, by the source's incarnation and position."""
        return read_carried_states(self.path, self._logs, self.wire, self.replays, self._replayer)

    def replayed_by(self, replayer: Replayer) -> None:
        """Has everything replayed that has not been yet, by this replayer."""
        replays = read_replays(self.path, self._logs, self.wire, replayer)
        read_carried_states(self.path, self._logs, self.wire, replays, replayer)

    @property
    def _replayer(self) -> Replayer:
        return replay_here if self.scenario.lab == "netns" else replayed_already

    @cached_property
    def _logs(self) -> dict[str, Log]:
        claimants = [record.incarnation for record in read_arbiter_records(self.path / "arbiter.json")]
        return assemble_logs(self.recordings, self.wire, claimants)

    def recorded_entries(self, host: str) -> list[LogEntry]:
        """What the owner on a host told its guest live; nothing where the host never owned the VM."""
        replay = self.replays.get(host)
        incarnation = replay.incarnation if replay else None
        return [entry for one in self.recordings if one.incarnation == incarnation for entry in one.entries]

    @cached_property
    def traces(self) -> dict[str, Trace]:
        """The traces by host."""
        paths = sorted((self.path / "hosts").glob("*/trace.jsonl"))
        traces = (read_trace(path, path.parent.name) for path in paths)
        clocks = self.host_clocks
        return {trace.host: map_trace(trace, clocks) if clocks else trace for trace in traces}

    @cached_property
    def consoles(self) -> dict[str, str]:
        """What the guest printed, by the host that let it out."""
        return {host: content.decode(errors="replace") for host, content in self.console_bytes.items()}

    @cached_property
    def console_bytes(self) -> dict[str, bytes]:
        """The console files as they are, by host."""
        paths = sorted((self.path / "hosts").glob("*/console.log"))
        return {path.parent.name: path.read_bytes() for path in paths}

    @cached_property
    def ownership(self) -> Ownership:
        """Who owned the VM when, by the arbiter's records; the wire tells which incarnation ran on which host."""
        hosts = {message.incarnation: message.sender for message in reversed(self.wire.messages)}
        for path in (self.path / "hosts").glob("*/recorded-*.log"):
            hosts.setdefault(path.stem.removeprefix("recorded-"), path.parent.name)
        records = read_arbiter_records(self.path / "arbiter.json")
        events = read_arbiter_events(self.path / "arbiter-events.jsonl")
        return find_ownership(records, events, hosts, self._storage_bounds(records))

    def _storage_bounds(self, records: list[ArbiterRecord]) -> Callable[[int], tuple[int, int]]:
        """Where a stamp of the storage host's CLOCK_REALTIME lies on this machine's, as bounds."""
        clocks = self.host_clocks
        pair_ns = next((record.pair_ns for record in records if record.pair_ns is not None), None)
        if clocks is None or pair_ns is None:
            return lambda stamp_ns: (stamp_ns, stamp_ns)
        clock = clocks.of(STORAGE_HOST, [ClockPair(0, pair_ns)])

        def bounds_ns(stamp_ns: int) -> tuple[int, int]:
            (at,) = clocks.locate(clock, [stamp_ns - pair_ns]).values()
            wall_ns = clocks.machine.to_wall_ns(at.monotonic_ns)
            return wall_ns - at.uncertainty_ns, wall_ns + at.uncertainty_ns

        return bounds_ns

    @cached_property
    def speakers(self) -> list[str]:
        """The hosts that could speak for the VM: those whose port of the client network was captured."""
        hosts = [port.removeprefix("client.") for port in self.capture_counts if port.startswith("client.")]
        return sorted({host for host in hosts if host != "client"} | set(self.ownership.hosts))

    def to_boot_ns(self, wall_ns: int | None) -> int | None:
        """CLOCK_BOOTTIME for a stamp of a capture; None where nothing tells."""
        return None if wall_ns is None or self.clocks is None else self.clocks.to_monotonic_ns(wall_ns)

    def strictly(self, uncertainty_ns_max: int) -> EvidenceDirectory:
        """The same evidence, every stamp made out to be at least so certain."""
        return EvidenceDirectory(self.path, uncertainty_ns_max=uncertainty_ns_max)

    @cached_property
    def disturbances(self) -> Disturbances:
        """What the faults may have kept from being seen."""
        return Disturbances(self.faults)

    @cached_property
    def disk(self) -> dict[tuple[int, int], str] | None:
        """Digests of what the image holds at the end, by offset and length; None when nobody read it."""
        path = self.path / "disk.json"
        return read_disk(path) if path.exists() else None

    @cached_property
    def read_back(self) -> ReadBack | None:
        """What a fresh VM serves from the disk; None when nobody booted one."""
        path = self.path / "readback.json"
        return read_read_back(path) if path.exists() else None

    @cached_property
    def looks(self) -> Looks:
        """What the lab saw of its hosts again and again; nothing where they have kernels of their own."""
        path = self.path / "looks.jsonl"
        return read_looks(path) if path.exists() else Looks()

    @cached_property
    def standstills(self) -> Standstills:
        """When the machine below the lab did not run; nothing where nobody observed it."""
        path = self.path / "standstills.json"
        return read_standstills(path) if path.exists() else Standstills()

    @cached_property
    def clocks(self) -> Clocks | None:
        """How this machine's CLOCK_REALTIME and CLOCK_BOOTTIME lie to each other; None without any pair."""
        if self.host_clocks:
            return self.host_clocks.machine
        pairs: Iterable[Pair] = chain.from_iterable(trace.events for trace in self.traces.values())
        if (self.path / "history.jsonl").exists():
            pairs = chain(pairs, self.history.clocks)
        if (self.path / "ticks.jsonl").exists():
            pairs = chain(pairs, self.ticks.clocks)
        return Clocks.learn(pairs)

    @cached_property
    def _own_history(self) -> History:
        return read_history(self.path / "history.jsonl")

    @cached_property
    def _own_ticks(self) -> Ticks:
        return read_ticks(self.path / "ticks.jsonl")

    @cached_property
    def _client(self) -> ClientMapping | None:
        if self.host_clocks is None:
            return None
        has_history = (self.path / "history.jsonl").exists()
        return ClientMapping(self.host_clocks, (self._own_history if has_history else self._own_ticks).clocks)

    @cached_property
    def uncertainty_ns(self) -> int:
        """How far the least certain stamp may be from the truth; 0 where all share this machine's clocks."""
        if self.host_clocks is None:
            return 0
        stamps: list[Stamp] = [event for trace in self.traces.values() for event in trace.events]
        if self.scenario.client == "key-value":
            stamps += [*self.history.operations, *self.connections]
        elif self.scenario.client == "ticker":
            stamps += self.ticks.ticks
        return max((stamp.uncertainty_ns for stamp in stamps), default=0)

    def to_monotonic_ns(self, client_ns: int) -> int:
        """This machine's CLOCK_BOOTTIME for a stamp that somebody else read from the client's own files."""
        return self._client.locate([client_ns])[client_ns].monotonic_ns if self._client else client_ns

    def fault_times_ns(self) -> list[int]:
        """When each fault was injected, CLOCK_BOOTTIME, in order."""
        clocks = self.clocks
        if clocks is None:
            return []
        return sorted(clocks.to_monotonic_ns(fault.injected_ns) for fault in self.faults if fault.injected_ns)
