"""A cluster of etcd on the lab's hosts: its faults bite and say so, and what was seen of its keys is what happened."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fault_injectors.etcd import ChangedEtcdKey, CutEtcdLeader, KillEtcdMember
from fault_injectors.fault import FaultLog, Verdict
from fault_injectors.host import PowerOff
from harness.evidence.json_lines import EvidenceError, Line
from harness.evidence.ownership import read_arbiter_events, read_arbiter_records
from harness.lab.etcd import EtcdCluster, EtcdError, Key, packed, prefix_of
from harness.lab.etcd_observer import EventLog
from harness.lab.netns.lab import NetnsLab
from harness.lab.waiting import wait_until
from harness.vm.arbiter_log import EtcdArbiterLog, records_of_keys

VM = "6f1c2a4e-0000-4000-8000-00000000000e"
PREFIX = prefix_of(VM)


def generation(number: int) -> str:
    return f"{PREFIX}generation-{number:08d}"


def record(number: int, node: str = "host-a") -> str:
    return json.dumps({"generation": number, "incarnation": number + 10, "node": node})


@pytest.fixture
def cluster(shared_lab: NetnsLab) -> Iterator[EtcdCluster]:
    """Three members that hold nothing."""
    cluster = EtcdCluster(shared_lab)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def faults(shared_lab: NetnsLab, tmp_path: Path) -> FaultLog:
    return FaultLog(shared_lab, tmp_path / "faults.jsonl")


def test_each_host_has_a_member_and_any_of_them_may_lead(cluster: EtcdCluster) -> None:
    for member in cluster.members.values():
        cluster.lead(member.host)
        assert cluster.leaders() == dict.fromkeys(cluster.members, member.host.name)


def test_a_killed_member_is_confirmed_and_a_second_kill_is_not(
    shared_lab: NetnsLab, cluster: EtcdCluster, faults: FaultLog
) -> None:
    host = shared_lab.hosts["host-b"]
    with faults.injected(KillEtcdMember(shared_lab, host, cluster)) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
        assert record.parameters == {}
        again = KillEtcdMember(shared_lab, host, cluster)
        again.prepare()
        assert again.confirm(0.1).verdict is Verdict.MISMATCH
    # Started again over what it had: it follows.
    cluster.await_leader()
    assert set(cluster.leaders()) == {"host-a", "host-b", "host-c"}


def test_a_leader_that_is_cut_off_is_replaced_by_the_others(
    shared_lab: NetnsLab, cluster: EtcdCluster, faults: FaultLog
) -> None:
    leader = shared_lab.hosts["host-c"]
    cluster.lead(leader)
    with faults.injected(CutEtcdLeader(shared_lab, leader, cluster)) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
        # It is no leader's any more.
        again = CutEtcdLeader(shared_lab, leader, cluster)
        again.prepare()
        assert again.confirm(0.1).verdict is Verdict.INCONCLUSIVE
        cluster.put("/other", "served")
    cluster.await_leader()
    assert set(cluster.leaders()) == {"host-a", "host-b", "host-c"}


def test_a_cut_that_cuts_nothing_is_a_mismatch(
    shared_lab: NetnsLab, cluster: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = CutEtcdLeader(shared_lab, cluster.await_leader(), cluster)
    fault.prepare()
    assert fault._filter is not None
    monkeypatch.setattr(fault._filter, "_rules", [])
    fault.inject()
    assert fault.confirm(0.5).verdict is Verdict.MISMATCH


def test_without_a_majority_nothing_is_read(shared_lab: NetnsLab, cluster: EtcdCluster, faults: FaultLog) -> None:
    cluster.put("/other", "1")
    hosts = shared_lab.hosts["host-a"], shared_lab.hosts["host-b"]
    kills = [faults.inject(KillEtcdMember(shared_lab, host, cluster)) for host in hosts]
    assert [faults.await_confirmation(kill).verdict for kill in kills] == [Verdict.CONFIRMED] * 2
    with pytest.raises(EtcdError):
        cluster.keys("/other")
    faults.heal(kills[0])
    cluster.await_leader()
    assert [key.value for key in cluster.keys("/other")] == ["1"]


def test_a_member_dies_with_its_host_and_is_back_with_what_it_had(
    shared_lab: NetnsLab, cluster: EtcdCluster, faults: FaultLog
) -> None:
    cluster.put("/other", "1")
    with faults.injected(PowerOff(shared_lab, shared_lab.hosts["host-a"])):
        assert wait_until(lambda: set(cluster.leaders()) == {"host-b", "host-c"}, timeout_seconds=10)
        cluster.await_leader()
    assert not cluster.members["host-a"].is_running()
    cluster.members["host-a"].start()
    cluster.await_leader()
    assert [key.value for key in cluster.keys("/other")] == ["1"]


def test_each_key_is_stamped_as_it_comes_whichever_member_is_dead(
    shared_lab: NetnsLab, cluster: EtcdCluster, faults: FaultLog, tmp_path: Path
) -> None:
    log = EtcdArbiterLog(shared_lab, VM, cluster)
    before_ns = time.time_ns()
    log.start()
    cluster.put(generation(1), record(1))
    between_ns = time.time_ns()
    with faults.injected(KillEtcdMember(shared_lab, shared_lab.hosts["host-a"], cluster)):
        cluster.put(generation(2), record(2, "host-b"))

        def seen() -> list[int]:
            log.collect(tmp_path)
            events = read_arbiter_events(tmp_path / "arbiter-events.jsonl")
            assert all(event.live for event in events)
            return [event.seen_ns for event in events]

        assert wait_until(lambda: len(seen()) == 2, timeout_seconds=5)
    first, second = read_arbiter_records(tmp_path / "arbiter.json")
    assert (first.generation, first.incarnation, first.node) == (1, f"{11:016x}", "host-a")
    assert (second.generation, second.incarnation, second.node) == (2, f"{12:016x}", "host-b")
    assert before_ns <= first.claimed_ns <= (first.linked_ns or 0) == seen()[0] < seen()[1]
    assert between_ns <= (second.linked_ns or 0) == seen()[1]
    assert (tmp_path / "etcd" / "host-b.log").stat().st_size > 0


def test_a_key_that_was_changed_by_hand_leaves_no_records_until_it_is_as_it_was(
    shared_lab: NetnsLab, cluster: EtcdCluster, faults: FaultLog, tmp_path: Path
) -> None:
    log = EtcdArbiterLog(shared_lab, VM, cluster)
    log.start()
    cluster.put(generation(1), record(1))
    with faults.injected(ChangedEtcdKey(shared_lab, cluster, VM)) as injected:
        assert injected.verdict is Verdict.CONFIRMED, injected.evidence
        log.collect(tmp_path)
        assert read_arbiter_records(tmp_path / "arbiter.json") == []
        again = ChangedEtcdKey(shared_lab, cluster, VM)
        again.prepare()
        assert again.confirm(0.1).verdict is Verdict.INCONCLUSIVE

    def told() -> list[str]:
        log.collect(tmp_path)
        return [event.event for event in read_arbiter_events(tmp_path / "arbiter-events.jsonl")]

    assert wait_until(lambda: told() == ["created", "changed", "deleted", "created"], timeout_seconds=5), told()
    assert [one.generation for one in read_arbiter_records(tmp_path / "arbiter.json")] == [1]


def test_what_several_members_tell_counts_once_and_what_was_told_afterwards_is_marked() -> None:
    told = io.StringIO()
    log = EventLog(told, PREFIX)
    pair = {"key": packed(generation(1)), "value": packed("x"), "version": "1", "mod_revision": "2"}
    log.take({"kv": pair}, 5, "http://a", revision_before=2)
    log.take({"kv": pair}, 6, "http://b", revision_before=1)
    log.take({"kv": pair | {"version": "2", "mod_revision": "3"}}, 7, "http://b", revision_before=1)
    log.take(
        {"kv": {"key": packed(generation(1)), "mod_revision": "4"}, "type": "DELETE"}, 8, "http://b", revision_before=1
    )
    seen = [json.loads(line) for line in told.getvalue().splitlines()]
    assert [(one["event"], one["seen_ns"], one["live"]) for one in seen] == [
        ("created", 5, False),
        ("changed", 7, True),
        ("deleted", 8, True),
    ]


def lines(*fields: dict[str, object]) -> list[Line]:
    return [Line(Path("arbiter-events.jsonl"), number, each) for number, each in enumerate(fields, 1)]


def key(number: int, value: str, version: int = 1) -> tuple[str, Key]:
    name = f"generation-{number:08d}"
    return name, Key(PREFIX + name, value, version, number + 1)


WATCHING: dict[str, object] = {"event": "watching", "absent_ns": 5}
CREATED: dict[str, object] = {"event": "created", "name": "generation-00000001", "value": record(1), "seen_ns": 9}


def test_records_lie_between_the_last_look_without_them_and_the_first_word_of_them() -> None:
    (one,) = records_of_keys([key(1, record(1))], lines(WATCHING, CREATED), pair_ns=3)
    assert (one.claimed_ns, one.linked_ns, one.resolution_ns, one.pair_ns) == (5, 9, 0, 3)


@pytest.mark.parametrize(
    ("keys", "seen", "told"),
    [
        pytest.param([key(1, record(1))], lines(CREATED), "nobody watched", id="nobody-watched"),
        pytest.param([key(1, record(1))], lines(WATCHING), "were seen as they came", id="not-seen"),
        pytest.param([], lines(WATCHING, CREATED), "were seen as they came", id="gone"),
        pytest.param([key(1, record(1), 2)], lines(WATCHING, CREATED), "not what it was", id="changed"),
        pytest.param([key(1, record(2))], lines(WATCHING, CREATED), "not what it was", id="made-anew"),
        pytest.param([key(1, "1")], lines(WATCHING, CREATED | {"value": "1"}), "is no record", id="garbage"),
    ],
)
def test_a_cluster_that_does_not_hold_what_was_seen_proves_nothing(
    keys: list[tuple[str, Key]], seen: list[Line], told: str
) -> None:
    with pytest.raises(EvidenceError, match=told):
        records_of_keys(keys, seen, pair_ns=0)
