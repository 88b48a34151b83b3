"""A thread that computes while others wait for their turn is remarked, and the guest does not notice."""

import contextlib
import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.command_line.command import COMMAND, SECONDS_MAX, ftvmm
from tests.linux.linux_guest import MEMORY_MIB, Package, build, pack

ROUNDS = 2_500_000_000
"""Multiplications and additions of which each needs the one before: four cycles each, which takes some seconds."""
REMARK = re.compile(
    r"ftvmm: the guest's thread \d+ \(worker\) has computed for (?P<seconds>\d+\.\d) s without a system call, "
    r"now in computing: compute_at_length\+0x[0-9a-f]+, while (?P<who>.*)"
)
WHO = {
    "woken": "at least 1 other thread waits for its turn",
    "sleeping": "at least 1 other thread waits for its turn",
    "told": "another thread may have something to do",
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, without any symbols but those that it exports."""
    path = tmp_path_factory.mktemp("computing") / "computing"
    build("computing", path, options=("-rdynamic", "-s"))
    return path


def computes(program: Path, way: str, image: Path, *options: str) -> CompletedProcess[str]:
    """Runs the program packed, to its end."""
    pack(Package(program, (way, str(ROUNDS)), has_network=False), image)
    done = ftvmm("run", f"--mem={MEMORY_MIB}", *options, image)
    assert done.returncode == 0, done
    # What the VMM remarks is no output of the guest.
    wrote, computed = 'write(ends[1], "x", 1): 1', ["number % 2 == 1: yes", "pthread_join(worker, NULL): 0"]
    order = [wrote, *computed] if way == "told" else [*computed, wrote]
    assert done.stdout.splitlines() == [*order, "pthread_join(other, NULL): 0"]
    return done


@pytest.mark.parametrize("way", WHO)
def test_a_thread_that_computes_while_others_wait_is_named_with_its_function(
    program: Path, way: str, tmp_path: Path
) -> None:
    lines = computes(program, way, tmp_path / "computing.hvt").stderr.splitlines()
    remarks = [REMARK.fullmatch(line) for line in lines]
    seconds = [float(remark["seconds"]) for remark in remarks if remark]
    assert all(remarks), lines
    assert [remark["who"] for remark in remarks if remark] == [WHO[way]] * len(lines)
    assert seconds[0] >= 1.0
    assert all(later >= 2 * earlier - 0.1 for earlier, later in pairwise(seconds))


def test_a_thread_that_computes_alone_is_not_remarked(program: Path, tmp_path: Path) -> None:
    assert computes(program, "idle", tmp_path / "computing.hvt").stderr == ""


def test_what_was_looked_at_while_it_computed_is_replayed_to_the_same_state(program: Path, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    done = computes(program, "sleeping", tmp_path / "computing.hvt", f"--record={log}", "--verbose")
    *remarks, ending = done.stderr.splitlines()
    assert remarks
    assert "fingerprint" in ending
    replayed = ftvmm("replay", "--verbose", log)
    assert (replayed.returncode, replayed.stdout, replayed.stderr) == (0, done.stdout, f"{ending}\n")


def test_a_guest_does_not_wait_for_a_standard_error_that_nobody_reads(program: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"x"):
            pass
    os.set_blocking(writer, True)
    image = tmp_path / "computing.hvt"
    pack(Package(program, ("woken", str(ROUNDS)), has_network=False), image)
    with os.fdopen(reader), os.fdopen(writer, "wb") as full:
        command = [*COMMAND, "run", f"--mem={MEMORY_MIB}", str(image)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, timeout=SECONDS_MAX, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "pthread_join(other, NULL): 0")
