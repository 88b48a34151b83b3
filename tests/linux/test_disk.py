"""Programs that keep files on the block device: what they acknowledged is there whenever the VMM was killed."""

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.lab.waiting import wait_until
from tests.guests.guest import Guest
from tests.linux.clients import REDIS_PORT, connect, redis_client
from tests.linux.conftest import Packer
from tests.linux.linux_guest import FILES, Package, boot, needed, run_packed

DISK_BYTES = 64 << 20
MEMORY_MIB = 256
KILLS = 20
KILLING_S_MAX = 30.0
"""After so long no further kill is begun: on a slow disk there are fewer."""
PAUSE_S_MAX = 0.01
"""A kill comes so long after an acknowledgement at most, so that it may hit any of the writes of the next command."""
WRITE_BACK_S_MAX = 20.0
COMMANDS_IN_FLIGHT = 8
ROWS = 400


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A blank block device."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    return path


def kills(seed: int) -> Iterator[random.Random]:
    """For each kill what decides on its moment, as long as there is time."""
    decisions = random.Random(seed)
    end = time.monotonic() + KILLING_S_MAX
    for _ in range(KILLS):
        yield decisions
        if time.monotonic() > end:
            return


def kill(guest: Guest, decisions: random.Random) -> None:
    """Kills the VMM at a moment that nobody knows beforehand. All lines before it are in `guest.console` then."""
    time.sleep(decisions.uniform(0, PAUSE_S_MAX))
    guest.kill()
    guest.wait()


# Redis


@dataclass
class Keys:
    """Keys that were set, each once, in order."""

    seed: int
    sent: int = 0
    acknowledged: list[int] = field(default_factory=list)

    def value(self, number: int) -> bytes:
        """The value of a key: some bytes, or some blocks of them."""
        numbers = random.Random(self.seed + number)
        return numbers.randbytes(numbers.choice((5, 100, 1000, 10_000)))

    def next_command(self) -> bytes:
        """The command that sets the next key."""
        name, value = b"key%d" % self.sent, self.value(self.sent)
        self.sent += 1
        return b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(name), name, len(value), value)

    def check(self) -> None:
        """Asks for all keys: those that were acknowledged are there, and no other value is."""
        acknowledged = set(self.acknowledged)
        with connect(REDIS_PORT) as connection, connection.makefile("rb") as reader:
            for number in range(self.sent):
                connection.sendall(b"GET key%d\r\n" % number)
                length = int(reader.readline().removeprefix(b"$"))
                value = None if length < 0 else reader.read(length + 2)[:-2]
                if value is not None:
                    assert value == self.value(number), f"key {number} has another value"
                assert value is not None or number not in acknowledged, f"key {number} was acknowledged and is lost"

    def set(self, count: int) -> None:
        """Sets keys until so many are acknowledged; others are on their way then."""
        with connect(REDIS_PORT) as connection, connection.makefile("rb") as reader:
            waiting = []
            for _ in range(COMMANDS_IN_FLIGHT):
                waiting.append(self.sent)
                connection.sendall(self.next_command())
            for _ in range(count):
                assert reader.readline() == b"+OK\r\n"
                self.acknowledged.append(waiting.pop(0))
                waiting.append(self.sent)
                connection.sendall(self.next_command())


@pytest.fixture
def boot_redis(packed: Packer, service_network: tuple[str, ...], disk: Path) -> Callable[[], Guest]:
    """Boots Redis, which appends what it acknowledges to a log on the block device."""
    program = needed("redis-server", package="redis-server")
    files = {"/etc/redis.conf": FILES / "redis-disk.conf"}
    image = packed(Package(program, ("/etc/redis.conf",), files=files, has_disk=True))
    return lambda: boot(image, *service_network, f"--block:storage={disk}", memory_mib=MEMORY_MIB)


def test_redis_keeps_every_acknowledged_key_whenever_it_is_killed(boot_redis: Callable[[], Guest]) -> None:
    keys = Keys(seed=1)
    for decisions in kills(seed=1):
        with boot_redis() as guest:
            guest.expect("Ready to accept connections")
            keys.check()
            keys.set(decisions.randrange(1, 50))
            kill(guest, decisions)
    with boot_redis() as guest:
        guest.expect("Ready to accept connections")
        keys.check()


def test_what_no_program_synchronises_reaches_the_device_by_itself(boot_redis: Callable[[], Guest], disk: Path) -> None:
    with boot_redis() as guest:
        guest.expect("Ready to accept connections")
        with redis_client() as client:
            assert client.config_set("appendfsync", "no")
            assert client.set("key", "not-synchronised")
            assert b"not-synchronised" not in disk.read_bytes()
            wait_until(lambda: b"not-synchronised" in disk.read_bytes(), timeout_seconds=WRITE_BACK_S_MAX)
            # It answers when all that belongs to it is there too.
            assert client.ping()
    with boot_redis() as guest:
        guest.expect("Ready to accept connections")
        with redis_client() as client:
            assert client.get("key") == "not-synchronised"


# SQLite


def sqlite(script: Path) -> Package:
    """The shell of SQLite with a database on the block device."""
    program = needed("sqlite3", package="sqlite3")
    return Package(
        program, ("/data/test.db", ".read /srv/script"),
        files={"/srv/script": script}, has_network=False, has_disk=True,
    )  # fmt: skip


def write_rows(path: Path, *, pragma: str) -> Path:
    """A script that says how many rows it finds, and adds some, each in a transaction of its own. EXTRA is what makes
    SQLite wait until the name of the journal is gone from the device, too."""
    insert = "INSERT INTO rows(text) VALUES(hex(randomblob(abs(random()) % 2000))); SELECT 'row ' || max(id) FROM rows;"
    start = [
        f"{pragma};", "PRAGMA synchronous=EXTRA;", "PRAGMA integrity_check;",
        "CREATE TABLE IF NOT EXISTS rows(id INTEGER PRIMARY KEY, text TEXT);",
        "CREATE INDEX IF NOT EXISTS texts ON rows(text);",
        "SELECT 'found ' || count(*) || ' up to ' || coalesce(max(id), 0) FROM rows;",
    ]  # fmt: skip
    path.write_text("\n".join([*start, *[insert] * ROWS]))
    return path


@pytest.mark.parametrize(
    "pragma",
    ["PRAGMA journal_mode=DELETE", "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL"],
    ids=["journal", "write-ahead-log"],
)
def test_sqlite_keeps_every_row_whenever_it_is_killed(packed: Packer, disk: Path, tmp_path: Path, pragma: str) -> None:
    image = packed(sqlite(write_rows(tmp_path / "script", pragma=pragma)))
    rows = 0
    for decisions in kills(seed=2):
        with Guest(str(image.with_suffix("")), devices=(f"--block:storage={disk}",), memory_mib=MEMORY_MIB) as guest:
            guest.expect("^ok$")
            found = guest.expect(r"^found (\d+) up to (\d+)$")
            # The last one may have been written without a line that says so.
            assert int(found[1]) == int(found[2])
            assert rows <= int(found[1]) <= rows + 1
            guest.expect(rf"^row {int(found[1]) + decisions.randrange(1, 50)}$")
            kill(guest, decisions)
            rows = int(next(line for line in reversed(guest.console) if line.startswith("row ")).removeprefix("row "))


def test_linux_reads_what_the_vm_wrote(packed: Packer, disk: Path, tmp_path: Path) -> None:
    check, debugger = needed("e2fsck", package="e2fsprogs"), needed("debugfs", package="e2fsprogs")
    image = packed(sqlite(write_rows(tmp_path / "script", pragma="PRAGMA journal_mode=DELETE")))
    ending = run_packed(image, f"--block:storage={disk}", memory_mib=MEMORY_MIB)
    assert (ending.status, ending.lines[-1]) == (0, f"row {ROWS}")
    # What is in the journal only is brought to its place; then nothing is left to be mended.
    subprocess.run([str(check), "-p", "-E", "journal_only", str(disk)], check=False, capture_output=True)
    done = subprocess.run([str(check), "-f", "-n", str(disk)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    database = tmp_path / "test.db"
    subprocess.run([str(debugger), "-R", f"dump /test.db {database}", str(disk)], check=True, capture_output=True)
    question = "PRAGMA integrity_check; SELECT count(*) FROM rows;"
    answer = subprocess.run(["sqlite3", str(database), question], check=True, capture_output=True, text=True)
    assert answer.stdout.splitlines() == ["ok", str(ROWS)]


# Devices that are not for files


def test_a_device_that_holds_something_else_is_left_alone(packed: Packer, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("SELECT 1;")
    image = packed(sqlite(tmp_path / "script"))
    with disk.open("r+b") as file:
        file.write(b"something else")
    before = disk.read_bytes()
    ending = run_packed(image, f"--block:storage={disk}", memory_mib=MEMORY_MIB)
    assert ending.status == 1
    assert len(ending.lines) == 1
    assert "the device holds something else" in ending.lines[0]
    assert disk.read_bytes() == before
