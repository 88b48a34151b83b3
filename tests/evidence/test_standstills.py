"""When the machine stood still: where every processor was overdue at once, and for how long within some time."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.evidence.json_lines import EvidenceError
from harness.evidence.standstills import (
    MachineRecord,
    Overdue,
    Standstill,
    Standstills,
    read_standstills,
    write_standstills,
)

MS = 1_000_000
TOLERATED_NS, WITHIN_NS = 100 * MS, 150 * MS


def record(*overdue: tuple[int, int, int], processors: int = 2) -> MachineRecord:
    """Of each processor, from when to when, in milliseconds."""
    return MachineRecord(processors, [Overdue(one, due * MS, ran * MS) for one, due, ran in overdue])


def both(*spans: tuple[int, int]) -> Standstills:
    """Both processors were overdue, in milliseconds."""
    return Standstills(record(*((one, due, ran) for due, ran in spans for one in (0, 1))))


def longer(standstills: Standstills) -> list[tuple[int, int, int]]:
    """From when to when, and for how long, in milliseconds."""
    found = standstills.longer_than(TOLERATED_NS, within_ns=WITHIN_NS)
    return [(one.start_ns // MS, one.end_ns // MS, one.stood_ns // MS) for one in found]


def test_what_all_processors_have_in_common_counts() -> None:
    seen = record((0, 100, 160), (1, 130, 190), (0, 300, 340), (1, 340, 380), (0, 500, 520), (1, 505, 515))
    assert [(since // MS, until // MS) for since, until in Standstills(seen).spans] == [(130, 160), (505, 515)]


def test_a_processor_alone_is_not_the_machine() -> None:
    assert Standstills(record((0, 100, 900))).spans == []
    assert Standstills(record((0, 100, 900), (1, 100, 900), processors=3)).spans == []
    assert Standstills(record((0, 100, 900), processors=0)).spans == []
    assert Standstills().spans == []


def test_the_only_processor_is_the_machine() -> None:
    assert longer(Standstills(record((0, 100, 262), processors=1))) == [(100, 262, 162)]


def test_how_much_of_a_time_it_stood_still() -> None:
    seen = both((100, 140), (200, 230), (500, 700))
    times = ((0, 1000, 270), (120, 210, 30), (140, 200, 0), (600, 650, 50), (230, 500, 0))
    assert [seen.stood_ns(since * MS, until * MS) // MS for since, until, _ in times] == [each[2] for each in times]


@pytest.mark.parametrize(
    ("spans", "found"),
    [
        pytest.param([(1000, 1100)], [], id="as-long-as-is-tolerated"),
        pytest.param([(1000, 1101)], [(1000, 1101, 101)], id="a-little-longer"),
        pytest.param([(1000, 1162)], [(1000, 1162, 162)], id="longer-than-the-window"),
        pytest.param([(1000, 1015), (1031, 1043), (1043, 1121), (1122, 1151)], [(1000, 1151, 134)], id="with-moments"),
        pytest.param([(1000, 1040), (1100, 1140), (1200, 1240)], [], id="rationed-and-tolerated"),
        pytest.param([(1000, 1070), (1100, 1170), (1200, 1270)], [(1000, 1270, 210)], id="rationed-for-long"),
        pytest.param([(1000, 1162), (3000, 3180)], [(1000, 1162, 162), (3000, 3180, 180)], id="twice"),
        pytest.param([(1000, 1060), (1161, 1221)], [], id="too-far-apart"),
    ],
)
def test_what_is_longer_than_somebody_tolerates(
    spans: list[tuple[int, int]], found: list[tuple[int, int, int]]
) -> None:
    assert longer(both(*spans)) == found


def test_a_standstill_tells_its_length() -> None:
    assert Standstill(0, 162 * MS, 162 * MS).length_in_words == "162 ms"
    assert Standstill(0, 151 * MS, 134 * MS).length_in_words == "134 of 151 ms"


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "standstills.json"
    write_standstills(path, record((0, 100, 262), (1, 100, 262)))
    assert read_standstills(path).spans == [(100 * MS, 262 * MS)]
    path.write_text('{"processors": 2, "overdue": [{"processor": 0}]}')
    with pytest.raises(EvidenceError, match="no MachineRecord"):
        read_standstills(path)
