"""`ftvmm replay`: the same run again, or one clear sentence."""

import re
from pathlib import Path

import pytest

from tests.command_line.command import COMPUTE, KEY_VALUE, assert_refused, ftvmm


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A log, and what the recorded run wrote to standard output and said of its end."""
    log = tmp_path_factory.mktemp("recorded") / "run.log"
    process = ftvmm("run", "--verbose", "--mem=16", f"--record={log}", COMPUTE, "--", "--rounds=10")
    assert process.returncode == 0
    return log, process.stdout, process.stderr


def test_output_fingerprint_and_final_state_are_reproduced(recorded: tuple[Path, str, str]) -> None:
    log, output, ending = recorded
    assert re.search(r"fingerprint [0-9a-f]{32}, state [0-9a-f]{32}", ending)
    process = ftvmm("replay", "--verbose", log)
    assert (process.returncode, process.stdout, process.stderr) == (0, output, ending)


def test_an_image_that_has_moved_is_given_and_another_is_refused(
    recorded: tuple[Path, str, str], tmp_path: Path
) -> None:
    log, output, _ = recorded
    moved = tmp_path / "moved.hvt"
    moved.write_bytes(COMPUTE.read_bytes())
    assert ftvmm("replay", f"--image={moved}", log).stdout == output
    assert_refused(ftvmm("replay", f"--image={KEY_VALUE}", log), "another VM", "at offset")


def test_a_damaged_log_is_refused_by_offset_before_the_guest_runs(
    recorded: tuple[Path, str, str], tmp_path: Path
) -> None:
    whole = recorded[0].read_bytes()
    log = tmp_path / "damaged"
    # Magic, version, header, an entry, the end record: the Rust tests go through every byte.
    for offset in (0, 8, 40, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[offset] ^= 0x10
        log.write_bytes(damaged)
        assert_refused(ftvmm("replay", log), "at offset")


def test_a_truncated_log_is_refused_by_offset(recorded: tuple[Path, str, str], tmp_path: Path) -> None:
    whole = recorded[0].read_bytes()
    log = tmp_path / "cut"
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        log.write_bytes(whole[:length])
        assert_refused(ftvmm("replay", log), "at offset")


def test_a_log_that_is_missing_is_named() -> None:
    assert_refused(ftvmm("replay", "/nonexistent.log"), "/nonexistent.log", "No such file")
