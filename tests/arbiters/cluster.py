"""An etcd cluster on this machine, whose members can be killed, frozen and started again."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from ftvmm.arbiters import ArbiterUnreachableError
from ftvmm.arbiters.etcd import EtcdArbiter
from harness.lab.waiting import wait_until

ETCD = shutil.which("etcd")
VM = "0" * 31 + "1"
_WITHOUT_PROXY = build_opener(ProxyHandler({}))
# Of etcd's own; a leader that is lost is replaced sooner than by its usual 100 and 1,000.
_HEARTBEAT_MS, _ELECTION_MS = 50, 500


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody has."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


class Cluster:
    """Members by index; `addresses` are what clients ask."""

    def __init__(self, directory: Path, members: int, *options: str, scheme: str = "http") -> None:
        self._directory, self._options = directory, options
        ports = free_ports(2 * members)
        self.addresses = [f"{scheme}://127.0.0.1:{port}" for port in ports[:members]]
        self._peers = [f"http://127.0.0.1:{port}" for port in ports[members:]]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        directory.mkdir(parents=True, exist_ok=True)
        for index in range(members):
            self.start(index)

    def start(self, index: int) -> None:
        """Starts a member, or starts it again over what it has kept."""
        assert ETCD is not None
        everybody = ",".join(f"member-{number}={peer}" for number, peer in enumerate(self._peers))
        command = [
            *(ETCD, "--name", f"member-{index}", "--data-dir", str(self._directory / f"member-{index}")),
            *("--listen-client-urls", self.addresses[index], "--advertise-client-urls", self.addresses[index]),
            *("--listen-peer-urls", self._peers[index], "--initial-advertise-peer-urls", self._peers[index]),
            *("--initial-cluster", everybody, "--heartbeat-interval", str(_HEARTBEAT_MS)),
            *("--election-timeout", str(_ELECTION_MS), *self._options),
        ]
        with (self._directory / f"member-{index}.log").open("ab") as log:
            self._processes[index] = subprocess.Popen(command, stdout=log, stderr=log)

    def await_answers(self, arbiter: EtcdArbiter) -> None:
        """Waits until a majority is there and has a leader."""

        def answers() -> bool:
            with suppress(ArbiterUnreachableError):
                arbiter.read()
                return True
            return False

        assert wait_until(answers, timeout_seconds=30), "\n".join(
            path.read_text(errors="replace")[-2000:] for path in self._directory.glob("*.log")
        )

    def post(self, index: int, path: str, body: bytes) -> dict[str, Any]:
        """What a member says, as etcdctl would hear it."""
        with _WITHOUT_PROXY.open(Request(f"{self.addresses[index]}{path}", body), timeout=10) as answer:
            said: dict[str, Any] = json.load(answer)
        return said

    def leader(self) -> int:
        """The member that leads the others."""
        found: list[int] = []

        def is_found() -> bool:
            for index in range(len(self.addresses)):
                with suppress(OSError):
                    status = self.post(index, "/v3/maintenance/status", b"{}")
                    if status.get("leader") == status["header"]["member_id"]:
                        found.append(index)
            return bool(found)

        assert wait_until(is_found, timeout_seconds=30)
        return found[0]

    def signal(self, index: int, number: signal.Signals) -> None:
        """KILL, STOP or CONT for a member."""
        self._processes[index].send_signal(number)
        if number is signal.SIGKILL:
            self._processes[index].wait()

    def stop(self) -> None:
        """Ends all members, frozen ones too."""
        for process in self._processes.values():
            process.kill()
            process.wait()
