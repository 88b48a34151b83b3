"""The `scsi-pr` arbiter: a persistent reservation of an iSCSI logical unit, which fences as well.

The reservation is of the type Write Exclusive, and its holder's key names the newest claim. To claim a generation is to
PREEMPT exactly the key that the one before it has: SCSI carries out one such command after the other, and the key is
gone after the first. The claimant, who alone may write now, writes its record into a block of the claim's own and
flushes it, and changes its key from "claimed" to "won" (REGISTER), which fails where somebody has preempted it
meanwhile. Only then is the generation decided. A claim whose claimant died before that is taken over in the same way by
whoever asks next; it was nobody's.

A target that was restarted may have forgotten the reservation, never the blocks that were flushed. Then whoever looks
first puts one in its place, so that no claim that was under way can write any more, and flushes what was written; then
the newest record in the blocks counts.

Each call has a session of its own, which is a nexus that nobody has again: what is refused to it once stays refused
(R18, H3). Sources: SPC-4 (INCITS 513), 5.13; docs/decisions/arbiters.md.
"""

from __future__ import annotations

import ipaddress
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from ftvmm.arbiters.claim_blocks import (
    ATTEMPT_MAX,
    ATTEMPTS_KEPT,
    BLOCKS,
    GENERATION_MAX,
    TRIAL_BLOCK,
    Entry,
    Key,
    block_of,
    packed,
    trial_key,
    unpacked,
)
from ftvmm.arbiters.interface import ArbiterUnreachableError, NotSharedError, Record
from ftvmm.arbiters.iscsi import IscsiError, ReservationConflictError, Session, StatusError, load
from ftvmm.arbiters.logical_unit import LogicalUnit

_NEVER_RAN = Record(0, 0, "")
_BLOCK_BYTES_MIN = 512
_LUN_MAX = 16383
# RFC 7143, 4.2.7: three kinds of names, of 223 bytes at most.
_ISCSI_NAME = re.compile(
    r"(iqn\.\d{4}-\d{2}\.[a-z0-9.:-]+|eui\.[0-9a-f]{16}|naa\.([0-9a-f]{16}){1,2})\Z", re.IGNORECASE
)
_ISCSI_NAME_BYTES_MAX = 223
# How long a claim may be under way before it is taken over, for the first attempt; each further one has twice as long.
_PATIENCE_SECONDS = 0.1
_PATIENCE_DOUBLINGS_MAX = 6
_LOOK_SECONDS = 0.005
# A claim that was under way when the reservation was lost is not known of: its block is not given away again.
_ATTEMPT_AFTER_LOSS = 68


@dataclass(frozen=True)
class LunAddress:
    """Where a logical unit is.

    Attributes:
        portal: ADDRESS:PORT, numeric.
        target: the target's iSCSI name.
        lun: the logical unit's number.
    """

    portal: str
    target: str
    lun: int

    @staticmethod
    def parse(url: str) -> LunAddress:
        """The address that `iscsi://ADDRESS:PORT/TARGET/LUN` says.

        Raises:
            ValueError: it is none; the message says what is wrong with it.
        """
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, parts.hostname or "", parts.port
        except ValueError:
            scheme, host, port = "", "", None
        if scheme != "iscsi" or not port or parts.query or parts.fragment:
            raise ValueError(f"must be iscsi://ADDRESS:PORT/TARGET/LUN, found {url!r}")
        if "@" in parts.netloc:
            raise ValueError("names and passwords (CHAP) are not spoken")
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(
                f"must have a numeric address, found {host!r}: a name would have to be looked up"
            ) from None
        if address.is_unspecified or address.is_multicast:
            raise ValueError(f"{host} is no target's address")
        _, target, lun = path if len(path := parts.path.split("/")) == 3 else ("", "", "")
        if not is_iscsi_name(target):
            raise ValueError(
                f"must name a target, such as iqn.2026-01.org.example:vm, and a LUN behind it, found {url!r}"
            )
        if not (lun.isascii() and lun.isdigit()) or int(lun) > _LUN_MAX:
            raise ValueError(f"must end in a LUN from 0 to {_LUN_MAX}, found {lun!r}")
        portal = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
        return LunAddress(portal, target, int(lun))

    def __str__(self) -> str:
        return f"iscsi://{self.portal}/{self.target}/{self.lun}"


def is_iscsi_name(text: str) -> bool:
    """Whether an initiator or a target may be called so (RFC 7143, 4.2.7)."""
    return bool(_ISCSI_NAME.match(text)) and len(text.encode()) <= _ISCSI_NAME_BYTES_MAX


@dataclass(frozen=True)
class _State:
    """What the logical unit says now: its reservation's key (None: nobody ever claimed), and what is decided."""

    key: Key | None
    record: Record


class ScsiArbiter:
    """Generations of one VM at a logical unit that is this VM's alone. Several threads may ask at once.

    Args:
        address: the logical unit.
        vm: the VM's UUID, 32 hexadecimal digits.
        timeout_seconds: how long one call may take.
        initiator: the iSCSI name to log in with, where the target lets in some only.
        is_local: whether both nodes run on this machine, so that the target may run on it alone.

    Raises:
        LibraryMissingError: libiscsi is not installed here.
    """

    kind = "scsi-pr"

    def __init__(
        self,
        address: LunAddress,
        vm: str,
        *,
        timeout_seconds: float,
        initiator: str | None = None,
        is_local: bool = False,
    ) -> None:
        load()
        self.place = str(address)
        self._address, self._vm = address, vm
        self._timeout_seconds, self._is_local = timeout_seconds, is_local
        self._initiator = initiator or f"iqn.2026-11.invalid.ftvmm:{vm}"
        # The claim that was under way when this client last looked, and until when it is waited for.
        self._claim_seen: tuple[Key, float] | None = None
        self._holder: LogicalUnit | None = None
        self._holder_known = threading.Lock()

    @property
    def holder(self) -> LogicalUnit | None:
        """The logical unit by the session that won last: while the generation is this node's, it alone may write."""
        return self._holder

    def require_shared(self) -> None:
        """See `Arbiter.require_shared`."""
        if not self._is_local and ipaddress.ip_address(urlsplit(self.place).hostname or "").is_loopback:
            raise NotSharedError(
                f"{self.place}: no other host can reach this address "
                "(`local = true` in [arbiter], where both nodes run on this machine)"
            )

    def try_out(self) -> list[str]:
        """See `Arbiter.try_out`: registers a key that is no claim's, and writes zeros where nothing else is."""
        self.read()
        # By another session: the one that has read may hold the reservation now, in place of a lost one.
        with self._unit() as unit:
            if not unit.capabilities.has_write_exclusive:
                raise ArbiterUnreachableError(f"{self.place}: has no reservations of the type Write Exclusive")
            key = trial_key()
            unit.register(key)
            try:
                if key not in unit.registered_keys():
                    raise ArbiterUnreachableError(f"{self.place}: forgets what is registered")
                self._try_writing(unit)
            finally:
                unit.change_key(key, 0)
            if unit.capabilities.persists:
                return []
        return ["the target forgets its reservation when it is restarted, and refuses no write until a node asks it"]

    def read(self) -> Record:
        """See `Arbiter.read`."""
        with self._unit() as unit:
            return self._state(unit).record

    def ask(self, *, generation: int, incarnation: int, node: str) -> Record:
        """See `Arbiter.ask`."""
        if not 1 <= generation <= GENERATION_MAX:
            raise ArbiterUnreachableError(f"{self.place}: cannot hold generation {generation}")
        wanted = Record(generation, incarnation, node)
        with self._unit() as unit:
            claim: Key | None = None
            while True:
                state = self._state(unit)
                if state.key is None:
                    self._replace_lost(unit)
                elif state.key == claim:
                    self._finish(unit, claim, wanted)
                elif state.record.generation >= generation:
                    return self._answer(unit, state, generation, claim)
                elif state.record.generation < generation - 1:
                    raise ArbiterUnreachableError(f"{self.place}: generation {generation - 1} is not there")
                elif not state.key.is_claim or self._is_patience_over(state.key):
                    claim = self._claim(unit, state.key, generation)
                elif time.monotonic() + _LOOK_SECONDS > unit.deadline:
                    raise ArbiterUnreachableError(f"{self.place}: generation {generation} is being claimed")
                else:
                    time.sleep(_LOOK_SECONDS)

    def _replace_lost(self, unit: LogicalUnit, left: Key | None = None) -> None:
        """Reserves what nobody has reserved, for no claim, and flushes it: what the blocks hold then stays as it is.

        A claim that broke off may have written its record and not flushed it; one that counted, and that a loss of
        power could still take back, would be another's generation after that.

        Args:
            unit: the logical unit.
            left: whose reservation is taken, who has not come to the flush; None: there is no reservation.
        """
        key = Key.of_loss()
        unit.register(key.number)
        try:
            if left is None:
                unit.reserve(key.number)
            else:
                unit.preempt(key.number, left.number)
            unit.flush()
            unit.change_key(key.number, key.won.number)
        except ReservationConflictError:
            with suppress(ReservationConflictError):
                unit.change_key(key.number, 0)

    def _claim(self, unit: LogicalUnit, held: Key, generation: int) -> Key:
        """Tries to take the reservation from the key that holds it; a read shows whether that succeeded."""
        attempt = held.attempt + 1 if held.is_claim else _ATTEMPT_AFTER_LOSS if held.is_of_loss else 0
        if attempt > ATTEMPT_MAX:
            raise ArbiterUnreachableError(f"{self.place}: no claim of generation {generation} ever ends")
        claim = Key.drawn(generation, attempt)
        # Where this very session holds it in place of a lost one, its key has changed with that already.
        unit.register(claim.number)
        with suppress(ReservationConflictError):
            unit.preempt(claim.number, held.number)
        return claim

    def _finish(self, unit: LogicalUnit, claim: Key, wanted: Record) -> None:
        """Writes the claim's record and ends the claim, unless somebody has taken it over; which is to be read."""
        content = packed(claim, wanted, vm=self._vm, block_bytes=unit.block_bytes)
        try:
            unit.write(claim.block, content)
            unit.change_key(claim.number, claim.won.number)
        except ReservationConflictError:
            pass
        except StatusError as error:
            if not error.is_unit_attention:
                raise

    def _answer(self, unit: LogicalUnit, state: _State, generation: int, claim: Key | None) -> Record:
        """The owner of a generation that is decided."""
        if claim is not None and state.key == claim.won:
            self._hold(unit)
            return state.record
        if claim is not None:
            # What was taken over has no registration any more.
            with suppress(ReservationConflictError):
                unit.change_key(claim.number, 0)
        if state.record.generation == generation:
            return state.record
        record = self._decided(unit, generation)
        if record is None:
            raise ArbiterUnreachableError(f"{self.place}: who had generation {generation} is not known any more")
        return record

    def _hold(self, unit: LogicalUnit) -> None:
        with self._holder_known:
            before, self._holder = self._holder, unit
        if before is not None:
            before.close()

    def _state(self, unit: LogicalUnit) -> _State:
        while True:
            reservation = unit.reservation()
            if reservation is None:
                if self._newest(unit) != _NEVER_RAN:
                    self._replace_lost(unit)
                elif unit.reservation() is None:
                    return _State(None, _NEVER_RAN)
                continue
            key = Key.of(reservation.key)
            if key is None or not reservation.is_write_exclusive:
                raise ArbiterUnreachableError(
                    f"{self.place}: is reserved by somebody else (key {reservation.key:016x})"
                )
            if key.is_of_loss and key.is_claim:
                self._await_flush(unit, key)
                continue
            if key.is_of_loss:
                record: Record | None = self._newest(unit)
                if unit.reservation() != reservation:
                    continue
            elif key.is_claim:
                before = key.generation - 1
                record = self._decided(unit, before) if before else _NEVER_RAN
            else:
                entry = self._entry(unit.read(key.block, 1), key.block)
                record = entry.record if entry is not None and entry.key == key else None
            if record is not None:
                return _State(key, record)
            if unit.reservation() == reservation:
                raise ArbiterUnreachableError(
                    f"{self.place}: the record behind key {reservation.key:016x} is not there"
                )

    def _await_flush(self, unit: LogicalUnit, key: Key) -> None:
        """Somebody has put a reservation in the place of a lost one, and flushes; or has died before that."""
        if self._is_patience_over(key):
            self._replace_lost(unit, key)
        elif time.monotonic() + _LOOK_SECONDS > unit.deadline:
            raise ArbiterUnreachableError(f"{self.place}: what it holds is being flushed")
        else:
            time.sleep(_LOOK_SECONDS)

    def _newest(self, unit: LogicalUnit) -> Record:
        """The newest record of all blocks, which counts where the reservation was lost and replaced."""
        entries = self._entries(unit, 0, BLOCKS)
        newest = max(entries, key=lambda entry: (entry.key.generation, entry.key.attempt), default=None)
        return newest.record if newest is not None else _NEVER_RAN

    def _decided(self, unit: LogicalUnit, generation: int) -> Record | None:
        """The owner of a generation for which no claim is possible any more: earlier attempts have all failed."""
        entries = self._entries(unit, block_of(generation), ATTEMPTS_KEPT)
        of_it = [entry for entry in entries if entry.key.generation == generation]
        return max(of_it, key=lambda entry: entry.key.attempt).record if of_it else None

    def _entries(self, unit: LogicalUnit, block: int, count: int) -> list[Entry]:
        content, size = unit.read(block, count), unit.block_bytes
        parts = ((block + at, content[at * size : (at + 1) * size]) for at in range(count))
        nothing = bytes(size)
        found = (self._entry(part, number) for number, part in parts if part != nothing)
        return [entry for entry in found if entry is not None]

    def _entry(self, content: bytes, block: int) -> Entry | None:
        try:
            return unpacked(content, vm=self._vm, block=block)
        except ArbiterUnreachableError as error:
            raise ArbiterUnreachableError(f"{self.place}: {error}") from error

    def _is_patience_over(self, claim: Key) -> bool:
        """Whether a claim has been under way for so long that its claimant has probably died.

        To take it over too early is safe, and in vain where both are slow: so each attempt waits longer.
        """
        now = time.monotonic()
        if self._claim_seen is None or self._claim_seen[0] != claim:
            attempt = 0 if claim.is_of_loss else claim.attempt % _ATTEMPT_AFTER_LOSS
            doublings = min(attempt, _PATIENCE_DOUBLINGS_MAX)
            # Two who wait for the same claim would disturb each other if they came to their ends at the same moment.
            self._claim_seen = (claim, now + _PATIENCE_SECONDS * 2**doublings * random.uniform(1, 2))
        return now > self._claim_seen[1]

    def _try_writing(self, unit: LogicalUnit) -> None:
        if any(unit.read(TRIAL_BLOCK, 1)):
            raise ArbiterUnreachableError(f"{self.place}: block {TRIAL_BLOCK} holds something else")
        reservation = unit.reservation()
        try:
            unit.write(TRIAL_BLOCK, bytes(unit.block_bytes))
            is_refused = False
        except ReservationConflictError:
            is_refused = True
        # A claim meanwhile changes what is right.
        if unit.reservation() == reservation and is_refused is (reservation is None):
            what = "refuses writes though nobody holds it" if is_refused else "takes writes though another holds it"
            raise ArbiterUnreachableError(f"{self.place}: {what}")

    @contextmanager
    def _unit(self) -> Iterator[LogicalUnit]:
        """The logical unit by a session of its own, which ends with it unless it holds a new generation."""
        deadline = time.monotonic() + self._timeout_seconds
        address = self._address
        try:
            session = Session(address.portal, address.target, address.lun, initiator=self._initiator, deadline=deadline)
            try:
                unit = LogicalUnit(session, deadline=deadline)
                if unit.block_bytes < _BLOCK_BYTES_MIN or unit.blocks <= TRIAL_BLOCK:
                    raise ArbiterUnreachableError(
                        f"{self.place}: has {unit.blocks} blocks of {unit.block_bytes} bytes; "
                        f"{TRIAL_BLOCK + 1} of {_BLOCK_BYTES_MIN} or more are needed"
                    )
                yield unit
            finally:
                if self._holder is None or not self._holder.is_by(session):
                    session.close()
        except IscsiError as error:
            raise ArbiterUnreachableError(f"{self.place}: {error}") from error
