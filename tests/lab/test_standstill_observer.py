"""The programs that notice when this machine does not run: stopped, they see what they see when it stands still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from harness.evidence.standstills import Standstills
from harness.lab.netns.host import PROJECT
from harness.lab.netns.lab import NetnsLab
from harness.lab.netns.standstill_observer import StandstillObserver
from harness.lab.process_identity import ProcessIdentity
from harness.lab.waiting import wait_until

MS = 1_000_000
STOPPED_NS = 60 * MS


@pytest.fixture
def observer(tmp_path: Path) -> Iterator[StandstillObserver]:
    observer = StandstillObserver(tmp_path / "standstills.jsonl")
    assert wait_until(observer.record, timeout_seconds=20), (tmp_path / "standstills.log").read_text()
    yield observer
    observer.stop()


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def processes_of(observer: StandstillObserver) -> list[int]:
    pid = observer._process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def stop_for_a_while(processes: Iterable[int]) -> tuple[int, int]:
    """When they had been stopped by, and until when."""
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    since_ns = now_ns()
    try:
        wait_until(lambda: now_ns() - since_ns > STOPPED_NS, timeout_seconds=10, interval_seconds=0.005)
        return since_ns, now_ns()
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


def stood_ns(observer: StandstillObserver, since_ns: int, until_ns: int) -> int:
    return Standstills(observer.record()).stood_ns(since_ns, until_ns)


def seen_late(observer: StandstillObserver, since_ns: int) -> set[int]:
    record = observer.record()
    assert record is not None
    return {
        one.processor for one in record.overdue if one.ran_ns > since_ns and one.ran_ns - one.due_ns > STOPPED_NS / 2
    }


def test_every_processor_is_observed_before_everything_else(observer: StandstillObserver) -> None:
    processes = processes_of(observer)
    record = observer.record()
    assert record is not None
    assert record.processors == len(processes) == len(os.sched_getaffinity(0))
    assert {frozenset(os.sched_getaffinity(pid)) for pid in processes} == {
        frozenset([processor]) for processor in os.sched_getaffinity(0)
    }
    for pid in processes:
        assert os.sched_getscheduler(pid) == os.SCHED_FIFO
        assert os.sched_getparam(pid).sched_priority == os.sched_get_priority_max(os.SCHED_FIFO)
        assert "VmLck:\t       0 kB" not in Path(f"/proc/{pid}/status").read_text()


def test_a_time_in_which_none_of_them_runs_is_a_standstill(observer: StandstillObserver) -> None:
    since_ns, until_ns = stop_for_a_while(processes_of(observer))
    assert wait_until(lambda: stood_ns(observer, since_ns, until_ns) > STOPPED_NS / 2, timeout_seconds=10)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="the only processor is the machine")
def test_a_time_in_which_one_of_them_runs_is_none(observer: StandstillObserver) -> None:
    first, *_ = processes_of(observer)
    since_ns, until_ns = stop_for_a_while([first])
    assert wait_until(lambda: len(seen_late(observer, since_ns)) == 1, timeout_seconds=10)
    assert stood_ns(observer, since_ns, until_ns) < STOPPED_NS / 2


def test_a_processor_that_nobody_observes_makes_the_record_worthless(observer: StandstillObserver) -> None:
    observer._processors = {*os.sched_getaffinity(0), 4095}
    assert observer.record() is None


def test_a_lab_observes_its_machine(shared_lab: NetnsLab) -> None:
    record = wait_until(shared_lab.machine_record, timeout_seconds=20)
    assert record is not None
    assert record.processors == len(os.sched_getaffinity(0))


def test_they_end_with_their_owner(tmp_path: Path) -> None:
    program = (
        "import signal, sys\nfrom pathlib import Path\n"
        "from harness.lab.netns.standstill_observer import StandstillObserver\n"
        "from harness.lab.waiting import wait_until\n"
        f"observer = StandstillObserver(Path({str(tmp_path / 'standstills.jsonl')!r}))\n"
        "wait_until(observer.record, timeout_seconds=20)\n"
        "pid = observer._process.pid\n"
        "print(pid, Path(f'/proc/{pid}/task/{pid}/children').read_text(), flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=PROJECT) as owner:
        assert owner.stdout is not None
        processes = [ProcessIdentity.of(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(processes) == len(os.sched_getaffinity(0)) + 1
        owner.kill()
    assert wait_until(lambda: not any(process.is_alive() for process in processes), timeout_seconds=20)
