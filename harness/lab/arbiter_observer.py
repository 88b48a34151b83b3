"""Runs on the storage host and stamps what happens to the arbiter's files at the moment it happens.

    python -m harness.lab.arbiter_observer /var/lib/ftvmm/storage/arbiter/<VM> --events arbiter-events.jsonl

A file's own stamps come from the kernel's coarse clock (4 ms here) and tell of the last change only. inotify(7) tells
of each one as it happens, so that a node that asks a few milliseconds too early can be told from one that does not. A
stamp is never earlier than what it tells of; the file's own time of birth is never later. One JSON object a line:
`event` (`created`, `deleted`, `changed`), `name`, `seen_ns` (CLOCK_REALTIME); `{"event": "watching"}` comes first.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from inotify_simple import INotify, flags

_EVENTS = {flags.CREATE: "created", flags.DELETE: "deleted", flags.MODIFY: "changed", flags.MOVED_TO: "created"}


class EventsLost(Exception):
    """The kernel's queue ran over: what is written is not all that happened."""


def observe(directory: Path, events: TextIO) -> None:
    """Stamp every change of the files in `directory`, which is made if it is not there, until the process is ended.

    Raises:
        EventsLost: the record is not whole from here on.
    """
    # The bootstrap makes it with mkdir(exist_ok), so it may as well be there before: no change is missed then.
    directory.mkdir(parents=True, exist_ok=True)
    mask = flags.Q_OVERFLOW
    for kind in _EVENTS:
        mask |= kind
    with INotify() as queue:
        queue.add_watch(directory, mask)
        _write(events, {"event": "watching"})
        while True:
            changes = queue.read()
            seen_ns = time.time_ns()
            for change in changes:
                if change.mask & flags.Q_OVERFLOW:
                    raise EventsLost(f"the queue of events of {directory} ran over")
                kinds = [name for kind, name in _EVENTS.items() if change.mask & kind]
                for kind in kinds:
                    _write(events, {"event": kind, "name": change.name, "seen_ns": seen_ns})


def _write(events: TextIO, fields: dict[str, object]) -> None:
    events.write(json.dumps(fields) + "\n")
    events.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 when the record is not whole."""
    parser = argparse.ArgumentParser(prog="python -m harness.lab.arbiter_observer", description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path, help="the directory of one VM's generations")
    parser.add_argument("--events", type=Path, required=True, help="where the lines go")
    options = parser.parse_args(arguments)
    try:
        with options.events.open("a", encoding="utf-8") as events:
            observe(options.directory, events)
    except (EventsLost, OSError) as error:
        print(f"arbiter observer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
