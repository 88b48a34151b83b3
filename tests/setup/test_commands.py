"""The set-up as a person meets it: the program itself, on machines that really lack something."""

import fcntl
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.provision.prerequisites import program_version, version_number
from lab.provision.step import one_at_a_time

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout() -> Iterator[Path]:
    """As much of a checkout as the set-up's first lines need, where anything new would be seen, readable by anyone."""
    with tempfile.TemporaryDirectory(prefix="ftvmm-checkout-") as directory:
        tree = Path(directory)
        tree.chmod(0o755)
        shutil.copytree(ROOT / "lab", tree / "lab", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(ROOT / "Makefile", tree / "Makefile")
        yield tree


def _make_setup(tree: Path, prefix: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, "make", "--silent", f"PYTHON={sys.executable}", "setup"],
        cwd=tree,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), "LC_ALL": "C", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _content(tree: Path) -> list[tuple[Path, int]]:
    return sorted((path, path.stat().st_mtime_ns) for path in tree.rglob("*"))


SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.mark.parametrize(
    ("prefix", "environment", "said"),
    [
        pytest.param(
            ["unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /dev/kvm && exec "$@"', "sh"],
            {},
            "/dev/kvm is not KVM's device",
            id="no-kvm",
        ),
        pytest.param(
            ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh"],
            {},
            "/dev/net/tun is not usable",
            id="no-tun",
        ),
        pytest.param([], {"PATH": SYSTEM_PATH, "HOME": "/nonexistent"}, "Rust is not installed", id="no-rust"),
    ],
)
def test_a_machine_that_lacks_something_is_left_as_it_was(
    checkout: Path, prefix: list[str], environment: dict[str, str], said: str
) -> None:
    if said.startswith("Rust") and shutil.which("cargo", path=SYSTEM_PATH):
        pytest.skip("this machine has Debian's own Rust")
    before = _content(checkout)
    result = _make_setup(checkout, prefix, **environment)
    assert result.returncode == 2
    sentence, *rest = result.stderr.splitlines()
    assert sentence.startswith("ftvmm cannot be set up here.")
    assert said in sentence
    assert all(line.startswith("make: ***") for line in rest)
    assert _content(checkout) == before


def test_without_root_nothing_happens(checkout: Path) -> None:
    interpreter = "/usr/bin/python3"  # one that another user may execute
    if version_number(program_version(Path(interpreter))) < (3, 11):
        pytest.skip("no Python outside of root's home")
    before = _content(checkout)
    result = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", interpreter, "-B", "-m", "lab.provision"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "You are not root" in result.stderr
    assert _content(checkout) == before


def test_a_python_that_does_not_exist_is_named(checkout: Path) -> None:
    result = subprocess.run(
        ["make", "--silent", "PYTHON=python3.99", "setup"], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "python3.99 is not installed" in result.stderr


def test_a_second_run_starts_within_seconds() -> None:
    """Every step of this tree is done (these tests run after it), so nothing may be done or said."""
    result = _make_setup(ROOT, [])
    assert result.returncode == 0, result.stderr
    assert result.stdout + result.stderr == ""


def test_two_set_ups_of_one_tree_wait_for_each_other(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    order: list[str] = []
    waiting = threading.Event()

    class Progress(io.StringIO):
        def write(self, text: str) -> int:
            if "waiting for it" in text:
                waiting.set()
            return super().write(text)

    progress = Progress()

    def second() -> None:
        with one_at_a_time(lock, progress=progress):
            order.append("second")

    with one_at_a_time(lock, progress=io.StringIO()):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(timeout=10)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
    assert f"(process {os.getpid()})" in progress.getvalue()


def test_a_lock_whose_holder_died_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("99999\n")
    progress = io.StringIO()
    with one_at_a_time(lock, progress=progress), lock.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert progress.getvalue() == ""
