"""What is said of a live transfer is what the two traces say: its parts add up, and one that was given up is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.evidence.trace import Trace, read_trace
from harness.evidence.transfer import LiveTransfer, Round, find_transfers

BEGUN = (("transfer", 0, {"state": "begun"}), ("transfer", 40, {"state": "round", "round": 2, "pages": 100}))
STOPPED = (
    ("transfer", 50, {"state": "stopping", "position": 7}),
    ("transfer", 52, {"state": "stopped", "position": 7}),
    ("transfer", 60, {"state": "restored", "position": 7}),
)
PROTECTED = (
    ("role", 65, {"from": "ALONE", "to": "PROTECTED", "reason": "a backup joins"}),
    ("transfer", 66, {"state": "resumed", "position": 7}),
)
GIVEN_UP = (
    ("transfer", 65, {"state": "given-up", "reason": "the log was reset"}),
    ("transfer", 66, {"state": "resumed", "position": 7}),
)


def _trace(directory: Path, host: str, *events: tuple[str, float, dict[str, Any]], later_ms: float = 0) -> Trace:
    common = {"node": host, "incarnation": "1", "generation": 2, "wall_ns": 0}
    lines = [
        json.dumps({"event": event, **common, "monotonic_ns": round((1000 + later_ms + at_ms) * 1e6), **fields})
        for event, at_ms, fields in events
    ]
    path = directory / f"{host}.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return read_trace(path, host)


def _joiner(directory: Path, at_ms: float) -> Trace:
    return _trace(directory, "host-c", ("transfer", at_ms, {"state": "restored", "position": 7}))


def _only(*traces: Trace) -> LiveTransfer:
    (transfer,) = find_transfers(traces)
    return transfer


def test_the_parts_of_a_stop_add_up(tmp_path: Path) -> None:
    transfer = _only(_trace(tmp_path, "host-b", *BEGUN, *STOPPED, *PROTECTED), _joiner(tmp_path, 59))
    assert (transfer.owner, transfer.joiner) == ("host-b", "host-c")
    assert (transfer.copy_ms, transfer.stop_ms) == (50, 16)
    parts = transfer.parts_ms()
    assert parts == {"last_copy": 2, "joiner": 7, "answer": 1, "arbiter": 5, "resume": 1}
    assert sum(parts.values()) == pytest.approx(transfer.stop_ms)
    assert transfer.rounds == (Round(100, round(1040 * 1e6)),)
    assert transfer.pages_written_per_second == pytest.approx(2500)


def test_a_joiner_that_is_through_before_all_is_noted_as_sent_takes_no_time_of_its_own(tmp_path: Path) -> None:
    transfer = _only(_trace(tmp_path, "host-b", *BEGUN, *STOPPED, *PROTECTED), _joiner(tmp_path, 51.5))
    assert transfer.parts_ms()["joiner"] == 0
    assert sum(transfer.parts_ms().values()) == pytest.approx(transfer.stop_ms)


def test_one_that_was_given_up_is_no_new_backup_and_the_next_one_is(tmp_path: Path) -> None:
    events = [*BEGUN, *STOPPED, *GIVEN_UP]
    assert find_transfers([_trace(tmp_path, "host-b", *events), _joiner(tmp_path, 59)]) == []
    again = [(event, at_ms + 500, fields) for event, at_ms, fields in (*BEGUN, *STOPPED, *PROTECTED)]
    transfer = _only(_trace(tmp_path, "host-b", *events, *again), _joiner(tmp_path, 559))
    assert transfer.begun_ns == round(1500 * 1e6)
    assert transfer.stop_ms == 16
