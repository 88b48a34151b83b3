"""What the nodes of a real pair record is all that their outputs depend on, however suddenly they die."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.lab.netns.lab import NetnsLab
from harness.lab.waiting import wait_until
from harness.vm.guests import ticker
from harness.vm.pair import Node, Pair
from tests.command_line.command import assert_refused, ftvmm
from tests.guests.guest import IMAGES

OUTPUTS = 40
"""How many outputs each node lets out before it dies."""
DIRECTORY = "/var/lib/ftvmm"


@dataclass(frozen=True)
class Died:
    """What a killed node left: its recording, split as docs/wire.md has it, and its trace."""

    header: bytes
    entries: dict[int, bytes]
    trace: list[dict[str, Any]]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.trace if event["event"] == name]


def _kill(pair: Pair, node: Node) -> Died:
    """Kills a node in the middle of its outputs."""
    before = len(node.trace())
    pair.wait_for_event(node, "live")
    assert wait_until(
        lambda: sum(event["event"] == "output" for event in node.trace()[before:]) >= OUTPUTS, timeout_seconds=20
    )
    node.process.signal("KILL")
    node.process.wait(5)
    (name,) = node.host.run(["ls", DIRECTORY], check=True).stdout.split("recorded-")[1:]
    recorded = node.host.read_file(f"{DIRECTORY}/recorded-{name.split()[0]}")
    start = at = 16 + int.from_bytes(recorded[12:16], "little") + 4
    entries = {}
    while at < len(recorded):
        end = at + 9 + int.from_bytes(recorded[at + 1 : at + 5], "little")
        if end <= len(recorded):
            entries[int.from_bytes(recorded[at + 9 : at + 17], "little")] = recorded[at:end]
        at = end
    return Died(recorded[:start], entries, node.trace())


@pytest.fixture(scope="module")
def died() -> Iterator[tuple[Died, Died]]:
    """A primary and its survivor, killed one after the other."""
    lab = NetnsLab()
    lab.start()
    try:
        pair = Pair(lab, ticker(), entries_per_message=1)
        pair.start()
        primary, backup = pair.primary, pair.backup
        first = _kill(pair, primary)
        pair.wait_until_alone(backup)
        yield first, _kill(pair, backup)
    finally:
        lab.stop()


def _replayed(log: bytes, directory: Path) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """The outputs by index that a replay lists, and its last line."""
    path, listed = directory / "log", directory / "outputs"
    path.write_bytes(log)
    process = ftvmm("replay", f"--image={IMAGES / 'ticker.hvt'}", f"--outputs={listed}", path)
    assert process.returncode == 0, process.stderr
    assert "the log has no end record" in process.stderr
    *outputs, end = [json.loads(line) for line in listed.read_text().splitlines()]
    return {output["index"]: output for output in outputs}, end


def _assert_all_there(traced: list[dict[str, Any]], replayed: dict[int, dict[str, Any]]) -> None:
    assert len(traced) >= OUTPUTS
    for output in traced:
        assert {name: output[name] for name in replayed[1]} == replayed[output["index"]]


def test_what_a_killed_primary_let_out_is_had_from_its_recording(died: tuple[Died, Died], tmp_path: Path) -> None:
    primary, _ = died
    assert list(primary.entries) == list(range(1, len(primary.entries) + 1))
    outputs, end = _replayed(primary.header + b"".join(primary.entries.values()), tmp_path)
    _assert_all_there(primary.events("output"), outputs)
    assert (end["end"], end["position"]) == ("log-ended", len(primary.entries))
    assert not primary.events("recording-ended")


def test_a_survivors_recording_goes_on_from_the_log_that_it_took_over(died: tuple[Died, Died], tmp_path: Path) -> None:
    primary, survivor = died
    (closed,) = (event["position"] for event in survivor.events("closed-log"))
    assert list(survivor.entries) == list(range(closed + 1, closed + 1 + len(survivor.entries)))
    taken_over = [entry for position, entry in primary.entries.items() if position <= closed]
    outputs, end = _replayed(survivor.header + b"".join([*taken_over, *survivor.entries.values()]), tmp_path)
    _assert_all_there(survivor.events("output"), outputs)
    assert end["position"] == max(survivor.entries)
    alone = tmp_path / "alone"
    alone.write_bytes(survivor.header + b"".join(survivor.entries.values()))
    assert_refused(ftvmm("replay", f"--image={IMAGES / 'ticker.hvt'}", alone), f"it begins with entry {closed + 1}")
