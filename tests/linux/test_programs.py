"""Programs as Debian has them, in the VM, each asked by its own clients; and compilers whose output is as natively."""

import hashlib
import json
import os
import random
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from ftvmm import _core
from tests.command_line.command import ftvmm
from tests.guests.conftest import GUEST_ADDRESS
from tests.guests.guest import Guest
from tests.linux.clients import (
    MEMCACHED_PORT,
    REDIS_PORT,
    REPLY_S_MAX,
    MqttClient,
    ask,
    browser,
    connect,
    end_redis,
    memcached,
    redis_client,
    send_parts_of_datagrams,
)
from tests.linux.conftest import Packer
from tests.linux.linux_guest import (
    BUILD_S_MAX,
    FILES,
    MEMORY_MIB,
    PROGRAMS,
    Ending,
    Package,
    boot,
    needed,
    run_native,
    run_packed,
)

CONNECTIONS = 32
REQUESTS = 400
DRAW = "return redis.call('RPUSH', KEYS[1], redis.call('SRANDMEMBER', 'numbers'), unpack(redis.call('TIME')))"
GO = Path("/usr/local/go/bin/go")
HALF_DATAGRAMS = 32
"""More than the guest puts together at once."""
PATIENCE_S = 0.5
"""How long a client waits before it sends a datagram again."""
LARGE_MEMORY_MIB = 1024
GO_MEMORY_MIB = 4096
"""Go reserves more than half a gigabyte of addresses before it starts; the host gives the pages that are touched."""
PYTHON = Path("/usr/bin/python3.11")
PYTHON_LIBRARY = Path("/usr/lib/python3.11")
NOT_NEEDED = ("test", "tests", "__pycache__", "config-*", "idlelib", "lib2to3", "ensurepip", "turtledemo", "tkinter")
"""What of Python's library no server needs."""


@contextmanager
def serving(image: Path, *options: str, line: str, memory_mib: int = MEMORY_MIB) -> Iterator[Guest]:
    """A guest that serves: it has written this line."""
    with boot(image, *options, memory_mib=memory_mib) as guest:
        guest.expect(line)
        yield guest


# Redis


def test_redis_serves_and_ends_in_order(redis_image: Path, service_network: tuple[str, ...]) -> None:
    with (
        serving(redis_image, *service_network, line="Ready to accept connections") as guest,
        redis_client() as client,
    ):
        assert client.ping()
        assert client.set("text", "x" * 100_000)
        assert client.get("text") == "x" * 100_000
        assert client.rpush("list", *range(100)) == 100
        assert client.lrange("list", -2, -1) == ["98", "99"]
        assert client.hset("hash", mapping={"a": "1", "b": "2"}) == 2
        assert client.zadd("sorted", {"one": 1, "two": 2, "three": 3}) == 3
        assert client.zrange("sorted", 0, -1) == ["one", "two", "three"]
        assert client.eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", 1, "counter", "41") == 41
        with client.pipeline(transaction=True) as commands:
            for _ in range(1000):
                commands.incr("counter")
            assert commands.execute() == list(range(42, 1042))
        assert client.expire("text", 100)
        assert 90 < client.ttl("text") <= 100
        assert client.save()
        end_redis()
        assert guest.wait() == 0


def test_redis_serves_many_clients_at_once(redis_image: Path, service_network: tuple[str, ...]) -> None:
    def count_up(connection: socket.socket) -> list[int]:
        replies = []
        with connection.makefile("rb") as reader:
            for _ in range(50):
                connection.sendall(b"INCR counter\r\n")
                replies.append(int(reader.readline().removeprefix(b":")))
        return replies

    with serving(redis_image, *service_network, line="Ready to accept connections"), ExitStack() as stack:
        connections = [stack.enter_context(connect(REDIS_PORT)) for _ in range(CONNECTIONS)]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            replies = list(pool.map(count_up, connections))
    # Each client sees the counter grow, and each number is seen once.
    assert all(of_one == sorted(of_one) for of_one in replies)
    assert sorted(number for of_one in replies for number in of_one) == list(range(1, CONNECTIONS * 50 + 1))


def test_redis_serves_connections_in_the_order_of_their_requests(
    redis_image: Path, service_network: tuple[str, ...]
) -> None:
    with (
        serving(redis_image, *service_network, line="Ready to accept connections"),
        connect(REDIS_PORT) as first,
        connect(REDIS_PORT) as second,
        first.makefile("rb") as of_first,
        second.makefile("rb") as of_second,
    ):
        for number in range(REQUESTS):
            # Nobody waits for an answer before both have asked.
            second.sendall(b"SET number %d\r\n" % number)
            first.sendall(b"INCRBY number 0\r\n")
            assert of_first.readline() == b":%d\r\n" % number
            assert of_second.readline() == b"+OK\r\n"


def test_redis_is_replayed_to_the_same_state(
    redis_image: Path, service_network: tuple[str, ...], tmp_path: Path
) -> None:
    log = tmp_path / "run.log"
    with boot(redis_image, f"--record={log}", "--verbose", *service_network) as guest:
        guest.expect("Ready to accept connections")
        with redis_client() as client:
            for number in range(REQUESTS // 4):
                client.set(f"key {number}", "x" * number)
                client.incr("counter")
                client.sadd("numbers", number)
                # What is drawn at random, and what time it is, are inputs too.
                client.eval(DRAW, 1, "drawn")
        end_redis()
        assert guest.wait() == 0
    ending = [line for line in guest.console if line.startswith("ftvmm: ") and "fingerprint" in line]
    written = [line for line in guest.console if line not in ending]
    assert len(ending) == 1
    replayed = ftvmm("replay", "--verbose", log)
    assert (replayed.returncode, replayed.stderr.splitlines()) == (0, ending)
    assert replayed.stdout.splitlines() == written


# Memcached


def test_memcached_with_four_threads_serves(packed: Packer, service_network: tuple[str, ...]) -> None:
    program = needed("memcached", package="memcached")
    image = packed(Package(program, ("-u", "root", "-t", "4", "-U", "0", "-m", "64", "-l", "0.0.0.0", "-vv")))
    with serving(image, *service_network, line="server listening"), ExitStack() as stack:
        # The listener hands its connections to the four threads in turn.
        connections = [stack.enter_context(connect(MEMCACHED_PORT)) for _ in range(8)]
        for number, connection in enumerate(connections):
            value = random.Random(number).randbytes(1000 * number + 1)
            assert memcached(connection, b"set key%d 5 0 %d\r\n%s\r\n" % (number, len(value), value)) == [b"STORED"]
            head, *rest = memcached(connections[number - 1], b"get key%d\r\n" % number, length=len(value))
            assert (head, rest) == (b"VALUE key%d 5 %d" % (number, len(value)), [value, b"END"])
        first = connections[0]
        assert memcached(first, b"get missing\r\n") == [b"END"]
        assert memcached(first, b"set counter 0 0 1\r\n1\r\n") == [b"STORED"]
        assert memcached(first, b"incr counter 41\r\n") == [b"42"]
        assert memcached(first, b"add counter 0 0 1\r\n1\r\n") == [b"NOT_STORED"]
        assert memcached(first, b"delete counter\r\n") == [b"DELETED"]
        assert memcached(first, b"nonsense\r\n") == [b"ERROR"]
        first.sendall(b"stats\r\n")
        with first.makefile("rb") as reader:
            statistics = dict(line.split()[1:3] for line in iter(reader.readline, b"END\r\n"))
        assert (statistics[b"threads"], statistics[b"curr_items"]) == (b"4", b"8")


def test_memcached_takes_datagrams_that_come_in_several_packets(
    packed: Packer, service_network: tuple[str, ...]
) -> None:
    program = needed("memcached", package="memcached")
    image = packed(Package(program, ("-u", "root", "-t", "1", "-U", str(MEMCACHED_PORT), "-l", "0.0.0.0", "-vv")))
    with (
        serving(image, *service_network, line=r"server listening \(udp\)"),
        connect(MEMCACHED_PORT) as reader,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sender.connect((GUEST_ADDRESS, MEMCACHED_PORT))
        sender.settimeout(REPLY_S_MAX)
        # The longest are of the length that IP can tell: 65,507 bytes.
        for length in (1400, 1500, 10_000, 65_507 - 40):
            value = random.Random(length).randbytes(length)
            # In front of each datagram: the request's number, the datagram's, and how many there are.
            sender.send(struct.pack("!4H", length, 0, 1, 0) + b"set key 0 0 %d\r\n%s\r\n" % (length, value))
            assert sender.recv(100) == struct.pack("!4H", length, 0, 1, 0) + b"STORED\r\n"
            assert memcached(reader, b"get key\r\n", length=length)[1:] == [value, b"END"]
        # Datagrams that never come whole keep others out for a second, not for a minute.
        send_parts_of_datagrams(HALF_DATAGRAMS, range(1))
        sender.settimeout(PATIENCE_S)
        reply = b""
        for attempt in range(int(REPLY_S_MAX / PATIENCE_S)):
            sender.send(struct.pack("!4H", attempt, 0, 1, 0) + b"set key 0 0 2000\r\n%s\r\n" % bytes(2000))
            with suppress(TimeoutError):
                reply = sender.recv(100)
                break
        assert reply.endswith(b"STORED\r\n")


# nginx


def test_nginx_serves_files(packed: Packer, service_network: tuple[str, ...], tmp_path: Path) -> None:
    program = needed("nginx", package="nginx-light")
    page = random.Random(1).randbytes(300_000)
    (tmp_path / "page").write_bytes(page)
    (tmp_path / "index.html").write_text("<h1>Hello</h1>\n")
    files = {
        "/etc/nginx/nginx.conf": FILES / "nginx.conf",
        "/srv/page": tmp_path / "page",
        "/srv/index.html": tmp_path / "index.html",
    }
    image = packed(Package(program, ("-e", "stderr", "-c", "/etc/nginx/nginx.conf"), files=files))
    # It listens before it tells of the system that it runs on.
    with serving(image, *service_network, line="OS: Linux"), browser(80) as connection:
        assert ask(connection, "/status") == (200, b"all is well\n")
        assert ask(connection, "/") == (200, b"<h1>Hello</h1>\n")
        assert ask(connection, "/page") == (200, page)
        assert ask(connection, "/page", Range="bytes=1000-1999") == (206, page[1000:2000])
        assert ask(connection, "/missing")[0] == 404
        assert ask(connection, "/", b"a body")[0] == 405

        def fetch(_: int) -> tuple[int, bytes]:
            with browser(80) as own:
                return ask(own, "/page")

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(fetch, range(CONNECTIONS))) == [(200, page)] * CONNECTIONS


# Mosquitto, by MQTT 3.1.1


def test_mosquitto_passes_messages_on(packed: Packer, service_network: tuple[str, ...]) -> None:
    program = needed("mosquitto", package="mosquitto")
    configuration = {"/etc/mosquitto.conf": FILES / "mosquitto.conf"}
    image = packed(Package(program, ("-c", "/etc/mosquitto.conf"), files=configuration))
    with serving(image, *service_network, line=r"mosquitto version \S+ running"), ExitStack() as stack:
        clients = [MqttClient(f"client-{number}") for number in range(CONNECTIONS)]
        for client in clients:
            stack.callback(client.close)
        for client in clients:
            client.send(MqttClient.SUBSCRIBE, b"\x00\x01" + MqttClient.text("rooms/+/light") + b"\x00")
            assert client.receive() == (MqttClient.SUBACK, b"\x00\x01\x00")
        publisher = MqttClient("publisher")
        stack.callback(publisher.close)
        publisher.send(MqttClient.PUBLISH, MqttClient.text("rooms/hall/dark") + b"unheard")
        publisher.send(MqttClient.PUBLISH, MqttClient.text("rooms/hall/light") + b"on")
        # At least once: with the flag, and a number that is acknowledged.
        publisher.send(
            MqttClient.PUBLISH | MqttClient.AT_LEAST_ONCE, MqttClient.text("rooms/attic/light") + b"\x00\x07off"
        )
        assert publisher.receive() == (MqttClient.PUBACK, b"\x00\x07")
        for client in clients:
            assert client.receive() == (MqttClient.PUBLISH, MqttClient.text("rooms/hall/light") + b"on")
            assert client.receive() == (MqttClient.PUBLISH, MqttClient.text("rooms/attic/light") + b"off")
        publisher.send(MqttClient.PINGREQ, b"")
        assert publisher.receive() == (MqttClient.PINGRESP, b"")


# Servers in Go and Python


def test_a_static_go_server_serves(packed: Packer, service_network: tuple[str, ...], tmp_path: Path) -> None:
    if not GO.exists():
        pytest.skip(f"needs Go in {GO.parents[1]}")
    program = tmp_path / "server"
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
    command = [str(GO), "build", "-o", str(program), str(PROGRAMS / "server.go")]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=BUILD_S_MAX)
    image = packed(Package(program))
    with (
        serving(image, *service_network, line="serving", memory_mib=GO_MEMORY_MIB),
        browser(8080) as connection,
    ):
        assert ask(connection, "/sum?n=10000") == (200, b"50005000")
        assert ask(connection, "/sum?n=many")[0] == 400
        body = random.Random(2).randbytes(1_000_000)
        assert ask(connection, "/echo", body) == (200, body)
        assert ask(connection, "/garbage") == (200, b"true")
        assert ask(connection, "/wait") == (200, b"true")

        def visit(_: int) -> int:
            with browser(8080) as own:
                return int(ask(own, "/visits")[1])

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(visit, range(CONNECTIONS))) == list(range(1, CONNECTIONS + 1))


@pytest.fixture(scope="module")
def python_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python's library without what no server needs."""
    if not PYTHON.exists() or not PYTHON_LIBRARY.exists():
        pytest.skip("needs Debian's python3")
    library = tmp_path_factory.mktemp("library") / PYTHON_LIBRARY.name
    shutil.copytree(PYTHON_LIBRARY, library, ignore=shutil.ignore_patterns(*NOT_NEEDED), ignore_dangling_symlinks=True)
    return library


def test_python_serves_with_a_thread_for_each_connection(
    packed: Packer, service_network: tuple[str, ...], python_library: Path
) -> None:
    package = Package(
        PYTHON, ("-B", "/srv/server.py"),
        files={"/srv/server.py": PROGRAMS / "server.py"}, trees={str(PYTHON_LIBRARY): python_library},
    )  # fmt: skip
    body = random.Random(3).randbytes(100_000)
    image = packed(package)
    with serving(image, *service_network, line="serving", memory_mib=LARGE_MEMORY_MIB), ExitStack() as stack:
        connections = [stack.enter_context(browser(8080)) for _ in range(8)]
        for connection in connections:
            digest = json.dumps(hashlib.sha256(body).hexdigest()).encode()
            assert ask(connection, "/digest", body) == (200, digest)
        first = connections[0]
        assert ask(first, "/round-trip", body) == (200, b"true")
        assert ask(first, "/table", b"") == (200, b"[1000, 332833500]")
        assert ask(first, "/threads", b"") == (200, b"8000")
        assert ask(first, "/missing", b"") == (404, b"null")


def test_python_finds_its_compiled_library_as_new_as_its_sources(packed: Packer) -> None:
    if not PYTHON.exists():
        pytest.skip("needs Debian's python3")
    needed("strace", package="strace")
    python = Package(PYTHON, ("-ISv", "-c", "import json"), has_network=False, is_traced=True)
    native = subprocess.run([PYTHON, *python.arguments], capture_output=True, text=True, check=True, env={})
    compiled = [line for line in native.stderr.splitlines() if " matches " in line]
    assert any("json/decoder.py" in line for line in compiled)
    in_vm = run_packed(packed(python))
    assert [line for line in in_vm.lines if " matches " in line or "# wrote" in line] == compiled
    assert in_vm.status == 0


# Programs that compute, and end


def test_sqlite_answers_as_natively(packed: Packer) -> None:
    files = {"/srv/queries.sql": FILES / "queries.sql"}
    sqlite = Package(
        needed("sqlite3", package="sqlite3"), ("/tmp/test.db", ".read /srv/queries.sql"), files=files, has_network=False
    )
    native = run_native(sqlite)
    assert (native.status, native.lines[-1]) == (0, "20000|240000")
    assert run_packed(packed(sqlite)) == native


@pytest.mark.parametrize("features", [(), _core.FEATURES], ids=["without-features", "with-every-feature"])
def test_openssl_digests_as_natively(packed: Packer, features: tuple[str, ...], tmp_path: Path) -> None:
    content = random.Random(4).randbytes(5_000_000)
    (tmp_path / "content").write_bytes(content)
    openssl = Package(
        needed("openssl", package="openssl"), ("dgst", "-sha256", "-r", "/srv/content"),
        {"OPENSSL_CONF": "/dev/null"}, {"/srv/content": tmp_path / "content"}, has_network=False,
    )  # fmt: skip
    native = run_native(openssl)
    assert native == Ending([f"{hashlib.sha256(content).hexdigest()} */srv/content"], 0)
    options = [f"--features={','.join(features)}"] if features else []
    assert run_packed(packed(openssl), *options) == native


def of_gcc(name: str) -> Path:
    """A program that gcc calls."""
    command = [str(needed("gcc", package="gcc")), f"-print-prog-name={name}"]
    found = shutil.which(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    assert found is not None, f"gcc does not find {name}"
    return Path(found).resolve()


def test_gcc_compiles_as_natively(packed: Packer) -> None:

    files = {"/srv/compiled.c": FILES / "compiled.c"}
    compiler = Package(
        of_gcc("cc1"),
        ("-quiet", "-O2", "-isystem", "/srv", "-o", "-", "/srv/compiled.c"),
        files=files,
        has_network=False,
    )
    native = run_native(compiler)
    assert native.status == 0
    assert "\tret" in native.lines
    assert run_packed(packed(compiler), memory_mib=LARGE_MEMORY_MIB) == native


def test_the_assembler_assembles_as_natively(packed: Packer, tmp_path: Path) -> None:
    assembly = tmp_path / "compiled.s"
    command = [str(needed("gcc", package="gcc")), "-O2", "-S", "-o", str(assembly), str(FILES / "compiled.c")]
    subprocess.run(command, check=True, timeout=BUILD_S_MAX)
    # A listing without pages: each line with its place and its machine code.
    assembler = Package(
        of_gcc("as"), ("-aln", "-o", "/tmp/compiled.o", "/srv/compiled.s"),
        files={"/srv/compiled.s": assembly}, has_network=False,
    )  # fmt: skip
    native = run_native(assembler)
    assert native.status == 0
    assert any("C3" in line for line in native.lines)
    assert run_packed(packed(assembler)) == native
