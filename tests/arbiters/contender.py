"""Somebody who claims one generation after the other.

As a program: `python -m tests.arbiters.contender KIND PLACES VM NAME FIRST LAST BEGIN`. Generation 0's
moment is BEGIN of CLOCK_MONOTONIC, the others' come after it, and contenders meet at each. An answer is
printed when it is known, whole or not at all: one who is killed has said nothing wrong.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ftvmm.arbiters import Arbiter, ArbiterUnreachableError, FileArbiter
from ftvmm.arbiters.etcd import EtcdArbiter
from ftvmm.arbiters.scsi import LunAddress, ScsiArbiter
from tests.arbiters.target import url_of

TIMEOUT_SECONDS = 3.0
RACE_SECONDS = 0.006
# A contender that is started now is there before this many races are over.
RACES_TO_START = 60


@dataclass(frozen=True)
class Address:
    """Where an arbiter is: its kind, and its directory, its members, or its target (`tests.arbiters.target`)."""

    kind: str
    places: Sequence[str]


def open_arbiter(address: Address, vm: str) -> Arbiter:
    """Another client of the same arbiter."""
    if address.kind == "file":
        return FileArbiter(Path(address.places[0]), vm)
    if address.kind == "scsi-pr":
        return ScsiArbiter(LunAddress.parse(url_of(address.places, vm)), vm, timeout_seconds=TIMEOUT_SECONDS)
    return EtcdArbiter(address.places, vm, timeout_seconds=TIMEOUT_SECONDS)


def main(kind: str, places: str, vm: str, name: str, first: str, last: str, begin: str) -> None:
    """Claims every generation of a range, at moments that nobody knows before."""
    arbiter = open_arbiter(Address(kind, places.split(",")), vm)
    incarnation = random.getrandbits(64)
    for generation in range(int(first), int(last) + 1):
        moment = float(begin) + generation * RACE_SECONDS + random.random() * 0.0005
        time.sleep(max(0.0, moment - time.monotonic()))
        try:
            record = arbiter.ask(generation=generation, incarnation=incarnation, node=name)
        except ArbiterUnreachableError:
            # Whether it was taken is settled by the others' answers.
            continue
        sys.stdout.write(json.dumps(asdict(record)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
