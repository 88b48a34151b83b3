"""The `scsi-pr` arbiter in a model of the target: every command at any moment, with all that can go wrong."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import pytest

from ftvmm.arbiters import ArbiterUnreachableError, Record, claim_blocks, scsi
from ftvmm.arbiters.claim_blocks import Key
from ftvmm.arbiters.iscsi import ReservationConflictError
from ftvmm.arbiters.logical_unit import LogicalUnit
from ftvmm.arbiters.scsi import LunAddress, ScsiArbiter
from tests.arbiters.model_unit import ModelSession, World
from tests.arbiters.target import MISSING

pytestmark = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")

RUNS = 100
SEED = int(os.environ.get("ARBITER_SEED") or random.SystemRandom().randrange(10**6))
GENERATIONS = 4
VM = "0" * 31 + "1"
ADDRESS = LunAddress.parse("iscsi://127.0.0.1:3260/iqn.2026-01.org.example:vm/1")


@dataclass
class Observer:
    """What anybody was told: one owner a generation, and never an older generation than somebody knew before."""

    owners: dict[int, Record] = field(default_factory=dict)
    newest: int = 0

    def hear(self, record: Record, known_before: int) -> None:
        assert record.generation >= known_before, f"{record} after generation {known_before}"
        if record.generation:
            assert self.owners.setdefault(record.generation, record) == record
        self.newest = max(self.newest, record.generation)


def contender(observer: Observer, incarnation: int) -> None:
    """Claims each generation, and asks again as a node does that had no answer."""
    arbiter = ScsiArbiter(ADDRESS, VM, timeout_seconds=30)
    tries = 0
    while observer.newest < GENERATIONS and tries < 300:
        tries += 1
        try:
            before = observer.newest
            record = arbiter.read()
            observer.hear(record, before)
            generation = record.generation + 1
            asked = arbiter.ask(generation=generation, incarnation=incarnation, node=f"node-{incarnation}")
            assert asked.generation == generation
            observer.hear(asked, generation)
        except ArbiterUnreachableError:
            continue


def problems_of(seed: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes wrong in a world whose every choice, and how often something fails in it, comes of the seed.

    Registrations are cleared by hand only while no write is under way: who does that knows nothing of such a one, and
    neither does the arbiter.
    """
    draw = random.Random(seed)
    world, observer = World(draw), Observer()
    unit = world.unit
    loss, restart = draw.choice([0.0, 0.01, 0.03]), draw.choice([0.0, 0.005])
    clear, land = draw.choice([0.0, 0.0, 0.01]), draw.choice([0.001, 0.02, 0.3])
    monkeypatch.setattr(scsi, "Session", lambda *_, **__: ModelSession(world, loss=loss))
    monkeypatch.setattr(scsi, "time", world)
    monkeypatch.setattr(scsi, "random", draw)
    monkeypatch.setattr(claim_blocks, "secrets", SimpleNamespace(randbits=draw.getrandbits))

    def faults() -> None:
        if draw.random() < restart:
            unit.restart(lambda: draw.random() < 0.5, loses_power=draw.random() < 0.5)
        if not unit.writes and draw.random() < clear:
            unit.clear()
        if unit.writes and draw.random() < land:
            unit.land(*unit.writes.pop(draw.randrange(len(unit.writes))))

    world.run([partial(contender, observer, number) for number in range(1, 4)], faults)
    problems = [repr(failure) for failure in world.failures]
    return problems if observer.newest >= GENERATIONS else [*problems, "they come to no end"]


@pytest.mark.parametrize("number", range(RUNS))
def test_no_interleaving_has_two_winners(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarts of the target, writes that come late, answers that are lost. `ARBITER_SEED` draws the same again."""
    assert problems_of(f"{SEED}/{number}", monkeypatch) == [], f"ARBITER_SEED={SEED}"


def counts_before_it_is_won(arbiter: ScsiArbiter, unit: LogicalUnit, _generation: int) -> Record | None:
    return arbiter._newest(unit)


def preempts_whoever_holds_it(arbiter: ScsiArbiter, unit: LogicalUnit, held: Key, generation: int) -> Key:
    reservation = unit.reservation()
    claim = Key.drawn(generation, held.attempt + 1 if held.is_claim else 0)
    unit.register(claim.number)
    with suppress(ReservationConflictError):
        unit.preempt(claim.number, reservation.key if reservation is not None else held.number)
    return claim


def counts_what_was_not_flushed(_unit: LogicalUnit) -> None:
    pass


@pytest.mark.parametrize(
    ("kind", "method", "broken"),
    [
        (ScsiArbiter, "_decided", counts_before_it_is_won),
        (ScsiArbiter, "_claim", preempts_whoever_holds_it),
        (LogicalUnit, "flush", counts_what_was_not_flushed),
    ],
)
def test_the_model_finds_out_a_broken_arbiter(
    monkeypatch: pytest.MonkeyPatch, kind: type, method: str, broken: Callable[..., object]
) -> None:
    monkeypatch.setattr(kind, method, broken)
    assert any(problems_of(f"{SEED}/{number}", monkeypatch) for number in range(10 * RUNS))
