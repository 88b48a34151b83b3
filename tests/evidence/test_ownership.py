"""Claims are read from the arbiter's records and from what was seen of its files, as bounds in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.evidence.json_lines import EvidenceError
from harness.evidence.ownership import (
    OBSERVER_NS_MAX,
    ArbiterEvent,
    ArbiterRecord,
    Ownership,
    find_ownership,
    read_arbiter_events,
    read_arbiter_records,
    write_arbiter_records,
)

A, B = "a" * 16, "b" * 16
RESOLUTION_NS = 4_000_000


def record(generation: int, incarnation: str, claimed_ns: int, linked_ns: int | None = None) -> ArbiterRecord:
    return ArbiterRecord(generation, incarnation, "host", claimed_ns, RESOLUTION_NS, linked_ns)


def ownership(records: list[ArbiterRecord], events: list[ArbiterEvent], late_ns: int = 0) -> Ownership:
    hosts = {A: "host-a", B: "host-b"}
    return find_ownership(records, events, hosts, lambda stamp_ns: (stamp_ns - late_ns, stamp_ns + late_ns))


def created(name: str, seen_ns: int) -> ArbiterEvent:
    return ArbiterEvent("created", name, seen_ns)


def test_a_claim_lies_between_the_record_and_the_moment_that_its_name_was_seen() -> None:
    events = [created(f"claim-00000001-{A}-0", 1_003), created("generation-00000001", 1_007)]
    (claim,) = ownership([record(1, A, 1_000)], events).claims
    assert (claim.host, claim.earliest_ns, claim.latest_ns) == ("host-a", 1_000, 1_007)


def test_a_record_that_was_long_on_its_way_to_the_disk_counts_from_its_name() -> None:
    events = [created("generation-00000001", 900_000_000)]
    (claim,) = ownership([record(1, A, 1_000)], events).claims
    assert (claim.earliest_ns, claim.latest_ns) == (900_000_000 - OBSERVER_NS_MAX, 900_000_000)


def test_what_was_told_afterwards_may_have_happened_at_any_time_before() -> None:
    event = ArbiterEvent("created", "generation-00000001", 900_000_000, live=False)
    (claim,) = ownership([record(1, A, 1_000)], [event]).claims
    assert (claim.earliest_ns, claim.latest_ns) == (1_000, 900_000_000)


def test_without_an_observer_the_last_change_of_the_file_bounds_it() -> None:
    (claim,) = ownership([record(1, A, 1_000, 9_000_000)], []).claims
    assert (claim.earliest_ns, claim.latest_ns) == (1_000, 9_000_000 + RESOLUTION_NS)


def test_the_uncertainty_of_the_storage_hosts_clock_widens_it() -> None:
    (claim,) = ownership([record(1, A, 1_000)], [created("generation-00000001", 1_007)], late_ns=50).claims
    assert (claim.earliest_ns, claim.latest_ns) == (950, 1_057)


def test_every_request_is_kept_and_whoever_lost_is_among_them() -> None:
    events = [
        created(f"claim-00000002-{A}-0", 10),
        created(f"claim-00000002-{B}-0", 11),
        created("generation-00000002", 12),
        ArbiterEvent("deleted", f"claim-00000002-{A}-0", 13),
    ]
    asks = ownership([record(2, B, 11)], events).asks
    assert [(ask.generation, ask.incarnation, ask.seen_ns) for ask in asks] == [(2, A, 10), (2, B, 11)]


def test_whoever_has_a_key_had_asked_when_it_was_seen() -> None:
    asks = ownership([record(1, A, 5), record(2, B, 5)], [created("generation-00000002", 12)]).asks
    assert [(ask.generation, ask.incarnation, ask.seen_ns) for ask in asks] == [(2, B, 12)]


def test_a_host_is_superseded_by_a_newer_generation_of_another_and_by_nothing_else() -> None:
    events = [created(f"generation-{number:08d}", number * 100) for number in (1, 2, 3)]
    claims = ownership([record(1, A, 90), record(2, B, 190), record(3, B, 290)], events)
    assert claims.hosts == ["host-a", "host-b"]
    assert claims.owned("host-b", 150) is None
    assert claims.superseded("host-a", 199) is None
    newer = claims.superseded("host-a", 201)
    assert newer is not None
    assert newer.generation == 2
    assert claims.superseded("host-b", 250) is None
    owned = claims.owned("host-b", 400)
    assert owned is not None
    assert owned.generation == 3


def test_an_incarnation_that_nobody_knows_has_no_host() -> None:
    (claim,) = ownership([record(1, "c" * 16, 90)], []).claims
    assert claim.host is None


def test_the_files_are_read_back(tmp_path: Path) -> None:
    records = [record(2, B, 190), record(1, A, 90)]
    write_arbiter_records(tmp_path / "arbiter.json", records)
    assert read_arbiter_records(tmp_path / "arbiter.json") == records[::-1]
    assert read_arbiter_records(tmp_path / "absent.json") == []
    events = tmp_path / "arbiter-events.jsonl"
    events.write_text('{"event": "watching"}\n{"event": "created", "name": "x", "seen_ns": 5}\n{"event": "cr')
    assert read_arbiter_events(events) == [created("x", 5)]
    (tmp_path / "arbiter.json").write_text('{"1": "aaaa"}')
    with pytest.raises(EvidenceError, match="no list of objects"):
        read_arbiter_records(tmp_path / "arbiter.json")
