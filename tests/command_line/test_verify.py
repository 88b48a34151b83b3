"""`ftvmm verify`: each instruction that is rewritten or refused, by address, words and function."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

from tests.command_line.command import KEY_VALUE, assert_refused, ftvmm

SYSCALL = b"\x0f\x05"


def offset_in_file(image: bytes, address: int) -> int:
    """Where the byte at an address of the guest stands in its ELF file."""
    table, count = struct.unpack_from("<Q", image, 32)[0], struct.unpack_from("<H", image, 56)[0]
    for at in range(table, table + count * 56, 56):
        kind, _, offset, _, start, length = struct.unpack_from("<IIQQQQ", image, at)
        if kind == 1 and start <= address < start + length:
            return int(offset + address - start)
    raise AssertionError(f"{address:#x} is in no segment")


def test_an_image_that_can_be_run() -> None:
    process = ftvmm("verify", KEY_VALUE)
    assert process.returncode == 0
    assert "refused: none" in process.stdout
    assert process.stdout.splitlines()[-1] == "It can be run."
    report = json.loads(ftvmm("verify", "--json", KEY_VALUE).stdout)
    assert {one["instruction"].split()[0] for one in report["rewritten"]} <= {"rdtsc", "rdrand", "cpuid"}
    assert all(re.fullmatch(r"\S.*\+0x[0-9a-f]+", one["place"]) for one in report["rewritten"])
    assert (report["refused"], report["doubtful"]) == ([], [])
    assert all(one["count"] and one["reason"] and "WRFSBASE" not in one["reason"] for one in report["depends"])
    dependent = sum(one["count"] for one in report["depends"])
    assert f"results that depend on the host: {dependent or 'none'}" in process.stdout
    assert f"features, where CPUID shows them: {', '.join(report['features']) or 'none'}" in process.stdout


def test_all_that_is_refused_is_told_with_its_place(tmp_path: Path) -> None:
    code = bytearray(Path(KEY_VALUE).read_bytes())
    report = json.loads(ftvmm("verify", "--json", KEY_VALUE).stdout)
    first, *_, last = [one["address"] for one in report["rewritten"]]
    for address in (first, last):
        at = offset_in_file(code, address)
        code[at : at + 2] = SYSCALL
    image = tmp_path / "calls.hvt"
    image.write_bytes(code)
    process = ftvmm("verify", str(image))
    assert process.returncode == 2
    assert "refused: 2\n" in process.stdout
    for address in (first, last):
        assert re.search(rf"{address:#012x}  syscall .*: it leaves the guest for a kernel", process.stdout)
    assert process.stdout.splitlines()[-1] == "It cannot be run."


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    assert_refused(ftvmm("verify", "/bin/true"), "/bin/true", "at offset 0x")
    assert_refused(ftvmm("verify", str(tmp_path / "none.hvt")), "none.hvt", "No such file")
