"""The packed programs of the scenarios: made again when anything in them changes, each for a server of the harness."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from harness.promise import Workload
from harness.vm.guests import SERVERS
from lab.provision import programs
from lab.provision.programs import CONFIGURATIONS, PROGRAMS, Programs
from lab.provision.step import Tree

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    shutil.copytree(ROOT / CONFIGURATIONS, tmp_path / CONFIGURATIONS)
    (tmp_path / "ftvmm" / "packing").mkdir(parents=True)
    (tmp_path / "ftvmm" / "guests" / "images").mkdir(parents=True)
    return Tree(root=tmp_path, cargo_directory=Path("/usr/bin"))


def test_each_server_of_the_scenarios_that_is_not_ours_is_packed() -> None:
    assert {program.image for program in PROGRAMS} == set(Workload) - {Workload.KV}
    for program in PROGRAMS:
        assert program.configuration is None or (ROOT / CONFIGURATIONS / program.configuration).is_file()
        assert program.has_disk == (SERVERS[Workload(program.image)].disk is not None)


@pytest.mark.parametrize(
    "path",
    [
        CONFIGURATIONS / "redis.conf",
        "ftvmm/_core.abi3.so",
        "ftvmm/packing/libraries.py",
        "ftvmm/commands/pack.py",
        "ftvmm/guests/images/linux.hvt",
    ],
    ids=str,
)
def test_they_are_packed_again_when_this_changes(tree: Tree, path: Path | str) -> None:
    before = Programs().fingerprint(tree)
    assert Programs().fingerprint(tree) == before
    (tree.root / path).parent.mkdir(parents=True, exist_ok=True)
    (tree.root / path).write_text("another")
    assert Programs().fingerprint(tree) != before


def test_they_are_packed_again_when_a_program_a_library_or_an_argument_changes(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, other = tmp_path / "library", dataclasses.replace(PROGRAMS[0], name="true")
    library.write_text("one")
    monkeypatch.setattr(programs, "_libraries", lambda _: [library])
    seen = {Programs().fingerprint(tree)}
    library.write_text("two")
    seen.add(Programs().fingerprint(tree))
    monkeypatch.setattr(programs, "PROGRAMS", (other, *PROGRAMS[1:]))
    seen.add(Programs().fingerprint(tree))
    monkeypatch.setattr(programs, "PROGRAMS", (dataclasses.replace(other, arguments=()), *PROGRAMS[1:]))
    seen.add(Programs().fingerprint(tree))
    assert len(seen) == 4


def test_the_loader_and_the_libraries_of_a_program_are_found() -> None:
    names = {path.name for path in programs._libraries(Path("/usr/bin/env"))}
    assert {"libc.so.6", "ld-linux-x86-64.so.2"} <= names
