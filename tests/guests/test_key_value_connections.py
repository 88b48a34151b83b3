"""The key-value guest's connections, frame by frame, with a client whose network repeats what it has sent."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dpkt
import pytest
from dpkt.tcp import TH_ACK, TH_FIN, TH_PUSH, TH_RST, TH_SYN

from tests.guests.conftest import GUEST_ADDRESS, HOST_ADDRESS
from tests.guests.guest import Guest

PORT = 6379
FRAME_S_MAX = 10.0
# linux/if_ether.h: frames of every protocol
ETH_P_ALL = 3
# A neighbour that the kernel does not know of, so that it resets none of its connections.
CLIENT = "10.0.0.9"
CLIENT_MAC = bytes.fromhex("020000000009")
CLIENT_PORT = 40000
BROADCAST = bytes.fromhex("ffffffffffff")


class Wire:
    """The frames on the guest's network, and a client on it that is nothing but frames."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.bind(("tap0", 0))
        self._socket.settimeout(FRAME_S_MAX)
        self.guest_mac = BROADCAST

    def close(self) -> None:
        self._socket.close()

    def expect(self, is_awaited: Callable[[dpkt.ip.IP, dpkt.tcp.TCP], bool]) -> list[tuple[dpkt.ip.IP, dpkt.tcp.TCP]]:
        """The TCP segments up to the first that is awaited, that one the last; fails when it does not come."""
        segments = []
        while True:
            ethernet = dpkt.ethernet.Ethernet(self._socket.recv(65536))
            if isinstance(ethernet.data, dpkt.ip.IP) and isinstance(ethernet.data.data, dpkt.tcp.TCP):
                segments.append((ethernet.data, ethernet.data.data))
                if is_awaited(*segments[-1]):
                    return segments

    def introduce(self) -> None:
        """Tell the guest where the client is, and learn where the guest is."""
        request = dpkt.arp.ARP(
            sha=CLIENT_MAC, spa=socket.inet_aton(CLIENT), tha=bytes(6), tpa=socket.inet_aton(GUEST_ADDRESS)
        )
        self._send(dpkt.ethernet.ETH_TYPE_ARP, request)
        while self.guest_mac == BROADCAST:
            ethernet = dpkt.ethernet.Ethernet(self._socket.recv(65536))
            if isinstance(ethernet.data, dpkt.arp.ARP) and ethernet.data.op == dpkt.arp.ARP_OP_REPLY:
                self.guest_mac = ethernet.data.sha

    def send(self, flags: int, *, sequence: int, acknowledged: int = 0, data: bytes = b"") -> None:
        """Send one segment of the client's connection."""
        tcp = dpkt.tcp.TCP(
            sport=CLIENT_PORT, dport=PORT, seq=sequence, ack=acknowledged, flags=flags, win=65535, data=data
        )
        ip = dpkt.ip.IP(
            src=socket.inet_aton(CLIENT), dst=socket.inet_aton(GUEST_ADDRESS), p=dpkt.ip.IP_PROTO_TCP, data=tcp
        )
        ip.len = len(ip)
        self._send(dpkt.ethernet.ETH_TYPE_IP, ip)

    def _send(self, kind: int, data: dpkt.Packet) -> None:
        frame = dpkt.ethernet.Ethernet(dst=self.guest_mac, src=CLIENT_MAC, type=kind, data=data)
        self._socket.send(bytes(frame))


@contextmanager
def redis_connection() -> Iterator[socket.socket]:
    """A connection of the kernel's TCP, served."""
    with socket.create_connection((GUEST_ADDRESS, PORT), timeout=FRAME_S_MAX) as connection:
        ping(connection)
        yield connection


def ping(connection: socket.socket) -> None:
    connection.sendall(b"PING\r\n")
    assert connection.recv(100) == b"+PONG\r\n"


def is_to_client(ip: dpkt.ip.IP) -> bool:
    return bool(ip.dst == socket.inet_aton(CLIENT))


@pytest.fixture
def wire(key_value: Guest) -> Iterator[Wire]:
    wire = Wire()
    try:
        wire.introduce()
        yield wire
    finally:
        wire.close()


def test_a_repeated_syn_of_a_connection_being_opened_is_not_answered_by_a_socket_that_listens(wire: Wire) -> None:
    """A lost or late SYN-ACK makes the client repeat its SYN; two answers with two initial sequence numbers would make
    it reset both (RFC 9293, 3.8.1 and 3.10.7.3)."""
    with redis_connection() as other:
        # The guest asks its sockets in the order in which they were made. An earlier one is free again before the SYN
        # comes a second time, and the client's connection is being opened on a later one.
        with redis_connection() as first:
            first_port = first.getsockname()[1]
            wire.send(TH_SYN, sequence=1000)
            answers = wire.expect(lambda ip, tcp: is_to_client(ip) and tcp.flags == TH_SYN | TH_ACK)
            initial = answers[-1][1].seq
            first.shutdown(socket.SHUT_WR)
            assert first.recv(1) == b""
        closed = wire.expect(lambda ip, tcp: tcp.sport == PORT and tcp.dport == first_port and bool(tcp.flags & TH_FIN))
        end = closed[-1][1].seq + 1
        wire.expect(
            lambda ip, tcp: ip.src == socket.inet_aton(HOST_ADDRESS) and tcp.sport == first_port and tcp.ack == end
        )
        ping(other)
        wire.send(TH_SYN, sequence=1000)
        # What is sent later is answered later: by then the guest has read the SYN.
        other_port = other.getsockname()[1]
        other.sendall(b"PING\r\n")
        segments = wire.expect(lambda ip, tcp: tcp.dport == other_port and tcp.data == b"+PONG\r\n")
    # The connection opens as if the network had repeated nothing.
    wire.send(TH_ACK | TH_PUSH, sequence=1001, acknowledged=initial + 1, data=b"PING\r\n")
    segments += wire.expect(lambda ip, tcp: is_to_client(ip) and bool(tcp.data or tcp.flags & TH_RST))
    assert segments[-1][1].data == b"+PONG\r\n"
    assert {tcp.seq for ip, tcp in segments if is_to_client(ip) and tcp.flags & TH_SYN} <= {initial}
