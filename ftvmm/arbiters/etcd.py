"""The `etcd` arbiter: one transaction in an etcd cluster.

A generation is a key, made by a transaction that puts it where it was never made and reads it otherwise. The cluster
carries transactions out one after the other, and answers when a majority of its members has one on disk; what it reads
is linearizable, so that a member which is cut off from the majority answers nothing. A transaction whose answer was
lost is settled by reading: the record says who won. Keys are neither changed nor deleted (R11).

Source: etcd's API (KV.Range, KV.Txn), by its JSON gateway `/v3/`, etcd 3.4 or newer.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ftvmm.arbiters.interface import ArbiterUnreachableError, NotSharedError, Record, record_from

_ANSWER_BYTES_MAX = 1 << 20
_GENERATION_DIGITS = 8


class EtcdArbiter:
    """Generations of one VM as keys in an etcd cluster.

    Args:
        members: their client addresses, as http://HOST:PORT or https://HOST:PORT; any of them serves.
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
        self._timeout_seconds = timeout_seconds / len(members)
        self._is_local = is_local
        self._context: ssl.SSLContext | None = None
        if any(member.startswith("https:") for member in members):
            self._context = ssl.create_default_context(cafile=ca_file)
            if certificate_files is not None:
                self._context.load_cert_chain(*certificate_files)
        # Two clusters under the members' addresses would be two arbiters.
        self._cluster: str | None = None

    def require_shared(self) -> None:
        """See `Arbiter.require_shared`."""
        if not self._is_local and all(_is_this_host(urlsplit(member).hostname or "") for member in self._members):
            raise NotSharedError(
                f"{self.place}: no other host can reach these addresses "
                "(`local = true` in [arbiter], where both nodes run on this machine)"
            )

    def try_out(self) -> None:
        """See `Arbiter.try_out`."""
        key = f"{self._directory}/trial-{secrets.token_hex(8)}"
        self._put_first(key, "ftvmm doctor")
        self._call("/v3/kv/deleterange", {"key": _packed(key)})

    def read(self) -> Record:
        """See `Arbiter.read`."""
        first = self._key(0)
        answer = self._call(
            "/v3/kv/range",
            {
                "key": _packed(first),
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
        present = self._put_first(self._key(generation), json.dumps(asdict(wanted)))
        return wanted if present is None else self._record(present)

    def _key(self, generation: int) -> str:
        return f"{self._directory}/generation-{generation:0{_GENERATION_DIGITS}d}"

    def _put_first(self, key: str, value: str) -> dict[str, str] | None:
        """Puts a key that was never made; what it holds already, or None where it was put."""
        answer = self._call(
            "/v3/kv/txn",
            {
                "compare": [{"key": _packed(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}],
                "success": [{"request_put": {"key": _packed(key), "value": _packed(value)}}],
                "failure": [{"request_range": {"key": _packed(key)}}],
            },
        )
        if answer.get("succeeded") is True:
            return None
        try:
            return _pairs(answer["responses"][0]["response_range"])[0]
        except (KeyError, IndexError, TypeError) as error:
            raise ArbiterUnreachableError(f"{key}: neither put nor there: {answer}") from error

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
        number = key.rpartition("-")[2]
        if not number.isascii() or not number.isdigit() or key != self._key(int(number)):
            raise ArbiterUnreachableError(f"{key}: is no generation's")
        return record_from(value, generation=int(number), where=key)

    def _call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of the first member that gives one, beginning with the one that gave the last."""
        failures = []
        for member in self._members:
            try:
                answer = self._post(member, path, json.dumps(body))
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                failures.append(f"{member}: {str(error) or type(error).__name__}")
                continue
            self._members = (member, *(other for other in self._members if other != member))
            self._check_cluster(member, answer)
            return answer
        raise ArbiterUnreachableError("; ".join(failures))

    def _post(self, member: str, path: str, body: str) -> dict[str, Any]:
        address = urlsplit(member)
        host, port = address.hostname or "", address.port
        if self._context is not None and address.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=self._timeout_seconds, context=self._context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self._timeout_seconds)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read(_ANSWER_BYTES_MAX + 1)
        finally:
            connection.close()
        if len(text) > _ANSWER_BYTES_MAX:
            raise ValueError("its answer has no end")
        if response.status != http.client.OK:
            raise ValueError(f"HTTP {response.status}: {text[:200].decode(errors='replace').strip()}")
        answer = json.loads(text)
        if not isinstance(answer, dict):
            raise ValueError("its answer is no object")
        return answer

    def _check_cluster(self, member: str, answer: dict[str, Any]) -> None:
        try:
            cluster = str(answer["header"]["cluster_id"])
        except (KeyError, TypeError) as error:
            raise ArbiterUnreachableError(f"{member}: does not answer as etcd does") from error
        if self._cluster is None:
            self._cluster = cluster
        elif cluster != self._cluster:
            raise ArbiterUnreachableError(
                f"{member}: belongs to the cluster {cluster}, and what answered before to {self._cluster}"
            )


def _packed(text: str) -> str:
    """As the gateway wants bytes."""
    return base64.b64encode(text.encode()).decode()


def _pairs(answer: dict[str, Any]) -> list[dict[str, str]]:
    pairs = answer.get("kvs", [])
    if not isinstance(pairs, list):
        raise ArbiterUnreachableError(f"not a list of keys: {pairs}")
    return pairs


def _is_this_host(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
