"""What a node is to the VM."""

from __future__ import annotations

import enum


class Role(enum.StrEnum):
    """The states of the protocol, as nodes write them (`ftvmm/core/src/protocol/role.rs` says what each is)."""

    SPARE = "SPARE"
    JOINING = "JOINING"
    BACKUP = "BACKUP"
    CANDIDATE = "CANDIDATE"
    WON = "WON"
    ALONE = "ALONE"
    PROTECTED = "PROTECTED"
    HALTED = "HALTED"


# A node in one of these owns the VM.
OWNING = frozenset({Role.ALONE, Role.PROTECTED})
