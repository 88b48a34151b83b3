"""The key-value client against a real Redis server: the history is whole, a lost connection is seen, control works."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.clients.control import ClientControl

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs Debian's redis-server")
Start = Callable[..., tuple[subprocess.Popen[str], ClientControl]]


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    yield process, port
    process.kill()
    process.wait()


@pytest.fixture
def start(server: tuple[subprocess.Popen[bytes], int], tmp_path: Path) -> Iterator[Start]:
    stack = contextlib.ExitStack()

    def start_client(*more: str) -> tuple[subprocess.Popen[str], ClientControl]:
        command = [sys.executable, "-m", "harness.clients.key_value", "--target", f"127.0.0.1:{server[1]}"]
        command += ["--history", str(tmp_path / "history.jsonl")]
        command += ["--connections-log", str(tmp_path / "connections.jsonl"), "--control", "127.0.0.1:0", *more]
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(process.kill)
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[-1])
        return process, stack.enter_context(contextlib.closing(ClientControl(("127.0.0.1", port))))

    with stack:
        yield start_client


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_history_is_whole_and_sealed(start: Start, tmp_path: Path) -> None:
    process, control = start("--rate", "1000")
    progress = control.wait_answered(200)
    control.wait_answered(50, called_after_ns=progress.now_ns)
    last = control.stop()
    assert process.wait(5) == 0
    start_line, *records, end_line = lines(tmp_path / "history.jsonl")
    assert start_line["event"] == "start"
    assert end_line["event"] == "end"
    assert end_line["answered"] == last.answered == len(records)
    assert all(record["call_ns"] < record["return_ns"] for record in records)  # type: ignore[operator]
    assert sum(record["phase"] == "final" for record in records) == 16
    assert {record["operation"] for record in records} == {"GET", "SET", "APPEND", "DEL", "INCR"}
    # A value of a few bytes has no room for a name.
    written = [record["value"] for record in records if str(record["value"]).startswith(("<", "#"))]
    assert len(written) > 20
    assert len(written) == len(set(written))
    connections = lines(tmp_path / "connections.jsonl")[1:-1]
    kept = [line["event"] for line in connections if line["long_lived"]]
    assert kept == ["opened"] * 8 + ["closed-by-client"] * 8


def test_a_held_client_connects_to_nobody_before_it_may(start: Start, tmp_path: Path) -> None:
    process, control = start("--held")
    before_ns = control.progress().now_ns
    control.begin()
    control.wait_answered(20)
    control.stop()
    assert process.wait(5) == 0
    asked_ns = [line["asked_ns"] for line in lines(tmp_path / "connections.jsonl")[1:-1]]
    assert len(asked_ns) > 8
    assert before_ns < min(asked_ns)  # type: ignore[type-var]


def test_a_held_client_can_be_stopped(start: Start, tmp_path: Path) -> None:
    process, control = start("--held")
    control.stop()
    assert process.wait(5) == 1, "it never had a connection"
    assert [line["event"] for line in lines(tmp_path / "history.jsonl")] == ["start", "end"]


def test_visitors_come_and_go_beside_the_long_lived_connections(start: Start, tmp_path: Path) -> None:
    process, control = start("--visitors", "200")
    control.wait_answered(100)
    control.stop()
    assert process.wait(5) == 0
    visits = [line for line in lines(tmp_path / "connections.jsonl")[1:-1] if not line["long_lived"]]
    events = [line["event"] for line in visits]
    assert events.count("opened") == events.count("closed-by-client") > 5
    assert all(line["asked_ns"] <= line["at_ns"] for line in visits)  # type: ignore[operator]
    visitors = {line["client"] for line in visits}
    records = lines(tmp_path / "history.jsonl")[1:-1]
    assert any(record["client"] in visitors for record in records)
    assert all(record["return_ns"] for record in records)


def test_long_values_are_told_by_length_and_digest(start: Start, tmp_path: Path) -> None:
    process, control = start("--rate", "3000", "--keys", "8")
    while not {1, 64 * 1024} <= (lengths := value_lengths(tmp_path / "history.jsonl")):
        control.wait_answered(50, called_after_ns=control.progress().now_ns)
    control.stop()
    assert process.wait(5) == 0
    assert max(lengths) == 64 * 1024
    records = [line for line in lines(tmp_path / "history.jsonl")[1:-1] if ":blob:" in str(line["key"])]
    written = {record["value"] for record in records if record["operation"] == "SET"}
    read = {record["result"] for record in records if record["operation"] == "GET"}
    assert read <= written | {None}
    assert any(str(value).startswith("#65536:") for value in read)


def value_lengths(history: Path) -> set[int]:
    values = [str(line["value"]) for line in lines(history) if line.get("operation") == "SET"]
    return {int(value[1:].split(":")[0]) if value.startswith("#") else len(value) for value in values}


def test_lost_connections_are_recorded_and_not_renewed(
    start: Start, server: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    process, control = start("--drain-seconds", "0.2")
    control.wait_answered(20)
    server[0].kill()
    server[0].wait()
    control.stop()
    assert process.wait(5) == 0
    kept = [line["event"] for line in lines(tmp_path / "connections.jsonl")[1:-1] if line["long_lived"]]
    assert kept.count("opened") == 8
    assert kept.count("closed") + kept.count("reset") == 8
    assert "refused" in kept  # the connection for the last reads was tried, and its failure is told


def test_unanswered_operations_are_written(
    start: Start, server: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    process, control = start("--drain-seconds", "0.2", "--rate", "2000")
    control.wait_answered(20)
    server[0].send_signal(19)  # SIGSTOP: it neither answers nor closes
    before = control.progress()
    while before.unanswered < 8 + 2:  # visitors too: the server's kernel still connects them
        before = control.progress()
    control.stop()
    assert process.wait(5) == 0
    *_, end_line = lines(tmp_path / "history.jsonl")
    unanswered = [line for line in lines(tmp_path / "history.jsonl") if line.get("return_ns", 0) is None]
    assert len(unanswered) == end_line["unanswered"]
    assert {line["error"] for line in unanswered} == {"no answer"}


def test_a_signal_ends_it_like_stop_does(start: Start, tmp_path: Path) -> None:
    process, control = start()
    control.wait_answered(10)
    process.terminate()
    assert process.wait(10) == 0
    assert lines(tmp_path / "history.jsonl")[-1]["event"] == "end"
