"""`disk.json`: what the disk image holds at the end where the VM wrote last, read from the storage host."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.evidence.json_lines import Line, decode, read_object
from harness.evidence.trace import Output, Trace
from harness.lab.interface import Host

SECTOR_BYTES = 512
_EXTENTS = "/var/lib/ftvmm/extents.json"

# Runs on the storage host: the digest of each extent of the image, as `harness.evidence.digest` makes it.
_READ = """
import json, sys
from harness.evidence.digest import digest
image, extents = open(sys.argv[1], "rb"), json.load(open(sys.argv[2]))
for offset, length in extents:
    image.seek(offset)
    print(json.dumps({"offset": offset, "length": length, "digest": digest(image.read(length))}))
"""


@dataclass(frozen=True)
class Extent:
    """A stretch of the image, in bytes, and the digest of what it holds."""

    offset: int
    length: int
    digest: str


def last_writes(traces: Mapping[str, Trace]) -> list[Output]:
    """The block writes that no later one overlaps, wholly or in part: the image has to hold them at the end."""
    writes: dict[int, Output] = {}
    for trace in traces.values():
        # Where two nodes wrote one index, `output-rule` compares the contents.
        writes |= {one.index: one for one in trace.emitted if one.kind == "block" and one.offset is not None}
    covered: set[int] = set()
    last = []
    for _, write in sorted(writes.items(), reverse=True):
        start = write.offset or 0
        sectors = range(start // SECTOR_BYTES, (start + write.length - 1) // SECTOR_BYTES + 1)
        if covered.isdisjoint(sectors):
            last.append(write)
        covered.update(sectors)
    return last


def collect_disk(storage: Host, image: str, traces: Mapping[str, Trace], path: Path) -> None:
    """Writes `disk.json`.

    Raises:
        LabError: the storage host did not read its image.
    """
    extents = [(write.offset, write.length) for write in last_writes(traces)]
    storage.write_file(_EXTENTS, json.dumps(extents).encode())
    script = shlex.join([_READ, image, _EXTENTS])
    answer = storage.run(f"{storage.python} -c {script}", check=True).stdout
    write_disk(path, (Extent(**json.loads(line)) for line in answer.splitlines()))


def write_disk(path: Path, extents: Iterable[Extent]) -> None:
    """Write the file."""
    path.write_text(json.dumps({"extents": [asdict(extent) for extent in extents]}) + "\n")


def read_disk(path: Path) -> dict[tuple[int, int], str]:
    """The digest of what the image holds, by offset and length. Raises `EvidenceError`."""
    line = read_object(path)
    extents = [decode(Extent, Line(path, 1, fields)) for fields in line.fields.get("extents", [])]
    return {(extent.offset, extent.length): extent.digest for extent in extents}
