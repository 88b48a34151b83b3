"""Clients of the programs in the VM: bytes over TCP, and no more of each protocol than the tests speak."""

import http.client
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from tests.guests.conftest import GUEST_ADDRESS, HOST_ADDRESS

REPLY_S_MAX = 20.0
REDIS_PORT, MEMCACHED_PORT, MQTT_PORT = 6379, 11211, 1883
FRAGMENT_BYTES = 1480
"""What a packet of 1500 bytes carries."""


def connect(port: int) -> socket.socket:
    """A connection to the guest."""
    return socket.create_connection((GUEST_ADDRESS, port), timeout=REPLY_S_MAX)


def send_parts_of_datagrams(count: int, parts: range) -> None:
    """Sends those parts (1480 bytes each, from 0) of so many UDP datagrams, one part of each after the other. None is a
    last part, so that the datagrams never come whole (RFC 791, section 3.1)."""
    more_follow = 1 << 13
    addresses = socket.inet_aton(HOST_ADDRESS) + socket.inet_aton(GUEST_ADDRESS)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
        for part in parts:
            for identification in range(1, count + 1):
                # The kernel fills in the length and the checksum.
                fragment = more_follow | part * FRAGMENT_BYTES // 8
                head = struct.pack("!BBHHHBBH", 0x45, 0, 0, identification, fragment, 64, socket.IPPROTO_UDP, 0)
                sender.sendto(head + addresses + bytes(FRAGMENT_BYTES), (GUEST_ADDRESS, 0))


@contextmanager
def browser(port: int) -> Iterator[http.client.HTTPConnection]:
    """A connection for requests by HTTP, one after the other."""
    connection = http.client.HTTPConnection(GUEST_ADDRESS, port, timeout=REPLY_S_MAX)
    try:
        yield connection
    finally:
        connection.close()


def ask(
    connection: http.client.HTTPConnection, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    """One request over a connection that stays; the status and the body of the answer."""
    connection.request("GET" if body is None else "POST", path, body=body, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


@contextmanager
def redis_client() -> Iterator[redis.Redis]:
    """A client of Redis, with text for bytes."""
    with redis.Redis(GUEST_ADDRESS, REDIS_PORT, socket_timeout=REPLY_S_MAX, decode_responses=True) as client:
        yield client


def end_redis() -> None:
    """Tells Redis to end; its connections end with it."""
    with connect(REDIS_PORT) as connection:
        connection.sendall(b"SHUTDOWN NOSAVE\r\n")
        assert connection.recv(1) == b""


def memcached(connection: socket.socket, request: bytes, *, length: int = 0) -> list[bytes]:
    """One request; the lines of the reply, and after a VALUE line the value of this length."""
    connection.sendall(request)
    with connection.makefile("rb") as reader:
        lines = [reader.readline().rstrip(b"\r\n")]
        if lines[0].startswith(b"VALUE"):
            lines += [reader.read(length + 2)[:-2], reader.readline().rstrip(b"\r\n")]
    return lines


class MqttClient:
    """A client of a broker by MQTT 3.1.1; only short packets, whose length is one byte."""

    CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90
    PINGREQ, PINGRESP = 0xC0, 0xD0
    AT_LEAST_ONCE = 0x02

    def __init__(self, name: str) -> None:
        """Opens a session with an empty state."""
        self._connection = connect(MQTT_PORT)
        self._reader = self._connection.makefile("rb")
        self.send(self.CONNECT, self.text("MQTT") + bytes((4, 2, 0, 0)) + self.text(name))
        assert self.receive() == (self.CONNACK, bytes(2))

    def close(self) -> None:
        """Closes the connection, without a word to the broker."""
        self._reader.close()
        self._connection.close()

    @staticmethod
    def text(text: str) -> bytes:
        """A text as the protocol has it, with its length in front."""
        return len(text).to_bytes(2, "big") + text.encode()

    def send(self, kind: int, content: bytes) -> None:
        """Sends a packet of this kind, with its flags."""
        assert len(content) < 128
        self._connection.sendall(bytes((kind, len(content))) + content)

    def receive(self) -> tuple[int, bytes]:
        """The next packet: its kind with its flags, and its content."""
        kind, length = self._reader.read(2)
        return kind, self._reader.read(length)
