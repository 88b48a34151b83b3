"""The shipped build has nothing of the lab's, and the lab's runs only where it is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.vm.failpoints import Point
from tests.node.test_configuration import GOOD

FTVMM = Path(__file__).parents[2] / "ftvmm"


def python(program: str, build: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "FTVMM_CORE": build},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(("variable", "build"), [("", "shipped"), ("lab", "lab")])
def test_the_environment_chooses_the_build(variable: str, build: str) -> None:
    assert python("from ftvmm._core import BUILD; print(BUILD)", variable).stdout.strip() == build


def test_a_build_that_does_not_exist_is_refused() -> None:
    assert "FTVMM_CORE must be 'lab' or unset, found 'lap'" in python("import ftvmm", "lap").stderr


def names(of: str) -> list[str]:
    return python(f"from ftvmm import _core; print(*_core.{of}, sep='\\n')", "lab").stdout.splitlines()


def test_the_harness_knows_the_points_of_the_labs_build() -> None:
    assert names("FAILPOINTS") == list(Point)


def test_the_shipped_build_holds_no_name_of_a_mutant_or_a_failpoint() -> None:
    shipped = (FTVMM / "_core.abi3.so").read_bytes()
    mutants = [name for name in names("MUTANTS") if not name.startswith("rule:")]
    assert mutants
    # Only such points: the names of others are those of events that every trace has.
    points = [Point.INPUT_APPENDED, Point.BEFORE_SECOND_CHECK, Point.BLOCK_WRITE_BEGUN, Point.BEFORE_ASK]
    assert [name for name in (*mutants, *points) if name.encode() in shipped] == []


def test_the_labs_build_takes_mutants_it_knows_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "kv.hvt").write_bytes(b"")
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    for mutant in ("rule:R5-lease", "nice"):
        text = GOOD.replace("{directory}", str(tmp_path)) + f'[test]\nmutants = ["{mutant}"]\n'
        (tmp_path / f"{mutant}.toml").write_text(text)
    program = (
        "import sys; from pathlib import Path; from ftvmm.configuration import load; print(load(Path(sys.argv[1])))"
    )
    taken, refused = (
        subprocess.run(
            [sys.executable, "-c", program, tmp_path / f"{mutant}.toml"],
            env={**os.environ, "FTVMM_CORE": "lab"},
            check=False,
            capture_output=True,
            text=True,
        )
        for mutant in ("rule:R5-lease", "nice")
    )
    assert "'mutants': ['rule:R5-lease']" in taken.stdout
    assert "test.mutants: unknown mutant 'nice'" in refused.stderr
