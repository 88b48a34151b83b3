"""The `etcd` arbiter: one transaction in an etcd cluster.

A generation is a key, made by a transaction that puts it where it was never made, and its predecessor was, and reads it
otherwise. The cluster carries transactions out one after the other, and answers when a majority of its members has one
on disk; what it reads is linearizable, so that a member which is cut off from the majority answers nothing. A
transaction whose answer was lost is settled by reading: the record says who won. Keys are neither changed nor deleted
(R11).

Source: etcd's API (KV.Range, KV.Txn), by its JSON gateway `/v3/`, etcd 3.4 or newer.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ftvmm.arbiters.interface import ArbiterUnreachableError, NotSharedError, Record, record_from

_ANSWER_BYTES_MAX = 1 << 20
_GENERATION_DIGITS = 8
# What a member's failure may end in, whatever it says.
_FAILURES = (OSError, http.client.HTTPException, ValueError, RecursionError)
_RANGE, _TRANSACTION, _DELETE = "/v3/kv/range", "/v3/kv/txn", "/v3/kv/deleterange"


class EtcdArbiter:
    """Generations of one VM as keys in an etcd cluster. Several threads may ask at once.

    Args:
        members: their client addresses, as http://ADDRESS:PORT or https://ADDRESS:PORT; any of them serves.
        vm: the VM's UUID, 32 hexadecimal digits.
        timeout_seconds: how long all members together may take to answer.
        is_local: whether both nodes run on this machine, so that the cluster may run on it alone.
        ca_file: who signed the members' certificates, with https; the system's authorities where None.
        certificate_files: this client's own certificate and its key, where the members ask for one.

    Raises:
        OSError: a file of certificates cannot be read, or is none.
    """

    kind = "etcd"

    def __init__(
        self,
        members: Sequence[str],
        vm: str,
        *,
        timeout_seconds: float,
        is_local: bool = False,
        ca_file: Path | None = None,
        certificate_files: tuple[Path, Path] | None = None,
    ) -> None:
        self.place = ", ".join(members)
        self._members = tuple(members)
        self._directory = f"/ftvmm/{vm}"
        self._timeout_seconds = timeout_seconds
        self._is_local = is_local
        self._tls = _Tls(ca_file, certificate_files) if any(map(_is_encrypted, members)) else None
        # Two clusters under the members' addresses would be two arbiters.
        self._cluster: str | None = None
        self._cluster_known = threading.Lock()

    def require_shared(self) -> None:
        """See `Arbiter.require_shared`."""
        if not self._is_local and all(map(_is_this_host, self._members)):
            raise NotSharedError(
                f"{self.place}: no other host can reach these addresses "
                "(`local = true` in [arbiter], where both nodes run on this machine)"
            )

    def try_out(self) -> list[str]:
        """See `Arbiter.try_out`: what is put through one member is looked for at each."""
        key = f"{self._directory}/trial-{secrets.token_hex(8)}"
        put = {"request_put": {"key": _packed(key), "value": _packed("ftvmm doctor")}}
        self._call(_TRANSACTION, {"success": [put]})
        complaints = []
        try:
            for member in sorted(self._members):
                try:
                    found = _pairs(self._post(member, _RANGE, {"key": _packed(key)}, self._timeout_seconds))
                except _FAILURES as error:
                    complaints.append(f"{member} does not serve: {_in_words(error)}")
                    continue
                if not found:
                    raise ArbiterUnreachableError(f"{member}: is of another cluster than {self._members[0]}")
        finally:
            self._call(_DELETE, {"key": _packed(key)})
        return complaints

    def read(self) -> Record:
        """See `Arbiter.read`."""
        answer = self._call(
            _RANGE,
            {
                "key": _packed(self._key(0)),
                # Behind the last number of so many digits.
                "range_end": _packed(self._key(10**_GENERATION_DIGITS - 1) + "\0"),
                "sort_order": "DESCEND",
                "sort_target": "KEY",
                "limit": "1",
            },
        )
        pairs = _pairs(answer)
        return self._record(pairs[0]) if pairs else Record(0, 0, "")

    def ask(self, *, generation: int, incarnation: int, node: str) -> Record:
        """See `Arbiter.ask`."""
        wanted = Record(generation, incarnation, node)
        key, value = _packed(self._key(generation)), _packed(json.dumps(asdict(wanted)))
        compare = [{"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}]
        if generation > 1:
            # A cluster that does not know of the VM, or has forgotten, has no say over it.
            before = _packed(self._key(generation - 1))
            compare.append({"key": before, "target": "VERSION", "result": "EQUAL", "version": "1"})
        answer = self._call(
            _TRANSACTION,
            {
                "compare": compare,
                "success": [{"request_put": {"key": key, "value": value}}],
                "failure": [{"request_range": {"key": key}}],
            },
        )
        if answer.get("succeeded") is True:
            return wanted
        try:
            pairs = _pairs(answer["responses"][0]["response_range"])
        except (AttributeError, KeyError, IndexError, TypeError) as error:
            raise ArbiterUnreachableError(f"{self._key(generation)}: neither put nor read: {answer}") from error
        if not pairs:
            raise ArbiterUnreachableError(f"{self._key(generation)}: the one before it is not there, or was changed")
        return self._record(pairs[0])

    def _key(self, generation: int) -> str:
        return f"{self._directory}/generation-{generation:0{_GENERATION_DIGITS}d}"

    def _record(self, pair: dict[str, str]) -> Record:
        try:
            key = base64.b64decode(pair["key"], validate=True).decode()
            # What is empty the gateway leaves out.
            value = base64.b64decode(pair.get("value", ""), validate=True)
            version = pair["version"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArbiterUnreachableError(f"{self._directory}: not a key and its value: {pair}") from error
        if version != "1":
            raise ArbiterUnreachableError(f"{key}: was changed after it was made")
        number = key[-_GENERATION_DIGITS:]
        if not (number.isascii() and number.isdigit()) or key != self._key(int(number)):
            raise ArbiterUnreachableError(f"{key}: is no generation's")
        return record_from(value, generation=int(number), where=key)

    def _call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of the first member that gives one, beginning with the one that gave the last.

        What may have been carried out is not asked of another member: were that one of another cluster, it would be
        carried out twice.
        """
        deadline = time.monotonic() + self._timeout_seconds
        failures = []
        members = self._members
        for index, member in enumerate(members):
            remaining_seconds = (deadline - time.monotonic()) / (len(members) - index)
            try:
                answer = self._post(member, path, body, remaining_seconds)
                self._check_cluster(answer)
            except _FAILURES as error:
                failures.append(f"{member}: {_in_words(error)}")
                if path == _TRANSACTION and not isinstance(error, _NotConnectedError):
                    # Whoever asks again begins with another.
                    self._members = (*members[index + 1 :], *members[: index + 1])
                    break
            else:
                self._members = (member, *(other for other in members if other != member))
                return answer
        raise ArbiterUnreachableError("; ".join(failures))

    def _post(self, member: str, path: str, body: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        connection = self._connected(member, max(timeout_seconds, 0.001))
        with _cut_after(connection, timeout_seconds):
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read(_ANSWER_BYTES_MAX + 1)
        if len(text) > _ANSWER_BYTES_MAX:
            raise ValueError("its answer has no end")
        if response.status != http.client.OK:
            raise ValueError(f"HTTP {response.status}: {text[:200].decode(errors='replace').strip()}")
        answer = json.loads(text)
        if not isinstance(answer, dict):
            raise ValueError("its answer is no object")
        return answer

    def _connected(self, member: str, timeout_seconds: float) -> http.client.HTTPConnection:
        address = urlsplit(member)
        try:
            if _is_encrypted(member):
                context = self._tls.context() if self._tls is not None else ssl.create_default_context()
                connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                    address.hostname or "", address.port, timeout=timeout_seconds, context=context
                )
            else:
                connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout_seconds)
            connection.connect()
        except OSError as error:
            raise _NotConnectedError(_in_words(error)) from error
        return connection

    def _check_cluster(self, answer: dict[str, Any]) -> None:
        try:
            cluster = str(answer["header"]["cluster_id"])
        except (KeyError, TypeError) as error:
            raise ValueError("does not answer as etcd does") from error
        with self._cluster_known:
            if self._cluster is None:
                self._cluster = cluster
            if cluster != self._cluster:
                raise ValueError(f"belongs to the cluster {cluster}, and what answered before to {self._cluster}")


class _NotConnectedError(OSError):
    """Nothing was asked of a member yet."""


class _Tls:
    """Certificates as the files have them now: those of a node that runs for long are renewed meanwhile."""

    def __init__(self, ca_file: Path | None, own_files: tuple[Path, Path] | None) -> None:
        self._ca_file, self._own_files = ca_file, own_files
        self._known = threading.Lock()
        self._read_at, self._context = self._stamps(), self._read()

    def context(self) -> ssl.SSLContext:
        """Raises `OSError` where a file cannot be read, or holds no certificate."""
        with self._known:
            if (stamps := self._stamps()) != self._read_at:
                self._read_at, self._context = stamps, self._read()
            return self._context

    def _stamps(self) -> list[int]:
        files = [file for file in (self._ca_file, *(self._own_files or ())) if file is not None]
        return [file.stat().st_mtime_ns for file in files]

    def _read(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._ca_file)
        if self._own_files is not None:
            # Nobody is there to be asked for a key's password.
            context.load_cert_chain(*self._own_files, password="")
        return context


@contextmanager
def _cut_after(connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
    """Ends a connection in time: a timeout of sockets begins anew with each byte that comes."""

    is_over = threading.Event()

    def cut() -> None:
        is_over.set()
        with suppress(AttributeError, OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(seconds, 0.001), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
        if is_over.is_set():
            raise TimeoutError
    except (OSError, http.client.HTTPException) as error:
        if is_over.is_set() or isinstance(error, TimeoutError):
            raise TimeoutError(f"no whole answer in {seconds:.1f} s") from error
        raise
    finally:
        timer.cancel()
        connection.close()


def _in_words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _packed(text: str) -> str:
    """As the gateway wants bytes."""
    return base64.b64encode(text.encode()).decode()


def _pairs(answer: dict[str, Any]) -> list[dict[str, str]]:
    pairs = answer.get("kvs", [])
    if not isinstance(pairs, list):
        raise ArbiterUnreachableError(f"not a list of keys: {pairs}")
    return pairs


def _is_encrypted(member: str) -> bool:
    return urlsplit(member).scheme == "https"


def _is_this_host(member: str) -> bool:
    return ipaddress.ip_address(urlsplit(member).hostname or "").is_loopback
