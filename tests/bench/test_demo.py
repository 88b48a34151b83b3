"""The demonstration's picture shows what the nodes and the client said, in any state that they can be in."""

import io
import time

from rich.console import Console

from bench.demo.narration import sentence
from bench.demo.observation import ClientView, NodeView, Scene
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
    )
    client.answers.extend([30, 31, 0, 0, 60])
    client.silence_ms_max = 231.0
    return Scene(nodes, client)


def _drawn(fault_ns: int | None) -> str:
    output = io.StringIO()
    Console(file=output, width=160).print(picture(_scene(), headline="Headline", fault_ns=fault_ns, columns=100))
    return output.getvalue()


def test_the_picture_tells_who_runs_who_is_off_and_what_the_client_sees() -> None:
    drawn = _drawn(fault_ns=1_000_000_000)
    for said in ("Headline", "NO POWER", "no answer", "PROTECTED, generation 1", "4711 written, 4709 acked"):
        assert said in drawn
    assert "log 1 ms, logging 12 ms" in drawn
    assert "1234 answers, 8 connections, 0 lost" in drawn
    assert "at most 231 ms" in drawn
    assert "▄▅  █" in drawn


def test_events_are_told_relative_to_the_fault_in_the_order_of_time() -> None:
    drawn = _drawn(fault_ns=1_000_000_000)
    fault, suspicion, victory = (drawn.index(text) for text in ("+0 ms", "+160 ms", "+240 ms"))
    assert fault < suspicion < victory
    assert "wins generation 2" in drawn


def test_what_people_need_not_hear_of_is_not_told() -> None:
    assert sentence({"event": "arbiter", "operation": "read", "outcome": 1}) is None
    assert sentence({"event": "output-done", "through": 4}) is None
    assert (
        sentence({"event": "role", "from": "BACKUP", "to": "CANDIDATE", "reason": None}) == "BACKUP becomes CANDIDATE"
    )
