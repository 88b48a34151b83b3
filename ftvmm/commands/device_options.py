"""Options that carry a device's name, as Solo5's tender has them: `--net:NAME=TAP`, `--block:NAME=PATH`."""

import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from ftvmm.configuration import SECTOR_BYTES, SECTOR_SIZES, is_sector_size
from ftvmm.failure import Failure

_OPTION = re.compile(r"--(?P<kind>net|net-mac|block|block-sector-size):(?P<name>[^=]*)(?:=(?P<value>.*))?", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9]{1,67}")


@dataclass
class DeviceOptions:
    """What is behind each device, by the device's name in the image's manifest."""

    taps: dict[str, str] = field(default_factory=dict)
    macs: dict[str, str] = field(default_factory=dict)
    blocks: dict[str, str] = field(default_factory=dict)
    sector_sizes: dict[str, str] = field(default_factory=dict)

    def take(self, argument: str) -> bool:
        """Takes an argument in.

        Returns:
            Whether it is an option of this kind.

        Raises:
            Failure: it is one, and wrong.
        """
        match = _OPTION.fullmatch(argument)
        if match is None:
            return False
        kind, name, value = match["kind"], match["name"], match["value"]
        if not _NAME.fullmatch(name):
            raise Failure(f"{argument!r}: a device's name has 1 to 67 letters and digits.")
        if not value:
            raise Failure(f"{argument!r} needs a value: --{kind}:{name}=...")
        devices = {
            "net": self.taps, "net-mac": self.macs, "block": self.blocks, "block-sector-size": self.sector_sizes
        }[kind]  # fmt: skip
        if name in devices:
            raise Failure(f"--{kind}:{name} is given twice.")
        devices[name] = value
        return True

    def network(self) -> list[dict[str, str]]:
        """The network devices as the core wants them; one without an address gets a random one.

        Raises:
            Failure: an address is given for a device that is not.
        """
        for name in self.macs.keys() - self.taps.keys():
            raise Failure(f"--net-mac:{name} is given without --net:{name}.")
        return [
            {"name": name, "tap": tap, "mac": self.macs.get(name) or random_mac()} for name, tap in self.taps.items()
        ]

    def block(self) -> list[dict[str, Any]]:
        """The block devices as the core wants them.

        Raises:
            Failure: a sector size is none, or is given for a device that is not.
        """
        for name, value in self.sector_sizes.items():
            option = f"--block-sector-size:{name}"
            if name not in self.blocks:
                raise Failure(f"{option} is given without --block:{name}.")
            if not re.fullmatch("[0-9]{1,5}", value) or not is_sector_size(int(value)):
                raise Failure(f"{option}={value}: must be {SECTOR_SIZES}.")
        return [
            {"name": name, "path": path, "sector_bytes": int(self.sector_sizes.get(name, SECTOR_BYTES))}
            for name, path in self.blocks.items()
        ]


def random_mac() -> str:
    """A random address, unicast and locally administered (IEEE 802, section 8.2.2)."""
    return ":".join(f"{byte:02x}" for byte in (0x02, *secrets.token_bytes(5)))
