"""A cluster of etcd with one member on each FT host, as users would deploy it: a host that dies takes its member along.

Members are asked here by way of their hosts' SSH, over the operator's network: no fault of the lab's keeps anybody from
hearing what a member says of itself. This is no code of the arbiter's (ftvmm/arbiters/etcd.py), which is under test.

Source: etcd's API by its JSON gateway `/v3/` (KV, Maintenance, Watch), etcd 3.4 or newer.
"""

from __future__ import annotations

import base64
import contextlib
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import requests

from harness.lab.interface import Host, HostState, Lab, LabError, Pace, RemoteProcess
from harness.lab.topology import ETCD_CLIENT_PORT, ETCD_DIRECTORY, ETCD_LOG, ETCD_NETWORK, ETCD_PEER_PORT
from harness.lab.waiting import wait_until

# etcd's own, which its users have.
HEARTBEAT_MS, ELECTION_MS = 100, 1000
# A member without a leader keeps a linearizable read waiting for 7 s.
_ANSWER_SECONDS = 10.0
_START_SECONDS = 30.0
_END_SECONDS = 5.0


class EtcdError(LabError):
    """A member, or every member, did not do what it was asked."""


@dataclass(frozen=True)
class Key:
    """A key as the cluster holds it; revisions count the changes of all keys, the version those of this one."""

    name: str
    value: str
    version: int
    changed_revision: int


@dataclass(frozen=True)
class MemberStatus:
    """What a member says of itself: its number, that of the leader that it follows (None: it knows none), the term."""

    member: str
    leader: str | None
    term: int


def client_address(host: Host) -> str:
    """Where a host's member serves clients, as http://ADDRESS:PORT."""
    return f"http://{host.addresses[ETCD_NETWORK]}:{ETCD_CLIENT_PORT}"


def prefix_of(vm: str) -> str:
    """What the names of a VM's keys begin with; those of generations go on with `generation-` and eight digits."""
    return f"/ftvmm/{vm.replace('-', '')}/"


def packed(text: str) -> str:
    """As the gateway wants bytes."""
    return base64.b64encode(text.encode()).decode()


def unpacked(field: Mapping[str, Any], name: str) -> str:
    """The text of a field in base64; what is empty the gateway leaves out."""
    return base64.b64decode(field.get(name, "")).decode(errors="replace")


def range_of(prefix: str) -> dict[str, str]:
    """All keys with a prefix, as the gateway wants a range: it ends behind the last of them."""
    return {"key": packed(prefix), "range_end": packed(prefix[:-1] + chr(ord(prefix[-1]) + 1))}


class EtcdMember:
    """One member. It is started again over what it has kept.

    Args:
        host: where it runs.
        cluster: the hosts of all members.
        pace: how slow the lab is.
    """

    def __init__(self, host: Host, cluster: list[Host], pace: Pace) -> None:
        self.host = host
        self._cluster, self._pace = cluster, pace
        self._process: RemoteProcess | None = None
        self._way: tuple[str, int] | None = None

    def _peer_address(self, host: Host) -> str:
        return f"http://{host.addresses[ETCD_NETWORK]}:{ETCD_PEER_PORT}"

    @property
    def command(self) -> list[str]:
        """Its command line."""
        client, peer = client_address(self.host), self._peer_address(self.host)
        everybody = ",".join(f"{host.name}={self._peer_address(host)}" for host in self._cluster)
        heartbeat_ms, election_ms = (math.ceil(bound * self._pace.timing) for bound in (HEARTBEAT_MS, ELECTION_MS))
        return [
            *("etcd", "--name", self.host.name, "--data-dir", ETCD_DIRECTORY),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", everybody),
            *("--heartbeat-interval", str(heartbeat_ms), "--election-timeout", str(election_ms)),
            # The default since 3.5: who was cut off does not depose the leader when it is back.
            "--pre-vote",
        ]

    def start(self) -> None:
        """Starts it, and is back at once."""
        # The host may have been off meanwhile, and the way to it with it.
        self._way = None
        self._process = self.host.start(self.command, log=ETCD_LOG)

    @property
    def pid(self) -> int:
        """Of its process, as its host knows it. Raises `EtcdError` where it was never started."""
        if self._process is None:
            raise EtcdError(f"{self.host.name} has no member of etcd")
        return self._process.pid

    def is_running(self) -> bool:
        """Whether its host says that its process is there."""
        if self._process is None or self.host.state is not HostState.RUNNING:
            return False
        with contextlib.suppress(LabError):
            return self._process.is_running()
        return False

    def kill(self) -> None:
        """SIGKILL."""
        self.host.run(["kill", "-KILL", str(self.pid)], check=True)

    def await_end(self) -> None:
        """Waits until its process has ended. Raises `LabError` when it has not in time."""
        if self._process is not None:
            self._process.wait(self._pace.stretch(_END_SECONDS))

    def ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer to one request.

        Raises:
            EtcdError: it gave none in time, or one that is an error.
        """
        if self.host.state is not HostState.RUNNING:
            raise EtcdError(f"{self.host.name} does not run")
        try:
            return self._post(path, body)
        except (requests.RequestException, ValueError) as error:
            raise EtcdError(f"the member on {self.host.name}: {error}") from error

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if self._way is None:
            self._way = self.host.forward(ETCD_CLIENT_PORT, address=self.host.addresses[ETCD_NETWORK])
        address, port = self._way
        with requests.Session() as session:
            # No proxy of this machine's leads there.
            session.trust_env = False
            timeout_seconds = self._pace.stretch(_ANSWER_SECONDS)
            response = session.post(f"http://{address}:{port}{path}", json=dict(body), timeout=timeout_seconds)
        answer = response.json()
        if response.status_code != requests.codes.ok or not isinstance(answer, dict):
            raise ValueError(f"HTTP {response.status_code}: {response.text[:200].strip()}")
        return answer

    def status(self) -> MemberStatus | None:
        """What it says of itself; None where it does not answer."""
        try:
            answer = self.ask("/v3/maintenance/status", {})
        except LabError:
            return None
        leader = answer.get("leader", "0")
        member = str(answer["header"]["member_id"])
        return MemberStatus(member, None if leader == "0" else str(leader), int(answer.get("raftTerm", 0)))


class EtcdCluster:
    """Three members, told apart by their hosts."""

    def __init__(self, lab: Lab) -> None:
        hosts = list(lab.fault_tolerant_hosts)
        self.members = {host.name: EtcdMember(host, hosts, lab.pace) for host in hosts}
        self._pace = lab.pace
        # A dead member's number is still in what the others say.
        self._host_of: dict[str, str] = {}

    def start(self) -> None:
        """Starts a cluster that holds nothing, and waits until all members follow one leader.

        Raises:
            EtcdError: they do not.
        """
        with ThreadPoolExecutor() as beside:
            list(beside.map(self._start_afresh, self.members.values()))
        self.await_leader()

    @staticmethod
    def _start_afresh(member: EtcdMember) -> None:
        member.host.run(["rm", "-rf", ETCD_DIRECTORY], check=True)
        member.start()

    def stop(self) -> None:
        """Ends all members, as far as their hosts still answer."""
        for member in self.members.values():
            with contextlib.suppress(LabError):
                if member.is_running():
                    member.kill()
                    member.await_end()

    def leaders(self) -> dict[str, str | None]:
        """Whom each member that answers follows, by host; None where it knows no leader."""
        with ThreadPoolExecutor() as beside:
            said = dict(zip(self.members, beside.map(EtcdMember.status, self.members.values()), strict=True))
        self._host_of |= {status.member: name for name, status in said.items() if status is not None}
        return {
            name: None if status.leader is None else self._host_of.get(status.leader, f"member {status.leader}")
            for name, status in said.items()
            if status is not None
        }

    def await_leader(self) -> Host:
        """Waits until all members that run follow one leader, and gives its host.

        Raises:
            EtcdError: they do not.
        """

        def followed() -> str | None:
            leaders = self.leaders()
            agreed = set(leaders.values())
            if len(agreed) != 1 or set(leaders) != {name for name, one in self.members.items() if one.is_running()}:
                return None
            return agreed.pop()

        if (name := wait_until(followed, timeout_seconds=self._pace.stretch(_START_SECONDS))) is None:
            raise EtcdError(f"the members of etcd have no leader: {self.leaders()}; see {ETCD_LOG} on their hosts")
        return self.members[name].host

    def lead(self, host: Host) -> None:
        """Has the member on a host lead the others; back when all follow it.

        Raises:
            EtcdError: they do not.
        """
        leader = self.await_leader()
        if leader.name != host.name:
            number = next(number for number, name in self._host_of.items() if name == host.name)
            self.members[leader.name].ask("/v3/maintenance/transfer-leadership", {"targetID": number})
        if (leader := self.await_leader()).name != host.name:
            raise EtcdError(f"the member on {leader.name} leads, not that on {host.name}")

    def keys(self, prefix: str) -> list[Key]:
        """All keys that begin so, by name: a linearizable read.

        Raises:
            EtcdError: no member can answer, for want of a majority.
        """
        answer = self._ask_any("/v3/kv/range", range_of(prefix))
        return [key_of(pair) for pair in answer.get("kvs", [])]

    def put(self, name: str, value: str) -> None:
        """Gives a key a value, by hand. Raises `EtcdError`."""
        self._ask_any("/v3/kv/put", {"key": packed(name), "value": packed(value)})

    def delete(self, name: str) -> None:
        """Removes a key, by hand. Raises `EtcdError`."""
        self._ask_any("/v3/kv/deleterange", {"key": packed(name)})

    def _ask_any(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The first answer that a member gives; nothing that is asked here does harm when it is done twice."""
        failures = []
        for member in self.members.values():
            try:
                return member.ask(path, body)
            except LabError as error:
                failures.append(str(error))
        raise EtcdError("; ".join(failures))


def key_of(pair: Mapping[str, Any]) -> Key:
    """A key as the gateway tells of it."""
    return Key(
        unpacked(pair, "key"),
        unpacked(pair, "value"),
        int(pair.get("version", 0)),
        int(pair.get("mod_revision", 0)),
    )
