"""A model of a logical unit with persistent reservations (SPC-4, 5.13), and of who asks it, one command at a time.

It does what real targets do and what cannot be had from one on demand: a write that was let in is carried out later,
after a PREEMPT or after its sender's death; an answer is lost; the target is restarted and forgets at any moment.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from ftvmm.arbiters.claim_blocks import TRIAL_BLOCK
from ftvmm.arbiters.iscsi import ReservationConflictError, SessionLostError, StatusError

BLOCK_BYTES = 512
_UNIT_ATTENTION, _ILLEGAL_REQUEST = 6, 5


@dataclass
class ModelUnit:
    """What the target knows; `registrations` are by nexus."""

    blocks: bytearray = field(default_factory=lambda: bytearray((TRIAL_BLOCK + 1) * BLOCK_BYTES))
    # What of them a loss of power leaves.
    medium: bytearray = field(default_factory=lambda: bytearray((TRIAL_BLOCK + 1) * BLOCK_BYTES))
    registrations: dict[int, int] = field(default_factory=dict)
    holder: int | None = None
    attentions: set[int] = field(default_factory=set)
    writes: list[tuple[int, bytes]] = field(default_factory=list)
    age: int = 0
    nexuses: int = 0

    def restart(self, is_carried_out: Callable[[], bool], *, loses_power: bool) -> None:
        """The target ends and comes back: sessions and reservations are gone, and of writes under way some are done.

        Where its host loses power, of what was not flushed some is gone as well.
        """
        for block, content in self.writes:
            if is_carried_out():
                self.land(block, content)
        for at in range(0, len(self.blocks), BLOCK_BYTES) if loses_power else ():
            block_at = slice(at, at + BLOCK_BYTES)
            if self.blocks[block_at] != self.medium[block_at] and not is_carried_out():
                self.blocks[block_at] = self.medium[block_at]
        if loses_power:
            self.medium[:] = self.blocks
        self.age += 1
        self.clear()
        self.writes.clear()

    def clear(self) -> None:
        """As an operator does by hand."""
        self.attentions |= set(self.registrations)
        self.registrations.clear()
        self.holder = None

    def land(self, block: int, content: bytes) -> None:
        """A write is carried out."""
        self.blocks[block * BLOCK_BYTES : block * BLOCK_BYTES + len(content)] = content

    def carry_out(self, nexus: int, cdb: bytes, write: bytes) -> bytes:
        """One command; a write is only let in."""
        operation, action = cdb[0], cdb[1]
        if nexus in self.attentions:
            self.attentions.discard(nexus)
            raise StatusError(0x02, _UNIT_ATTENTION, 0x2A05)
        if operation == 0x9E:
            return TRIAL_BLOCK.to_bytes(8, "big") + BLOCK_BYTES.to_bytes(4, "big") + bytes(20)
        if operation == 0x5E:
            return self._look(action)
        if operation == 0x5F:
            return self._reserve(nexus, action, *(int.from_bytes(write[at : at + 8], "big") for at in (0, 8)))
        block, count = int.from_bytes(cdb[2:10], "big"), int.from_bytes(cdb[10:14], "big")
        if operation == 0x88:
            return bytes(self.blocks[block * BLOCK_BYTES : (block + count) * BLOCK_BYTES])
        assert operation in (0x8A, 0x35)
        if self.holder not in (None, nexus):
            raise ReservationConflictError
        if operation == 0x8A:
            self.writes.append((block, write))
        else:
            self.medium[:] = self.blocks
        return b""

    def _look(self, action: int) -> bytes:
        """REPORT CAPABILITIES (2) or READ RESERVATION (1)."""
        if action == 2:
            return bytes([0, 8, 0, 0x80, 0xEA, 1, 0, 0])
        if self.holder is None:
            return bytes(8)
        return bytes(7) + bytes([16]) + self.registrations[self.holder].to_bytes(8, "big") + bytes([0] * 5 + [1, 0, 0])

    def _reserve(self, nexus: int, action: int, key: int, service_key: int) -> bytes:
        own = self.registrations.get(nexus)
        if action == 6 or (action == 0 and (own or 0) == key):
            if service_key:
                self.registrations[nexus] = service_key
            elif self.registrations.pop(nexus, None) is not None and self.holder == nexus:
                self.holder = None
            return b""
        if action == 5:
            raise StatusError(0x02, _ILLEGAL_REQUEST, 0x2400)
        if own is None or own != key:
            raise ReservationConflictError
        if action == 1:
            if self.holder not in (None, nexus):
                raise ReservationConflictError
            self.holder = nexus
            return b""
        assert action == 4
        others = {other for other, its in self.registrations.items() if its == service_key}
        if not others:
            raise ReservationConflictError
        if self.holder in others:
            self.holder = nexus
        for other in others - {nexus}:
            del self.registrations[other]
            self.attentions.add(other)
        return b""


class World:
    """Actors, of whom one at a time sends a command; which one, and what goes wrong, is drawn from `draw`."""

    def __init__(self, draw: random.Random) -> None:
        self.draw, self.unit = draw, ModelUnit()
        self.now = 0.0
        self._waiting: dict[threading.Thread, threading.Semaphore] = {}
        self._begun = threading.Semaphore(0)
        self._still: threading.Thread | None = None
        self._still_turns = 0
        self.failures: list[BaseException] = []

    def run(self, actors: list[Callable[[], None]], faults: Callable[[], None]) -> None:
        """Runs all actors to their ends; `faults` may do something to the unit between two commands."""
        for actor in actors:

            def act(actor: Callable[[], None] = actor) -> None:
                self._waiting[threading.current_thread()].acquire()
                try:
                    actor()
                except BaseException as error:
                    self.failures.append(error)
                finally:
                    del self._waiting[threading.current_thread()]
                    self._begun.release()

            thread = threading.Thread(target=act, daemon=True)
            self._waiting[thread] = threading.Semaphore(0)
            thread.start()
        while self._waiting:
            faults()
            # One of them stands still for so long that the others take over what it has begun.
            if self._still_turns == 0 and self.draw.random() < 0.02:
                self._still, self._still_turns = self.draw.choice(list(self._waiting)), self.draw.randrange(400)
            self._still_turns = max(0, self._still_turns - 1)
            ready = [thread for thread in self._waiting if thread is not self._still or not self._still_turns]
            self._waiting[self.draw.choice(ready or list(self._waiting))].release()
            self._begun.acquire()

    def turn(self, seconds: float = 0.001) -> None:
        """The actor that calls this goes on when it is drawn."""
        self.now += seconds
        self._begun.release()
        self._waiting[threading.current_thread()].acquire()

    def monotonic(self) -> float:
        """As `time` has it."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """As `time` has it."""
        self.turn(seconds)


class ModelSession:
    """As `ftvmm.arbiters.iscsi.Session`; dies, or loses an answer, as often as `loss` says."""

    def __init__(self, world: World, *, loss: float) -> None:
        self._world, self._loss = world, loss
        self._age, self._is_open = world.unit.age, True
        world.unit.nexuses += 1
        self._nexus = world.unit.nexuses
        world.unit.attentions.add(self._nexus)

    def execute(self, cdb: bytes, *, read_bytes: int = 0, write: bytes = b"", deadline: float) -> bytes:
        """One command, at this actor's turn."""
        world, unit = self._world, self._world.unit
        world.turn()
        self._fail_perhaps()
        answer = unit.carry_out(self._nexus, cdb, write)
        if cdb[0] == 0x8A:
            let_in = unit.writes[-1]
            world.turn()
            # Who dies here leaves the write under way.
            self._fail_perhaps()
            if let_in in unit.writes:
                unit.writes.remove(let_in)
                unit.land(*let_in)
        self._fail_perhaps()
        return answer

    def close(self) -> None:
        """Registration and reservation stay."""
        self._is_open = False

    def _fail_perhaps(self) -> None:
        if self._age != self._world.unit.age or not self._is_open or self._world.draw.random() < self._loss:
            self._is_open = False
            raise SessionLostError("lost")
