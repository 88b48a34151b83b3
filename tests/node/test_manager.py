"""`ftvmm manager` decides by what its node says, and by nothing that it could forget."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ftvmm import configuration, control
from ftvmm.manager import PATIENCE_SECONDS, Manager, Spare
from harness.lab.waiting import wait_until
from tests.node.local_pair import LocalPair, status_of

SPARES = [Spare(name, f"127.0.0.1:{port}", {"logging": f"127.0.0.1:{port}"}) for name, port in (("b", 1), ("c", 2))]
TABLE = '[[spare]]\nname = "c"\nlogging = "127.0.0.1:9"\nheartbeat = {{ {network} = "127.0.0.1:9" }}\n'


def status(role: str, stage: str | None = None) -> dict[str, Any]:
    return {"role": role, "joining": stage and {"stage": stage}}


@pytest.mark.parametrize("role", ["SPARE", "JOINING", "BACKUP", "CANDIDATE", "WON", "PROTECTED", "HALTED"])
def test_only_a_vm_that_runs_alone_gets_a_backup(role: str) -> None:
    assert Manager(SPARES).next_spare(status(role), 0) is None
    assert Manager(SPARES).next_spare(None, 0) is None
    assert Manager([]).next_spare(status("ALONE"), 0) is None


def test_a_spare_that_does_not_answer_is_passed_over_and_tried_again() -> None:
    manager = Manager(SPARES)
    asked = [manager.next_spare(status("ALONE"), 0)]
    for look in range(1, 40):
        asked.append(manager.next_spare(status("ALONE", "dialling"), look * PATIENCE_SECONDS / 10))
    assert [spare.name for spare in asked if spare] == ["b", "c", "b", "c"]


def test_a_state_that_is_on_its_way_is_waited_for() -> None:
    manager = Manager(SPARES)
    assert manager.next_spare(status("ALONE"), 0)
    for stage in ("copying", "stopped"):
        assert manager.next_spare(status("ALONE", stage), 1000) is None
    # It was given up, and the node dials again.
    assert manager.next_spare(status("ALONE", "dialling"), 1001) == SPARES[1]


def test_a_spare_that_was_refused_is_asked_again_at_once() -> None:
    manager = Manager(SPARES)
    manager.next_spare(status("ALONE"), 0)
    assert manager.next_spare(status("ALONE", "dialling"), 1000) == SPARES[1]
    manager.was_refused()
    assert manager.next_spare(status("ALONE", "greeting"), 1000) == SPARES[1]
    assert manager.next_spare(status("ALONE", "greeting"), 1001) is None


def test_the_next_loss_is_another_one() -> None:
    manager = Manager(SPARES)
    assert manager.next_spare(status("ALONE"), 0) == SPARES[0]
    # What it asked for is not seen yet.
    assert manager.next_spare(status("ALONE"), 0.1) is None
    assert manager.next_spare(None, 0.2) is None
    assert manager.next_spare(status("ALONE"), 0.3) is None
    assert manager.next_spare(status("PROTECTED"), 0.4) is None
    assert manager.next_spare(status("ALONE"), 0.5) == SPARES[0]


def test_a_manager_that_is_started_again_asks_again() -> None:
    assert Manager(SPARES).next_spare(status("ALONE"), 7) == SPARES[0]
    # Its predecessor has asked somebody, or the operator has, who gets the time that everybody gets.
    for stage in ("dialling", "greeting"):
        manager = Manager(SPARES)
        assert manager.next_spare(status("ALONE", stage), 7) is None
        assert manager.next_spare(status("ALONE", stage), 7 + PATIENCE_SECONDS) == SPARES[0]
    assert Manager(SPARES).next_spare(status("ALONE", "copying"), 7) is None


def test_spares_are_part_of_the_nodes_configuration(tmp_path: Path) -> None:
    config = LocalPair(tmp_path).primary
    plain = config.read_text()
    config.write_text(plain + TABLE.format(network="logging"))
    [spare] = configuration.load(config).spares
    assert spare == Spare("c", "127.0.0.1:9", {"logging": "127.0.0.1:9"})
    for network, said in (("management", "heartbeat.logging: missing"), ("other = 1, logging", "unknown key")):
        config.write_text(plain + TABLE.format(network=network))
        with pytest.raises(configuration.ConfigurationError, match=said):
            configuration.load(config)


def start_manager(config: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ftvmm", "manager", "--config", str(config), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_without_a_spare_it_says_so(tmp_path: Path) -> None:
    with start_manager(LocalPair(tmp_path).primary) as manager:
        _, said = manager.communicate(timeout=60)
    assert manager.returncode == 2
    assert "at least one [[spare]] is needed" in said


def node_of(config: Path) -> tuple[str, int] | None:
    """Incarnation and process of a spare that answers."""
    said = status_of(config)
    if said is None or said["role"] != "SPARE":
        return None
    started = [json.loads(line) for line in (config.parent / "trace.jsonl").read_text().splitlines()]
    [pid] = [
        one["pid"] for one in started if one["event"] == "node-started" and one["incarnation"] == said["incarnation"]
    ]
    return said["incarnation"], pid


def wait_for_another(config: Path, than: tuple[str, int] | None) -> tuple[str, int]:
    found: list[tuple[str, int]] = []

    def is_there() -> bool:
        found.extend(one for one in [node_of(config)] if one not in (None, than))  # type: ignore[misc]
        return bool(found)

    assert wait_until(is_there, timeout_seconds=30, interval_seconds=0.1)
    return found[0]


def test_a_node_that_was_killed_is_a_spare_again_and_does_not_end_with_its_manager(tmp_path: Path) -> None:
    config = LocalPair(tmp_path).primary
    config.write_text(config.read_text() + TABLE.format(network="logging"))
    node = None
    try:
        with start_manager(config, "--run-node") as manager:
            try:
                node = wait_for_another(config, None)
                os.kill(node[1], signal.SIGKILL)
                node = wait_for_another(config, node)
            finally:
                manager.send_signal(signal.SIGTERM)
            assert manager.wait(timeout=20) == 0
        with start_manager(config, "--run-node") as again:
            assert again.stderr is not None
            try:
                # What it says first is what it found.
                assert "is SPARE" in again.stderr.readline()
            finally:
                again.send_signal(signal.SIGTERM)
            assert "is started" not in again.stderr.read()
        assert node_of(config) == node
    finally:
        stop_node(config)


def stop_node(config: Path) -> None:
    """Its process is another's child: only its socket tells when it has ended."""
    path = configuration.load(config).control_socket
    with contextlib.suppress(control.ControlError):
        control.request(path, "stop")
    assert wait_until(lambda: not path.exists(), timeout_seconds=30, interval_seconds=0.05)


def test_a_node_that_cannot_start_is_tried_again(tmp_path: Path) -> None:
    config = LocalPair(tmp_path).primary
    config.write_text(config.read_text() + TABLE.format(network="logging"))
    host, port = tomllib.loads(config.read_text())["logging"]["listen"].split(":")
    with socket.create_server((host, int(port))) as other, start_manager(config, "--run-node") as manager:
        assert manager.stderr is not None
        try:
            assert any("status 2 and is started again" in line for line in manager.stderr)
            other.close()
            wait_for_another(config, None)
        finally:
            manager.send_signal(signal.SIGTERM)
            manager.wait(timeout=20)
            stop_node(config)
