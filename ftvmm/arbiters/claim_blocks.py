"""What the arbiter `scsi-pr` keeps at a logical unit: the key of its reservation, and one block for each claim.

The key of a reservation names a claim: its generation, its attempt (how many claims of that generation were taken from
their claimants before), whether it has ended, and random bits that make it the only one of its kind. A claim has a
block of its own, in which its claimant writes who it is; no block of a generation that still counts is written twice.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from dataclasses import dataclass

from ftvmm.arbiters.interface import ArbiterUnreachableError, Record

GENERATION_MAX = (1 << 27) - 1
ATTEMPT_MAX = (1 << 12) - 1
GENERATIONS_KEPT, ATTEMPTS_KEPT = 128, 8
"""How many generations, and how many attempts of each, have a block before the first is written over."""

BLOCKS = GENERATIONS_KEPT * ATTEMPTS_KEPT
"""How many blocks, from the first of the logical unit."""

TRIAL_BLOCK = BLOCKS
"""Behind them: holds zeros, which `ftvmm doctor` writes there."""

_RANDOM_BITS, _ATTEMPT_BITS, _GENERATION_BITS = 24, 12, 27
_MAGIC = b"ftvmm-pr"
# Magic, VM, key, generation, incarnation, length of the node's name.
_HEADER = struct.Struct(">8s16sQQQH")
_DIGEST_BYTES = 32
_ENTRY_BYTES = 512
_NODE_BYTES_MAX = _ENTRY_BYTES - _HEADER.size - _DIGEST_BYTES


@dataclass(frozen=True)
class Key:
    """The key of a reservation.

    Attributes:
        generation: what is claimed, from 1; 0: nothing, as the reservation before it was lost. Such a "claim" is over
            when what the blocks hold was flushed.
        attempt: which claim of this generation, from 0.
        is_claim: whether the claim is under way; else it is won.
        random: what tells it from any other key.
    """

    generation: int
    attempt: int
    is_claim: bool
    random: int

    @staticmethod
    def drawn(generation: int, attempt: int) -> Key:
        """A new claim's."""
        return Key(generation, attempt, True, secrets.randbits(_RANDOM_BITS))

    @staticmethod
    def of_loss() -> Key:
        """One for the reservation that takes the place of a lost one."""
        return Key(0, ATTEMPT_MAX, True, secrets.randbits(_RANDOM_BITS))

    @staticmethod
    def of(number: int) -> Key | None:
        """The key that a number of 64 bits is; None: it is none of ours."""
        generation = number >> (_RANDOM_BITS + _ATTEMPT_BITS) & GENERATION_MAX
        attempt = number >> _RANDOM_BITS & ATTEMPT_MAX
        key = Key(generation, attempt, bool(number >> 63), number & (1 << _RANDOM_BITS) - 1)
        is_foreign = generation == 0 and attempt != ATTEMPT_MAX
        return None if is_foreign else key

    @property
    def is_of_loss(self) -> bool:
        """Whether the reservation is held in place of a lost one only."""
        return self.generation == 0

    @property
    def number(self) -> int:
        """As the target knows it; never 0."""
        upper = (self.is_claim << _GENERATION_BITS | self.generation) << _ATTEMPT_BITS | self.attempt
        return upper << _RANDOM_BITS | self.random

    @property
    def won(self) -> Key:
        """The key that the same claim has when it is won."""
        return Key(self.generation, self.attempt, False, self.random)

    @property
    def block(self) -> int:
        """The block of this claim."""
        return block_of(self.generation) + self.attempt % ATTEMPTS_KEPT


def trial_key() -> int:
    """A key to register that is no claim's."""
    return 1 << 63 | secrets.randbits(_RANDOM_BITS)


def block_of(generation: int) -> int:
    """The first of the `ATTEMPTS_KEPT` blocks of a generation."""
    return generation % GENERATIONS_KEPT * ATTEMPTS_KEPT


@dataclass(frozen=True)
class Entry:
    """What a claimant has written.

    Attributes:
        key: of its claim, as it is when it is won.
        record: who claims.
    """

    key: Key
    record: Record


def packed(key: Key, record: Record, *, vm: str, block_bytes: int) -> bytes:
    """An entry as a block; a node's name that is too long is cut short."""
    node = record.node.encode()[:_NODE_BYTES_MAX].decode(errors="ignore").encode()
    header = _HEADER.pack(_MAGIC, bytes.fromhex(vm), key.won.number, record.generation, record.incarnation, len(node))
    content = (header + node).ljust(_ENTRY_BYTES - _DIGEST_BYTES, b"\0")
    return (content + _digest(content)).ljust(block_bytes, b"\0")


def unpacked(content: bytes, *, vm: str, block: int) -> Entry | None:
    """The entry in a block, or None where it holds zeros only.

    Raises:
        ArbiterUnreachableError: it holds something else: a torn entry, another VM's, or what is not this arbiter's.
    """
    if content == bytes(len(content)):
        return None
    body, digest = content[: _ENTRY_BYTES - _DIGEST_BYTES], content[_ENTRY_BYTES - _DIGEST_BYTES : _ENTRY_BYTES]
    if not body.startswith(_MAGIC):
        raise ArbiterUnreachableError(f"block {block} holds something else: this logical unit is not an arbiter's")
    if _digest(body) != digest or any(content[_ENTRY_BYTES:]):
        raise ArbiterUnreachableError(f"block {block} is damaged")
    _, owner, number, generation, incarnation, length = _HEADER.unpack_from(body)
    if owner.hex() != vm:
        raise ArbiterUnreachableError(
            f"block {block} is of the VM {owner.hex()}: each VM needs a logical unit of its own"
        )
    key = Key.of(number)
    node = body[_HEADER.size : _HEADER.size + length].decode(errors="replace")
    if key is None or key.is_claim or key.is_of_loss or key.generation != generation or key.block != block:
        raise ArbiterUnreachableError(f"block {block} holds an entry that belongs elsewhere")
    return Entry(key, Record(generation, incarnation, node))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
