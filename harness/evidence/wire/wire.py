"""All that the nodes said to each other, as it left one host and came to the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from harness.evidence.capture import Direction, Frame
from harness.evidence.wire.channel import StreamRefusedError, nonces, open_datagram, read_stream
from harness.evidence.wire.messages import Body, Commit, Entries, LogEntry, Message, Welcome, WireFormatError
from harness.evidence.wire.packets import datagrams, segments
from harness.evidence.wire.streams import Connection, Reassembly
from harness.lab import topology

LOG_PATH = "log"
_HEARTBEAT_NETWORKS = (topology.LOGGING, topology.MANAGEMENT)
# The hosts that nodes run on, by their addresses' last byte: the same on every network.
_HOSTS = {plan.number: plan.name for plan in topology.FAULT_TOLERANT_PLANS}

Kind = TypeVar("Kind", bound=Body)
# The frames that a host sent into a network or received from it, in order of time.
Frames = Callable[[str, str, Direction], list[Frame]]


@dataclass(frozen=True, slots=True)
class Said:
    """One authenticated message between nodes.

    Attributes:
        sender: the host whose port it left by (its address, where it left by none).
        receiver: the host that it was sent to.
        path: `log`, `heartbeat-logging` or `heartbeat-management`.
        left_ns: when its last byte passed the sender's port, CLOCK_REALTIME; None: no capture saw that.
        arrived_ns: when it and all before it on its connection had passed the receiver's port, or the receiver's TCP
            said so; None: never whole.
        body: what is said.
    """

    sender: str
    receiver: str
    path: str
    left_ns: int | None
    arrived_ns: int | None
    generation: int
    incarnation: str
    session: int
    sequence: int
    stamp_ns: int
    echo_ns: int
    body: Body

    @property
    def seen_ns(self) -> int:
        """When it was first seen: as it left, or as it came where it left unseen."""
        return self.left_ns or self.arrived_ns or 0


@dataclass(frozen=True, slots=True)
class Refused:
    """Bytes on a node's path that none of the VM's nodes said there, or not in this form.

    Attributes:
        sender: the host that they came from, by their address.
        receiver: the host that they were sent to.
        path: as of `Said`.
        at_ns: when they were first seen, CLOCK_REALTIME.
        offset: where in the stream or datagram.
        reason: what does not fit.
    """

    sender: str
    receiver: str
    path: str
    at_ns: int
    offset: int
    reason: str


class Wire:
    """What passed between the nodes of a run.

    Args:
        messages: in any order.
        refused: in any order.
    """

    def __init__(self, messages: list[Said], refused: list[Refused]) -> None:
        self.messages = sorted(messages, key=lambda one: one.seen_ns)
        self.refused = sorted(refused, key=lambda one: one.at_ns)

    def of(self, kind: type[Kind]) -> Iterator[tuple[Said, Kind]]:
        """The messages of one kind, each with its body."""
        for said in self.messages:
            if isinstance(said.body, kind):
                yield said, said.body

    def entries_sent(self, host: str, incarnation: str | None = None) -> dict[int, LogEntry]:
        """The log entries that left a host (of one incarnation, or of any), by position; the last of each counts."""
        return {
            entry.position: entry
            for said, body in self.of(Entries)
            if said.sender == host and said.left_ns is not None and incarnation in (None, said.incarnation)
            for entry in body.entries
        }

    def entries_arrived(self, host: str) -> dict[int, LogEntry]:
        """The log entries that came to a host, by position; the last of each counts."""
        return {
            entry.position: entry
            for said, body in self.of(Entries)
            if said.receiver == host and said.arrived_ns is not None
            for entry in body.entries
        }

    def carried_from(self, incarnation: str) -> tuple[str, int] | None:
        """Whose guest's state COMMIT gave to a joiner, and at which position; None: it began with the initial one."""
        return self._carried.get(incarnation)

    @property
    def states_carried(self) -> set[tuple[str, int]]:
        """From whom COMMIT gave the state of a guest that ran to a joiner, and at which position."""
        return set(self._carried.values())

    @cached_property
    def _carried(self) -> dict[str, tuple[str, int]]:
        joiners = {(said.receiver, said.generation, said.session): said.incarnation for said, _ in self.of(Welcome)}
        carried = {}
        for said, body in self.of(Commit):
            joiner = joiners.get((said.sender, said.generation, said.session))
            if body.position and joiner is not None:
                carried[joiner] = said.incarnation, body.position
        return carried


def read_wire(key: bytes, frames: Frames) -> Wire:
    """Decode all that was captured between the FT hosts."""
    messages: list[Said] = []
    refused: list[Refused] = []
    reassembly = Reassembly(topology.LOGGING_PROXY_PORT)
    for plan in topology.FAULT_TOLERANT_PLANS:
        address = address_of(plan.address(topology.LOGGING))
        for direction in Direction:
            found = segments(frames(topology.LOGGING, plan.name, direction), topology.LOGGING_PROXY_PORT)
            reassembly.add(found, address, sent=direction is Direction.SENT)
    for connection in reassembly.connections:
        _read_connection(key, connection, messages, refused)
    if reassembly.headless:
        reason = f"{reassembly.headless} segments belong to connections whose beginning was not captured"
        refused.append(Refused("", "", LOG_PATH, 0, 0, reason))
    for network in _HEARTBEAT_NETWORKS:
        _read_datagrams(key, network, frames, messages, refused)
    return Wire(messages, refused)


def address_of(text: str) -> bytes:
    """An IPv4 address as packets have it."""
    return bytes(map(int, text.split(".")))


def host_at(address: bytes) -> str:
    """The FT host with this address on any network; the address itself where it is nobody's."""
    return _HOSTS.get(address[3], ".".join(map(str, address)))


def _said(message: Message, sender: str, receiver: str, path: str, left_ns: int | None, arrived_ns: int | None) -> Said:
    return Said(
        sender,
        receiver,
        path,
        left_ns,
        arrived_ns,
        message.generation,
        message.incarnation,
        message.session,
        message.sequence,
        message.stamp_ns,
        message.echo_ns,
        message.body,
    )


def _read_connection(key: bytes, connection: Connection, messages: list[Said], refused: list[Refused]) -> None:
    dialler, listener = host_at(connection.dialler), host_at(connection.listener)
    both = nonces(connection.from_dialler.content, connection.from_listener.content)
    for way, from_dialler in ((connection.from_dialler, True), (connection.from_listener, False)):
        sender, receiver = (dialler, listener) if from_dialler else (listener, dialler)
        try:
            for placed in read_stream(key, way.content, both, from_dialler=from_dialler):
                left_ns, arrived_ns = way.left_ns(placed.start, placed.end), way.arrived_ns(placed.end)
                messages.append(_said(placed.message, sender, receiver, LOG_PATH, left_ns, arrived_ns))
            if not way.is_consistent:
                raise StreamRefusedError(0, "its two ports saw different bytes")
        except StreamRefusedError as error:
            at = error.offset
            at_ns = way.left_ns(at, at + 1) or way.arrived_ns(at + 1) or connection.start_ns
            refused.append(Refused(sender, receiver, LOG_PATH, at_ns, at, f"connection {connection}: {error}"))


def _read_datagrams(key: bytes, network: str, frames: Frames, messages: list[Said], refused: list[Refused]) -> None:
    path = f"heartbeat-{network}"
    port = topology.HEARTBEAT_PORT
    # The same bytes can pass more than once, for a datagram can be sent again: each sending has one arrival at most.
    arrivals: dict[tuple[bytes, bytes, bytes], list[int]] = defaultdict(list)
    for plan in topology.FAULT_TOLERANT_PLANS:
        own = address_of(plan.address(network))
        for one in datagrams(frames(network, plan.name, Direction.RECEIVED), port):
            if one.destination == own:
                arrivals[one.source, one.destination, one.payload].append(one.wall_ns)
    passed: list[tuple[str, bytes, bytes, int | None, int | None]] = []
    for plan in topology.FAULT_TOLERANT_PLANS:
        for one in datagrams(frames(network, plan.name, Direction.SENT), port):
            came = arrivals.get((one.source, one.destination, one.payload), [])
            # In order of time on both sides; one that came before this left belongs to another sending.
            number = next((at for at, came_ns in enumerate(came) if came_ns >= one.wall_ns), None)
            arrived_ns = None if number is None else came.pop(number)
            passed.append((plan.name, one.destination, one.payload, one.wall_ns, arrived_ns))
    for (source, destination, payload), came in arrivals.items():
        passed += [(host_at(source), destination, payload, None, came_ns) for came_ns in came]
    for sender, destination, payload, left_ns, arrived_ns in passed:
        receiver = host_at(destination)
        try:
            message = open_datagram(key, payload)
        except WireFormatError as error:
            refused.append(Refused(sender, receiver, path, left_ns or arrived_ns or 0, 0, str(error)))
        else:
            messages.append(_said(message, sender, receiver, path, left_ns, arrived_ns))
