"""The digest of an output's bytes that traces and captures are compared by."""

from __future__ import annotations

from blake3 import blake3

DIGEST_BYTES = 16


def digest(content: bytes) -> str:
    """BLAKE3, its first 16 bytes, hexadecimal."""
    return blake3(content).hexdigest(length=DIGEST_BYTES)
