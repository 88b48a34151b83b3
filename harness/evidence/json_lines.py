"""Strict reading of JSON evidence into dataclasses: whatever is wrong is an error that names the file and the line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

Record = TypeVar("Record")


class EvidenceError(Exception):
    """A file of evidence is missing or malformed; the message names file and line."""


@dataclass(frozen=True)
class Line:
    """One parsed line and where it was."""

    path: Path
    number: int
    fields: Mapping[str, Any]

    def error(self, reason: str) -> EvidenceError:
        """An error that points here."""
        return EvidenceError(f"{self.path}:{self.number}: {reason}")


def read_lines(path: Path, *, torn_end_allowed: bool = False, first_event: str | None = None) -> Iterator[Line]:
    """The JSON objects of a file, one a line.

    Args:
        path: the file.
        torn_end_allowed: a last line without its line feed is left out without a word (`has_torn_end` tells), because
            a writer that is killed or loses power can leave one.
        first_event: where one writer follows another, the `event` of the line that each begins with: a line before
            such a one may be torn as well, and is left out (its number is missing).

    Raises:
        EvidenceError: the file cannot be read, or has a line that is no JSON object.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EvidenceError(f"{path}: {error.strerror}") from error
    *whole, rest = content.split(b"\n")
    if rest and not torn_end_allowed:
        raise EvidenceError(f"{path}:{len(whole) + 1}: the last line is torn")
    torn: EvidenceError | None = None
    for number, line in enumerate(whole, 1):
        try:
            fields = msgspec.json.decode(line)
        except (msgspec.DecodeError, ValueError) as error:
            torn, before = EvidenceError(f"{path}:{number}: no JSON: {error}"), torn
            if first_event is None or before is not None:
                raise before or torn from error
            continue
        if not isinstance(fields, dict):
            raise EvidenceError(f"{path}:{number}: no JSON object")
        if torn is not None and fields.get("event") != first_event:
            raise torn
        torn = None
        yield Line(path, number, fields)
    if torn is not None:
        raise torn


def has_torn_end(path: Path) -> bool:
    """Whether the last line lacks its line feed."""
    content = path.read_bytes()
    return bool(content) and not content.endswith(b"\n")


def read_object(path: Path) -> Line:
    """A file that is one JSON object. Raises `EvidenceError`."""
    try:
        fields = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise EvidenceError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise EvidenceError(f"{path}: no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise EvidenceError(f"{path}: no JSON object")
    return Line(path, 1, fields)


def decode(kind: type[Record], line: Line) -> Record:
    """The dataclass `kind` out of a line; fields that it does not have are left alone: old readers go on.

    Raises `EvidenceError` when a field is missing or of the wrong type.
    """
    try:
        return msgspec.convert(line.fields, kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise line.error(f"no {kind.__name__}: {error}") from error
