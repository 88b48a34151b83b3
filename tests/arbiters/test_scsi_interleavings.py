"""The `scsi-pr` arbiter in a model of the target: every command at any moment, with all that can go wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import pytest

from ftvmm.arbiters import ArbiterUnreachableError, Record, claim_blocks, scsi
from ftvmm.arbiters.scsi import LunAddress, ScsiArbiter
from tests.arbiters.model_unit import ModelSession, World
from tests.arbiters.target import MISSING

pytestmark = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")

RUNS = 150
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


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> World:
    """A world whose every choice comes of the seed; it loses an answer, or a contender, as often as the seed says."""
    draw = random.Random(request.param)
    world = World(draw)
    loss = draw.choice([0.0, 0.01, 0.03])
    monkeypatch.setattr(scsi, "Session", lambda *_, **__: ModelSession(world, loss=loss))
    monkeypatch.setattr(scsi, "time", world)
    monkeypatch.setattr(scsi, "random", draw)
    monkeypatch.setattr(claim_blocks, "secrets", SimpleNamespace(randbits=draw.getrandbits))
    return world


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


@pytest.mark.parametrize("world", [random.getrandbits(32) for _ in range(RUNS)], indirect=True, ids=str)
def test_no_interleaving_has_two_winners(world: World) -> None:
    """Restarts of the target, writes that come late, answers that are lost; the seed is the test's name.

    Registrations are cleared by hand only while no write is under way: who does that knows nothing of such a one, and
    neither does the arbiter.
    """
    observer = Observer()
    draw, unit = world.draw, world.unit
    restart, clear, land = draw.choice([0.0, 0.005]), draw.choice([0.0, 0.0, 0.01]), draw.choice([0.001, 0.02, 0.3])

    def faults() -> None:
        if draw.random() < restart:
            unit.restart(lambda: draw.random() < 0.5)
        if not unit.writes and draw.random() < clear:
            unit.clear()
        if unit.writes and draw.random() < land:
            unit.land(*unit.writes.pop(draw.randrange(len(unit.writes))))

    world.run([partial(contender, observer, number) for number in range(1, 4)], faults)
    assert world.failures == []
    assert observer.newest >= GENERATIONS, "they come to an end"
