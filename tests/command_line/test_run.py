"""`ftvmm run`: what is refused, and how a run ends."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.command_line.command import COMMAND, COMPUTE, KEY_VALUE, assert_refused, ftvmm
from tests.guests.guest import REPOSITORY

PROGRAM_HEADERS_OFFSET = 64


def test_the_exit_status_and_standard_output_are_the_guests() -> None:
    process = ftvmm("run", "--mem=16", COMPUTE, "--", "--rounds=10")
    assert process.returncode == 0
    assert process.stdout.splitlines()[-1].startswith("compute: 10 rounds, digest")
    assert process.stderr == ""
    assert ftvmm("run", "--mem=16", COMPUTE, "--", "--rounds=0").returncode == 2


def test_the_double_dash_is_optional_and_not_the_guests() -> None:
    assert ftvmm("run", "--mem", "16", COMPUTE, "--rounds=10").stdout == (
        ftvmm("run", "--mem=16", COMPUTE, "--", "--rounds=10").stdout
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("--net:service=TAP",)),
        (("--net:service=nosuchtap0",), ("nosuchtap0", "ip tuntap add")),
        (("--net:service",), ("needs a value",)),
        (("--net:=tap0",), ("1 to 67 letters",)),
        (("--net:a=tap0", "--net:a=tap1"), ("given twice",)),
        (("--net-mac:service=02:00:00:00:00:01",), ("without --net:service",)),
        (("--block:storage=/nonexistent/disk",), ("/nonexistent/disk", "No such file")),
        (("--block-sector-size:storage=4096",), ("without --block:storage",)),
        (
            ("--block:storage=/dev/null", "--block-sector-size:storage=521"),
            ("=521", "a power of two from 512 to 32768"),
        ),
        (("--block:storage=/dev/null", "--block-sector-size:storage=256"), ("=256", "a power of two from 512")),
        (("--block:storage=/dev/null", "--block-sector-size:storage=x"), ("=x", "a power of two from 512")),
        (("--block:storage=/dev/null",), ("neither a regular file nor a block device",)),
    ],
)
def test_wrong_devices_are_named(options: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_refused(ftvmm("run", *options, KEY_VALUE), *words)


@pytest.mark.parametrize(
    ("size_bytes", "sector_bytes", "words"),
    [
        (6144, 4096, "its 6144 bytes are no whole number of sectors of 4096"),
        (512, 4096, "its 512 bytes are less than a sector of 4096"),
        (1563, 512, "its 1563 bytes are no whole number of sectors of 512"),
        (256, 512, "its 256 bytes are less than a sector of 512"),
    ],
)
def test_a_disk_that_is_no_whole_number_of_sectors_is_refused(
    tmp_path: Path, size_bytes: int, sector_bytes: int, words: str
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(size_bytes))
    options = (f"--block:storage={disk}", f"--block-sector-size:storage={sector_bytes}")
    assert_refused(ftvmm("run", *options, KEY_VALUE), str(disk), words)


def test_a_device_that_the_image_does_not_declare_is_refused(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512))
    assert_refused(ftvmm("run", f"--block:extra={disk}", COMPUTE), "declares no device", "extra")


def test_an_image_that_is_missing_is_named() -> None:
    assert_refused(ftvmm("run", "/nonexistent.hvt"), "/nonexistent.hvt", "No such file")


@pytest.mark.parametrize("length", [0, 3, 63, 64, 500, 5000])
def test_a_truncated_image_is_refused_by_offset(tmp_path: Path, length: int) -> None:
    image = tmp_path / "cut.hvt"
    image.write_bytes(COMPUTE.read_bytes()[:length])
    assert_refused(ftvmm("run", image), "at offset 0x")


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "text.hvt"
    image.write_text("no image at all, but long enough to look at")
    assert_refused(ftvmm("run", image), "no ELF file")
    assert_refused(ftvmm("run", "/bin/true"), "at offset 0x")


@pytest.mark.parametrize("option", [["--features=aes"], ["--features", "aes"], ["--mem", "16"]])
def test_a_device_may_follow_any_option(option: list[str]) -> None:
    assert_refused(
        ftvmm("run", *option, "--block:none=/dev/null", COMPUTE), 'block device "/dev/null" cannot be opened'
    )


def test_a_feature_that_there_is_not_is_refused() -> None:
    assert_refused(ftvmm("run", "--features=aes,avx", COMPUTE), "avx")


def test_too_little_memory_is_refused() -> None:
    assert_refused(ftvmm("run", "--mem=1", COMPUTE), "too few")


def test_help_teaches() -> None:
    for command, words in {
        "run": ("--net:NAME=TAP", "--record", "Example"),
        "replay": ("--image",),
        "doctor": ("--config", "Example"),
    }.items():
        process = ftvmm(command, "--help")
        assert process.returncode == 0
        assert all(word in process.stdout for word in words)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = subprocess.Popen(
        [*COMMAND, "run", "--mem=16", f"--record={log}", str(COMPUTE), "--", "--rounds=100000"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        # Its first line shows that it is running; it comes when a tenth of the work is done.
        assert process.stdout is not None
        wanted = process.stdout.readline()
        assert wanted
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == ""
    # The log of an interrupted run is whole, and replays as far as it goes.
    replayed = ftvmm("replay", log)
    assert replayed.returncode == 130
    assert replayed.stdout.startswith(wanted)
