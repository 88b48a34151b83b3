"""Tables of device-mapper devices, and putting another one in force under a mounted file system (dmsetup(8))."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.lab.interface import Host


@dataclass(frozen=True)
class Target:
    """One line of a table: so many sectors from `start` on are served by a target of this kind."""

    start: int
    sectors: int
    kind: str
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join([str(self.start), str(self.sectors), self.kind, *self.arguments])

    def failing(self) -> Target:
        """Every operation ends with EIO."""
        return Target(self.start, self.sectors, "error")

    def flaky(self, *, up_seconds: int, down_seconds: int) -> Target:
        """A linear target that works, then fails every operation, and so on in turns (dm-flakey)."""
        if self.kind != "linear":
            raise ValueError(f"`{self}` is not linear")
        return Target(self.start, self.sectors, "flakey", (*self.arguments, str(up_seconds), str(down_seconds)))


def parse_table(text: str) -> tuple[Target, ...]:
    """A table as `dmsetup table` prints it."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    return tuple(Target(int(start), int(sectors), kind, tuple(rest)) for start, sectors, kind, *rest in rows)


@dataclass(frozen=True)
class MappedDevice:
    """A device-mapper device on a host."""

    host: Host
    name: str

    @property
    def path(self) -> str:
        """The device's node."""
        return f"/dev/mapper/{self.name}"

    def table(self) -> tuple[Target, ...]:
        """The table in force."""
        return parse_table(self.host.run(["dmsetup", "table", self.name], check=True).stdout)

    def load(self, table: Sequence[Target]) -> None:
        """Put a table in force.

        The file system above is not frozen first and no request is waited for: a device that fails could do neither.
        """
        swap = " && ".join(
            [
                f"dmsetup load {self.name}",
                f"dmsetup suspend --noflush --nolockfs {self.name}",
                f"dmsetup resume {self.name}",
            ]
        )
        self.host.run(swap, input="".join(f"{target}\n" for target in table).encode(), check=True)
