"""What every arbiter does: one winner a generation, one answer for all, whoever dies in between, and never a guess."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from ftvmm.arbiters import Arbiter, Record
from tests.arbiters.contender import RACE_SECONDS, RACES_TO_START, Address, open_arbiter

RACES = 1000
ROOT = Path(__file__).parents[2]


def test_a_vm_that_was_never_bootstrapped_has_generation_0(opened: Callable[[], Arbiter]) -> None:
    assert opened().read() == Record(0, 0, "")


def test_of_many_askers_exactly_one_wins_and_all_agree_on_whom(opened: Callable[[], Arbiter]) -> None:
    opened().ask(generation=1, incarnation=1, node="first")
    start = threading.Barrier(16)
    answers: dict[int, Record] = {}

    def ask(incarnation: int) -> None:
        arbiter = opened()
        start.wait()
        answers[incarnation] = arbiter.ask(generation=2, incarnation=incarnation, node=f"node-{incarnation}")

    threads = [threading.Thread(target=ask, args=(incarnation,)) for incarnation in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = {answer.incarnation for answer in answers.values()}
    assert len(answers) == 16
    assert len(winners) == 1
    assert opened().read().incarnation in winners


def test_asking_again_gives_the_same_answer(opened: Callable[[], Arbiter]) -> None:
    first = opened().ask(generation=1, incarnation=7, node="a")
    assert opened().ask(generation=1, incarnation=7, node="a") == first
    assert opened().ask(generation=1, incarnation=8, node="b") == first


def test_the_newest_generation_is_read(opened: Callable[[], Arbiter]) -> None:
    for generation in range(1, 12):
        opened().ask(generation=generation, incarnation=(1 << 64) - generation, node="a")
        assert opened().read() == Record(generation, (1 << 64) - generation, "a")


def test_vms_have_nothing_to_do_with_each_other(address: Address, vm: str) -> None:
    other = "f" + vm[1:] if vm[0] != "f" else "0" + vm[1:]
    open_arbiter(address, vm).ask(generation=1, incarnation=1, node="a")
    assert open_arbiter(address, other).read() == Record(0, 0, "")


def test_what_is_tried_out_is_no_claim(opened: Callable[[], Arbiter]) -> None:
    opened().try_out()
    assert opened().read() == Record(0, 0, "")


def start_contender(address: Address, vm: str, name: str, first: int, last: int, begin: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.arbiters.contender", address.kind, ",".join(address.places)]
    command += [vm, name, str(first), str(last), str(begin)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_no_race_has_two_winners_and_no_killed_contender_takes_a_win_back(address: Address, vm: str) -> None:
    """Two processes race for each of many generations, and a third is killed at any moment and comes back."""
    open_arbiter(address, vm).ask(generation=1, incarnation=1, node="first")
    first, last = 2, RACES + 1
    begin = time.monotonic() + RACES_TO_START * RACE_SECONDS
    racers = [start_contender(address, vm, name, first, last, begin) for name in ("a", "b")]
    said: list[Record] = []

    def listen(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            said.extend(Record(**json.loads(line)) for line in lines)

    listeners = [threading.Thread(target=listen, args=(racer,)) for racer in racers]
    for listener in listeners:
        listener.start()
    deaths = 0
    while any(racer.poll() is None for racer in racers):
        reached = max((record.generation for record in list(said)), default=first)
        # Ahead of the others, which it meets at the races' moments.
        victim = start_contender(address, vm, f"victim-{deaths}", reached + RACES_TO_START, last, begin)
        assert victim.stdout is not None
        before = [victim.stdout.readline() for _ in range(random.randrange(1, 20))]
        victim.kill()
        rest, _ = victim.communicate()
        # What was cut off by the kill was not said.
        whole = (line for line in [*before, *rest.splitlines(keepends=True)] if line.endswith("\n"))
        said += [Record(**json.loads(line)) for line in whole]
        deaths += 1
    for listener in listeners:
        listener.join()
    assert [racer.wait() for racer in racers] == [0, 0]
    owners: defaultdict[int, set[tuple[int, str]]] = defaultdict(set)
    for record in said:
        owners[record.generation].add((record.incarnation, record.node))
    assert sorted(owners) == list(range(first, last + 1)), "every race was decided"
    assert {generation: who for generation, who in owners.items() if len(who) > 1} == {}
    assert deaths > 0
    assert {"a", "b"} <= {node for who in owners.values() for _, node in who}, "they met, and neither won every race"
    assert open_arbiter(address, vm).read().generation == last
