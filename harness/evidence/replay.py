"""What the VM must have said: each owner's log, put together and replayed by the shipped `ftvmm replay`.

The log of an owner is what came to it over the wire, what it sent, and what it recorded where it answered its guest
live. It is kept as `hosts/<host>/replayed.log.gz`, the outputs as `hosts/<host>/outputs.jsonl`.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.evidence.json_lines import EvidenceError, decode, read_lines
from harness.evidence.recording import Recording, write_log
from harness.evidence.wire.messages import LogEntry
from harness.evidence.wire.wire import Wire

PROJECT = Path(__file__).resolve().parents[2]
# Where this machine has the guests' images; the hosts of a lab may have them elsewhere.
_IMAGES = PROJECT / "ftvmm" / "guests" / "images"
_LOG, _OUTPUTS = "replayed.log.gz", "outputs.jsonl"
_SECONDS_MAX = 300

# Replays a log, which is a recording's at its end, and writes the file of outputs.
Replayer = Callable[[Path, Path, Recording], None]


@dataclass(frozen=True)
class ReplayedOutput:
    """One output of the guest. `device` is None for the console, `offset` but for a block write."""

    index: int
    kind: str
    device: int | None
    offset: int | None
    depends_on: int
    length: int
    digest: str


@dataclass(frozen=True)
class Replay:
    """One owner's log, replayed.

    Attributes:
        host: the owner.
        incarnation: its process.
        outputs: all that the guest said up to the log's end, by index.
        position: of the last entry.
        divergence: how the guest left the log; None: it did not.
        first_recorded: the first position that this process answered live; None: none.
        disagreement: where it told its backup otherwise than it recorded; None: nowhere.
    """

    host: str
    incarnation: str
    outputs: list[ReplayedOutput]
    position: int
    divergence: str | None
    first_recorded: int | None
    disagreement: str | None = None


@dataclass(frozen=True)
class _End:
    end: str
    position: int
    outputs: int
    fingerprint: str
    reason: str | None = None


def read_replays(
    directory: Path, recordings: Iterable[Recording], wire: Wire, claimants: Iterable[str], replayer: Replayer
) -> dict[str, Replay]:
    """Replay what each owner's guest was told, by host.

    Args:
        directory: the evidence directory.
        recordings: of all nodes.
        wire: what they said to each other.
        claimants: the incarnations that the arbiter gave a generation, in order. Beside them whoever answered its
            guest live is an owner.
        replayer: replays those that have not been replayed yet.

    Raises:
        EvidenceError: a log cannot be put together, or is none.
    """
    claimed = {incarnation: number for number, incarnation in enumerate(claimants)}
    owners: dict[str, Recording] = {}
    # The last claimant of a host stands for it, and one that never claimed only where nobody of that host did.
    for recording in sorted(recordings, key=lambda one: claimed.get(one.incarnation, -1)):
        if recording.incarnation in claimed or recording.entries:
            owners[recording.host] = recording
    with ThreadPoolExecutor() as executor:
        replays = executor.map(
            lambda owner: _replay(directory / "hosts" / owner.host, owner, wire, replayer), owners.values()
        )
        return {replay.host: replay for replay in replays}


def _replay(directory: Path, recording: Recording, wire: Wire, replayer: Replayer) -> Replay:
    sent = wire.entries_sent(recording.host, recording.incarnation)
    entries = assemble(recording, sent, wire.entries_arrived(recording.host))
    _replay_once(directory, recording, entries, replayer)
    *outputs, last = read_lines(directory / _OUTPUTS)
    end = decode(_End, last)
    return Replay(
        recording.host,
        recording.incarnation,
        [decode(ReplayedOutput, line) for line in outputs],
        end.position,
        end.reason if end.end == "diverged" else None,
        recording.entries[0].position if recording.entries else None,
        disagreement(recording, sent),
    )


def assemble(recording: Recording, sent: Mapping[int, LogEntry], arrived: Mapping[int, LogEntry]) -> list[LogEntry]:
    """An owner's log from position 1 on: what came to it, what it sent, what it recorded. Raises `EvidenceError`."""
    recorded = {entry.position: entry for entry in recording.entries}
    first = recording.entries[0].position if recording.entries else None
    # What came behind the first that it answered itself came too late: it had closed its log.
    taken = {position: entry for position, entry in arrived.items() if first is None or position < first}
    known = {**taken, **sent, **recorded}
    entries: list[LogEntry] = []
    while (position := len(entries) + 1) in known:
        entries.append(known[position])
    if first is not None and len(entries) < first:
        raise EvidenceError(
            f"the log of {recording.host} has no entry {len(entries) + 1}: no capture saw it come, "
            f"and its own recording begins at {first}"
        )
    return entries


def disagreement(recording: Recording, sent: Mapping[int, LogEntry]) -> str | None:
    """Where a node told its backup otherwise than it recorded; None: nowhere."""
    for entry in recording.entries:
        other = sent.get(entry.position)
        if other is not None and other.encoded != entry.encoded:
            return f"entry {entry.position} that {recording.host} sent is not the one that it recorded"
    return None


def _replay_once(directory: Path, recording: Recording, entries: list[LogEntry], replayer: Replayer) -> None:
    """Write the outputs' file, unless it is there already and of the same log."""
    is_whole = bool(recording.entries) and entries[-1] == recording.entries[-1]
    with tempfile.TemporaryDirectory(prefix="ftvmm-replay-") as scratch:
        log, outputs = Path(scratch) / "log", Path(scratch) / "outputs"
        write_log(log, recording.header, entries, recording.end if is_whole else b"")
        packed = gzip.compress(log.read_bytes(), compresslevel=1, mtime=0)
        kept = directory / _LOG
        if (directory / _OUTPUTS).exists() and kept.exists() and kept.read_bytes() == packed:
            return
        replayer(log, outputs, recording)
        kept.write_bytes(packed)
        (directory / _OUTPUTS).write_bytes(outputs.read_bytes())


def replay_here(log: Path, outputs: Path, recording: Recording) -> None:
    """Replay a log on this machine. Raises `EvidenceError`."""
    image = _IMAGES / recording.image_name
    option = [f"--image={image}"] if image.exists() else []
    command = [sys.executable, "-m", "ftvmm", "replay", f"--outputs={outputs}", *option, str(log)]
    # The shipped build, whichever the nodes ran.
    environment = {name: value for name, value in os.environ.items() if name != "FTVMM_CORE"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, timeout=_SECONDS_MAX, check=False)
    require_end(outputs, recording, done.stderr.decode(errors="replace"))


def replayed_already(log: Path, outputs: Path, recording: Recording) -> None:
    """For a log that can be replayed in its own lab only. Raises `EvidenceError`."""
    raise EvidenceError(f"the log of {recording.host} was not replayed on a host of its lab: this machine's is another")


def require_end(outputs: Path, recording: Recording, said: str) -> None:
    """See that a replay came to an end: by its last line, as the exit status is the guest's own where it halted.

    Raises:
        EvidenceError: it did not.
    """
    if not outputs.exists() or b'"end":' not in outputs.read_bytes().rstrip().rpartition(b"\n")[2]:
        raise EvidenceError(f"the log of {recording.host} was not replayed: {said.strip()}")
