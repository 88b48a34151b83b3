"""The pace of a lab, measured on real hosts."""

from __future__ import annotations

import pytest

from harness.lab.calibration import calibrate
from harness.lab.interface import Host, LabError, Pace
from harness.lab.netns.lab import NetnsLab
from harness.lab.ssh import KeptConversation


def test_a_pace_is_measured_and_said(shared_lab: NetnsLab) -> None:
    calibration = calibrate(shared_lab)
    assert calibration.pace.work >= 1.0
    assert calibration.pace.timing >= 1.0
    there, here = calibration.command_seconds
    assert min(there, here) > 0
    longest, typical = calibration.late_ms
    assert longest >= typical >= 0
    assert f"{longest:.0f} ms late" in str(calibration)


def test_a_bound_is_stretched_by_the_slower_of_the_two() -> None:
    assert Pace().stretch(2.0) == 2.0
    assert Pace(work=3.0, timing=5.0).stretch(2.0) == 10.0
    assert Pace(work=7.0, timing=5.0).stretch(2.0) == 14.0


@pytest.fixture
def host(shared_lab: NetnsLab) -> Host:
    return shared_lab.hosts["host-c"]


def test_a_conversation_is_kept_and_begun_again_when_it_has_ended(host: Host) -> None:
    script = "import os, sys\nfor line in sys.stdin:\n    print(os.getpid(), sys.argv[1], line.strip(), flush=True)"
    kept = KeptConversation(host, script, "an argument")
    try:
        first = kept.ask("one", timeout_seconds=10)
        pid = first.split()[0]
        assert first == f"{pid} an argument one"
        assert kept.ask("two", timeout_seconds=10) == f"{pid} an argument two"
        host.run(f"kill {pid}; while [ -e /proc/{pid} ]; do sleep 0.01; done", check=True)
        with pytest.raises(LabError, match="host-c"):
            kept.ask("anybody", timeout_seconds=10)
        assert kept.ask("again", timeout_seconds=10).split()[0] != pid
    finally:
        kept.close()
