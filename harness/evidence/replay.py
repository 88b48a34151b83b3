"""What the VM must have said: each owner's log, put together and replayed by the shipped `ftvmm replay`.

The log of an owner is what came to it over the wire, what it sent, and what it recorded where it answered its guest
live; before that, of one that was given the state of a guest that ran, what the log of that guest's owner has. No state
that was carried is believed: the guest is replayed from its first instruction on. A log is kept as
`hosts/<host>/replayed.log.gz`, the outputs as `hosts/<host>/outputs.jsonl`, among them the state of the guest where it
was carried to another host; where none of these logs comes there, one up to there is kept as `carried-<position>`.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
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

# Replays a log, which is a recording's at its end; the file of outputs has the states behind these entries, too.
Replayer = Callable[[Path, Path, Recording, Sequence[int]], None]


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
        states: of the guest, where its state was carried; by position.
        divergence: how the guest left the log; None: it did not.
        first_recorded: the first position that this process answered live; None: none.
        disagreement: where it told its backup otherwise than it recorded; None: nowhere.
    """

    host: str
    incarnation: str
    outputs: list[ReplayedOutput]
    position: int
    states: Mapping[int, str]
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


@dataclass(frozen=True)
class _State:
    state: str
    position: int


@dataclass(frozen=True)
class Log:
    """An owner's log, put together from position 1 on.

    Attributes:
        recording: its process's.
        entries: all of it.
    """

    recording: Recording
    entries: list[LogEntry]


def assemble_logs(recordings: Iterable[Recording], wire: Wire, claimants: Iterable[str]) -> dict[str, Log]:
    """The logs of all owners, by incarnation.

    Args:
        recordings: of all nodes.
        wire: what they said to each other.
        claimants: the incarnations that the arbiter gave a generation, in order. Beside them whoever answered its
            guest live is an owner.

    Raises:
        EvidenceError: a log cannot be put together.
    """
    claimed = {incarnation: number for number, incarnation in enumerate(claimants)}
    owners = [one for one in recordings if one.incarnation in claimed or one.entries]
    logs: dict[str, Log] = {}
    for owner in sorted(owners, key=lambda one: claimed.get(one.incarnation, -1)):
        source, position = wire.carried_from(owner.incarnation) or ("", 0)
        before = logs[source].entries[:position] if source in logs else []
        # What its source recorded itself is worth more than what a capture saw of an earlier life on this host.
        arrived = {**wire.entries_arrived(owner.host), **{entry.position: entry for entry in before}}
        entries = assemble(owner, wire.entries_sent(owner.host, owner.incarnation), arrived)
        logs[owner.incarnation] = Log(owner, entries)
    return logs


def _last_logs(logs: Mapping[str, Log]) -> dict[str, Log]:
    return {log.recording.host: log for log in logs.values()}


def read_replays(directory: Path, logs: Mapping[str, Log], wire: Wire, replayer: Replayer) -> dict[str, Replay]:
    """Replay what each owner's guest was told, by host.

    The last claimant of a host stands for it: its log begins with the VM's first entry, whoever had the VM before.

    Args:
        directory: the evidence directory.
        logs: of the owners, the last claimant's last.
        wire: what the nodes said to each other.
        replayer: replays those that have not been replayed yet.

    Raises:
        EvidenceError: a log is none.
    """
    carried = [
        (position, log.entries[:position])
        for source, position in sorted(wire.states_carried)
        if (log := logs.get(source)) is not None and len(log.entries) >= position
    ]

    def replay(log: Log) -> Replay:
        positions = {position for position, entries in carried if log.entries[:position] == entries}
        return _replay(directory, log, wire, replayer, sorted(positions))

    with ThreadPoolExecutor() as executor:
        return {replay.host: replay for replay in executor.map(replay, _last_logs(logs).values())}


def read_carried_states(
    directory: Path, logs: Mapping[str, Log], wire: Wire, replays: Mapping[str, Replay], replayer: Replayer
) -> dict[tuple[str, int], str]:
    """What a guest's state is where it was carried to another host: digests by the source's incarnation and position.

    Args:
        directory: the evidence directory.
        logs: of the owners.
        wire: what the nodes said to each other.
        replays: of the last owner of each host.
        replayer: replays what is in none of them.

    Raises:
        EvidenceError: a log is none, or does not come to the position.
    """
    states = {}
    for source, position in wire.states_carried:
        log = logs.get(source)
        if log is None or len(log.entries) < position:
            raise EvidenceError(f"no log of {source} comes to entry {position}, where its guest's state was carried")
        entries = log.entries[:position]
        same = [host for host, last in _last_logs(logs).items() if last.entries[:position] == entries]
        found = [replays[host].states[position] for host in same if position in replays[host].states]
        states[source, position] = found[0] if found else _replay_to(directory, log, position, replayer)
    return states


def _replay_to(directory: Path, log: Log, position: int, replayer: Replayer) -> str:
    place = directory / "hosts" / log.recording.host
    names = f"carried-{position}.log.gz", f"carried-{position}.jsonl"
    _replay_once(place, log.recording, log.entries[:position], [position], replayer, names)
    _, states, end = _read_lines_of(place / names[1])
    if position not in states:
        reason = f"it ended at {end.position}: {end.reason or end.end}"
        raise EvidenceError(f"the log of {log.recording.host} was not replayed to entry {position}: {reason}")
    return states[position]


def _replay(directory: Path, log: Log, wire: Wire, replayer: Replayer, states_at: Sequence[int]) -> Replay:
    recording = log.recording
    place = directory / "hosts" / recording.host
    _replay_once(place, recording, log.entries, states_at, replayer, (_LOG, _OUTPUTS))
    outputs, states, end = _read_lines_of(place / _OUTPUTS)
    return Replay(
        recording.host,
        recording.incarnation,
        outputs,
        end.position,
        states,
        end.reason if end.end == "diverged" else None,
        recording.entries[0].position if recording.entries else None,
        disagreement(recording, wire.entries_sent(recording.host, recording.incarnation)),
    )


def _read_lines_of(path: Path) -> tuple[list[ReplayedOutput], dict[int, str], _End]:
    """Outputs, states by position, and how the replay ended."""
    *lines, last = read_lines(path)
    outputs = [decode(ReplayedOutput, line) for line in lines if "index" in line.fields]
    states = [decode(_State, line) for line in lines if "index" not in line.fields]
    return outputs, {one.position: one.state for one in states}, decode(_End, last)


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


def _replay_once(
    directory: Path,
    recording: Recording,
    entries: list[LogEntry],
    states_at: Sequence[int],
    replayer: Replayer,
    names: tuple[str, str],
) -> None:
    """Write the outputs' file, unless it is there already and of the same log. `names`: the log's and its own."""
    kept_log, kept_outputs = (directory / name for name in names)
    is_whole = bool(recording.entries) and entries[-1:] == recording.entries[-1:]
    with tempfile.TemporaryDirectory(prefix="ftvmm-replay-") as scratch:
        log, outputs = Path(scratch) / "log", Path(scratch) / "outputs"
        write_log(log, recording.header, entries, recording.end if is_whole else b"")
        packed = gzip.compress(log.read_bytes(), compresslevel=1, mtime=0)
        if kept_outputs.exists() and kept_log.exists() and kept_log.read_bytes() == packed:
            return
        replayer(log, outputs, recording, states_at)
        kept_log.write_bytes(packed)
        kept_outputs.write_bytes(outputs.read_bytes())


def options_of(states_at: Sequence[int]) -> list[str]:
    """What `ftvmm replay` is told of the states that are wanted."""
    return [f"--state-at={position}" for position in states_at]


def replay_here(log: Path, outputs: Path, recording: Recording, states_at: Sequence[int]) -> None:
    """Replay a log on this machine. Raises `EvidenceError`."""
    image = _IMAGES / recording.image_name
    option = [f"--image={image}"] if image.exists() else []
    option += options_of(states_at)
    command = [sys.executable, "-m", "ftvmm", "replay", f"--outputs={outputs}", *option, str(log)]
    # The shipped build, whichever the nodes ran.
    environment = {name: value for name, value in os.environ.items() if name != "FTVMM_CORE"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, timeout=_SECONDS_MAX, check=False)
    require_end(outputs, recording, done.stderr.decode(errors="replace"))


def replayed_already(log: Path, outputs: Path, recording: Recording, states_at: Sequence[int]) -> None:
    """For a log that can be replayed in its own lab only. Raises `EvidenceError`."""
    raise EvidenceError(f"the log of {recording.host} was not replayed on a host of its lab: this machine's is another")


def require_end(outputs: Path, recording: Recording, said: str) -> None:
    """See that a replay came to an end: by its last line, as the exit status is the guest's own where it halted.

    Raises:
        EvidenceError: it did not.
    """
    if not outputs.exists() or b'"end":' not in outputs.read_bytes().rstrip().rpartition(b"\n")[2]:
        raise EvidenceError(f"the log of {recording.host} was not replayed: {said.strip()}")
