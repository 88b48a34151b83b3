"""The key-value client against a real Redis server: the history is whole, a lost connection is seen, control works."""

from __future__ import annotations

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
    processes: list[subprocess.Popen[str]] = []

    def start_client(*more: str) -> tuple[subprocess.Popen[str], ClientControl]:
        command = [sys.executable, "-m", "harness.clients.key_value", "--target", f"127.0.0.1:{server[1]}"]
        command += ["--history", str(tmp_path / "history.jsonl")]
        command += ["--connections-log", str(tmp_path / "connections.jsonl"), "--control", "127.0.0.1:0", *more]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[-1])
        return process, ClientControl(("127.0.0.1", port))

    yield start_client
    for process in processes:
        process.kill()
        process.wait()


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
    written = [record["value"] for record in records if record["value"]]
    assert len(written) == len(set(written))
    events = [line["event"] for line in lines(tmp_path / "connections.jsonl")]
    assert events.count("opened") == events.count("closed-by-client") == 8


def test_lost_connections_are_recorded_and_not_renewed(
    start: Start, server: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    process, control = start("--drain-seconds", "0.2")
    control.wait_answered(20)
    server[0].kill()
    server[0].wait()
    control.stop()
    assert process.wait(5) == 0
    events = [line["event"] for line in lines(tmp_path / "connections.jsonl")]
    assert events.count("opened") == 8
    assert events.count("closed") + events.count("reset") == 8
    assert "refused" in events  # the connection for the last reads was tried, and its failure is told


def test_unanswered_operations_are_written(
    start: Start, server: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    process, control = start("--drain-seconds", "0.2", "--rate", "2000")
    control.wait_answered(20)
    server[0].send_signal(19)  # SIGSTOP: it neither answers nor closes
    before = control.progress()
    while before.unanswered < 8:
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
