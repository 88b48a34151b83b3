"""The Rust core: see `ftvmm/core/src/python/`."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, TypedDict

class CoreError(Exception):
    """Its arguments are a sentence for the user and the exit status that it should lead to."""

class Outcome(TypedDict):
    """How a run came out; `ending` is `halted`, `trapped`, `interrupted` or `log-ended`, digests are hexadecimal.

    `report` tells of a trap, `remark` of a log without an end record.
    """

    ending: str
    exit_status: int
    report: str | None
    remark: str | None
    position: int
    fingerprint: str
    state_digest: str

class HostReport(TypedDict):
    """What a host's KVM does: the TSS type that lets port I/O pass from CPL 3, and where RIP is after an `out`.

    `guest_cpuid`: whether KVM takes the CPUID that the guest is shown; `umip`: whether it takes CR4.UMIP;
    `processor`: its maker, family and model; `kvm`: the module of the KVM that it has.

    `features`: what a guest may be shown beyond x86-64-v2, and whether the host's processor has it. `trapping`: names
    of instructions that trap by themselves at CPL 3; `rewritten`: of those that are rewritten so that they do.
    """

    task_type: int
    rip_past_out: bool
    guest_cpuid: bool
    umip: bool
    processor: str
    kvm: str
    capabilities: dict[str, bool]
    features: list[tuple[str, bool]]
    trapping: list[str]
    rewritten: list[str]

class FoundInstruction(TypedDict):
    """An instruction of an image: where, in an assembler's words, in which function, and why it is refused."""

    address: int
    instruction: str
    place: str | None
    reason: str | None

class HostDependence(FoundInstruction):
    """The first of `count` instructions whose results depend on the host in one way, which `reason` says."""

    count: int

class ImageReport(TypedDict):
    """What the determinism pass finds in an image.

    `hidden` are non-deterministic instructions that begin inside others, or in what the image calls data; `doubtful`
    are rewritten ones in no function that a symbol names with its length, which may be data; `features` are those of
    processors beyond x86-64-v2 of which it has instructions, for where CPUID shows them.
    """

    code_bytes: int
    depends: list[HostDependence]
    features: list[str]
    rewritten: list[FoundInstruction]
    doubtful: list[FoundInstruction]
    refused: list[FoundInstruction]
    hidden: list[FoundInstruction]

class ProgramReport(TypedDict):
    """What a program asks for: its dynamic loader, `None` for a static one, and functions that start processes."""

    loader: str | None
    starts_processes: list[str]

class PackReport(TypedDict):
    """What went into an image. `end`: the first address behind it; `undefined`: instructions that became UD2."""

    image_bytes: int
    end: int
    objects: int
    system_calls: int
    undefined: int
    files: int

def run(config_json: str) -> Outcome:
    """Runs a VM to its end. Raises `CoreError`."""

def replay(
    log: str | PathLike[str],
    image: str | PathLike[str] | None = None,
    outputs: str | PathLike[str] | None = None,
    states_at: Sequence[int] = (),
) -> Outcome:
    """Replays a recorded run to its end; `outputs` gets a line for each output, and for each state that is wanted.

    Raises `CoreError`.
    """

def examine_image(path: str | PathLike[str]) -> ImageReport:
    """Looks an image through. Raises `CoreError`."""

def examine_host() -> HostReport:
    """Tries the host's KVM out. Raises `CoreError`."""

def examine_disk(path: str | PathLike[str], sector_bytes: int) -> tuple[int, int]:
    """Opens and reads a disk as a pair's node does: capacity and unit in bytes. Raises `CoreError`."""

def examine_tap(name: str) -> int:
    """Attaches to a TAP interface for a moment: its MTU in bytes. Raises `CoreError`, also where it is down."""

def examine_program(path: str | PathLike[str]) -> ProgramReport:
    """Looks at a program that is to be packed. Raises `CoreError`, which says why it cannot be."""

def is_library(path: str | PathLike[str]) -> bool:
    """Whether a file is a shared library for x86-64. Raises `CoreError` where it cannot be read."""

def pack(request_json: str, image: str | PathLike[str]) -> PackReport:
    """Packs a program; the request is that of `packing::Request`. Raises `CoreError`."""

def simulate(first: int, count: int, rules_off: str) -> tuple[str, int | None]:
    """Runs fault schedules; the report, and the seed that broke a promise. Raises `ValueError` for an unknown rule."""

def check_timing(timing_json: str) -> None:
    """Refuses intervals that break the protocol's promises. Raises `ValueError`, which says why."""

BUILD: str
"""`shipped`, or `lab`."""

FEATURES: tuple[str, ...]
"""What a guest may be shown of the processor beyond x86-64-v2."""

TIMING: Mapping[str, int]
"""The intervals of a node that is told none, in milliseconds, by their names in `node.toml`."""

MUTANTS: tuple[str, ...]
"""How a VMM can be broken on purpose (`ftvmm/core/src/node/mutants.rs`). The lab's build alone has it."""

FAILPOINTS: tuple[str, ...]
"""Where a node can be held (`ftvmm/core/src/node/failpoints.rs`). The lab's build alone has it."""

class NodeError(Exception):
    """A node that cannot start; the message says why."""

class Node:
    """One node of a fault-tolerant pair; its threads run from construction on."""

    def __init__(self, document: str) -> None: ...
    @property
    def incarnation(self) -> int: ...
    def start(self, bootstrap: bool) -> None: ...
    def stop(self) -> None: ...
    def let_backup_go(self, document: str | None) -> None:
        """Has the VM run without its backup, and look for the one in the JSON, or for one on the same host.

        Raises `NodeError` where there is none, or it is not well.
        """

    def hand_over(self) -> None:
        """Has the backup run the VM. Raises `NodeError` where there is none, or it is not well."""

    def protect(self, document: str) -> None:
        """Dials a spare that is to become the backup of the VM, which this node runs alone.

        The document is JSON: `name`, `logging` (its listener) and `heartbeat` (its sockets by network). Raises
        `NodeError`, which says why this node takes no backup now, and `ValueError` for another document.
        """
    def arbiter_answer(self, request: int, generation: int, incarnation: int) -> None: ...
    def arbiter_unreachable(self, request: int) -> None: ...
    def status(self) -> str: ...
    def next_effect(self, timeout_ms: int) -> tuple[Any, ...] | None: ...
