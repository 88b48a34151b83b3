"""`ftvmm simulate`: promises hold with all rules, and a rule switched off gives a story that can be told again."""

from __future__ import annotations

import re
import subprocess
import sys


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ftvmm", "simulate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_every_promise_holds_with_all_rules() -> None:
    done = simulate("--seeds", "1000")
    assert done.returncode == 0, done.stdout


def test_a_rule_switched_off_is_found_and_its_seed_fails_again() -> None:
    done = simulate("--seeds", "2000", "--rules-off", "R9")
    assert done.returncode == 1, done.stdout
    seed = re.search(r"seed (\d+)", done.stdout)
    assert seed, done.stdout
    again = simulate("--seed", seed[1], "--seeds", "1", "--rules-off", "R9")
    assert again.returncode == 1, again.stdout


def test_an_unknown_rule_is_named() -> None:
    done = simulate("--seeds", "1", "--rules-off", "R99")
    assert done.returncode == 2
    assert "R99" in done.stderr
