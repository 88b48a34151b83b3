"""What the lab sees of its hosts: waits for a processor, no more than may be excused, and the console's length."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.evidence.json_lines import EvidenceError
from harness.evidence.looks import EXCUSED_MS_MAX, Look, Looks, read_looks, write_looks

MS = 1_000_000


def waits(*samples: tuple[int, int, int]) -> Looks:
    """Of host-a and host-b, both counts in milliseconds, at a time in milliseconds."""
    return Looks([Look(at * MS, {"host-a": a * 1000, "host-b": b * 1000}) for at, a, b in samples])


def test_both_hosts_waits_in_that_time_add_up() -> None:
    counted = waits((0, 5, 7), (100, 5, 7), (120, 15, 7), (300, 45, 27), (500, 90, 90))
    assert counted.excused_ms(110 * MS, 290 * MS) == 60
    assert counted.excused_ms(10 * MS, 90 * MS) == 0


def test_no_more_is_excused_than_the_wait_itself_and_the_most() -> None:
    counted = waits((0, 0, 0), (1000, 900, 900))
    assert counted.excused_ms(500 * MS, 530 * MS) == 30
    assert counted.excused_ms(0, 1000 * MS) == EXCUSED_MS_MAX


def test_what_a_hypervisor_took_is_excused_too() -> None:
    samples = [Look(at * MS, {"host-a": 1000}, stolen_us=at * 100) for at in (0, 100, 200)]
    assert Looks(samples).excused_ms(0, 200 * MS) == 20


def test_a_host_that_was_started_again_counts_from_new() -> None:
    assert waits((0, 500, 0), (100, 3, 20)).excused_ms(0, 100 * MS) == 20


def test_nothing_is_excused_where_nobody_counted() -> None:
    assert Looks().excused_ms(0, 1000 * MS) == 0


def test_a_line_was_printed_before_the_look_that_saw_it() -> None:
    lengths = [(10, {}), (20, {"host-a": 5}), (30, {"host-a": 5, "host-b": 9}), (40, {"host-a": 12, "host-b": 9})]
    looks = Looks([Look(at, {}, seen_ns=at + 1, console_bytes=bytes_) for at, bytes_ in lengths])
    assert [looks.printed_ns("host-a", length) for length in (1, 5, 6, 12, 13)] == [21, 21, 41, 41, None]
    assert looks.printed_ns("host-b", 9) == 31


def test_the_file_holds_the_hosts_of_the_vm_alone(tmp_path: Path) -> None:
    path = tmp_path / "looks.jsonl"
    write_looks(path, [Look(1, {"host-a": 2, "host-c": 3}, 4)], ["host-a", "host-b"])
    assert read_looks(path).all == [Look(1, {"host-a": 2}, 4)]
    path.write_text('{"at_ns": 1, "waited_us": {"host-a": "much"}}\n')
    with pytest.raises(EvidenceError, match=r"looks.jsonl:1: no Look"):
        read_looks(path)
