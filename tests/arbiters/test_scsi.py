"""The `scsi-pr` arbiter: a target that dies, freezes and forgets, claims that break off, blocks of somebody else."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from ftvmm.arbiters import ArbiterUnreachableError, NotSharedError, Record
from ftvmm.arbiters.claim_blocks import BLOCKS, Key
from ftvmm.arbiters.iscsi import ReservationConflictError, Session, SessionLostError, StatusError
from ftvmm.arbiters.logical_unit import LogicalUnit
from ftvmm.arbiters.scsi import LunAddress, ScsiArbiter
from tests.arbiters.contender import TIMEOUT_SECONDS
from tests.arbiters.target import MISSING, Target, url_of

pytestmark = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")

# Of the last whole block of the logical unit, which nobody else uses.
SPARE_BLOCK = 4000


def arbiter_of(target: Target, vm: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> ScsiArbiter:
    return ScsiArbiter(LunAddress.parse(target.url(vm)), vm, timeout_seconds=timeout_seconds)


def deadline() -> float:
    return time.monotonic() + TIMEOUT_SECONDS


def session_of(target: Target, vm: str) -> Session:
    """Somebody's session with a VM's logical unit."""
    address = LunAddress.parse(target.url(vm))
    return Session(
        address.portal, address.target, address.lun, initiator="iqn.2026-11.invalid.test:stranger", deadline=deadline()
    )


def stranger(target: Target, vm: str) -> LogicalUnit:
    """Somebody who has a VM's logical unit, too."""
    return LogicalUnit(session_of(target, vm), deadline=deadline())


def clear(target: Target, vm: str) -> None:
    """As an operator does with sg_persist: no registration is left, and no reservation (CLEAR, SPC-4 5.13.11.6)."""
    session = session_of(target, vm)
    unit = LogicalUnit(session, deadline=deadline())
    unit.register(1)
    key = (1).to_bytes(8, "big")
    session.execute(bytes([0x5F, 3]) + bytes(6) + bytes([24, 0]), write=key + bytes(16), deadline=deadline())
    unit.close()


def late_write(unit: LogicalUnit, content: bytes) -> None:
    """A write as a node makes it that does not know what has happened: what a unit attention tells, it ignores."""
    unit.deadline = deadline()
    try:
        unit.write(SPARE_BLOCK, content)
    except StatusError as error:
        if not error.is_unit_attention:
            raise
        unit.write(SPARE_BLOCK, content)


class interrupted:
    """While it is entered, something happens at the n-th command that an arbiter here sends.

    Args:
        monkeypatch: pytest's.
        number: which command, from 1.
        before: what happens before it is sent; may raise.
        after: what happens after it was carried out; may raise.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        *,
        before: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self._monkeypatch, self._number, self._before, self._after = monkeypatch, number, before, after
        self.is_reached = False
        self._sent = 0

    def __enter__(self) -> interrupted:
        execute = Session.execute

        def counted(session: Session, cdb: bytes, *, read_bytes: int = 0, write: bytes = b"", deadline: float) -> bytes:
            self._sent += 1
            if self._sent != self._number:
                return execute(session, cdb, read_bytes=read_bytes, write=write, deadline=deadline)
            self.is_reached = True
            self._before()
            answer = execute(session, cdb, read_bytes=read_bytes, write=write, deadline=deadline)
            self._after()
            return answer

        self._monkeypatch.setattr(Session, "execute", counted)
        return self

    def __exit__(self, *_: object) -> None:
        self._monkeypatch.undo()


def die() -> None:
    raise SessionLostError("killed")


def asked(arbiter: ScsiArbiter, generation: int, incarnation: int) -> Record | None:
    try:
        return arbiter.ask(generation=generation, incarnation=incarnation, node=f"node-{incarnation}")
    except ArbiterUnreachableError:
        return None


@pytest.mark.parametrize("is_carried_out", [False, True], ids=["before", "after"])
def test_a_claim_that_breaks_off_at_any_command_leaves_one_winner(
    target: Target, vm: str, monkeypatch: pytest.MonkeyPatch, *, is_carried_out: bool
) -> None:
    """The claimant dies before a command, or its answer is lost; the other asks, and then the first asks again."""
    arbiter_of(target, vm).ask(generation=1, incarnation=1, node="first")
    winners = set()
    for generation in range(2, 60):
        first, second = arbiter_of(target, vm), arbiter_of(target, vm)
        hook = {"after": die} if is_carried_out else {"before": die}
        with interrupted(monkeypatch, generation - 1, **hook) as interruption:
            broken_off = asked(first, generation, 7)
        record = asked(second, generation, 8)
        assert record is not None
        assert broken_off in (None, record)
        assert asked(first, generation, 7) == record
        assert arbiter_of(target, vm).read() == record
        winners.add(record.incarnation)
        if not interruption.is_reached:
            break
    assert not interruption.is_reached, "a claim has so many commands"
    assert generation > 10
    assert winners == {7, 8}


def test_a_target_that_is_restarted_in_the_middle_of_a_claim_leaves_one_winner(
    own_target: Target, vm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It forgets the reservation at any step; what was flushed counts."""
    arbiter_of(own_target, vm).ask(generation=1, incarnation=1, node="first")
    for generation in range(2, 60):
        first = arbiter_of(own_target, vm)
        with interrupted(monkeypatch, generation - 1, before=own_target.restart) as interruption:
            broken_off = asked(first, generation, 7)
        assert (broken_off is None) is interruption.is_reached
        known = arbiter_of(own_target, vm).read()
        assert known.generation in (generation - 1, generation)
        record = asked(arbiter_of(own_target, vm), generation, 8)
        assert record is not None
        assert known.generation < generation or known == record
        assert broken_off in (None, record)
        assert asked(first, generation, 7) == record
        if not interruption.is_reached:
            return
    pytest.fail("a claim has so many commands")


def test_registrations_cleared_by_hand_in_the_middle_of_a_claim_leave_one_winner(
    target: Target, vm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arbiter_of(target, vm).ask(generation=1, incarnation=1, node="first")
    for generation in range(2, 60):
        first = arbiter_of(target, vm)

        def clear_once() -> None:
            monkeypatch.undo()
            clear(target, vm)

        with interrupted(monkeypatch, generation - 1, before=clear_once) as interruption:
            record = asked(first, generation, 7)
        assert record == Record(generation, 7, "node-7"), "it begins anew"
        assert asked(arbiter_of(target, vm), generation, 8) == record
        if not interruption.is_reached:
            return
    pytest.fail("a claim has so many commands")


def test_a_restarted_target_takes_no_generation_back(own_target: Target, vm: str) -> None:
    arbiter = arbiter_of(own_target, vm)
    for generation in (1, 2, 3):
        assert arbiter.ask(generation=generation, incarnation=generation, node="a") == Record(
            generation, generation, "a"
        )
        own_target.restart()
        assert arbiter.read() == Record(generation, generation, "a")
        assert arbiter.ask(generation=generation, incarnation=9, node="b") == Record(generation, generation, "a")


def test_a_loser_cannot_write_any_more(target: Target, vm: str) -> None:
    """The target itself refuses it, whoever asks and registers again afterwards."""
    old, new = arbiter_of(target, vm), arbiter_of(target, vm)
    old.ask(generation=1, incarnation=1, node="a")
    assert old.holder is not None
    late_write(old.holder, b"a" * 512)
    new.ask(generation=2, incarnation=2, node="b")
    assert new.holder is not None
    late_write(new.holder, b"b" * 512)
    for _ in range(3):
        with pytest.raises(ReservationConflictError):
            late_write(old.holder, b"A" * 512)
        old.holder.register(Key.drawn(2, 0).number)
    assert old.ask(generation=2, incarnation=1, node="a") == Record(2, 2, "b")
    with pytest.raises(ReservationConflictError):
        late_write(old.holder, b"A" * 512)
    unregistered = stranger(target, vm)
    with pytest.raises(ReservationConflictError):
        late_write(unregistered, b"C" * 512)
    unregistered.close()
    assert target.unit(vm).read_bytes()[SPARE_BLOCK * 512 :][:512] == b"b" * 512
    late_write(new.holder, b"B" * 512)


def test_a_winner_that_claims_the_next_generation_is_no_loser(target: Target, vm: str) -> None:
    arbiter = arbiter_of(target, vm)
    for generation in (1, 2):
        arbiter.ask(generation=generation, incarnation=1, node="a")
        assert arbiter.holder is not None
        late_write(arbiter.holder, b"a" * 512)


def test_a_session_that_was_lost_does_not_come_back(own_target: Target, vm: str) -> None:
    """Nobody is registered anew by a reconnect (R18): what it had to write is not written."""
    arbiter = arbiter_of(own_target, vm)
    arbiter.ask(generation=1, incarnation=1, node="a")
    assert arbiter.holder is not None
    own_target.restart()
    for _ in range(2):
        with pytest.raises(SessionLostError):
            late_write(arbiter.holder, b"a" * 512)
    assert not any(own_target.unit(vm).read_bytes()[SPARE_BLOCK * 512 :])


def test_a_frozen_target_answers_nothing(own_target: Target, vm: str) -> None:
    arbiter = arbiter_of(own_target, vm, timeout_seconds=0.3)
    arbiter_of(own_target, vm).ask(generation=1, incarnation=1, node="a")
    own_target.signal(signal.SIGSTOP)
    for call in (arbiter.read, lambda: arbiter.ask(generation=2, incarnation=2, node="b"), arbiter.try_out):
        begun = time.monotonic()
        with pytest.raises(ArbiterUnreachableError, match="no answer in time"):
            call()
        assert 0.2 < time.monotonic() - begun < 5
    own_target.signal(signal.SIGCONT)
    assert arbiter_of(own_target, vm).ask(generation=2, incarnation=3, node="c") == Record(2, 3, "c")
    own_target.signal(signal.SIGKILL)
    for call in (arbiter.read, lambda: arbiter.ask(generation=3, incarnation=2, node="b"), arbiter.try_out):
        with pytest.raises(ArbiterUnreachableError, match=own_target.portal):
            call()


@pytest.mark.parametrize("_", range(10))
def test_of_two_bootstraps_one_wins(target: Target, vm: str, _: int) -> None:
    start = threading.Barrier(2)
    records: list[Record] = []

    def bootstrap(incarnation: int) -> None:
        arbiter = arbiter_of(target, vm)
        start.wait()
        records.append(arbiter.ask(generation=1, incarnation=incarnation, node="a"))

    target.url(vm)
    threads = [threading.Thread(target=bootstrap, args=(incarnation,)) for incarnation in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records) == 2
    assert len(set(records)) == 1


def test_a_generation_is_claimed_only_after_the_one_before_it(target: Target, vm: str) -> None:
    """A logical unit that never heard of the VM, or was emptied, wins nobody anything."""
    arbiter = arbiter_of(target, vm)
    with pytest.raises(ArbiterUnreachableError, match="generation 1 is not there"):
        arbiter.ask(generation=2, incarnation=1, node="a")
    arbiter.ask(generation=1, incarnation=1, node="a")
    with pytest.raises(ArbiterUnreachableError, match="generation 2 is not there"):
        arbiter.ask(generation=3, incarnation=1, node="a")


def test_blocks_may_be_larger(target: Target, vm: str) -> None:
    url = url_of(target.places, vm, block_bytes=4096)
    arbiter = ScsiArbiter(LunAddress.parse(url), vm, timeout_seconds=TIMEOUT_SECONDS)
    assert arbiter.ask(generation=1, incarnation=1, node="a") == Record(1, 1, "a")
    clear(target, vm)
    assert arbiter.read() == Record(1, 1, "a")
    arbiter.try_out()


def test_old_generations_are_known_for_a_while(target: Target, vm: str) -> None:
    arbiter = arbiter_of(target, vm)
    for generation in range(1, 140):
        arbiter.ask(generation=generation, incarnation=generation, node="a")
    assert arbiter.ask(generation=20, incarnation=1, node="b") == Record(20, 20, "a")
    with pytest.raises(ArbiterUnreachableError, match="not known any more"):
        arbiter.ask(generation=2, incarnation=1, node="b")


def test_what_is_reserved_by_somebody_else_is_no_answer(target: Target, vm: str) -> None:
    other = stranger(target, vm)
    other.register(0xABC)
    other.reserve(0xABC)
    arbiter = arbiter_of(target, vm)
    for call in (arbiter.read, lambda: arbiter.ask(generation=1, incarnation=2, node="b"), arbiter.try_out):
        with pytest.raises(ArbiterUnreachableError, match="reserved by somebody else"):
            call()
    other.close()


def overwrite(unit: Path, block: int, content: bytes) -> None:
    """As somebody does who reaches the storage behind the target."""
    with unit.open("r+b") as file:
        file.seek(block * 512)
        file.write(content)


@pytest.mark.parametrize("block", [0, 1, 3, BLOCKS - 1])
def test_a_logical_unit_with_something_else_on_it_is_not_touched(target: Target, vm: str, block: int) -> None:
    arbiter = arbiter_of(target, vm)
    overwrite(target.unit(vm), block, b"\x7fELF")
    before = target.unit(vm).read_bytes()
    for call in (arbiter.read, lambda: arbiter.ask(generation=1, incarnation=2, node="b"), arbiter.try_out):
        with pytest.raises(ArbiterUnreachableError, match=f"block {block} holds something else"):
            call()
    assert target.unit(vm).read_bytes() == before


def test_what_lies_behind_the_records_is_not_touched(target: Target, vm: str) -> None:
    arbiter = arbiter_of(target, vm)
    overwrite(target.unit(vm), BLOCKS, b"\x7fELF")
    with pytest.raises(ArbiterUnreachableError, match=f"block {BLOCKS} holds something else"):
        arbiter.try_out()
    assert target.unit(vm).read_bytes()[BLOCKS * 512 :].startswith(b"\x7fELF")


@pytest.mark.parametrize("is_forgotten", [False, True], ids=["reserved", "forgotten"])
def test_a_damaged_record_is_no_answer(target: Target, vm: str, *, is_forgotten: bool) -> None:
    arbiter = arbiter_of(target, vm)
    arbiter.ask(generation=1, incarnation=1, node="a")
    content = target.unit(vm).read_bytes()
    block = next(number for number in range(BLOCKS) if any(content[number * 512 : (number + 1) * 512]))
    overwrite(target.unit(vm), block, content[block * 512 : block * 512 + 100] + b"!")
    if is_forgotten:
        clear(target, vm)
    for call in (arbiter.read, lambda: arbiter.ask(generation=2, incarnation=2, node="b")):
        with pytest.raises(ArbiterUnreachableError, match=f"block {block} is damaged"):
            call()


def test_a_record_that_was_emptied_is_no_answer(target: Target, vm: str) -> None:
    arbiter = arbiter_of(target, vm)
    arbiter.ask(generation=1, incarnation=1, node="a")
    overwrite(target.unit(vm), 0, bytes(BLOCKS * 512))
    for call in (arbiter.read, lambda: arbiter.ask(generation=2, incarnation=2, node="b")):
        with pytest.raises(ArbiterUnreachableError, match="is not there"):
            call()


def test_each_vm_needs_a_logical_unit_of_its_own(target: Target, vm: str) -> None:
    arbiter_of(target, vm).ask(generation=1, incarnation=1, node="a")
    other = ScsiArbiter(LunAddress.parse(target.url(vm)), uuid.uuid4().hex, timeout_seconds=TIMEOUT_SECONDS)
    for call in (other.read, lambda: other.ask(generation=1, incarnation=2, node="b"), other.try_out):
        with pytest.raises(ArbiterUnreachableError, match=f"is of the VM {vm}"):
            call()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("ftvmm.test:", "ftvmm.test:not-", "login failed: .*Target not found"),
        ("/1", "/7", "there is no such logical unit"),
        # The target's own controller, which is no disk.
        ("/1", "/0", "it does not know this command"),
    ],
)
def test_what_is_no_logical_unit_gives_no_answer(target: Target, vm: str, old: str, new: str, reason: str) -> None:
    head, tail = target.url(vm).rsplit(old, 1)
    arbiter = ScsiArbiter(LunAddress.parse(head + new + tail), vm, timeout_seconds=TIMEOUT_SECONDS)
    with pytest.raises(ArbiterUnreachableError, match=reason):
        arbiter.read()


def test_a_target_on_loopback_is_no_other_hosts(vm: str) -> None:
    address = LunAddress.parse("iscsi://127.0.0.1:3260/iqn.2026-01.org.example:vm/1")
    with pytest.raises(NotSharedError, match="no other host can reach"):
        ScsiArbiter(address, vm, timeout_seconds=1).require_shared()
    ScsiArbiter(address, vm, timeout_seconds=1, is_local=True).require_shared()
    ScsiArbiter(
        LunAddress.parse("iscsi://10.0.0.1:3260/iqn.2026-01.org.example:vm/1"), vm, timeout_seconds=1
    ).require_shared()


def test_what_is_tried_out_leaves_nothing_behind(target: Target, vm: str) -> None:
    """Before the VM runs and while it does; tgt keeps no reservation over a restart, and that is said."""
    arbiter = arbiter_of(target, vm)
    assert [sentence.split(",")[0] for sentence in arbiter.try_out()] == [
        "the target forgets its reservation when it is restarted"
    ]
    assert not any(target.unit(vm).read_bytes())
    arbiter.ask(generation=1, incarnation=1, node="a")
    before = target.unit(vm).read_bytes()
    arbiter_of(target, vm).try_out()
    assert target.unit(vm).read_bytes() == before
    unit = stranger(target, vm)
    assert len(unit.registered_keys()) == 1
    unit.close()


@pytest.mark.parametrize("generation", [1, (1 << 27) - 1])
@pytest.mark.parametrize("attempt", [0, (1 << 12) - 1])
def test_a_key_is_what_it_was(generation: int, attempt: int) -> None:
    key = Key.drawn(generation, attempt)
    assert Key.of(key.number) == key
    assert Key.of(key.won.number) == key.won
    assert 0 < key.won.number < 1 << 63 <= key.number < 1 << 64
