"""What a lab that is up has left in `.state/lab`, for every command and every test run that uses it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.lab.interface import LabError
from harness.lab.process_identity import ProcessIdentity

PROJECT = Path(__file__).resolve().parents[3]
DIRECTORY = PROJECT / ".state" / "lab"
# The prefix of the names of machines and networks: whoever looks at the hypervisor sees whose they are.
PREFIX = "ftvmm-"
LIBVIRT, VIRTUALBOX = "libvirt", "virtualbox"


@dataclass(frozen=True)
class Door:
    """Where a host's sshd is reached, and the key that it has to show (an authorized_keys line)."""

    address: str
    port: int
    host_key: str


@dataclass(frozen=True)
class LabState:
    """A lab that is up, or on its way.

    Attributes:
        provider: `libvirt` or `virtualbox`.
        acceleration: `kvm` or `tcg`; `hardware` under VirtualBox, which has no other.
        rack: the process whose namespaces libvirt and the machines live in; None under VirtualBox.
        doors: by host; empty until every host is up.
        snapshot: the name of what every scenario begins from; empty until it is taken.
        installed: digest of what the hosts were given to install.
        made_of: what the machines were made of (lab/vagrant/up.py), by its name.
    """

    provider: str
    acceleration: str
    rack: ProcessIdentity | None = None
    doors: Mapping[str, Door] = field(default_factory=dict)
    snapshot: str = ""
    installed: str = ""
    made_of: Mapping[str, str] = field(default_factory=dict)

    def write(self, directory: Path = DIRECTORY) -> None:
        """Replace the state in one step."""
        temporary = directory / "state.json.new"
        temporary.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")
        temporary.replace(directory / "state.json")


def read_state(directory: Path = DIRECTORY) -> LabState | None:
    """The lab's state; None when there is no lab. `LabError` when the file cannot be understood."""
    path = directory / "state.json"
    try:
        raw = json.loads(path.read_text())
        rack = ProcessIdentity(**raw.pop("rack")) if raw.get("rack") else raw.pop("rack", None)
        doors = {name: Door(**door) for name, door in raw.pop("doors").items()}
        return LabState(**raw, rack=rack, doors=doors)
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise LabError(f"{path} cannot be read ({error}): run `make lab-down`, which starts afresh") from error


def lab_that_is_up(directory: Path = DIRECTORY) -> LabState:
    """The state of a lab that is up; `LabError` says what to do when there is none."""
    state = read_state(directory)
    if state is None or not state.doors:
        raise LabError("the Vagrant lab is not up: run `make lab-up`")
    if state.rack is not None and not state.rack.is_alive():
        raise LabError("the Vagrant lab has ended with this machine's last start: run `make lab-up`")
    return state
