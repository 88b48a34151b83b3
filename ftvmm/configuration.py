"""`node.toml`: reading it, and saying in one sentence what is wrong with it and where."""

from __future__ import annotations

import ipaddress
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ftvmm import _core
from ftvmm.arbiters import Arbiter, FileArbiter
from ftvmm.manager import Spare

ARBITER_TIMEOUT_MS = 500
"""How long one call of the arbiter may take where nobody says."""

SECTOR_BYTES = 512
"""The size of a block device's sectors where nobody says."""

SECTOR_SIZES = "a power of two from 512 to 32768"
"""What `is_sector_size` allows, in words."""

_REQUIRED: Any = object()
_NETWORK_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}\Z")


def is_sector_size(size_bytes: int) -> bool:
    """Whether a block device may have sectors of so many bytes: Solo5's `mft_abi.h` has 16 bits for it."""
    return 512 <= size_bytes <= 1 << 15 and size_bytes & (size_bytes - 1) == 0


def address(text: str, name: str) -> str:
    """The text, if it is an address and a port.

    Raises:
        ValueError: it is none; the message begins with `name`.
    """
    host, _, port = text.rpartition(":")
    try:
        ipaddress.ip_address(host.strip("[]"))
        if not 0 < int(port) < 65536:
            raise ValueError
    except ValueError:
        raise ValueError(f"{name}: must be ADDRESS:PORT with a numeric address, found {text!r}") from None
    return text


class ConfigurationError(Exception):
    """A configuration file that cannot be used; the message names the file, the key and the reason."""


@dataclass(frozen=True)
class Configuration:
    """One node's configuration, checked.

    Attributes:
        document: what `ftvmm._core.Node` takes, JSON-ready (see `ftvmm/core/src/node/config.rs`).
        vm: the VM's UUID, 32 hexadecimal digits.
        name: the node's name.
        directory: where the trace, the console and the control socket live.
        arbiter: who decides which node owns the VM's next generation.
        arbiter_timeout_ms: how long one call of the arbiter may take, in milliseconds.
        spares: nodes that may become the VM's backup, in the order in which `ftvmm manager` tries them.
    """

    document: dict[str, Any]
    vm: str
    name: str
    directory: Path
    arbiter: Arbiter
    arbiter_timeout_ms: int
    spares: tuple[Spare, ...] = ()

    @property
    def control_socket(self) -> Path:
        """The UNIX socket on which the node answers `ftvmm status`."""
        return self.directory / "control.sock"

    def to_json(self) -> str:
        """The document as `ftvmm._core.Node` takes it."""
        return json.dumps(self.document)


class _Table:
    """One TOML table that remembers its name and which of its keys were asked for."""

    def __init__(self, path: Path, name: str, content: Any) -> None:
        self.path, self.name = path, name
        if not isinstance(content, dict):
            raise ConfigurationError(f"{path}: {name} must be a table")
        self._content: dict[str, Any] = content
        self._known: set[str] = set()

    def fail(self, key: str, reason: str) -> ConfigurationError:
        return ConfigurationError(f"{self.path}: {f'{self.name}.' if self.name else ''}{key}: {reason}")

    def get(self, key: str, kind: type, default: Any = _REQUIRED) -> Any:
        self._known.add(key)
        if key not in self._content:
            if default is _REQUIRED:
                raise self.fail(key, "missing")
            return default
        value = self._content[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.fail(key, f"must be of type {kind.__name__}, found {value!r}")
        return value

    def table(self, key: str, *, required: bool = True) -> _Table:
        return _Table(self.path, key, self.get(key, dict, _REQUIRED if required else {}))

    def tables(self, key: str) -> list[_Table]:
        return [
            _Table(self.path, f"{self.name}.{key}[{index}]".lstrip("."), content)
            for index, content in enumerate(self.get(key, list, []))
        ]

    def natural(self, key: str, default: Any = _REQUIRED, *, least: int = 1, most: int = 10**9) -> int:
        value: int = self.get(key, int, default)
        if not least <= value <= most:
            raise self.fail(key, f"must be from {least} to {most}, found {value}")
        return value

    def optional_natural(self, key: str) -> int | None:
        return self.natural(key) if self.has(key) else self.get(key, int, None)

    def has(self, key: str) -> bool:
        return key in self._content

    def address(self, key: str) -> str:
        value: str = self.get(key, str)
        try:
            return address(value, key)
        except ValueError as error:
            raise self.fail(key, str(error).removeprefix(f"{key}: ")) from None

    def strings(self, key: str) -> list[str]:
        values: list[Any] = self.get(key, list, [])
        for value in values:
            if not isinstance(value, str):
                raise self.fail(key, f"must hold strings only, found {value!r}")
        return values

    def finish(self) -> None:
        for key in self._content:
            if key not in self._known:
                known = ", ".join(sorted(self._known))
                raise self.fail(key, f"unknown key (known here: {known})")


def load(path: Path) -> Configuration:
    """Reads and checks a node's configuration.

    Args:
        path: the TOML file.

    Raises:
        ConfigurationError: the file cannot be read, or a value is missing, unknown or out of range.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    root = _Table(path, "", content)
    vm = _virtual_machine(root.table("vm"))
    node = root.table("node")
    name = node.get("name", str)
    peer = node.get("peer", str, "peer")
    directory = Path(node.get("directory", str))
    bounds = {key: node.natural(key, 256, most=1 << 20) for key in ("trace_mib_max", "console_mib_max")}
    node.finish()
    logging = root.table("logging")
    channel = {
        "listen": logging.address("listen"),
        "peer": logging.address("peer"),
        "buffer_mib": logging.natural("buffer_mib", 64, most=16384),
        "entries_per_message": logging.optional_natural("entries_per_message"),
    }
    logging.finish()
    arbiter_timeout_ms, arbiter = _arbiter(root.table("arbiter"), vm["uuid"])
    output = root.table("output", required=False)
    if (policy := output.get("policy", str, "resend")) not in ("resend", "drop"):
        raise output.fail("policy", f"must be 'resend' or 'drop', found {policy!r}")
    output.finish()
    security = root.table("security")
    key = _key(security)
    security.finish()
    record = _record(root.table("record"), directory) if root.has("record") else None
    heartbeats = [_heartbeat(table) for table in root.tables("heartbeat")]
    networks = [heartbeat["network"] for heartbeat in heartbeats]
    spares = tuple(_spare(table, networks) for table in root.tables("spare"))
    document = {
        "vm": vm,
        "node": {"name": name, "peer": peer, "directory": str(directory), **bounds},
        "logging": channel,
        "heartbeat": heartbeats,
        "timing": _timing(root.table("timing", required=False)),
        "output": {"policy": policy},
        "record": record,
        "key": key,
    }
    if _core.BUILD == "lab":
        document["test"] = _test(root.table("test", required=False))
    elif root.has("test"):
        raise root.fail("test", "only the lab's build takes this table (FTVMM_CORE=lab)")
    root.finish()
    if not document["heartbeat"]:
        raise ConfigurationError(f"{path}: heartbeat: at least one [[heartbeat]] network is needed, two are advised")
    return Configuration(document, vm["uuid"], name, directory, arbiter, arbiter_timeout_ms, spares)


def _arbiter(table: _Table, vm: str) -> tuple[int, Arbiter]:
    """How long it may take, and itself."""
    kind = table.get("kind", str)
    timeout_ms = table.natural("timeout_ms", ARBITER_TIMEOUT_MS)
    is_local = table.get("local", bool, False)
    if kind == "file":
        directory = Path(table.get("directory", str))
        table.finish()
        return timeout_ms, FileArbiter(directory, vm, is_local=is_local)
    if kind == "scsi-pr":
        return timeout_ms, _scsi_arbiter(table, vm, timeout_ms=timeout_ms, is_local=is_local)
    if kind != "etcd":
        raise table.fail("kind", f"must be 'file', 'etcd' or 'scsi-pr', found {kind!r}")
    members = table.strings("members")
    if not members:
        raise table.fail("members", "must name at least one member of the cluster, such as http://10.0.0.1:2379")
    schemes = {_scheme_of(table, member) for member in members}
    ca_file = _optional_path(table, "ca_file")
    certificate, key = (_optional_path(table, name) for name in ("certificate_file", "certificate_key_file"))
    table.finish()
    if (certificate is None) != (key is None):
        raise table.fail("certificate_file", "goes with certificate_key_file")
    if "https" not in schemes and (ca_file or certificate):
        raise table.fail("members", "certificates are for members with https://, and none has it")
    # Only who asks etcd waits for what speaks to it.
    from ftvmm.arbiters.etcd import EtcdArbiter  # noqa: PLC0415

    try:
        arbiter = EtcdArbiter(
            members,
            vm,
            timeout_seconds=timeout_ms / 1000,
            is_local=is_local,
            ca_file=ca_file,
            certificate_files=(certificate, key) if certificate and key else None,
        )
    except OSError as error:
        files = ", ".join(str(file) for file in (ca_file, certificate, key) if file)
        named = "ca_file" if ca_file else "certificate_file"
        raise table.fail(named, f"{files}: {error.strerror or error}") from error
    return timeout_ms, arbiter


def _scsi_arbiter(table: _Table, vm: str, *, timeout_ms: int, is_local: bool) -> Arbiter:
    # Only who asks a target waits for what speaks to it.
    from ftvmm.arbiters.iscsi import LibraryMissingError  # noqa: PLC0415
    from ftvmm.arbiters.scsi import LunAddress, ScsiArbiter, is_iscsi_name  # noqa: PLC0415

    url = table.get("url", str)
    initiator: str | None = table.get("initiator", str, None)
    table.finish()
    try:
        address = LunAddress.parse(url)
    except ValueError as error:
        raise table.fail("url", str(error)) from None
    if initiator is not None and not is_iscsi_name(initiator):
        reason = f"must be an iSCSI name, such as iqn.2026-01.org.example:host-a, found {initiator!r}"
        raise table.fail("initiator", reason)
    try:
        return ScsiArbiter(address, vm, timeout_seconds=timeout_ms / 1000, initiator=initiator, is_local=is_local)
    except LibraryMissingError as error:
        raise table.fail("kind", f"'scsi-pr' {error}") from error


def _optional_path(table: _Table, key: str) -> Path | None:
    value: str | None = table.get(key, str, None)
    return None if value is None else Path(value)


def _scheme_of(table: _Table, member: str) -> str:
    """Of a member's address. A name would have to be looked up first, for as long as that takes."""
    try:
        address = urlsplit(member)
        host = ipaddress.ip_address(address.hostname or "")
        whole = f"{address.scheme}://{address.netloc}"
        if address.scheme not in ("http", "https") or not address.port or member != whole or "@" in whole:
            raise ValueError
        if host.is_unspecified or host.is_multicast:
            raise ValueError
    except ValueError:
        raise table.fail(
            "members", f"must be http://ADDRESS:PORT or https://ADDRESS:PORT with a numeric address, found {member!r}"
        ) from None
    return address.scheme


def _virtual_machine(table: _Table) -> dict[str, Any]:
    uuid = str(table.get("uuid", str)).replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{32}", uuid):
        raise table.fail("uuid", "must be a UUID of 32 hexadecimal digits")
    image = Path(table.get("image", str))
    if not image.is_file():
        raise table.fail("image", f"{image} is not a file")
    features = table.strings("features")
    for feature in features:
        if feature not in _core.FEATURES:
            raise table.fail("features", f"must be of {', '.join(_core.FEATURES)}, found {feature!r}")
    document = {
        "uuid": uuid,
        "image": str(image),
        "memory_mib": table.natural("memory_mib", 64, least=2, most=4096),
        "features": features,
        "mixed_hosts": table.get("mixed_hosts", bool, False),
        "arguments": table.strings("arguments"),
        "network": [_network(device) for device in table.tables("network")],
        "block": [_block(device) for device in table.tables("block")],
    }
    table.finish()
    return document


def _network(table: _Table) -> dict[str, Any]:
    mac: str = table.get("mac", str)
    if not re.fullmatch(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", mac):
        raise table.fail("mac", f"must be six hexadecimal bytes like 02:00:00:00:00:01, found {mac!r}")
    octets = list(bytes.fromhex(mac.replace(":", "")))
    if octets[0] & 1:
        raise table.fail("mac", f"must not be a multicast address, found {mac!r}")
    name = table.get("name", str)
    document = {"name": name, "tap": table.get("tap", str), "mac": octets, "address": _guest_address(table, name)}
    table.finish()
    return document


def _guest_address(table: _Table, device: str) -> str | None:
    value: str | None = table.get("address", str, None)
    if value is None:
        return None
    try:
        address = ipaddress.IPv4Address(value)
        if address.is_unspecified or address.is_loopback or address.is_multicast or address.is_reserved:
            raise ValueError
    except ValueError:
        reason = f"must be the guest's IPv4 address on device {device!r}, such as 10.0.0.2, found {value!r}"
        raise table.fail("address", reason) from None
    return str(address)


def _block(table: _Table) -> dict[str, Any]:
    sector_bytes = table.natural("sector_bytes", SECTOR_BYTES)
    if not is_sector_size(sector_bytes):
        raise table.fail("sector_bytes", f"must be {SECTOR_SIZES}, found {sector_bytes}")
    document = {"name": table.get("name", str), "path": table.get("path", str), "sector_bytes": sector_bytes}
    table.finish()
    return document


def _heartbeat(table: _Table) -> dict[str, Any]:
    network: str = table.get("network", str)
    if not _NETWORK_NAME.match(network):
        raise table.fail("network", f"must be a short lower-case name, found {network!r}")
    document = {"network": network, "listen": table.address("listen"), "peer": table.address("peer")}
    table.finish()
    return document


def _spare(table: _Table, networks: list[str]) -> Spare:
    sockets = _Table(table.path, f"{table.name}.heartbeat", table.get("heartbeat", dict))
    heartbeat = {network: sockets.address(network) for network in networks}
    sockets.finish()
    spare = Spare(table.get("name", str), table.address("logging"), heartbeat)
    table.finish()
    return spare


def _timing(table: _Table) -> dict[str, int]:
    timing = {name: table.natural(name, default) for name, default in _core.TIMING.items()}
    table.finish()
    try:
        _core.check_timing(json.dumps(timing))
    except ValueError as error:
        found = ", ".join(f"{name}={value}" for name, value in timing.items())
        raise ConfigurationError(f"{table.path}: {table.name}: {error}; found {found}") from None
    return timing


def _record(table: _Table, node_directory: Path) -> dict[str, Any]:
    document = {
        "directory": table.get("directory", str, str(node_directory)),
        "size_mib_max": table.natural("size_mib_max", 256, most=1 << 20),
    }
    table.finish()
    return document


def _test(table: _Table) -> dict[str, Any]:
    mutants = table.strings("mutants")
    for mutant in mutants:
        if mutant not in _core.MUTANTS:
            raise table.fail("mutants", f"unknown mutant {mutant!r} (known: {', '.join(_core.MUTANTS)})")
    failpoints = table.strings("failpoints")
    table.finish()
    return {"mutants": mutants, "failpoints": failpoints}


def _key(table: _Table) -> str:
    path = Path(table.get("key_file", str))
    try:
        mode = path.stat().st_mode
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise table.fail("key_file", f"{path}: {error}") from error
    if mode & 0o077:
        raise table.fail("key_file", f"{path} is readable by others: chmod 600 it")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", key):
        raise table.fail("key_file", f"{path} must hold 64 hexadecimal digits (32 bytes)")
    return key
