"""The key-value client as publisher and subscriber by MQTT 3.1.1 (OASIS, 2014), all messages at least once (QoS 1).

A key is a topic that belongs to one connection. INCR publishes the next number there, to be retained, and is answered
when the broker has acknowledged it and the number has come back by the connection's own subscription: so what is lost,
comes twice or overtakes another shows as a number that is not the next. GET reads what is retained, of any topic. The
connection opened before this one has a topic too, and whoever subscribes to that must see its numbers without a gap.
"""

from __future__ import annotations

import struct
from typing import ClassVar

import hiredis

from harness.clients.workload import Operation, Reply

_CONNECT, _CONNACK, _PUBLISH, _PUBACK = 1, 2, 3, 4
_SUBSCRIBE, _SUBACK, _UNSUBSCRIBE, _UNSUBACK = 8, 9, 10, 11
_RESERVED = 2  # the flags of SUBSCRIBE and UNSUBSCRIBE
_AT_LEAST_ONCE, _RETAIN, _DUPLICATE, _QOS = 0x02, 0x01, 0x08, 0x06
_CLEAN_SESSION = 0x02
_TOPIC, _FENCE = "count", "fence"
# What an operation waits for beside its message.
_PUBLISHED = "acknowledgement"
# A client that says nothing for this long is given up; 0: never.
_KEEP_ALIVE_SECONDS = 0


class Mqtt:
    """One session.

    Args:
        key: the connection's own, `PREFIX:NUMBER`; so is the topic on which it counts.
    """

    OPERATIONS: ClassVar = frozenset({"GET", "INCR"})

    def __init__(self, key: str) -> None:
        self._key = key
        prefix, _, number = key.rpartition(":")
        self._neighbour = f"{prefix}:{int(number) - 1}" if int(number) else None
        self._neighbours_last: int | None = None
        self._is_connected = False
        self._received = b""
        self._owed = b""
        self._packets = 0
        # Of the message that was published last.
        self._identifier = b""
        self._published = 0
        self._asked: Operation | None = None
        # Of the operation that is under way: what came back, and whether the broker has acknowledged it.
        self._heard: str | None = None
        self._awaited: set[str] = set()

    def pack(self, operation: Operation) -> bytes:
        """The packets of an operation, behind those of the session where it is the first one."""
        packets = b"" if self._is_connected else self._greeting()
        self._asked, self._heard = operation, None
        if operation.name == "INCR":
            self._published += 1
            self._awaited = {_PUBLISHED, _TOPIC}
            return packets + self._publish(_TOPIC, str(self._published), _RETAIN)
        # What is retained comes in front of what is published after that; without it nothing does.
        self._awaited = {_PUBLISHED, _FENCE}
        topic = f"{operation.key}/{_TOPIC}"
        packets += self._subscribe(topic) + self._publish(_FENCE, "", 0)
        return packets + _packet(_UNSUBSCRIBE, _RESERVED, self._next_identifier() + _text(topic))

    def take(self, data: bytes) -> list[Reply]:
        """An answer as soon as the operation has all that it waits for."""
        self._received += data
        answers: list[Reply] = []
        while (packet := self._next_packet()) is not None:
            kind, flags, content = packet
            if kind == _PUBLISH:
                self._hear(flags, content)
            elif kind == _PUBACK:
                _expect(content == self._identifier and _PUBLISHED in self._awaited, f"{content!r} is acknowledged")
                self._awaited.discard(_PUBLISHED)
            elif kind == _CONNACK:
                _expect(content == bytes(2), f"the broker turns the session away: {content!r}")
            elif kind == _SUBACK:
                _expect(content[2:] == b"\x01", f"the broker grants another service: {content!r}")
            else:
                _expect(kind == _UNSUBACK, f"a packet of the kind {kind}")
            if self._asked is not None and not self._awaited:
                counts = self._asked.name == "INCR" and self._heard is not None
                answers.append(int(self._heard or 0) if counts else self._heard)
                self._asked = None
        return answers

    def owed(self) -> bytes:
        """Acknowledgements of the messages that came."""
        owed, self._owed = self._owed, b""
        return owed

    def _greeting(self) -> bytes:
        self._is_connected = True
        flags = bytes((4, _CLEAN_SESSION)) + struct.pack(">H", _KEEP_ALIVE_SECONDS)
        greeting = _packet(_CONNECT, 0, _text("MQTT") + flags + _text(self._key)) + self._subscribe(f"{self._key}/+")
        # Another filter than a GET's, which is taken back.
        return greeting + (self._subscribe(f"{self._neighbour}/{_TOPIC}/#") if self._neighbour else b"")

    def _subscribe(self, topics: str) -> bytes:
        return _packet(_SUBSCRIBE, _RESERVED, self._next_identifier() + _text(topics) + b"\x01")

    def _publish(self, topic: str, message: str, flags: int) -> bytes:
        self._identifier = self._next_identifier()
        content = _text(f"{self._key}/{topic}") + self._identifier + message.encode()
        return _packet(_PUBLISH, _AT_LEAST_ONCE | flags, content)

    def _next_identifier(self) -> bytes:
        self._packets += 1
        return struct.pack(">H", (self._packets - 1) % 0xFFFF + 1)

    def _hear(self, flags: int, content: bytes) -> None:
        """A message; all are acknowledged, and one that is not due is said so."""
        (length,) = struct.unpack(">H", content[:2])
        topic, identifier, message = content[2 : 2 + length], content[2 + length : 4 + length], content[4 + length :]
        _expect(flags & _QOS == _AT_LEAST_ONCE, f"a message of another service: {flags:#x}")
        # Only a new connection is told anything again (section 4.4), and none of these is renewed.
        _expect(not flags & _DUPLICATE, f"a message comes again: {content!r}")
        self._owed += _packet(_PUBACK, 0, identifier)
        key, _, name = topic.decode(errors="backslashreplace").rpartition("/")
        text = message.decode(errors="backslashreplace")
        is_retained = bool(flags & _RETAIN)
        if is_retained and self._asked is not None and (self._asked.name, self._asked.key) == ("GET", key):
            self._heard = text
        elif key == self._key and not is_retained:
            _expect(name in self._awaited, f"nobody published {name} {text!r} now")
            self._awaited.discard(name)
            self._heard = text if name == _TOPIC else self._heard
        elif key == self._neighbour:
            number = int(text)
            last, self._neighbours_last = self._neighbours_last, number
            _expect(is_retained or last is None or number == last + 1, f"{number} came after {last} of {key}")

    def _next_packet(self) -> tuple[int, int, bytes] | None:
        """Kind, flags and content of the first packet that is whole (section 2.2)."""
        length, shift, at = 0, 0, 1
        while True:
            if at >= len(self._received):
                return None
            byte = self._received[at]
            length |= (byte & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if not byte & 0x80:
                break
            _expect(shift < 28, "a packet's length does not end")
        if len(self._received) < at + length:
            return None
        first, content = self._received[0], self._received[at : at + length]
        self._received = self._received[at + length :]
        return first >> 4, first & 0x0F, content


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise hiredis.ProtocolError(otherwise)


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text.encode())) + text.encode()


def _packet(kind: int, flags: int, content: bytes) -> bytes:
    length, rest = b"", len(content)
    while True:
        rest, digit = divmod(rest, 128)
        length += bytes((digit | (0x80 if rest else 0),))
        if not rest:
            return bytes((kind << 4 | flags,)) + length + content
