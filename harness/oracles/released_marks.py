"""The released mark R in every message: never ahead of what had happened, and never far behind it (R4, R5).

A mark ahead loses outputs, for the survivor re-issues what lies past it only; a mark behind repeats them.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from itertools import pairwise

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.verdicts import Finding
from harness.evidence.wire.messages import Heartbeat, Marked
from harness.evidence.wire.wire import Said
from harness.oracles.emissions import Emission, Spoken
from harness.oracles.wording import after_start, by_message, name_output

# A frame lies in the host's own queues between the system call that ends well and the switch's port.
PORT_MS_MAX = 20.0
# When a message left, the mark in it, and the message.
_Mark = tuple[int, int, Said]


def judge_marks(evidence: EvidenceDirectory, said: Mapping[str, Spoken]) -> Iterator[Finding]:
    """Judge each host's messages by what it had emitted. One finding of each kind a host: the first."""
    for host, each in said.items():
        timed = [one for one in each.emissions if one.left_ns is not None]
        marks = [
            (one.left_ns, one.body.released, one)
            for one in evidence.wire.messages
            if one.sender == host and one.left_ns is not None and isinstance(one.body, Marked)
        ]
        ahead = next(_ahead(evidence, timed, marks), None)
        behind = next(_behind(evidence, timed, marks), None)
        yield from (finding for finding in (ahead, behind) if finding is not None)


def _ahead(evidence: EvidenceDirectory, timed: list[Emission], marks: list[_Mark]) -> Iterator[Finding]:
    """An output that a mark covers and that happened only later, or that its host never let out well."""
    slack_ns = int(PORT_MS_MAX * evidence.scenario.time_scale * 1e6)
    indices = [one.output.index for one in timed]
    # The latest moment at which anything up to an output happened.
    latest: list[tuple[int | None, Emission]] = []
    for one in timed:
        if latest and (latest[-1][0] is None or (one.done_ns is not None and latest[-1][0] > one.done_ns)):
            latest.append(latest[-1])
        else:
            latest.append((one.done_ns, one))
    for left_ns, released, message in marks:
        place = bisect.bisect_right(indices, released)
        if not place:
            continue
        done_ns, one = latest[place - 1]
        if done_ns is not None and done_ns <= left_ns + (slack_ns if one.output.kind == "frame" else 0):
            continue
        when = "never completed" if done_ns is None else f"had completed{after_start(evidence, done_ns)} only"
        words = f"R = {released} was said{by_message(evidence, message)}; {name_output(evidence, one)} {when}"
        yield Finding("released-mark-ahead", words, at_ns=evidence.to_boot_ns(left_ns), position=one.output.index)


def _behind(evidence: EvidenceDirectory, timed: list[Emission], marks: list[_Mark]) -> Iterator[Finding]:
    """An output that had completed long before a heartbeat that does not cover it.

    A write that the storage has answered may have to be flushed yet: that it has completed shows by what left after it.
    Heartbeats in datagrams only: they leave as they are made, while a connection that does not move makes all wait.
    """
    margin_ns = int(evidence.scenario.uncertain_ms_max * 1e6)
    done = [(one.left_ns, one.output.index) for one in timed if one.output.kind == "frame" and one.left_ns is not None]
    done += [(after.left_ns, one.output.index) for one, after in pairwise(timed) if after.left_ns is not None]
    done.sort()
    times = [at_ns for at_ns, _ in done]
    highest: list[int] = []
    for _, index in done:
        highest.append(max(index, highest[-1] if highest else 0))
    for left_ns, released, message in marks:
        place = bisect.bisect_left(times, left_ns - margin_ns)
        is_datagram = isinstance(message.body, Heartbeat) and message.path != "log"
        if not is_datagram or not place or highest[place - 1] <= released:
            continue
        words = (
            f"R = {released} was said{by_message(evidence, message)}, and output {highest[place - 1]} "
            f"had completed more than {evidence.scenario.uncertain_ms_max:g} ms before"
        )
        yield Finding("released-mark-behind", words, at_ns=evidence.to_boot_ns(left_ns), position=highest[place - 1])
