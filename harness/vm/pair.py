"""The pair under test: two nodes on two hosts of a lab, told apart by the role that they have now."""

from __future__ import annotations

import contextlib
import enum
import json
import secrets
import uuid
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.lab import topology
from harness.lab.interface import CommandFailedError, Host, HostUnreachableError, Lab, LabError, Pace, RemoteProcess
from harness.lab.ssh import KeptConversation
from harness.lab.waiting import wait_until
from harness.promise import ArbiterKind, OutputPolicy
from harness.vm.failpoints import Failpoints
from harness.vm.node_file import CONFIG_PATH, HEARTBEAT_NETWORKS, KEY_PATH, Guest, Timing, node_file


class Role(enum.StrEnum):
    """The states of the protocol, as nodes write them (`ftvmm/core/src/protocol/role.rs` says what each is)."""

    SPARE = "SPARE"
    JOINING = "JOINING"
    BACKUP = "BACKUP"
    CANDIDATE = "CANDIDATE"
    WON = "WON"
    ALONE = "ALONE"
    PROTECTED = "PROTECTED"
    HALTED = "HALTED"


# A node in one of these owns the VM.
OWNING = frozenset({Role.ALONE, Role.PROTECTED})

NODE_LOG = "/var/lib/ftvmm/node.log"
TRACE = "/var/lib/ftvmm/trace.jsonl"
PROTECT_LOG = "/var/lib/ftvmm/protect.log"
MANAGER_LOG = "/var/lib/ftvmm/manager.log"

# On a slow host each look is work for it.
_POLL_SECONDS, _POLL_SECONDS_MAX = 0.05, 0.5


class PairError(Exception):
    """The pair did not come to the state that a scenario waits for; the message says what it did instead."""


# Asks the node what each line says, as `ftvmm status --json` does it, without starting Python for each question.
_ASK = """
import json, sys
from pathlib import Path
from ftvmm import control
for line in sys.stdin:
    try:
        answer = control.request(Path(sys.argv[1]), line.strip())
    except control.ControlError:
        answer = None
    print(json.dumps(answer), flush=True)
"""


@dataclass(eq=False)
class Node:
    """One node of the pair.

    Attributes:
        host: where it runs.
        process: its process on the host.
        pace: how slow the host is.
    """

    host: Host
    process: RemoteProcess
    pace: Pace = field(default_factory=Pace)

    @cached_property
    def _control(self) -> KeptConversation:
        return KeptConversation(self.host, _ASK, f"{topology.NODE_DIRECTORY}/control.sock")

    @cached_property
    def failpoints(self) -> Failpoints:
        """Its exact moments; a node of the build that is shipped has none."""
        return Failpoints(self.host, self.pace)

    @property
    def name(self) -> str:
        """The host's name."""
        return self.host.name

    def status(self) -> dict[str, Any] | None:
        """What `ftvmm status --json` says, or None when the node or its host does not answer."""
        try:
            answer = self._control.ask("status", timeout_seconds=self.pace.stretch(3))
        except LabError:
            return None
        status: dict[str, Any] | None = json.loads(answer)
        return status

    def stop(self) -> None:
        """Ends it in order, whoever started its process; one that is not there is left alone."""
        with contextlib.suppress(LabError):
            self._control.ask("stop", timeout_seconds=self.pace.stretch(3))

    @property
    def role(self) -> Role | None:
        """What it is to the VM now; None when the node or its host does not answer."""
        status = self.status()
        return Role(status["role"]) if status else None

    def trace(self) -> list[dict[str, Any]]:
        """The events of the node's trace so far; a line that is being written is left out."""
        try:
            lines = self.host.read_file(TRACE).split(b"\n")[:-1]
        except (OSError, LabError):
            return []
        return [json.loads(line) for line in lines]

    def log(self) -> str:
        """What the node printed."""
        try:
            return self.host.read_file(NODE_LOG).decode(errors="replace")
        except (OSError, LabError):
            return ""


class Pair:
    """Two nodes that run one VM. Timeouts are given as for this machine and stretched by the lab's pace.

    Args:
        lab: where.
        guest: what the VM runs.
        mutants: how the VMM is broken on purpose, for the tests of the oracles.
        failpoints: armed on both nodes from the start; None where the build that is shipped runs.
        policy: what becomes of uncertain outputs.
        entries_per_message: at most so many log entries go in one message; None: as many as fit.
        arbiter: what decides which of them owns it.
    """

    def __init__(
        self,
        lab: Lab,
        guest: Guest,
        *,
        mutants: Sequence[str] = (),
        failpoints: Sequence[str] | None = None,
        policy: OutputPolicy = OutputPolicy.RESEND,
        entries_per_message: int | None = None,
        arbiter: ArbiterKind = ArbiterKind.FILE,
    ) -> None:
        self.lab, self.guest = lab, guest
        self.timing = Timing().for_pace(lab.pace)
        self.vm = str(uuid.uuid4())
        self.policy, self.arbiter = policy, arbiter
        self.key = secrets.token_hex(32)
        self._mutants, self._failpoints, self._entries_per_message = mutants, failpoints, entries_per_message
        self.nodes: dict[str, Node] = {}
        self._managers: list[RemoteProcess] = []

    def start(self, *, before_bootstrap: Callable[[], None] = lambda: None) -> None:
        """Starts a spare and a primary, and waits until the VM runs protected.

        Args:
            before_bootstrap: called when the spare runs, before anything claims the VM.

        Raises:
            PairError: it does not within 30 s; the message has what the nodes printed.
        """
        primary, backup = self.lab.fault_tolerant_hosts[:2]
        with ThreadPoolExecutor() as beside:
            list(beside.map(self._configure, (primary, backup), (backup, primary)))
        spare = self._start_node(backup)
        self._wait_for_role(spare, {Role.SPARE})
        before_bootstrap()
        owner = self._start_node(primary, bootstrap=True)
        self._wait_for_role(owner, {Role.PROTECTED})
        self._wait_for_role(spare, {Role.BACKUP})

    def _configure(self, host: Host, peer: Host) -> None:
        host.write_file(KEY_PATH, self.key.encode(), mode=0o600)
        text = node_file(
            host,
            peer,
            vm=self.vm,
            image_directory=self.lab.image_directory,
            guest=self.guest,
            timing=self.timing,
            mutants=self._mutants,
            failpoints=self._failpoints or (),
            policy=self.policy,
            entries_per_message=self._entries_per_message,
            spares=self._spares_of(host),
            arbiter=self.arbiter,
            members=self.lab.fault_tolerant_hosts,
        )
        host.write_file(CONFIG_PATH, text.encode())

    def _spares_of(self, host: Host) -> list[Host]:
        """The other hosts, the next one first."""
        hosts = list(self.lab.fault_tolerant_hosts)
        place = hosts.index(host)
        return hosts[place + 1 :] + hosts[:place]

    def _start_node(self, host: Host, *, bootstrap: bool = False) -> Node:
        process = host.start(self._command(host, bootstrap=bootstrap), log=NODE_LOG)
        self.nodes[host.name] = Node(host, process, self.lab.pace)
        return self.nodes[host.name]

    def start_spare(self) -> Node:
        """Starts a spare on the host that has no node yet, and waits until it is one.

        Raises:
            PairError: it does not become one.
        """
        host = next(host for host in self.lab.fault_tolerant_hosts if host.name not in self.nodes)
        # Who its primary will be it learns from that.
        self._configure(host, self.lab.fault_tolerant_hosts[0])
        spare = self._start_node(host)
        self._wait_for_role(spare, {Role.SPARE})
        return spare

    def begin_protecting(self, owner: Node, spare: Node) -> RemoteProcess:
        """Has a VM that runs alone get a backup again: `ftvmm protect`, which tells how far it is."""
        addresses = spare.host.addresses
        heartbeats = " ".join(
            f"--heartbeat {network}={addresses[network]}:{topology.HEARTBEAT_PORT}" for network in HEARTBEAT_NETWORKS
        )
        command = (
            f"{self.build}{owner.host.python} -m ftvmm protect --config {CONFIG_PATH} --name {spare.name} "
            f"--logging {addresses[topology.LOGGING]}:{topology.LOGGING_PROXY_PORT} {heartbeats}"
        )
        return owner.host.start(command, log=PROTECT_LOG)

    def protect(self, owner: Node, spare: Node) -> None:
        """The same, and waits until the VM is protected.

        Raises:
            PairError: it is not within 20 s.
        """
        self.begin_protecting(owner, spare)
        self.wait_until_protected(owner, spare)

    def start_managers(self) -> None:
        """Starts a manager beside each node: it gives a VM that runs alone a backup, and starts a dead node anew."""
        for node in self.nodes.values():
            self.start_manager(node)

    def start_manager(self, node: Node) -> None:
        """Starts the manager of one node, as its host does when it comes up."""
        command = f"{self.build}{node.host.python} -m ftvmm manager --config {CONFIG_PATH} --run-node"
        self._managers.append(node.host.start(command, log=MANAGER_LOG))

    def wait_until_spare(self, node: Node) -> None:
        """Waits until a node that was started again is a spare."""
        self._wait_for_role(node, {Role.SPARE})

    def wait_until_protected(self, owner: Node, backup: Node, timeout_seconds: float = 20) -> None:
        """Waits until these two are a primary and its backup.

        Raises:
            PairError: they are not.
        """
        self._wait_for_role(backup, {Role.BACKUP}, timeout_seconds)
        self._wait_for_role(owner, {Role.PROTECTED}, timeout_seconds)

    def start_again(self, node: Node, *, bootstrap: bool = False) -> None:
        """Starts the process of a node that has ended once more, over the same files."""
        node.process = node.host.start(self._command(node.host, bootstrap=bootstrap), log=f"{NODE_LOG}.again")

    @property
    def build(self) -> str:
        """What stands before a command where the lab's build runs."""
        # What is shipped is what is tested, wherever nothing is asked for that only the lab's build has.
        return "env FTVMM_CORE=lab " if self._mutants or self._failpoints is not None else ""

    def _command(self, host: Host, *, bootstrap: bool) -> str:
        flags = " --bootstrap" if bootstrap else ""
        return f"{self.build}{host.python} -m ftvmm node --config {CONFIG_PATH}{flags}"

    def wait_until(
        self,
        condition: Callable[[], bool],
        *,
        what: str,
        timeout_seconds: float = 30,
        explain: Callable[[], str] = lambda: "",
    ) -> None:
        """Waits for an event outside this process.

        Args:
            condition: looked at until it holds.
            what: the event, for the error message.
            timeout_seconds: after this long, at this machine's pace, the event counts as never coming.
            explain: says what was seen instead.

        Raises:
            PairError: the event did not come.
        """
        timeout_seconds = self.lab.pace.stretch(timeout_seconds)
        interval_seconds = min(self.lab.pace.stretch(_POLL_SECONDS), _POLL_SECONDS_MAX)
        if not wait_until(condition, timeout_seconds=timeout_seconds, interval_seconds=interval_seconds):
            raise PairError(f"{what}: not within {timeout_seconds:g} s. {explain()}".rstrip())

    def _wait_for_role(self, node: Node, roles: Set[Role], timeout_seconds: float = 30) -> None:
        def reached() -> bool:
            role = node.role
            if role is None and not self._managers and not node.process.is_running():
                raise PairError(f"the node on {node.name} ended while it was waited for: {node.log()[-2000:]}")
            return role in roles

        self.wait_until(
            reached,
            what=f"the node on {node.name} becomes {' or '.join(sorted(roles))}",
            timeout_seconds=timeout_seconds,
            explain=lambda: f"It printed: {node.log()[-2000:]}",
        )

    def node_in(self, roles: Set[Role]) -> Node:
        """The one node that has one of these roles now.

        Raises:
            PairError: none has, or two have.
        """
        found, seen = self._nodes_in(roles)
        if len(found) > 1:
            # They were asked one after the other, and a role may have passed on in between.
            found, seen = self._nodes_in(roles)
        if len(found) != 1:
            how_many = "two nodes are" if found else "no node is"
            raise PairError(f"{how_many} {' or '.join(sorted(roles))}: {seen}")
        return found[0]

    def _nodes_in(self, roles: Set[Role]) -> tuple[list[Node], dict[str, str]]:
        """The nodes in these roles, and what each node says."""
        seen = {node.name: node.role for node in self.nodes.values()}
        found = [node for node in self.nodes.values() if seen[node.name] in roles]
        return found, {name: role or "silent" for name, role in seen.items()}

    @property
    def primary(self) -> Node:
        """The node that owns the VM now."""
        return self.node_in(OWNING)

    @property
    def backup(self) -> Node:
        """The node that replays now."""
        return self.node_in({Role.BACKUP})

    def other(self, node: Node) -> Node:
        """The node that `node` is not."""
        return next(candidate for candidate in self.nodes.values() if candidate is not node)

    def wait_until_alone(self, node: Node, timeout_seconds: float = 20) -> None:
        """Waits until a node owns the VM without a partner."""
        self._wait_for_role(node, {Role.ALONE}, timeout_seconds)

    def wait_until_kept_from_takeover(self, node: Node, timeout_seconds: float = 20) -> None:
        """Waits until a candidate says that it lacks something which it needs to take over, such as the arbiter."""

        def kept() -> bool:
            status = node.status()
            return status is not None and status["role"] == Role.CANDIDATE and status["not_protected"] is not None

        self.wait_until(kept, what=f"{node.name} cannot take over", timeout_seconds=timeout_seconds)

    def wait_until_halted(self, node: Node, timeout_seconds: float = 20) -> None:
        """Waits until a node has ended itself, by its process and not by its word.

        Raises:
            PairError: it still runs.
        """
        self.wait_until(
            lambda: not node.process.is_running(),
            what=f"the node on {node.name} halts",
            timeout_seconds=timeout_seconds,
            explain=lambda: f"It printed: {node.log()[-2000:]}",
        )

    def wait_until_either_halts(self, first: Node, second: Node, timeout_seconds: float = 20) -> Node:
        """Waits until one of two nodes has ended itself, and returns it."""
        halted: list[Node] = []

        def seen() -> bool:
            halted.extend(node for node in (first, second) if not node.process.is_running())
            return bool(halted)

        self.wait_until(seen, what=f"{first.name} or {second.name} halts", timeout_seconds=timeout_seconds)
        return halted[0]

    def wait_for_console(self, nodes: Sequence[Node], text: str, timeout_seconds: float = 20) -> None:
        """Waits until the guest on one of these nodes has printed a text."""

        def printed() -> bool:
            return any(text.encode() in node.host.read_file(topology.CONSOLE_PATH) for node in nodes)

        names = " or ".join(node.name for node in nodes)
        self.wait_until(printed, what=f"the guest on {names} prints {text!r}", timeout_seconds=timeout_seconds)

    def wait_for_event(self, node: Node, event: str, timeout_seconds: float = 20, **fields: object) -> dict[str, Any]:
        """Waits until a node's trace has an event with these fields, and returns it."""
        found: list[dict[str, Any]] = []

        def seen() -> bool:
            found.extend(
                entry
                for entry in node.trace()
                if entry["event"] == event and all(entry.get(name) == value for name, value in fields.items())
            )
            return bool(found)

        self.wait_until(
            seen, what=f"{node.name}'s trace tells of {event} {fields or ''}", timeout_seconds=timeout_seconds
        )
        return found[0]

    def stop(self) -> None:
        """Stops all nodes at once, each as far as its host still answers, and before them their managers."""
        for manager in self._managers:
            with contextlib.suppress(LabError):
                manager.signal("TERM")
                manager.wait(self.lab.pace.stretch(5))
        if self._managers:
            # Some of their processes the managers have started.
            for node in self.nodes.values():
                node.stop()
        told = []
        for node in self.nodes.values():
            with contextlib.suppress(HostUnreachableError, CommandFailedError):
                if node.process.is_running():
                    node.process.signal("TERM")
                    told.append(node)
        for node in told:
            try:
                node.process.wait(self.lab.pace.stretch(5))
            except HostUnreachableError:
                continue
            except LabError:
                node.process.signal("KILL")
