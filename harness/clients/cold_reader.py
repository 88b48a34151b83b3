"""Boots a fresh VM from a copy of a disk image, on a TAP of its own, and reads everything back that it is asked for.

    python -m harness.clients.cold_reader --guest kv.hvt --memory-mib 64 --serving "kv: serving" --scrub \\
        --disk disk.img.gz --keys keys.json --seconds 8

Runs on a host that can run a VM and prints one JSON object, `harness.evidence.read_back.ReadBack` without its host. It
ends in time, whatever the VM does, and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hiredis

from harness.clients.workload import spell

_TAP = "coldread"
# In no network of the lab: nothing of this is to pass a switch.
_NETWORK, _GUEST = "10.77.0.1/24", "10.77.0.2"
_PORT = 6379
# Of what the VMM says when a VM comes to nothing.
_LAST_BYTES = 500


class ColdReadError(Exception):
    """It came to nothing; the message says why."""


class GuestGaveUpError(ColdReadError):
    """The guest itself will not serve this disk."""


class ColdReader:
    """One VM, from boot to end.

    Args:
        guest: its image.
        memory_mib: how much memory it has.
        disk: its disk image, which it may change; a log comes to lie beside it.
        deadline: when it has to have answered, on `time.monotonic`.
    """

    def __init__(self, guest: Path, memory_mib: int, disk: Path, deadline: float) -> None:
        self._deadline = deadline
        self.console = b""
        devices = [f"--net:service={_TAP}", f"--block:storage={disk}"]
        command = [sys.executable, "-m", "ftvmm", "run", f"--mem={memory_mib}", *devices, str(guest)]
        # What the guest prints, and what the VMM says, are to be told apart.
        self._said = disk.with_name("vmm.log")
        with self._said.open("wb") as said:
            self._vm = subprocess.Popen(
                [*command, "--", f"--ipv4={_GUEST}/24"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        self._reader = hiredis.Reader(encoding="utf-8", errors="backslashreplace")

    def await_service(self, serving: str) -> None:
        """Wait until the guest prints this."""
        assert self._vm.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._vm.stdout, selectors.EVENT_READ)
            while serving.encode() not in self.console:
                if not selector.select(self._left()):
                    raise ColdReadError("the guest did not serve in time")
                part = os.read(self._vm.stdout.fileno(), 65536)
                self.console += part
                if not part:
                    status = self._vm.wait(max(0.1, self._left()))
                    error = GuestGaveUpError if self.console else ColdReadError
                    said = self._said.read_text(errors="backslashreplace")[-_LAST_BYTES:]
                    raise error(f"the VM ended with exit status {status}; the VMM says {said!r}")

    def ask(self, questions: Sequence[Sequence[str]]) -> list[Any]:
        """The replies to these commands, one after the other."""
        replies: list[Any] = []
        try:
            with socket.create_connection((_GUEST, _PORT), timeout=self._left()) as channel:
                for question in questions:
                    channel.settimeout(max(0.01, self._left()))
                    channel.sendall(hiredis.pack_command(tuple(question)))  # type: ignore[arg-type]  # stub: 1-tuple
                    replies.append(self._reply(channel))
        except OSError as error:
            raise ColdReadError(f"after {len(replies)} of {len(questions)} answers: {error}") from error
        return replies

    def _reply(self, channel: socket.socket) -> Any:
        while (reply := self._reader.gets()) is False:
            channel.settimeout(max(0.01, self._left()))
            data = channel.recv(1 << 18)
            if not data:
                raise OSError("the guest closed the connection")
            self._reader.feed(data)
        return reply

    def end(self) -> None:
        """Take the VM down, and keep what it printed to the end."""
        self._vm.kill()
        rest, _ = self._vm.communicate()
        self.console += rest

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())


@contextlib.contextmanager
def _tap() -> Iterator[None]:
    subprocess.run(["ip", "tuntap", "add", _TAP, "mode", "tap"], check=True)
    try:
        commands = f"link set {_TAP} up\naddress add {_NETWORK} dev {_TAP}\n"
        subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True)
        yield
    finally:
        subprocess.run(["ip", "link", "delete", _TAP], check=False)


def read_back(options: argparse.Namespace, keys: Sequence[str]) -> dict[str, Any]:
    """Everything, as one object to print."""
    start, disk = time.monotonic(), options.disk
    result: dict[str, Any] = {"values": {}, "errors": {}, "damages": []}
    reader = None
    with tempfile.TemporaryDirectory(dir=disk.parent) as directory, _tap():
        image = Path(directory) / "disk.img"
        with gzip.open(disk) as source, image.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        try:
            reader = ColdReader(options.guest, options.memory_mib, image, start + options.seconds)
            reader.await_service(options.serving)
            for key, reply in zip(keys, reader.ask([("GET", key) for key in keys]), strict=True):
                if isinstance(reply, hiredis.ReplyError):
                    result["errors"][key] = str(reply)
                else:
                    result["values"][key] = None if reply is None else spell(str(reply))
            if options.scrub:
                result["damages"] = _damages(reader)
        except ColdReadError as error:
            result |= {"failure": str(error), "refused_by_guest": isinstance(error, GuestGaveUpError)}
        finally:
            if reader is not None:
                reader.end()
                result["console"] = reader.console.decode(errors="backslashreplace")
    return result | {"seconds": round(time.monotonic() - start, 3)}


def _damages(reader: ColdReader) -> list[str]:
    """What the guest finds wrong when it reads all that is on its disk."""
    [scrub] = reader.ask([("SCRUB",)])
    if isinstance(scrub, hiredis.ReplyError):
        raise ColdReadError(f"SCRUB was answered with {scrub}")
    damages: list[str] = dict(zip(scrub[::2], scrub[1::2], strict=True))["damages"]
    return damages


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m harness.clients.cold_reader", description=__doc__.split("\n")[0])
    parser.add_argument("--guest", type=Path, required=True, help="the server's image")
    parser.add_argument("--memory-mib", type=int, required=True, help="memory of its VM")
    parser.add_argument("--serving", required=True, help="what it prints when it serves")
    parser.add_argument("--scrub", action="store_true", help="ask it by SCRUB what is damaged")
    parser.add_argument("--disk", type=Path, required=True, help="the disk image, packed by gzip")
    parser.add_argument("--keys", type=Path, required=True, help="a JSON list")
    parser.add_argument("--seconds", type=float, default=8, help="how long it may take")
    options = parser.parse_args(arguments)
    keys = json.loads(options.keys.read_bytes())
    print(json.dumps(read_back(options, keys)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
