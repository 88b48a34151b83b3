"""The tick listener keeps every datagram, also one that is no tick."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from pathlib import Path

from harness.clients.control import ClientControl


def test_ticks_are_kept_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "ticks.jsonl"
    command = [sys.executable, "-m", "harness.clients.ticks", "--listen", "127.0.0.1:0", "--ticks", str(path)]
    with contextlib.ExitStack() as stack:
        process = subprocess.Popen([*command, "--control", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
        stack.enter_context(process)
        stack.callback(process.kill)
        assert process.stdout is not None
        _, _, udp_port, _, _, control_port = process.stdout.readline().split()
        control = stack.enter_context(contextlib.closing(ClientControl(("127.0.0.1", int(control_port)))))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for payload in (b"tick 000001 20000000", b"tick 000002 40000000", b"tock"):
                sender.sendto(payload, ("127.0.0.1", int(udp_port)))
        control.wait_answered(3)
        control.stop()
        assert process.wait(5) == 0
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["event"] for record in (records[0], records[-1])] == ["start", "end"]
    assert [record["number"] for record in records[1:-1]] == [1, 2, None]
    assert records[1]["guest_ns"] == 20_000_000
