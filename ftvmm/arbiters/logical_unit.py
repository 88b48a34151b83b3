"""The SCSI commands that the arbiter `scsi-pr` needs of a logical unit: persistent reservations, and whole blocks.

Sources: SPC-4 (INCITS 513), 5.13 for persistent reservations, 6.15 and 6.16 for the commands; SBC-3 (INCITS 514) for
blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftvmm.arbiters.iscsi import IscsiError, Session, StatusError

_WRITE_EXCLUSIVE = 0x01
_READ_KEYS, _READ_RESERVATION, _REPORT_CAPABILITIES = 0, 1, 2
_REGISTER, _RESERVE, _PREEMPT, _PREEMPT_AND_ABORT, _REGISTER_AND_IGNORE = 0, 1, 4, 5, 6
_SYNCHRONIZE_CACHE = bytes([0x35]) + bytes(9)
_KEYS_BYTES_MAX = 8 + 8 * 4096
_BLOCKS_AT_ONCE_MAX = 256
# Beyond this many in a row something is wrong with the target.
_UNIT_ATTENTIONS_MAX = 8
_ILLEGAL_REQUEST = 0x05


class MalformedAnswerError(IscsiError):
    """A logical unit answers what it cannot answer."""


@dataclass(frozen=True)
class Reservation:
    """A persistent reservation (SPC-4, 6.15.3).

    Attributes:
        key: of the nexus that holds it.
        is_write_exclusive: whether it covers the logical unit, and is of the type Write Exclusive.
    """

    key: int
    is_write_exclusive: bool


@dataclass(frozen=True)
class Capabilities:
    """What a logical unit can do with reservations (SPC-4, 6.15.4).

    Attributes:
        persists: whether they outlive a loss of its power, where that is asked for (APTPL).
        has_write_exclusive: whether it has the type Write Exclusive, or does not say which types it has.
    """

    persists: bool
    has_write_exclusive: bool


class LogicalUnit:
    """A logical unit by one session. All calls together end by one deadline, which may be moved.

    Every call raises an `IscsiError`; what a call may have done then is to be read.

    Args:
        session: closed with this object.
        deadline: of CLOCK_MONOTONIC, in seconds.

    Attributes:
        blocks: how many blocks it has.
        block_bytes: the size of one.
    """

    def __init__(self, session: Session, *, deadline: float) -> None:
        self.deadline = deadline
        self._session = session
        self._has_preempt_and_abort = True
        self._capabilities: Capabilities | None = None
        # READ CAPACITY(16), SBC-3 5.16.
        answer = self._ask(bytes([0x9E, 0x10]) + bytes(8) + (32).to_bytes(4, "big") + bytes(2), 32)
        if len(answer) < 12:
            raise MalformedAnswerError("its capacity is no capacity")
        self.blocks = int.from_bytes(answer[:8], "big") + 1
        self.block_bytes = int.from_bytes(answer[8:12], "big")

    def is_by(self, session: Session) -> bool:
        """Whether this is the session that it is reached by."""
        return self._session is session

    def close(self) -> None:
        """Ends the session. Registration and reservation stay (SPC-4, 5.13.1)."""
        self._session.close()

    @property
    def capabilities(self) -> Capabilities:
        """What it can do with reservations (REPORT CAPABILITIES), asked once."""
        # Not `cached_property`: before Python 3.12 one such lock holds up all logical units at once.
        if self._capabilities is None:
            answer = self._reserve_in(_REPORT_CAPABILITIES, 8)
            says_types = bool(answer[3] & 0x80)
            self._capabilities = Capabilities(
                persists=bool(answer[2] & 0x01),
                has_write_exclusive=not says_types or bool(answer[4] & 1 << _WRITE_EXCLUSIVE),
            )
        return self._capabilities

    def registered_keys(self) -> Sequence[int]:
        """The keys of all registrations."""
        answer = self._reserve_in(_READ_KEYS, _KEYS_BYTES_MAX)
        return [int.from_bytes(answer[at : at + 8], "big") for at in range(8, len(answer) - 7, 8)]

    def reservation(self) -> Reservation | None:
        """The reservation, if there is one."""
        answer = self._reserve_in(_READ_RESERVATION, 24)
        if int.from_bytes(answer[4:8], "big") == 0:
            return None
        if len(answer) < 24:
            raise MalformedAnswerError("its reservation is no reservation")
        return Reservation(int.from_bytes(answer[8:16], "big"), answer[21] == _WRITE_EXCLUSIVE)

    def register(self, key: int) -> None:
        """Registers this nexus, whatever its key was (REGISTER AND IGNORE EXISTING KEY, SPC-4 5.13.7)."""
        self._reserve_out(_REGISTER_AND_IGNORE, 0, key, persists=self.capabilities.persists)

    def change_key(self, old: int, new: int) -> None:
        """Puts another key in place of this nexus's (REGISTER, SPC-4 5.13.7); 0 ends registration and reservation.

        Raises:
            ReservationConflictError: its key is not `old`: somebody has preempted it.
        """
        self._reserve_out(_REGISTER, old, new, persists=self.capabilities.persists)

    def reserve(self, key: int) -> None:
        """Reserves it (RESERVE, SPC-4 5.13.9), type Write Exclusive.

        Raises:
            ReservationConflictError: another nexus has.
        """
        self._reserve_out(_RESERVE, key, 0)

    def preempt(self, key: int, other: int) -> None:
        """Takes the reservation from the nexus with the key `other`, and ends its registration (SPC-4, 5.13.11.3).

        Its commands are aborted where the target can do that (PREEMPT AND ABORT). Whether this nexus holds the
        reservation now has to be read: a target takes keys of registrations without a reservation, too.

        Raises:
            ReservationConflictError: no registration has the key `other`, or this one's is not `key`.
        """
        if self._has_preempt_and_abort:
            try:
                return self._reserve_out(_PREEMPT_AND_ABORT, key, other)
            except StatusError as error:
                if error.sense_key != _ILLEGAL_REQUEST:
                    raise
                self._has_preempt_and_abort = False
        self._reserve_out(_PREEMPT, key, other)

    def read(self, block: int, count: int) -> bytes:
        """Reads blocks (READ(16), SBC-3 5.15)."""
        content = bytearray()
        for first in range(block, block + count, _BLOCKS_AT_ONCE_MAX):
            blocks = min(_BLOCKS_AT_ONCE_MAX, block + count - first)
            answer = self._ask(_cdb_16(0x88, first, blocks), blocks * self.block_bytes)
            if len(answer) != blocks * self.block_bytes:
                raise MalformedAnswerError(f"sends {len(answer)} bytes for {blocks} blocks of {self.block_bytes}")
            content += answer
        return bytes(content)

    def write(self, block: int, content: bytes) -> None:
        """Writes blocks and flushes them (WRITE(16), SBC-3 5.42; SYNCHRONIZE CACHE(10), SBC-3 5.28).

        It is not tried a second time: a unit attention may say that a reservation has gone, and with it the fence.

        Raises:
            ReservationConflictError: another nexus holds the reservation.
        """
        self._session.execute(
            _cdb_16(0x8A, block, len(content) // self.block_bytes), write=content, deadline=self.deadline
        )
        self._session.execute(_SYNCHRONIZE_CACHE, deadline=self.deadline)

    def flush(self) -> None:
        """Has all that was ever written on the medium (SYNCHRONIZE CACHE(10), SBC-3 5.28).

        Raises:
            ReservationConflictError: another nexus holds the reservation.
        """
        self._ask(_SYNCHRONIZE_CACHE)

    def _reserve_in(self, action: int, length: int) -> bytes:
        answer = self._ask(bytes([0x5E, action]) + bytes(5) + length.to_bytes(2, "big") + bytes(1), length)
        if len(answer) < 8:
            raise MalformedAnswerError(f"its answer to PERSISTENT RESERVE IN has {len(answer)} bytes")
        return answer

    def _reserve_out(self, action: int, key: int, service_key: int, *, persists: bool = False) -> None:
        """PERSISTENT RESERVE OUT; `persists` (APTPL) asks that all of it outlives a loss of the target's power."""
        # Scope LU_SCOPE is 0.
        cdb = bytes([0x5F, action, _WRITE_EXCLUSIVE]) + bytes(2) + (24).to_bytes(4, "big") + bytes(1)
        keys = key.to_bytes(8, "big") + service_key.to_bytes(8, "big")
        self._ask(cdb, write=keys + bytes(4) + bytes([persists]) + bytes(3))

    def _ask(self, cdb: bytes, read_bytes: int = 0, write: bytes = b"") -> bytes:
        """Has a command carried out that may be repeated: a unit attention means that it was not carried out."""
        for _ in range(_UNIT_ATTENTIONS_MAX):
            try:
                return self._session.execute(cdb, read_bytes=read_bytes, write=write, deadline=self.deadline)
            except StatusError as error:
                if not error.is_unit_attention:
                    raise
                last = error
        raise last


def _cdb_16(operation: int, block: int, count: int) -> bytes:
    return bytes([operation, 0]) + block.to_bytes(8, "big") + count.to_bytes(4, "big") + bytes(2)
