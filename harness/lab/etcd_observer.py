"""Runs on the storage host and stamps what happens to a VM's keys in etcd as soon as a member tells of it.

    python -m harness.lab.etcd_observer /ftvmm/<VM>/ http://10.2.0.11:2379 ... --events arbiter-events.jsonl

The counterpart of `arbiter_observer` for etcd. A key has no time of its own, but every member tells its watchers of a
change when it has applied it. All of them are watched, and the first that tells counts: one that is dead, cut off or
late hides nothing and delays nothing, as long as the storage host hears one of those that agreed. A stamp is never
earlier than what it tells of. That a majority had agreed by then is etcd's own promise: what is not committed is not
applied.

Whoever connects again has missed something, perhaps, and asks a member twice: for what is to come, which is told at
once, and for what has been, which a member looks for every 100 ms only, and which may have been any time ago.

One JSON object a line: `event` (`created`: put as its first version, `deleted`, `changed`), `name` (without the
prefix), `seen_ns` (CLOCK_REALTIME), `live` (false: told afterwards), `value`, `revision`, `member` (who told);
`{"event": "watching", "absent_ns": ...}` comes first: at that time the cluster had no such key.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

from harness.lab.etcd import key_of, range_of

_CONNECT_SECONDS = 1.0
# Whoever is not there is tried again.
_RETRY_SECONDS = 0.01
_ABSENT_SECONDS_MAX = 8.0
# A member whose host lost its power says nothing any more. Its watcher has to notice before it is back.
_SILENCE_SECONDS, _PROBES = 1, 3
_FAILURES = (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError)


class NotAbsentError(Exception):
    """There are keys already, of which nobody knows when they were made."""


class EventLog:
    """What was seen, each change once, whoever tells of it."""

    def __init__(self, events: TextIO, prefix: str) -> None:
        self._events, self._prefix = events, prefix
        self._known: set[tuple[int, str]] = set()
        self._writing = threading.Lock()

    def begin(self, absent_ns: int) -> None:
        """Says that nothing is missed from now on."""
        with self._writing:
            self._write({"event": "watching", "absent_ns": absent_ns})

    def take(self, event: Mapping[str, Any], seen_ns: int, member: str, *, revision_before: int) -> None:
        """What a member tells, as the gateway has it; it had got to `revision_before` when it began to be watched."""
        key = key_of(event["kv"])
        with self._writing:
            if (key.changed_revision, key.name) in self._known:
                return
            self._known.add((key.changed_revision, key.name))
            kind = "deleted" if event.get("type") == "DELETE" else "created" if key.version == 1 else "changed"
            live = key.changed_revision > revision_before
            told = {"event": kind, "name": key.name.removeprefix(self._prefix), "seen_ns": seen_ns, "live": live}
            self._write(told | {"value": key.value, "revision": key.changed_revision, "member": member})

    def _write(self, fields: Mapping[str, object]) -> None:
        self._events.write(json.dumps(fields) + "\n")
        self._events.flush()


def _connected(member: str) -> http.client.HTTPConnection:
    address = urlsplit(member)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_CONNECT_SECONDS)
    connection.connect()
    for option, value in (
        (socket.TCP_KEEPIDLE, _SILENCE_SECONDS),
        (socket.TCP_KEEPINTVL, _SILENCE_SECONDS),
        (socket.TCP_KEEPCNT, _PROBES),
    ):
        connection.sock.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connection


def _told(member: str, prefix: str, revision: int) -> Iterator[dict[str, Any]]:
    """What a member answers to a watch, message by message, until the connection ends."""
    with contextlib.closing(_connected(member)) as connection:
        to_come, has_been = range_of(prefix), range_of(prefix) | {"start_revision": str(revision)}
        body = "\n".join(json.dumps({"create_request": asked}) for asked in (to_come, has_been))
        connection.request("POST", "/v3/watch", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        # It says something when something happens.
        connection.sock.settimeout(None)
        while line := response.readline():
            yield json.loads(line)["result"]


def _watch(member: str, prefix: str, revision: int, log: EventLog, has_begun: threading.Event) -> None:
    """Watches one member for ever, from this revision on."""
    while True:
        with contextlib.suppress(*_FAILURES):
            revision_before: int | None = None
            for told in _told(member, prefix, revision):
                seen_ns = time.time_ns()
                if revision_before is None:
                    # It says first that it has begun.
                    revision_before = int(told["header"]["revision"])
                    has_begun.set()
                for event in told.get("events", []):
                    log.take(event, seen_ns, member, revision_before=revision_before)
        time.sleep(_RETRY_SECONDS)


def _absent(members: Sequence[str], prefix: str) -> tuple[int, int]:
    """The same, asked until the cluster answers: one that has just elected its leader may take its time."""
    give_up_at = time.monotonic() + _ABSENT_SECONDS_MAX
    while True:
        try:
            return _look_for_none(members, prefix)
        except (OSError, http.client.HTTPException):
            if time.monotonic() > give_up_at:
                raise
            time.sleep(_RETRY_SECONDS)


def _look_for_none(members: Sequence[str], prefix: str) -> tuple[int, int]:
    """A time at which no such key was there, before a linearizable read began that finds none, and its revision."""
    begun_ns = time.time_ns()
    with contextlib.closing(_connected(members[0])) as connection:
        body = json.dumps(range_of(prefix))
        connection.request("POST", "/v3/kv/range", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    if answer.get("kvs") or "header" not in answer:
        raise NotAbsentError(f"{members[0]} has keys of {prefix}, or does not answer as etcd does: {answer}")
    return begun_ns, int(answer["header"]["revision"])


def observe(members: Sequence[str], prefix: str, events: TextIO) -> None:
    """Stamps every change of the keys with this prefix until the process is ended.

    Args:
        members: where all members of the cluster serve clients, as http://ADDRESS:PORT. All have to be there at first.
        prefix: what the names of the keys begin with.
        events: where the lines go.

    Raises:
        NotAbsentError: there are such keys already.
        OSError: a member is not there.
    """
    absent_ns, revision = _absent(members, prefix)
    log = EventLog(events, prefix)
    watchers = []
    for member in members:
        has_begun = threading.Event()
        watcher = threading.Thread(target=_watch, args=(member, prefix, revision + 1, log, has_begun), daemon=True)
        watcher.start()
        watchers.append((watcher, has_begun))
    for _, has_begun in watchers:
        has_begun.wait()
    log.begin(absent_ns)
    for watcher, _ in watchers:
        watcher.join()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 when nothing can be observed."""
    parser = argparse.ArgumentParser(prog="python -m harness.lab.etcd_observer", description=__doc__.split("\n")[0])
    parser.add_argument("prefix", help="what the names of one VM's keys begin with")
    parser.add_argument("members", nargs="+", help="where the members serve clients, as http://ADDRESS:PORT")
    parser.add_argument("--events", type=Path, required=True, help="where the lines go")
    options = parser.parse_args(arguments)
    try:
        with options.events.open("a", encoding="utf-8") as events:
            observe(options.members, options.prefix, events)
    except (NotAbsentError, OSError, http.client.HTTPException, ValueError) as error:
        print(f"etcd observer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
