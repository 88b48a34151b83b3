"""The Go program around porcupine: where it is, and how it is asked."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.evidence.json_lines import EvidenceError

_ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT_VARIABLE = "FTVMM_LINEARIZABILITY"


@dataclass(frozen=True)
class CheckerAnswer:
    """What porcupine found; `verdict` is `linearizable`, `violation` or `unknown` (no answer in time)."""

    verdict: str
    keys: int
    operations: int
    unknown_outcomes: int
    violations: list[dict[str, Any]]
    undecided_keys: list[str]
    picture: str | None


def check(history: Path, *, picture: Path, time_limit_seconds: float) -> CheckerAnswer:
    """Ask the checker; on a violation it draws `picture` (HTML).

    Raises `EvidenceError` when it is not built or cannot read the history.
    """
    program = Path(os.environ.get(ENVIRONMENT_VARIABLE, _ROOT / ".tools" / "bin" / "linearizability"))
    command = [str(program), "-history", str(history), "-html", str(picture), "-time-limit", f"{time_limit_seconds}s"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=time_limit_seconds + 30)
    except OSError as error:
        raise EvidenceError(f"{program}: {error.strerror}: run `make setup`, which builds it") from error
    except subprocess.TimeoutExpired as error:
        raise EvidenceError(f"{program} did not end within {error.timeout:.0f} s") from error
    if done.returncode != 0:
        raise EvidenceError(f"{program}: {done.stderr.strip()}")
    answer = json.loads(done.stdout)
    return CheckerAnswer(
        verdict=answer["verdict"],
        keys=answer["keys"],
        operations=answer["operations"],
        unknown_outcomes=answer["unknown_outcomes"],
        violations=answer["violations"],
        undecided_keys=answer["undecided_keys"],
        picture=answer.get("picture"),
    )
