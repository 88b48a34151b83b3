"""A network of its own for each test, and the key-value guest on it."""

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guests.guest import Guest

_CLONE_NEWNET = 0x40000000
GUEST_ADDRESS = "10.0.0.2"
HOST_ADDRESS = "10.0.0.1"


def _call(function: str, *arguments: int) -> None:
    """Calls a function of the C library that Python 3.11 has no binding for."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, function)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{function}: {os.strerror(error)} (the tests of the guests need root)")


@pytest.fixture
def service_network() -> Iterator[tuple[str, ...]]:
    """Moves the test, and what it starts, into a new network namespace with the TAP `tap0`; yields the device options
    of `ftvmm run` for it. The namespace goes with the last process in it."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    _call("unshare", _CLONE_NEWNET)
    try:
        for command in (
            "link set lo up",
            "tuntap add tap0 mode tap",
            f"address add {HOST_ADDRESS}/24 dev tap0",
            "link set tap0 up",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        yield ("--net:service=tap0", "--net-mac:service=02:00:00:00:00:02")
    finally:
        _call("setns", before, _CLONE_NEWNET)
        os.close(before)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """An empty block device."""
    path = tmp_path / "storage.img"
    with path.open("wb") as file:
        file.truncate(1 << 20)
    return path


@pytest.fixture
def boot_key_value(service_network: tuple[str, ...], storage: Path) -> Callable[[], Guest]:
    """Boots the key-value guest on the test's network and block device."""

    def boot() -> Guest:
        devices = (*service_network, f"--block:storage={storage}")
        return Guest("kv", f"--ipv4={GUEST_ADDRESS}/24", devices=devices)

    return boot


@pytest.fixture
def key_value(boot_key_value: Callable[[], Guest]) -> Iterator[Guest]:
    """The key-value guest, serving."""
    with boot_key_value() as guest:
        guest.expect("serving")
        yield guest
