"""Notices when the machine below the lab does not run; `harness.evidence.standstills` says what that proves.

    python -m harness.lab.netns.standstill_observer <keep-open >standstills.jsonl

One process on each processor that the lab may use asks to be woken every 5 ms, before everything else: SCHED_FIFO at
the highest priority, its memory locked. One JSON object a line: `{"processor": 0}` when it has begun, then each time
that it was woken late, as `harness.evidence.standstills.Overdue`. All of them end when standard input does.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from harness.evidence.json_lines import decode, read_lines
from harness.evidence.standstills import MachineRecord, Overdue

PERIOD_NS = 5_000_000
# Interrupts and the kernel's own calls make it a little late everywhere.
LATE_NS_MIN = 3_000_000
_MCL_CURRENT, _MCL_FUTURE = 1, 2


def observe(processor: int) -> None:
    """Observe one processor until standard input ends. Raises `OSError` where the kernel does not let it."""
    os.sched_setaffinity(0, {processor})
    highest = os.sched_param(os.sched_get_priority_max(os.SCHED_FIFO))
    os.sched_setscheduler(0, os.SCHED_FIFO, highest)
    if ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        raise OSError(ctypes.get_errno(), "mlockall")
    gc.disable()
    _write({"processor": processor})
    while True:
        # From the moment that it was to be woken: what it does in between, the writing for one, does not count.
        due_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + PERIOD_NS
        ended, _, _ = select.select([0], [], [], PERIOD_NS / 1e9)
        ran_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if ended:
            return
        if ran_ns - due_ns > LATE_NS_MIN:
            _write({"processor": processor, "due_ns": due_ns, "ran_ns": ran_ns})


def _write(fields: dict[str, int]) -> None:
    # In one call, so that the lines of all processors stay whole.
    os.write(1, json.dumps(fields).encode() + b"\n")


class StandstillObserver:
    """The processes that observe, as their lab holds them.

    Args:
        path: the file that takes what they see; standard error goes beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._processors = os.sched_getaffinity(0)
        with path.open("ab") as lines, path.with_suffix(".log").open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.lab.netns.standstill_observer"],
                stdin=subprocess.PIPE,
                stdout=lines,
                stderr=errors,
                cwd=Path(__file__).resolve().parents[3],
                start_new_session=True,
            )

    def record(self) -> MachineRecord | None:
        """What they saw so far; None where one of the processors was not observed.

        Raises:
            EvidenceError: a line of theirs is malformed.
        """
        lines = list(read_lines(self._path, torn_end_allowed=True))
        begun = {line.fields.get("processor") for line in lines if "due_ns" not in line.fields}
        if begun != self._processors:
            return None
        overdue = [decode(Overdue, line) for line in lines if "due_ns" in line.fields]
        return MachineRecord(len(self._processors), overdue)

    def stop(self) -> None:
        """Observe no more."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)


def main() -> int:
    """Exit status 1 where a processor could not be observed."""
    children = []
    for processor in sorted(os.sched_getaffinity(0)):
        child = os.fork()
        if not child:
            try:
                observe(processor)
            except OSError as error:
                print(f"standstill observer: processor {processor}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        children.append(child)
    return int(any(os.waitpid(child, 0)[1] for child in children))


if __name__ == "__main__":
    sys.exit(main())
