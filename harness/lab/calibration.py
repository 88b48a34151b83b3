"""How slow a lab is, measured: what every bound on time in it is stretched by."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

from ftvmm._core import TIMING
from harness.lab.interface import Host, Lab, LabError, Pace

_WARM_UPS, _RUNS, _RUNS_HERE = 1, 3, 5
# Work of the kind that starting a program is, and enough of it: what one process takes to be made counts for little.
_COMMAND = ("-c", "import ftvmm.commands.node, ftvmm.commands.pack, ftvmm.commands.status")
# Sleeps of this length beside a busy loop, as the failure detector's thread beside a guest.
_SLEEP_MS, _SLEEPS = 10, 600
# The detector's DETECT (protocol rule R20) has to hold this many of the longest delays seen: a sign of life may be
# sent late, carried late and taken in late, and a few hundred sleeps do not show the longest there is.
_DELAYS_IN_DETECTION = 5
# And the longest delay that a short measurement sees says little of the longest that there will be: however punctual
# the sleeper was, the detector's times grow with the commands', and by half as much again. Emulated hosts that were 22
# times slower, beside a sleeper at most 0.4 s late, were seen to stand still for 3.6 s, 24 times the default, when this
# machine had something else to do for a while.
_DETECTION_TO_WORK = 1.5

_LATENESS = """
import json, os, sys, time
sleep, count = float(sys.argv[1]) / 1000, int(sys.argv[2])
busy = os.fork()
if busy == 0:
    while os.getppid() != 1:
        sum(range(1000))
    os._exit(0)
late = []
for _ in range(count):
    before = time.monotonic()
    time.sleep(sleep)
    late.append((time.monotonic() - before - sleep) * 1000)
os.kill(busy, 9)
print(json.dumps(sorted(late)))
"""


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Attributes:
        pace: what follows from it.
        command_seconds: median time of one command, on the slowest host and on this machine.
        late_ms: longest and median lateness of a sleep beside a busy loop, on the worst host.
    """

    pace: Pace
    command_seconds: tuple[float, float]
    late_ms: tuple[float, float]

    def __str__(self) -> str:
        there, here = self.command_seconds
        longest, typical = self.late_ms
        return (
            f"a command takes {there:.2f} s on a host and {here:.2f} s on this machine ({there / here:.1f} times as "
            f"long); a sleeper beside a busy loop wakes up to {longest:.0f} ms late (median {typical:.1f} ms): waits, "
            f"bounds and the failure detector's times are {self.pace.factor:.1f} times as long as here"
        )


def calibrate(lab: Lab) -> Calibration:
    """Measure a lab that is up: the FT hosts at the same time, each starting commands while it sleeps and computes.

    That is as bad as a scenario makes it: its steps look at both nodes while guest and client run.

    Raises:
        LabError: a host could not be measured.
    """
    hosts = lab.fault_tolerant_hosts
    here = median(_timed_here() for _ in range(_RUNS_HERE))
    with ThreadPoolExecutor(2 * len(hosts)) as executor:
        lateness = executor.map(_lateness_ms, hosts)
        # Together in each round: a host that is done must not leave the others the machine.
        rounds = [list(executor.map(_command_seconds, hosts)) for _ in range(_WARM_UPS + _RUNS)]
        there = median(max(seconds) for seconds in rounds[_WARM_UPS:])
        late_ms = list(lateness)
    longest = max(late[-1] for late in late_ms)
    typical = max(median(late) for late in late_ms)
    work = max(1.0, there / here)
    pace = Pace(work=work, timing=max(work * _DETECTION_TO_WORK, longest * _DELAYS_IN_DETECTION / TIMING["detect_ms"]))
    return Calibration(pace, (there, here), (longest, typical))


def _timed_here() -> float:
    begin = time.monotonic()
    done = subprocess.run([sys.executable, *_COMMAND], capture_output=True, check=False)
    if done.returncode != 0:
        raise LabError(f"`python {shlex.join(_COMMAND)}` fails on this machine: {done.stderr.decode().strip()}")
    return time.monotonic() - begin


def _command_seconds(host: Host) -> float:
    begin = time.monotonic()
    host.run(f"{host.python} {shlex.join(_COMMAND)}", timeout_seconds=120, check=True)
    return time.monotonic() - begin


def _lateness_ms(host: Host) -> Sequence[float]:
    script = shlex.join(["-c", _LATENESS, str(_SLEEP_MS), str(_SLEEPS)])
    late: list[float] = json.loads(host.run(f"{host.python} {script}", timeout_seconds=120, check=True).stdout)
    return late
