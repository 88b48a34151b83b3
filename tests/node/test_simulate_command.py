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


def test_a_search_takes_fresh_seeds_and_says_how_to_see_a_broken_promise_again() -> None:
    held = [simulate("--for", "1s") for _ in range(2)]
    begins = {re.match(r"fresh seeds from (\d+) on, for 1 s\n", done.stdout) for done in held}
    assert len({begin[1] for begin in begins if begin}) == 2, held
    assert all(done.returncode == 0 for done in held), held
    done = simulate("--for", "60s", "--rules-off", "R9,R10")
    assert done.returncode == 1, done.stdout
    command = re.search(r"the same again: ftvmm simulate (.*)\n", done.stdout)
    assert command, done.stdout
    again = simulate(*command[1].split())
    assert again.returncode == 1, again.stdout
    assert again.stdout.split("broke a promise")[1].strip() in done.stdout


def test_a_duration_without_a_unit_is_refused() -> None:
    done = simulate("--for", "5")
    assert done.returncode == 2
    assert "such as 2m" in done.stderr
