"""A personality of a few bytes, and programs compiled on the spot."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line.command import ftvmm
from tests.guests.guest import REPOSITORY

# What the packer needs of a personality: a Solo5 image with two symbols. None of it is ever run here.
_PERSONALITY = r"""
    .section .interp, "a"
    .asciz "/nonexistent/solo5/"
    .section .note.solo5.abi, "a"
    .balign 4
    .long 6, 16, 0x31494241
    .asciz "Solo5"
    .balign 4
    .long 1, 2, 0, 0
    .section .note.solo5.manifest, "a"
    .balign 8
    .long 6, 116, 0x3154464d
    .asciz "Solo5"
    .balign 8
    .long 1, 1
    .zero 68
    .long 0x40000000
    .zero 32
    .text
    .globl _start, linux_system_call
    .type _start, @function
    .type linux_system_call, @function
_start: ud2
linux_system_call: ret
    .data
    .globl PACKAGE_PLACE, THREAD_RECORD
PACKAGE_PLACE: .quad 0, 0
THREAD_RECORD: .zero 72
"""

Compile = Callable[..., Path]
Pack = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def personality(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A personality that the packer takes."""
    directory = tmp_path_factory.mktemp("personality")
    source, image = directory / "personality.s", directory / "personality.hvt"
    source.write_text(_PERSONALITY)
    options = ["-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,norelro", "-Wl,-z,max-page-size=4096"]
    script = REPOSITORY / "ftvmm" / "guests" / "sdk" / "image.ld"
    subprocess.run(["gcc", *options, f"-Wl,--script={script}", "-o", image, source], check=True, capture_output=True)
    return image


@pytest.fixture
def compile_program(tmp_path: Path) -> Compile:
    """Compiles a program or library, from assembler where the name ends in `.s`: `run(name, source, *options)`."""

    def run(name: str, source: str, *options: str) -> Path:
        is_assembler = name.endswith(".s")
        text = tmp_path / (name if is_assembler else f"{name}.c")
        text.write_text(source)
        program = tmp_path / name.removesuffix(".s")
        subprocess.run(["gcc", "-o", program, text, *options], check=True, capture_output=True, cwd=tmp_path)
        return program

    return run


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Where the image goes."""
    return tmp_path / "image.hvt"


@pytest.fixture
def pack(personality: Path, image: Path) -> Pack:
    """Packs into `image`: `pack(program, *options)`."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return ftvmm("pack", "--personality", personality, "-o", image, *arguments)

    return run
