"""One scenario's evidence directory, each file read when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import chain
from pathlib import Path

from harness.evidence.capture import Capture, Frame, frames_from_vm, read_capture
from harness.evidence.clocks import Clocks, Pair
from harness.evidence.connections import ConnectionEvent, read_connections
from harness.evidence.disk import read_disk
from harness.evidence.faults import InjectedFault, read_faults
from harness.evidence.history import History, read_history
from harness.evidence.scenario import Scenario, read_scenario
from harness.evidence.ticks import Ticks, read_ticks
from harness.evidence.trace import Trace, read_trace


class EvidenceDirectory:
    """`reports/evidence/<scenario>/`. Every property raises `EvidenceError` when its file is missing or malformed."""

    def __init__(self, path: Path) -> None:
        self.path = path

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
        return read_history(self.path / "history.jsonl")

    @cached_property
    def connections(self) -> list[ConnectionEvent]:
        """What happened to its connections."""
        return read_connections(self.path / "connections.jsonl")

    @cached_property
    def ticks(self) -> Ticks:
        """What the ticker's listener received."""
        return read_ticks(self.path / "ticks.jsonl")

    @cached_property
    def captures(self) -> dict[str, Capture]:
        """The captures by host."""
        paths = sorted((self.path / "captures").glob("*.pcap"))
        return {path.stem: read_capture(path, path.stem) for path in paths}

    @cached_property
    def frames_from_vm(self) -> dict[str, list[Frame]]:
        """The frames that the VM sent through each FT host's port (the client's own port is none of them)."""
        captures = {host: capture for host, capture in self.captures.items() if host != "client"}
        return frames_from_vm(captures, self.scenario.mac)

    @cached_property
    def traces(self) -> dict[str, Trace]:
        """The traces by host."""
        paths = sorted((self.path / "hosts").glob("*/trace.jsonl"))
        return {path.parent.name: read_trace(path, path.parent.name) for path in paths}

    @cached_property
    def consoles(self) -> dict[str, str]:
        """What the guest printed, by the host that let it out."""
        paths = sorted((self.path / "hosts").glob("*/console.log"))
        return {path.parent.name: path.read_text(errors="replace") for path in paths}

    @cached_property
    def disk(self) -> dict[tuple[int, int], str] | None:
        """Digests of what the image holds at the end, by offset and length; None when nobody read it."""
        path = self.path / "disk.json"
        return read_disk(path) if path.exists() else None

    @cached_property
    def clocks(self) -> Clocks | None:
        """How CLOCK_REALTIME and CLOCK_BOOTTIME lie to each other; None without any pair."""
        pairs: Iterable[Pair] = chain.from_iterable(trace.events for trace in self.traces.values())
        if (self.path / "history.jsonl").exists():
            pairs = chain(pairs, self.history.clocks)
        if (self.path / "ticks.jsonl").exists():
            pairs = chain(pairs, self.ticks.clocks)
        return Clocks.learn(pairs)

    def fault_times_ns(self) -> list[int]:
        """When each fault was injected, CLOCK_BOOTTIME, in order."""
        clocks = self.clocks
        if clocks is None:
            return []
        return sorted(clocks.to_monotonic_ns(fault.injected_ns) for fault in self.faults if fault.injected_ns)
