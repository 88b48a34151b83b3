"""The demonstration's picture shows what the nodes and the client said, in any state that they can be in."""

import io
import time

import pytest
from rich.console import Console

from bench.demo.narration import sentence
from bench.demo.observation import ClientView, Deed, NodeView, Scene
from bench.demo.view import picture
from harness.clients.control import Progress

STATUS = {
    "role": "PROTECTED",
    "generation": 1,
    "position": {"appended": 4711, "stored": 0, "acknowledged": 4709, "replayed": 0},
    "output": {"produced": 900, "released": 899},
    "lag_ms": 0.4,
    "lag_bytes": 132,
    "guest_share": 1.0,
    "peer": {"heard_ms": {"log": 1.0, "logging": 12.0, "management": 2400.0}},
}


def _scene() -> Scene:
    nodes = {
        "host-a": NodeView("host-a", powered=False),
        "host-b": NodeView("host-b", status=STATUS, heard_at=time.monotonic()),
        "host-c": NodeView("host-c"),
    }
    nodes["host-b"].events = [
        {"event": "suspect", "node": "host-b", "reason": "silence", "monotonic_ns": 1_160_000_000},
        {"event": "arbiter", "node": "host-b", "operation": "read", "outcome": 1, "monotonic_ns": 1_170_000_000},
        {
            "event": "arbiter",
            "node": "host-b",
            "operation": "ask",
            "outcome": "won",
            "wanted": 2,
            "monotonic_ns": 1_240_000_000,
        },
    ]
    client = ClientView()
    client.progress = Progress(
        now_ns=2_000_000_000,
        phase="load",
        answered=1234,
        unanswered=1,
        open_connections=8,
        lost_connections=0,
        last_return_ns=1_990_000_000,
        latency_ms=0.7,
    )
    client.answers.extend([30, 31, 0, 0, 60])
    client.silence_ms_max = 231.0
    return Scene(nodes, client)


def _drawn(fault_ns: int, *, columns: int = 100, rows: int | None = None) -> str:
    scene = _scene()
    scene.deeds.append(Deed(fault_ns, "take host-a's power away"))
    output = io.StringIO()
    Console(file=output, width=columns).print(picture(scene, headline="Headline", columns=columns, rows=rows))
    return output.getvalue()


def test_the_picture_tells_who_runs_who_is_off_and_what_the_client_sees() -> None:
    drawn = _drawn(fault_ns=1_000_000_000)
    for said in ("Headline", "NO POWER", "no answer", "PROTECTED, generation 1", "4711 written, 4709 acked"):
        assert said in drawn
    assert "log 1 ms, logging 12 ms" in drawn
    assert "1234 answers, 8 connections, 0 lost" in drawn
    assert "at most 231 ms" in drawn
    assert "in 0.7 ms" in drawn
    assert "▄▅  █" in drawn


def test_events_are_told_relative_to_the_fault_in_the_order_of_time() -> None:
    drawn = _drawn(fault_ns=1_000_000_000)
    fault, suspicion, victory = (drawn.index(text) for text in ("+0 ms", "+160 ms", "+240 ms"))
    assert fault < suspicion < victory
    assert "wins generation 2" in drawn
    assert "you    take host-a's power away" in drawn


def test_three_hosts_stand_side_by_side_where_there_is_room() -> None:
    titles = [line for line in _drawn(fault_ns=1_000_000_000, columns=130).splitlines() if "host-a ─" in line]
    assert any(all(name in line for name in ("host-a", "host-b", "host-c")) for line in titles)


@pytest.mark.parametrize(("columns", "rows"), [(80, 30), (100, 30), (130, 24)])
def test_the_picture_fits_into_its_terminal(columns: int, rows: int) -> None:
    lines = _drawn(fault_ns=1_000_000_000, columns=columns, rows=rows).splitlines()
    assert len(lines) < rows
    assert max(len(line.rstrip()) for line in lines) <= columns


def test_a_spare_and_a_copy_are_told() -> None:
    scene = _scene()
    alone = {**STATUS, "role": "ALONE", "joining": {"stage": "copying", "round": 2, "copied_bytes": 12 << 20}}
    scene.nodes["host-b"].status = alone
    scene.nodes["host-c"].status, scene.nodes["host-c"].heard_at = {**STATUS, "role": "SPARE"}, time.monotonic()
    output = io.StringIO()
    Console(file=output, width=160).print(picture(scene, headline="", columns=130))
    assert "12 MiB are copied to a spare" in output.getvalue()
    assert "waits to become the backup" in output.getvalue()
    assert sentence({"event": "transfer", "state": "resumed", "position": 7}) == "lets the VM go on"
    assert sentence({"event": "transfer", "state": "round", "round": 2, "pages": 9}) is None


def test_what_people_need_not_hear_of_is_not_told() -> None:
    assert sentence({"event": "arbiter", "operation": "read", "outcome": 1}) is None
    assert sentence({"event": "output-done", "through": 4}) is None
    assert (
        sentence({"event": "role", "from": "BACKUP", "to": "CANDIDATE", "reason": None}) == "BACKUP becomes CANDIDATE"
    )
