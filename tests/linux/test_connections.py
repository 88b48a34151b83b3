"""A packed server with a thousand clients at once: each is answered, and what they took comes back when they go."""

import resource
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.guests.conftest import GUEST_ADDRESS
from tests.linux.clients import MQTT_PORT, REDIS_PORT, REPLY_S_MAX, connect, send_parts_of_datagrams
from tests.linux.conftest import Packer
from tests.linux.linux_guest import FILES, Package, boot, needed

CLIENTS = 1000
ROUNDS = 3
MEMORY_MIB = 256
"""Room for a thousand connections and not for two thousand: what the first take has to come back."""
SMALL_MEMORY_MIB = 112
"""Room for some hundred connections."""
SMALLEST_MEMORY_MIB = 48
"""Of whose heap the buffers of datagrams are a large part."""
HALF_DATAGRAMS = 8
"""As many as the guest puts together at once."""
DESCRIPTORS = CLIENTS + 200
"""The clients', and what the tests have open beside them."""
LEAVING = 20
LOOK_MS = 50
MQTT_CONNECT, MQTT_ACCEPTED = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", b"\x20\x02\x00\x00"
"""Of a client without a name, and the broker's answer (MQTT 3.1.1, sections 3.1 and 3.2)."""
TCP_INFO_BYTES, RETRANSMITS = 8, 2
"""What is asked for of `tcp_info`, and where `tcpi_retransmits` is in it (Linux's include/uapi/linux/tcp.h)."""


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """As many descriptors as the clients take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < DESCRIPTORS:
        pytest.skip(f"needs {DESCRIPTORS} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def ask(clients: list[socket.socket], request: bytes, reply: bytes) -> None:
    """All clients ask before the first looks for its reply."""
    for client in clients:
        client.sendall(request)
    for client in clients:
        received = b""
        while len(received) < len(reply):
            part = client.recv(len(reply) - len(received))
            assert part, f"the connection ended after {received!r}"
            received += part
        assert received == reply


@contextmanager
def connected(count: int) -> Iterator[list[socket.socket]]:
    """So many clients of Redis, each answered once."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(REDIS_PORT)) for _ in range(count)]
        ask(clients, b"PING\r\n", b"+PONG\r\n")
        yield clients


def test_a_thousand_connections_are_answered_and_give_back_what_they_took(
    redis_image: Path, service_network: tuple[str, ...]
) -> None:
    value = b"x" * 2000
    with boot(redis_image, *service_network, memory_mib=MEMORY_MIB) as guest:
        guest.expect("Ready to accept connections")
        for number in range(ROUNDS):
            with connected(CLIENTS) as clients:
                ask(clients[:1], b"SET value %s\r\n" % value, b"+OK\r\n")
                ask(clients, b"GET value\r\n", b"$%d\r\n%s\r\n" % (len(value), value))
                if number > 0:
                    # The guest is the one that ends them, and so the one that waits for stray segments.
                    ask(clients, b"QUIT\r\n", b"+OK\r\n")
                    assert all(client.recv(1) == b"" for client in clients)


def is_let_in(client: socket.socket) -> bool:
    """Whether a connection is opened before it is asked for a second time."""
    poll = select.poll()
    poll.register(client, select.POLLOUT)
    while not poll.poll(LOOK_MS):
        if client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)[RETRANSMITS] > 0:
            return False
    return True


def fill(stack: ExitStack, port: int, request: bytes, reply: bytes) -> tuple[list[socket.socket], socket.socket]:
    """As many clients as find room, each answered once, and the first that does not."""
    clients: list[socket.socket] = []
    while True:
        late = stack.enter_context(socket.socket())
        late.setblocking(False)
        late.connect_ex((GUEST_ADDRESS, port))
        if not is_let_in(late):
            return clients, late
        late.settimeout(REPLY_S_MAX)
        clients.append(late)
        ask([late], request, reply)
        assert len(clients) < CLIENTS


def test_who_finds_no_room_gets_in_when_others_go(redis_image: Path, service_network: tuple[str, ...]) -> None:
    with boot(redis_image, *service_network, memory_mib=SMALL_MEMORY_MIB) as guest, ExitStack() as stack:
        guest.expect("Ready to accept connections")
        clients, late = fill(stack, REDIS_PORT, b"PING\r\n", b"+PONG\r\n")
        # Those that are in are answered still, with more than fits into one segment.
        value = b"x" * 10_000
        ask(clients[:1], b"SET value %s\r\n" % value, b"+OK\r\n")
        ask(clients, b"GET value\r\n", b"$%d\r\n%s\r\n" % (len(value), value))
        # The burst has taken memory too, for the frames that came at once.
        for client in clients[:LEAVING]:
            client.close()
        late.settimeout(REPLY_S_MAX)
        ask([late], b"PING\r\n", b"+PONG\r\n")


def test_datagrams_that_come_in_parts_find_room_where_connections_find_none(
    packed: Packer, service_network: tuple[str, ...]
) -> None:
    program = needed("mosquitto", package="mosquitto")
    configuration = {"/etc/mosquitto.conf": FILES / "mosquitto.conf"}
    image = packed(Package(program, ("-c", "/etc/mosquitto.conf"), files=configuration))
    with boot(image, *service_network, memory_mib=SMALLEST_MEMORY_MIB) as guest, ExitStack() as stack:
        guest.expect(r"mosquitto version \S+ running")
        clients, _ = fill(stack, MQTT_PORT, MQTT_CONNECT, MQTT_ACCEPTED)
        # Their buffers grow to their full size, a part of each after the other.
        send_parts_of_datagrams(HALF_DATAGRAMS, range(44))
        ask(clients, b"\xc0\x00", b"\xd0\x00")
