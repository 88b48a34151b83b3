"""The key-value client's protocols: against Debian's own servers, and against answers that no server may give."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import hiredis
import pytest

from harness.clients.mqtt import Mqtt
from harness.clients.protocols import PROTOCOLS, Http, Memcached, Speech
from harness.clients.workload import Operation
from harness.lab.waiting import wait_until
from harness.oracles.linearizable import ask_checker
from harness.vm.key_value_probe import find_arguments

CONFIGURATIONS = Path(__file__).parents[2] / "harness" / "vm" / "programs"
SEARCHED = "/usr/sbin:/usr/bin"


def command_of(protocol: str, port: int, directory: Path) -> list[str]:
    """A server on this machine that speaks this, as the VM's is configured but for its place."""
    if protocol == "memcached":
        return ["memcached", "-u", "root", "-t", "4", "-U", "0", "-l", "127.0.0.1", "-p", str(port)]
    name = {"http": "nginx", "mqtt": "mosquitto"}[protocol]
    text = (CONFIGURATIONS / f"{name}.conf").read_text().replace("/tmp/", f"{directory}/")
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    text = text.replace("listener 1883 0.0.0.0", f"listener {port} 127.0.0.1")
    configuration = directory / f"{name}.conf"
    configuration.write_text(text)
    return [name, *(["-e", "stderr"] if name == "nginx" else []), "-c", str(configuration)]


def is_served(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    program, *arguments = command_of(request.param, port, tmp_path)
    path = shutil.which(program, path=SEARCHED)
    if path is None:
        pytest.skip(f"needs Debian's {program}")
    with subprocess.Popen([path, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            assert wait_until(lambda: is_served(port), timeout_seconds=20, interval_seconds=0.02)
            yield request.param, port
        finally:
            process.kill()


@pytest.mark.parametrize("server", ["memcached", "http", "mqtt"], indirect=True)
def test_a_server_that_works_is_found_linearizable(server: tuple[str, int], tmp_path: Path) -> None:
    protocol, port = server
    history = tmp_path / "history.jsonl"
    command = [sys.executable, "-m", "harness.clients.key_value", "--protocol", protocol, "--duration=1.5"]
    command += ["--target", f"127.0.0.1:{port}", "--rate=600", "--history", str(history)]
    done = subprocess.run([*command, "--connections-log", str(tmp_path / "connections.jsonl")], check=False, timeout=60)
    assert done.returncode == 0
    records = [json.loads(line) for line in history.read_text().splitlines()]
    operations = [record for record in records if "operation" in record]
    assert not [record for record in records if record.get("event") in ("unasked-reply", "protocol-error")]
    assert {record["error"] for record in operations} == {None}
    assert {record["operation"] for record in operations} == PROTOCOLS[protocol].OPERATIONS
    answer = ask_checker(history, picture=tmp_path / "picture.html", time_limit_seconds=30)
    assert (answer.verdict, answer.operations) == ("linearizable", len(operations))
    events = [json.loads(line)["event"] for line in (tmp_path / "connections.jsonl").read_text().splitlines()[1:-1]]
    assert set(events) == {"opened", "closed-by-client"}


GET, SET, DEL, INCR = (
    Operation("GET", "k"),
    Operation("SET", "k", "value"),
    Operation("DEL", "k"),
    Operation("INCR", "k"),
)


@pytest.mark.parametrize(
    ("protocol", "operation", "answer", "reply"),
    [
        (Memcached, GET, b"VA 4\r\n\r\nHD\r\n", "\r\nHD"),
        (Memcached, GET, b"EN\r\n", None),
        (Memcached, SET, b"HD\r\n", "OK"),
        (Memcached, DEL, b"HD\r\n", 1),
        (Memcached, DEL, b"NF\r\n", 0),
        (Memcached, INCR, b"VA 2\r\n41\r\n", 41),
        (Http, GET, b"HTTP/1.1 200 OK\r\nX: y\r\ncontent-length: 6\r\n\r\n\r\n\r\nab", "\r\n\r\nab"),
        (Http, GET, b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", None),
        (Http, SET, b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", "OK"),
        (Http, SET, b"HTTP/1.1 204 No Content\r\n\r\n", "OK"),
        (Http, DEL, b"HTTP/1.1 204 No Content\r\n\r\n", 1),
        (Http, DEL, b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", 0),
    ],
)
def test_an_answer_may_come_in_any_number_of_parts(
    protocol: type[Speech], operation: Operation, answer: bytes, reply: object
) -> None:
    speech = protocol("k:1")
    speech.pack(operation)
    assert [speech.take(answer[at : at + 1]) for at in range(len(answer) - 1)] == [[]] * (len(answer) - 1)
    assert speech.take(answer[-1:]) == [reply]
    # One more is one too many, and the client tells it apart.
    assert speech.take(answer) == [reply]


@pytest.mark.parametrize(
    ("protocol", "answer"),
    [
        (Memcached, b"SERVER_ERROR out of memory storing object\r\n"),
        (Memcached, b"HD\r\n"),
        (Http, b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"),
        (Http, b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_what_does_not_answer_a_get_is_an_error(protocol: type[Speech], answer: bytes) -> None:
    speech = protocol("k:1")
    speech.pack(GET)
    [reply] = speech.take(answer)
    assert isinstance(reply, hiredis.ReplyError)


@pytest.mark.parametrize(
    ("protocol", "answer"),
    [
        (Memcached, b"VA x\r\n"),
        (Memcached, b"VA 2\r\nabc\r\n"),
        (Http, b"220 ready\r\n\r\n"),
        (Http, b"HTTP/1.1 200 OK\r\n\r\n"),
    ],
)
def test_what_is_no_answer_is_refused(protocol: type[Speech], answer: bytes) -> None:
    speech = protocol("k:1")
    speech.pack(GET)
    with pytest.raises(hiredis.ProtocolError):
        speech.take(answer)


# By MQTT. What the client at the topics `k:2/...` is told:

SESSION = b"\x20\x02\x00\x00" + b"\x90\x03\x00\x01\x01" + b"\x90\x03\x00\x02\x01"
FIRST, SECOND = b"\x40\x02\x00\x03", b"\x40\x02\x00\x04"  # acknowledgements


def message(topic: str, text: str, *, flags: int = 0) -> bytes:
    content = struct.pack(">H", len(topic)) + topic.encode() + b"\x00\x07" + text.encode()
    return bytes((0x32 | flags, len(content))) + content


def session() -> Mqtt:
    """One that has counted once."""
    speech = Mqtt("k:2")
    speech.pack(Operation("INCR", "k:2"))
    assert speech.take(SESSION + message("k:2/count", "1")) == []
    assert speech.take(FIRST) == [1]
    assert speech.owed() == b"\x40\x02\x00\x07"
    assert speech.owed() == b""
    return speech


@pytest.mark.parametrize("before", range(1, 40))
def test_a_value_is_found_on_the_disk_wherever_the_log_cuts_it(tmp_path: Path, before: int) -> None:
    """The key-value server's log divides its records over sectors of 32 bytes of header and 480 of payload."""
    value, image = bytes(range(100, 139)), tmp_path / "image"
    payload = bytes(480 - before) + value + bytes(440 + before)
    image.write_bytes(bytes(32) + payload[:480] + bytes(32) + payload[480:])
    arguments = find_arguments(str(image), value)
    found = int(subprocess.run([sys.executable, "-c", *arguments], check=True, stdout=subprocess.PIPE).stdout)
    assert image.read_bytes()[found] in value


def test_a_number_counts_when_it_is_acknowledged_and_has_come_back() -> None:
    speech = session()
    speech.pack(Operation("INCR", "k:2"))
    assert speech.take(SECOND) == []
    # What comes back is what is told, so that a number that is not the next is found by the oracles.
    assert speech.take(message("k:2/count", "3")) == [3]


@pytest.mark.parametrize(("retained", "reply"), [([message("k:7/count", "9", flags=1)], "9"), ([], None)])
def test_what_is_retained_is_read_up_to_the_fence(retained: Sequence[bytes], reply: object) -> None:
    speech = session()
    speech.pack(Operation("GET", "k:7"))
    begun = b"\x90\x03\x00\x04\x01" + b"".join(retained) + b"\x40\x02\x00\x05"
    assert speech.take(begun) == []
    assert speech.take(message("k:2/fence", "")) == [reply]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        pytest.param(message("k:2/count", "1"), "nobody published", id="again"),
        pytest.param(message("k:2/count", "1", flags=8), "comes again", id="duplicate"),
        pytest.param(FIRST, "is acknowledged", id="acknowledged-again"),
        pytest.param(message("k:1/count", "5") + message("k:1/count", "7"), "7 came after 5", id="gap"),
        pytest.param(message("k:1/count", "5") + message("k:1/count", "5"), "5 came after 5", id="twice"),
        pytest.param(message("k:1/count", "6") + message("k:1/count", "5"), "5 came after 6", id="order"),
        pytest.param(b"\x20\x02\x00\x05", "turns the session away", id="refused"),
        pytest.param(b"\x90\x03\x00\x01\x80", "grants another service", id="not-subscribed"),
        pytest.param(b"\xd0\x00", "a packet of the kind 13", id="unknown"),
    ],
)
def test_what_no_broker_may_say_is_refused(told: bytes, why: str) -> None:
    speech = session()
    with pytest.raises(hiredis.ProtocolError, match=why):
        speech.take(told)
