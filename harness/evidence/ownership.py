"""Who owned the VM, by the arbiter's own records: `arbiter.json` and, where it was watched, `arbiter-events.jsonl`.

Both are stamped on the storage host, and no node writes them. With the arbiter `file` a record is a file that its
claimant wrote under a name of its own and then linked to the generation's name, so a claim lies between the file's last
change and the moment that the name was seen. A stamp of the kernel's coarse clock is up to `resolution_ns` older than
what it tells of. With `etcd` a record is a key, which has no stamp: a claim lies between the moment at which the
cluster had no key of the VM and the one at which the first of its members told of this key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from harness.evidence.json_lines import EvidenceError, Line, decode, read_lines

# The observer may be this late on a busy machine. A record can be much older than its name: it is flushed to the disk
# before the name is made.
OBSERVER_NS_MAX = 50_000_000
_GENERATION_NAME = re.compile(r"generation-(\d{8})\Z")
_CLAIM_NAME = re.compile(r"claim-(\d{8})-([0-9a-f]{16})-")


@dataclass(frozen=True)
class ArbiterRecord:
    """One generation as the arbiter holds it.

    Attributes:
        generation: counted from 1.
        incarnation: who claimed it, 16 hexadecimal digits.
        node: the claimant's name for itself, for people.
        claimed_ns: when the record was written, or earlier; CLOCK_REALTIME of the storage host.
        resolution_ns: by how much a stamp of its file system may be too old.
        linked_ns: when its file changed last (a link counts, and the removal of its first name), or its key was seen.
        pair_ns: CLOCK_REALTIME less CLOCK_BOOTTIME on the storage host.
    """

    generation: int
    incarnation: str
    node: str
    claimed_ns: int
    resolution_ns: int
    linked_ns: int | None = None
    pair_ns: int | None = None


@dataclass(frozen=True)
class ArbiterEvent:
    """One change of the arbiter's files or keys, stamped as it was seen (harness/lab/arbiter_observer.py,
    harness/lab/etcd_observer.py).
    """

    event: str
    name: str
    seen_ns: int
    # Not so where it was told of afterwards: it may have happened at any time before.
    live: bool = True


@dataclass(frozen=True)
class Claim:
    """A generation and its owner. Times are this machine's CLOCK_REALTIME; the truth lies between the two.

    Attributes:
        host: where the incarnation ran; None when nothing outside of the arbiter knows it.
        earliest_ns: from when on the owner may speak.
        latest_ns: from when on nobody else may.
    """

    generation: int
    incarnation: str
    node: str
    host: str | None
    earliest_ns: int
    latest_ns: int

    def __str__(self) -> str:
        return f"generation {self.generation} of {self.host or self.node} (incarnation {self.incarnation})"


@dataclass(frozen=True)
class Ask:
    """A request for a generation: it had begun at `seen_ns`, or earlier (this machine's CLOCK_REALTIME)."""

    generation: int
    incarnation: str
    seen_ns: int


@dataclass(frozen=True)
class Ownership:
    """All claims, by generation, and all requests that were seen; none where nobody watched the arbiter's files."""

    claims: list[Claim]
    asks: list[Ask] = field(default_factory=list)

    @cached_property
    def hosts(self) -> list[str]:
        """The hosts that ever owned the VM, the first owner first."""
        return list(dict.fromkeys(claim.host for claim in self.claims if claim.host is not None))

    def until(self, at_ns: int) -> list[Claim]:
        """The claims that may have been made by then."""
        return [claim for claim in self.claims if claim.earliest_ns <= at_ns]

    def of(self, host: str) -> list[Claim]:
        """What a host's nodes claimed, by generation."""
        return [claim for claim in self.claims if claim.host == host]

    def owned(self, host: str, at_ns: int) -> Claim | None:
        """The newest generation that a host may have held at a time."""
        return max(
            (claim for claim in self.of(host) if claim.earliest_ns <= at_ns),
            key=lambda claim: claim.generation,
            default=None,
        )

    def superseded(self, host: str, at_ns: int) -> Claim | None:
        """The first claim of another host that had certainly taken the VM from this one by then."""
        owned = self.owned(host, at_ns)
        newest = owned.generation if owned else 0
        later = (
            claim
            for claim in self.claims
            if claim.host != host and claim.generation > newest and claim.latest_ns < at_ns
        )
        return min(later, key=lambda claim: claim.latest_ns, default=None)


def write_arbiter_records(path: Path, records: Iterable[ArbiterRecord]) -> None:
    """Write the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n")


def read_arbiter_records(path: Path) -> list[ArbiterRecord]:
    """Read the file, by generation; a run whose arbiter nobody could read has none. Raises `EvidenceError`."""
    if not path.exists():
        return []
    try:
        records = json.loads(path.read_bytes())
    except ValueError as error:
        raise EvidenceError(f"{path}: no JSON: {error}") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise EvidenceError(f"{path}: no list of objects")
    read = [decode(ArbiterRecord, Line(path, number, record)) for number, record in enumerate(records, 1)]
    return sorted(read, key=lambda record: record.generation)


def read_arbiter_events(path: Path) -> list[ArbiterEvent]:
    """Read the file; none where nobody watched. Raises `EvidenceError`."""
    if not path.exists():
        return []
    lines = read_lines(path, torn_end_allowed=True)
    return [decode(ArbiterEvent, line) for line in lines if line.fields.get("event") != "watching"]


def find_ownership(
    records: Iterable[ArbiterRecord],
    events: list[ArbiterEvent],
    hosts: Mapping[str, str],
    bounds_ns: Callable[[int], tuple[int, int]],
) -> Ownership:
    """Put the records in order.

    Args:
        records: the arbiter's.
        events: what was seen of its files or keys. A request for a key leaves none of its own: whoever has the key had
            asked when it was seen.
        hosts: where each incarnation ran.
        bounds_ns: a stamp of the storage host as bounds on this machine's CLOCK_REALTIME.
    """
    linked: dict[int, ArbiterEvent] = {}
    requests: list[tuple[int, str, int]] = []
    for event in events:
        if event.event == "created" and (match := _GENERATION_NAME.match(event.name)):
            linked.setdefault(int(match[1]), event)
        elif event.event == "created" and (match := _CLAIM_NAME.match(event.name)):
            requests.append((int(match[1]), match[2], event.seen_ns))
    claims = []
    requested = {(generation, who) for generation, who, _ in requests}
    for record in records:
        changed_ns = record.claimed_ns if record.linked_ns is None else max(record.claimed_ns, record.linked_ns)
        seen = linked.get(record.generation)
        earliest_ns, latest_ns = record.claimed_ns, changed_ns + record.resolution_ns
        if seen is not None:
            latest_ns = seen.seen_ns
            if seen.live:
                earliest_ns = max(earliest_ns, seen.seen_ns - OBSERVER_NS_MAX)
            if (record.generation, record.incarnation) not in requested:
                requests.append((record.generation, record.incarnation, seen.seen_ns))
        claims.append(
            Claim(
                record.generation,
                record.incarnation,
                record.node,
                hosts.get(record.incarnation),
                bounds_ns(earliest_ns)[0],
                bounds_ns(latest_ns)[1],
            )
        )
    return Ownership(claims, [Ask(generation, who, bounds_ns(seen_ns)[1]) for generation, who, seen_ns in requests])
