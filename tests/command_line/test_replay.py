"""`ftvmm replay`: the same run again, or one clear sentence."""

import json
import re
from pathlib import Path

import pytest
from blake3 import blake3

from tests.command_line.command import COMPUTE, KEY_VALUE, assert_refused, ftvmm

END_BYTES = 50
"""Length of an end record: see docs/wire.md."""


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


def test_a_log_that_is_cut_in_its_header_is_refused_by_offset(recorded: tuple[Path, str, str], tmp_path: Path) -> None:
    whole = recorded[0].read_bytes()
    log = tmp_path / "cut"
    for length in (0, 10, 40):
        log.write_bytes(whole[:length])
        assert_refused(ftvmm("replay", log), "at offset")


def test_a_log_without_an_end_record_is_replayed_as_far_as_it_goes(
    recorded: tuple[Path, str, str], tmp_path: Path
) -> None:
    log, output, _ = recorded
    whole = log.read_bytes()
    cut = tmp_path / "cut"
    # This guest asks for no input, so that it comes to its own end all the same.
    for length, torn in ((len(whole) - END_BYTES, ""), (len(whole) - 1, f"{END_BYTES - 1} bytes of a torn record at")):
        cut.write_bytes(whole[:length])
        process = ftvmm("replay", cut)
        assert (process.returncode, process.stdout) == (0, output)
        assert "the log has no end record: its last whole entry is" in process.stderr
        assert torn in process.stderr


def test_outputs_are_listed_in_a_file_or_instead_of_the_console(
    recorded: tuple[Path, str, str], tmp_path: Path
) -> None:
    log, output, ending = recorded
    listed = tmp_path / "outputs"
    process = ftvmm("replay", f"--outputs={listed}", log)
    assert (process.returncode, process.stdout, process.stderr) == (0, output, "")
    *lines, end = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(1, len(lines) + 1))
    assert {line["kind"] for line in lines} == {"console"}
    assert sum(line["length"] for line in lines) == len(output)
    first = output.encode()[: lines[0]["length"]]
    assert lines[0]["digest"] == blake3(first).hexdigest()[:32]
    assert (end["end"], end["outputs"]) == ("halted", len(lines))
    assert f"fingerprint {end['fingerprint']}" in ending

    process = ftvmm("replay", "--outputs=-", log)
    assert (process.returncode, process.stdout) == (0, listed.read_text())
    assert_refused(ftvmm("replay", "--outputs=/nonexistent/outputs", log), "/nonexistent/outputs", "No such file")


def test_a_log_that_is_missing_is_named() -> None:
    assert_refused(ftvmm("replay", "/nonexistent.log"), "/nonexistent.log", "No such file")
