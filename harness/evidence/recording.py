"""`hosts/<host>/recorded-<incarnation>.log`: what a node's process told its guest live (docs/wire.md, Log files)."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from harness.evidence.json_lines import EvidenceError
from harness.evidence.wire.messages import LogEntry, WireFormatError, decode_entry

PREFIX = "recorded-"
_MAGIC = b"FTVMLOG\0"
_VERSION = 2
_FIXED_BYTES, _CHECKSUM_BYTES = 16, 4
_ENTRY, END = b"\x01", b"\x02"
_END_BYTES = 1 + 45 + _CHECKSUM_BYTES
# Of the file systems that hosts have.
_BLOCK_BYTES = 4096


@dataclass(frozen=True)
class Recording:
    """One log file.

    Attributes:
        host: where the process ran.
        incarnation: the process.
        header: the file's first bytes, which tell image and machine.
        entries: in order of position, without a gap. A last one that is cut off is none, and what the power took ends
            them: a file system may have the file's length and not all of its bytes, and zeros in their place.
        end: the end record, as it is; empty where there is none.
    """

    host: str
    incarnation: str
    header: bytes
    entries: list[LogEntry]
    end: bytes

    @property
    def image_name(self) -> str:
        """The guest's image, without its directory."""
        return Path(json.loads(self.header[_FIXED_BYTES:-_CHECKSUM_BYTES])["image_path"]).name


def read_recordings(directory: Path) -> list[Recording]:
    """The recordings in an evidence directory. Raises `EvidenceError`."""
    return [_read(path) for path in sorted((directory / "hosts").glob(f"*/{PREFIX}*.log"))]


def write_log(path: Path, header: bytes, entries: list[LogEntry], end: bytes) -> None:
    """Write a log file."""
    path.write_bytes(b"".join([header, *(_ENTRY + entry.encoded for entry in entries), end]))


def _read(path: Path) -> Recording:
    content = path.read_bytes()
    try:
        header, entries, end = _parse(content)
    except (WireFormatError, struct.error) as error:
        raise EvidenceError(f"{path}: no log: {error}") from error
    return Recording(path.parent.name, path.stem.removeprefix(PREFIX), header, entries, end)


def _parse(content: bytes) -> tuple[bytes, list[LogEntry], bytes]:
    version, length = struct.unpack_from("<II", content, len(_MAGIC))
    at = _FIXED_BYTES + length + _CHECKSUM_BYTES
    header = content[:at]
    checksum = blake3(header[:-_CHECKSUM_BYTES]).digest(length=_CHECKSUM_BYTES)
    if header[: len(_MAGIC)] != _MAGIC or version != _VERSION or header[-_CHECKSUM_BYTES:] != checksum:
        raise WireFormatError("the header is not one of this version, or not whole")
    entries: list[LogEntry] = []
    while content[at : at + 1] == _ENTRY and at + 5 <= len(content):
        end = at + 9 + int.from_bytes(content[at + 1 : at + 5], "little")
        if end > len(content):
            return header, entries, b""  # the process was killed as it wrote
        try:
            entry = decode_entry(content[at + 1 : end])
        except WireFormatError:
            if _power_took(content, at, end):
                return header, entries, b""
            raise
        if entries and entry.position != entries[-1].position + 1:
            raise WireFormatError(f"entry {entry.position} follows entry {entries[-1].position}")
        entries.append(entry)
        at = end
    rest = content[at:]
    if rest[:1] == END and len(rest) == _END_BYTES:
        return header, entries, rest
    if rest[:1] in (b"", _ENTRY) or (rest[:1] == END and len(rest) < _END_BYTES) or _power_took(content, at, at + 1):
        return header, entries, b""
    raise WireFormatError(f"no record at byte {at}")


def _power_took(content: bytes, start: int, end: int) -> bool:
    """Whether zeros lie from somewhere in a record to the end of a block or of the file, as a power cut leaves them."""
    for boundary in range(start - start % _BLOCK_BYTES + _BLOCK_BYTES, end + _BLOCK_BYTES, _BLOCK_BYTES):
        block_end = min(boundary, len(content))
        written = start + len(content[start:block_end].rstrip(b"\0"))
        if written < min(end, block_end):
            return True
    return False
