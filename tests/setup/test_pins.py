"""Everything is pinned, and no pin names where a package came from."""

import json
import re
import tomllib
from pathlib import Path

from lab.provision.python_environment import CONSTRAINTS, requirements
from lab.provision.step import Tree

ROOT = Path(__file__).resolve().parents[2]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_python_requirement_has_an_exact_version() -> None:
    lines = [line for line in (ROOT / CONSTRAINTS).read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    pinned = {_canonical(line.partition("==")[0]) for line in lines}
    wanted = {
        _canonical(re.match(r"[A-Za-z0-9._-]+", requirement)[0])  # type: ignore[index]
        for requirement in requirements(Tree(root=ROOT, cargo_directory=Path("/")))
    }
    assert wanted
    assert wanted <= pinned


def test_rust_crates_and_guests_are_locked() -> None:
    for crate in ("core", "guests"):
        lock = tomllib.loads((ROOT / "ftvmm" / crate / "Cargo.lock").read_text())
        assert all(
            package["source"].startswith("registry+https://github.com/rust-lang/crates.io-index")
            for package in lock["package"]
            if "source" in package
        )


def test_allure_is_locked_without_addresses() -> None:
    lock = json.loads((ROOT / "reports" / "package-lock.json").read_text())
    packages = {path: package for path, package in lock["packages"].items() if path}
    assert packages
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not any("resolved" in package for package in packages.values())
