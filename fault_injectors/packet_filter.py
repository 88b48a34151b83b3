"""Dropping packets on a host with nftables, and the kernel's count of what was dropped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.lab.interface import Host, LabError


@dataclass(frozen=True)
class DropRule:
    """One rule. `family` is `inet` or `bridge`, `hook` such as `input`, `match` in nft(8)'s words.

    `label` names its counter. `action` may be empty: the packets are counted then, and pass.
    """

    label: str
    hook: str
    match: str
    family: str = "inet"
    action: str = "drop"


class PacketFilter:
    """One set of rules on one host, in tables of its own, so that faults do not meet."""

    def __init__(self, host: Host, table: str, rules: Sequence[DropRule], *, sets: Sequence[str] = ()) -> None:
        """`sets` are named sets of addresses, empty at first, that the rules may match by `@name`."""
        self._host = host
        self._table = table
        self._sets = sets
        self._rules = sorted(rules, key=lambda rule: (rule.family, rule.hook))

    @property
    def families(self) -> list[str]:
        """The families that there are rules for."""
        return sorted({rule.family for rule in self._rules})

    def install(self) -> None:
        """Put all rules in force in one transaction."""
        lines = []
        for family in self.families:
            lines += [f"table {family} {self._table} {{ set {name} {{ type ipv4_addr; }}\n}}" for name in self._sets]
        for (family, hook), rules in groupby(self._rules, key=lambda rule: (rule.family, rule.hook)):
            lines.append(f"table {family} {self._table} {{ chain {hook} {{")
            lines.append(f"type filter hook {hook} priority -10; policy accept;")
            lines += [f'{rule.match} counter {rule.action} comment "{rule.label}"' for rule in rules]
            lines.append("}\n}")
        self._host.run(["nft", "-f", "-"], input=("\n".join(lines) + "\n").encode(), check=True)

    def dropped(self) -> dict[str, int]:
        """Packets that each rule has matched so far, by label."""
        counts: dict[str, int] = {}
        for family in self.families:
            listing = self._host.run(["nft", "--json", "list", "table", family, self._table])
            if not listing.succeeded:
                raise LabError(f"{self._host.name} has no table {family} {self._table}: {listing.stderr.strip()}")
            for entry in json.loads(listing.stdout)["nftables"]:
                rule = entry.get("rule")
                if rule is None:
                    continue
                packets = sum(part["counter"]["packets"] for part in rule["expr"] if "counter" in part)
                counts[rule["comment"]] = counts.get(rule["comment"], 0) + packets
        return counts

    def remove(self) -> None:
        """Take the rules out of force; a host that lost them with its power is fine too."""
        for family in self.families:
            self._host.run(["nft", "destroy", "table", family, self._table])
            self._host.run(["nft", "delete", "table", family, self._table])
