"""Arbiters: the atomic test-and-set that decides which node owns the VM's next generation (rules R2, R8, R11)."""

from ftvmm.arbiters.file import FileArbiter
from ftvmm.arbiters.interface import Arbiter, ArbiterUnreachableError, NotSharedError, Record

__all__ = ["Arbiter", "ArbiterUnreachableError", "FileArbiter", "NotSharedError", "Record"]
