"""Linux programs, built once a session, and the network that they meet the tests on."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from tests.guests.conftest import service_network  # noqa: F401  # a fixture of these tests too
from tests.linux.linux_guest import FILES, Package, build, needed, pack


class Builder(Protocol):
    """Builds a program of `programs/` unless it is built already; returns its path."""

    def __call__(self, name: str, *, is_static: bool = False) -> Path: ...


Packer = Callable[[Package], Path]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Builds each program once a session."""
    directories = {
        is_static: tmp_path_factory.mktemp(name) for is_static, name in ((True, "static"), (False, "dynamic"))
    }

    def build_once(name: str, *, is_static: bool = False) -> Path:
        program = directories[is_static] / name
        if not program.exists():
            build(name, program, is_static=is_static)
        return program

    return build_once


@pytest.fixture
def packed(tmp_path: Path) -> Packer:
    """Packs a program into an image of this test."""
    return lambda package: pack(package, tmp_path / f"{package.program.name}.hvt")


@pytest.fixture
def redis_image(packed: Packer) -> Path:
    """Redis with the tests' configuration."""
    program = needed("redis-server", package="redis-server")
    return packed(Package(program, ("/etc/redis.conf",), files={"/etc/redis.conf": FILES / "redis.conf"}))
