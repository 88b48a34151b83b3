"""The wire as captures of two hosts show it: what left, what came, what was never said by a node."""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass, field

import dpkt
import pytest

from harness.evidence.capture import Direction, Frame
from harness.evidence.wire.channel import nonces, tag
from harness.evidence.wire.messages import Answer, Entries, Heartbeat
from harness.evidence.wire.wire import Wire, read_wire
from tests.evidence.test_wire_page import DIALLER, KEY, LISTENER, example

A, B = "host-a", "host-b"
NUMBERS = {A: 11, B: 12, "host-c": 13}
SENT, RECEIVED = Direction.SENT, Direction.RECEIVED
DATAGRAM = example("datagram")


@dataclass
class Network:
    """Frames at the switch's ports; the clock goes on by one with each."""

    now_ns: int = 1000
    frames: dict[tuple[str, str, Direction], list[Frame]] = field(default_factory=lambda: defaultdict(list))

    def pass_by(self, network: str, host: str, direction: Direction, content: bytes) -> int:
        self.now_ns += 1
        key = network, host, direction
        self.frames[key].append(Frame(host, network, direction, len(self.frames[key]) + 1, self.now_ns, content))
        return self.now_ns

    def segment(self, sender: str, sequence: int, payload: bytes = b"", *, lost: bool = False, **fields: int) -> None:
        """A segment of the log connection that host-a dials, at both ports."""
        receiver = B if sender == A else A
        source, destination = (40000, 7001) if sender == A else (7001, 40000)
        flags = fields.get("flags", dpkt.tcp.TH_ACK)
        acknowledged = fields.get("ack", 0)
        tcp = dpkt.tcp.TCP(sport=source, dport=destination, seq=sequence, ack=acknowledged, flags=flags, data=payload)
        content = packet("logging", sender, receiver, tcp, dpkt.ip.IP_PROTO_TCP)
        self.pass_by("logging", sender, SENT, content)
        if not lost:
            self.pass_by("logging", receiver, RECEIVED, content)

    def greet(self, dialler: int = 100, listener: int = 900) -> None:
        """The handshake of TCP."""
        self.segment(A, dialler - 1, flags=dpkt.tcp.TH_SYN)
        self.segment(B, listener - 1, flags=dpkt.tcp.TH_SYN | dpkt.tcp.TH_ACK, ack=dialler)

    def read(self) -> Wire:
        return read_wire(KEY, lambda *key: self.frames.get(key, []))


def packet(network: str, sender: str, receiver: str, transport: dpkt.Packet, protocol: int) -> bytes:
    third = {"logging": 1, "management": 2}[network]
    source, destination = (bytes([10, third, 0, NUMBERS[host]]) for host in (sender, receiver))
    ip = dpkt.ip.IP(src=source, dst=destination, p=protocol, data=transport)
    ip.len = len(ip)
    return bytes(dpkt.ethernet.Ethernet(src=b"\2" * 6, dst=b"\4" * 6, data=ip))


def beat(payload: bytes, sender: str = A, receiver: str = B) -> bytes:
    udp = dpkt.udp.UDP(sport=7002, dport=7002, ulen=8 + len(payload), data=payload)
    return packet("management", sender, receiver, udp, dpkt.ip.IP_PROTO_UDP)


@pytest.fixture
def network() -> Network:
    return Network()


def test_messages_are_read_with_their_times_at_both_ports(network: Network) -> None:
    network.greet()
    network.segment(A, 100, DIALLER[:40])
    network.segment(B, 900, LISTENER[:40])
    network.segment(A, 140, DIALLER[40:170])  # the Commit, and a part of the entries
    begun_ns = network.now_ns
    network.segment(A, 270, DIALLER[170:])
    network.segment(B, 940, LISTENER[40:])
    wire = network.read()
    assert wire.refused == []
    assert [(said.sender, said.receiver, type(said.body).__name__) for said in wire.messages] == [
        (A, B, "Commit"),
        (A, B, "Entries"),
        (B, A, "Answer"),
    ]
    commit, entries, answer = wire.messages
    assert (commit.left_ns, commit.arrived_ns) == (begun_ns - 1, begun_ns)
    assert (entries.left_ns, entries.arrived_ns) == (begun_ns + 1, begun_ns + 2)
    assert (answer.left_ns, answer.arrived_ns) == (begun_ns + 3, begun_ns + 4)
    assert {said.path for said in wire.messages} == {"log"}
    assert sorted(wire.entries_sent(A)) == sorted(wire.entries_arrived(B)) == [2, 3]
    assert (wire.entries_sent(B), wire.entries_arrived(A)) == ({}, {})


def test_a_message_has_arrived_when_all_before_it_has(network: Network) -> None:
    network.greet()
    network.segment(A, 100, DIALLER[:40])
    network.segment(B, 900, LISTENER)
    network.segment(A, 140, DIALLER[40:158], lost=True)
    lost_ns = network.now_ns
    network.segment(A, 258, DIALLER[158:])
    network.segment(A, 140, DIALLER[40:158])
    commit, entries = (said for said in network.read().messages if said.sender == A)
    assert (commit.left_ns, commit.arrived_ns) == (lost_ns, lost_ns + 4)
    assert (entries.left_ns, entries.arrived_ns) == (lost_ns + 1, lost_ns + 4)


def test_what_never_came_whole_has_left_and_not_arrived(network: Network) -> None:
    network.greet()
    network.segment(A, 100, DIALLER[:300])
    network.segment(B, 900, LISTENER)
    network.segment(A, 400, DIALLER[300:], lost=True)
    wire = network.read()
    ((said, body),) = wire.of(Entries)
    assert said.left_ns is not None
    assert said.arrived_ns is None
    assert (len(body.entries), wire.entries_arrived(B)) == (2, {})
    assert sorted(wire.entries_sent(A)) == [2, 3]


def test_what_a_port_missed_has_come_where_its_receiver_acknowledges_it(network: Network) -> None:
    """By the very segment that answers it: whatever two ports' clocks say, no answer comes before its question."""
    network.greet()
    network.segment(A, 100, DIALLER[:158], ack=900)
    network.segment(B, 900, LISTENER[:40], ack=258)
    network.segment(A, 258, DIALLER[158:], ack=940, lost=True)
    network.segment(B, 940, LISTENER[40:], ack=100 + len(DIALLER) - 1)
    (before,) = network.read().of(Entries)
    assert before[0].arrived_ns is None, "its last byte is asked for"
    network.segment(B, 940, LISTENER[40:], ack=100 + len(DIALLER))
    ((entries, _),), ((answer, _),) = (list(network.read().of(kind)) for kind in (Entries, Answer))
    assert entries.arrived_ns == network.now_ns - 1
    assert answer.left_ns == network.now_ns - 3


def test_a_corrupted_stream_ends_at_the_first_bad_tag_and_is_told(network: Network) -> None:
    broken = bytearray(DIALLER)
    broken[60] ^= 1
    network.greet()
    network.segment(A, 100, bytes(broken))
    left_ns = network.now_ns - 1
    network.segment(B, 900, LISTENER)
    wire = network.read()
    assert [type(said.body) for said in wire.messages] == [Answer]
    (refused,) = wire.refused
    assert (refused.sender, refused.receiver, refused.path, refused.offset) == (A, B, "log", 40)
    assert refused.at_ns == left_ns
    assert "the tag of frame 0 does not fit" in refused.reason


def test_a_stranger_on_the_log_port_is_refused(network: Network) -> None:
    network.greet()
    network.segment(A, 100, b"GET / HTTP/1.1\r\n")
    assert "magic" in network.read().refused[0].reason


def test_a_connection_without_its_beginning_is_told(network: Network) -> None:
    network.segment(A, 100, DIALLER)
    wire = network.read()
    assert wire.messages == []
    assert "beginning was not captured" in wire.refused[0].reason


def test_ports_that_saw_different_bytes_are_told(network: Network) -> None:
    network.greet()
    network.segment(A, 100, DIALLER)
    network.segment(B, 900, LISTENER, lost=True)
    other = LISTENER[:-1] + b"?"
    tcp = dpkt.tcp.TCP(sport=7001, dport=40000, seq=900, flags=dpkt.tcp.TH_ACK, data=other)
    network.pass_by("logging", A, RECEIVED, packet("logging", B, A, tcp, dpkt.ip.IP_PROTO_TCP))
    assert "different bytes" in network.read().refused[0].reason


def test_each_sending_of_a_datagram_has_its_own_arrival(network: Network) -> None:
    """The third is said again by another host, which is where it left."""
    times = []
    for sender in (A, A, "host-c"):
        times.append(network.pass_by("management", sender, SENT, beat(DATAGRAM)))
        if len(times) != 2:
            network.pass_by("management", B, RECEIVED, beat(DATAGRAM))
    wire = network.read()
    assert [(said.sender, said.left_ns, said.arrived_ns) for said in wire.messages] == [
        (A, times[0], times[0] + 1),
        (A, times[1], times[2] + 1),
        ("host-c", times[2], None),
    ]
    assert {said.path for said in wire.messages} == {"heartbeat-management"}
    assert all(
        said.body == Heartbeat(1, "f1" * 16) and said.incarnation == "1122334455667788" for said in wire.messages
    )


def test_forged_and_flooded_datagrams(network: Network) -> None:
    forged = DATAGRAM[:-16] + bytes(16)
    network.pass_by("management", "host-c", SENT, beat(forged, sender=A))
    network.pass_by("management", B, RECEIVED, beat(forged))
    network.pass_by("management", "host-c", RECEIVED, beat(DATAGRAM))
    wire = network.read()
    assert wire.messages == [], "what the switch flooded to a third host was not sent to it"
    assert [(one.sender, one.receiver, one.path) for one in wire.refused] == [("host-c", B, "heartbeat-management")]


def test_a_datagram_that_no_port_saw_leave_has_come_all_the_same(network: Network) -> None:
    at_ns = network.pass_by("management", B, RECEIVED, beat(DATAGRAM))
    (said,) = network.read().messages
    assert (said.sender, said.left_ns, said.arrived_ns) == (A, None, at_ns)


def test_a_damaged_entry_is_refused_even_under_a_right_tag(network: Network) -> None:
    payload = bytearray(DIALLER[158 + 5 : -16])
    payload[-1] ^= 1
    number = struct.pack("<Q", 1)
    both = nonces(DIALLER, LISTENER)
    assert both is not None
    sealed = bytes(payload) + tag(KEY, b"\1", both, b"\3", number, b"\2", bytes(payload))
    network.greet()
    network.segment(A, 100, DIALLER[:163] + sealed)
    network.segment(B, 900, LISTENER)
    assert "checksum of entry 3" in network.read().refused[0].reason
