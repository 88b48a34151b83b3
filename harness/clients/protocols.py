"""How the key-value client speaks to each server: what an operation is in its protocol, and what its answer means.

Operations mean what they do to Redis, whose answers all others are translated to; each protocol has as many of them as
its server can do. So one history, and one set of oracles, is for all servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

import hiredis

from harness.clients.mqtt import Mqtt
from harness.clients.workload import OPERATIONS, Operation, Reply


class Speech(Protocol):
    """One connection's talk with its server; one operation is asked at a time."""

    OPERATIONS: ClassVar[frozenset[str]]

    def __init__(self, key: str) -> None:
        """`key`: one that no other connection has."""
        ...

    def pack(self, operation: Operation) -> bytes:
        """The bytes that ask for it."""
        ...

    def take(self, data: bytes) -> list[Reply]:
        """The answers that these bytes complete. Raises `hiredis.ProtocolError`."""
        ...

    def owed(self) -> bytes:
        """What the server is to be told of what it said, once."""
        ...


class Resp:
    """Redis' own, RESP2."""

    OPERATIONS: ClassVar = OPERATIONS

    def __init__(self, key: str) -> None:
        self._reader = hiredis.Reader(encoding="utf-8", errors="backslashreplace")

    def pack(self, operation: Operation) -> bytes:
        """One command."""
        packed: bytes = hiredis.pack_command(operation.arguments)  # type: ignore[arg-type]  # stub says 1-tuple
        return packed

    def take(self, data: bytes) -> list[Reply]:
        """Each reply as it is."""
        self._reader.feed(data)
        replies: list[Reply] = []
        while (reply := self._reader.gets()) is not False:
            replies.append(reply)
        return replies

    def owed(self) -> bytes:
        """Nothing."""
        return b""


class _Lines:
    """Answers that begin with lines and may go on with as many bytes as these say."""

    def __init__(self, key: str) -> None:
        self._received = b""
        self._asked: Operation | None = None

    def take(self, data: bytes) -> list[Reply]:
        """Each answer that is whole."""
        self._received += data
        replies: list[Reply] = []
        while self._received:
            if (answer := self._answer()) is None:
                break
            reply, length = answer
            self._received = self._received[length:]
            replies.append(reply)
        return replies

    def owed(self) -> bytes:
        """Nothing."""
        return b""

    def _answer(self) -> tuple[Reply, int] | None:
        """The first answer and how many bytes it takes; None where it is not whole yet."""
        raise NotImplementedError


class Memcached(_Lines):
    """memcached's meta commands (doc/protocol.txt); APPEND is left out, for its answer does not tell the length."""

    OPERATIONS: ClassVar = OPERATIONS - {"APPEND"}

    def pack(self, operation: Operation) -> bytes:
        """One command."""
        self._asked = operation
        key, value = operation.key.encode(), (operation.value or "").encode()
        return {
            "GET": b"mg %b v\r\n" % key,
            "SET": b"ms %b %d\r\n%b\r\n" % (key, len(value), value),
            # From 0 where there is none; what is there afterwards comes back.
            "INCR": b"ma %b N0 J1 v\r\n" % key,
            "DEL": b"md %b\r\n" % key,
        }[operation.name]

    def _answer(self) -> tuple[Reply, int] | None:
        head, end, rest = self._received.partition(b"\r\n")
        if not end:
            return None
        name = self._asked.name if self._asked else ""
        code, *words = head.split(b" ")
        length = len(head) + len(end)
        if code != b"VA":
            said = {(b"EN", "GET"): None, (b"HD", "SET"): "OK", (b"HD", "DEL"): 1, (b"NF", "DEL"): 0}
            reply: Reply = said.get((code, name), hiredis.ReplyError(_text(head)))
            return reply, length
        size = _number(words[0] if words else b"")
        if len(rest) < size + len(end):
            return None
        if rest[size : size + len(end)] != end:
            raise hiredis.ProtocolError(f"a value of {size} bytes goes on: {rest[size : size + 20]!r}")
        value = rest[:size]
        return _number(value) if name == "INCR" else _text(value), length + size + len(end)


class Http(_Lines):
    """HTTP/1.1 to a server of files that may be put and deleted (RFC 9110, RFC 4918), over connections that stay."""

    OPERATIONS: ClassVar = frozenset({"GET", "SET", "DEL"})
    _METHODS: Mapping[str, str] = {"GET": "GET", "SET": "PUT", "DEL": "DELETE"}

    def pack(self, operation: Operation) -> bytes:
        """One request."""
        self._asked = operation
        body = (operation.value or "").encode()
        head = f"{self._METHODS[operation.name]} /{operation.key} HTTP/1.1\r\nHost: vm\r\n"
        if operation.value is not None:
            head += f"Content-Length: {len(body)}\r\n"
        return head.encode() + b"\r\n" + body

    def _answer(self) -> tuple[Reply, int] | None:
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return None
        first, *lines = head.split(b"\r\n")
        version, _, status = first.partition(b" ")
        if version != b"HTTP/1.1":
            raise hiredis.ProtocolError(f"no answer by HTTP begins {first[:40]!r}")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        code = _number(status[:3])
        size = 0 if code == 204 else _number(fields.get(b"content-length", b""))
        if len(rest) < size:
            return None
        return self._meaning(code, rest[:size], _text(first)), len(head) + len(end) + size

    def _meaning(self, code: int, body: bytes, said: str) -> Reply:
        name = self._asked.name if self._asked else ""
        if (name, code) == ("GET", 200):
            return _text(body)
        meanings: Mapping[tuple[str, int], Reply] = {
            ("GET", 404): None,
            ("SET", 201): "OK",
            ("SET", 204): "OK",
            ("DEL", 204): 1,
            ("DEL", 404): 0,
        }
        return meanings.get((name, code), hiredis.ReplyError(said))


def _text(content: bytes) -> str:
    return content.decode(errors="backslashreplace")


def _number(content: bytes) -> int:
    if not content.isdigit():
        raise hiredis.ProtocolError(f"no number: {content[:40]!r}")
    return int(content)


PROTOCOLS: Mapping[str, type[Speech]] = {"resp": Resp, "memcached": Memcached, "http": Http, "mqtt": Mqtt}
