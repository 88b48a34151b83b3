"""A burst of pings: how many answers came, in which order, and how soon."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass

from harness.lab.interface import Host, Lab

_COUNT = 50
_WAIT_SECONDS = 0.3
_ANSWER = re.compile(r"icmp_seq=(\d+) ttl=\d+ time=([\d.]+) ms")


@dataclass(frozen=True)
class Echoes:
    """Echo requests sent, the numbers of those answered as their answers came, and the soonest answer's time."""

    sent: int
    answered: tuple[int, ...]
    soonest_ms: float = math.inf

    @property
    def lost(self) -> int:
        """Requests without an answer."""
        return self.sent - len(set(self.answered))

    @property
    def overtakes(self) -> int:
        """Answers that came after a later one."""
        return sum(later < earlier for earlier, later in itertools.pairwise(self.answered))

    def __str__(self) -> str:
        soonest = f", the soonest answer after {self.soonest_ms:.1f} ms" if self.answered else ""
        return f"{self.sent} sent, {self.lost} lost, {self.overtakes} overtaken{soonest}"


def parse(sent: int, output: str) -> Echoes:
    """What ping(8) printed; an answer that came damaged or twice counts as none."""
    whole = (line for line in output.splitlines() if "BAD CHECKSUM" not in line and "DUP!" not in line)
    answers = [match for line in whole if (match := _ANSWER.search(line))]
    return Echoes(
        sent, tuple(int(match[1]) for match in answers), min((float(match[2]) for match in answers), default=math.inf)
    )


def echoes(lab: Lab, host: Host, address: str) -> Echoes:
    """Let `host` send a burst; large packets, so that a flipped bit mostly hits what the checksum covers."""
    wait = lab.pace.stretch(_WAIT_SECONDS)
    command = f"ping -n -c {_COUNT} -i 0.002 -s 1000 -W {wait:g} {address}"
    return parse(_COUNT, host.run(command).stdout)
