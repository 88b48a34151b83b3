"""What the faults of the log make of the kernel's account of it, read from listings that are made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from fault_injectors import logging_network
from fault_injectors.fault import Confirmation, Verdict
from fault_injectors.log_traffic import LogTraffic
from fault_injectors.logging_network import LogDelay, LoggingCut, LogThrottle
from harness.lab.interface import CommandResult, HostState, Pace
from harness.lab.topology import LOGGING

FIRST, SECOND = "10.1.0.11", "10.1.0.12"


def account(entries: tuple[int, int], acknowledgements: tuple[int, int] = (0, 0), *, port: int = 40000) -> str:
    """What `ss` lists of one log connection: bytes that came into the proxy on the second host and went out of it.

    `port` is the dialler's: with another one it is another connection.
    """
    outside = f"bytes_sent:{acknowledgements[1] + 9} bytes_retrans:9 bytes_received:{entries[0]}"
    inside = f"bytes_sent:{entries[1]} bytes_received:{acknowledgements[0]}"
    return (
        f"0 0 {SECOND}:7001 {FIRST}:{port} cubic rto:204 {outside} segs_out:7\n"
        f"0 0 {SECOND}:{port + 1} {SECOND}:7000 cubic rto:204 {inside} segs_out:7\n"
    )


@dataclass
class LogHost:
    """A host whose kernel gives one account after the other, and the last one from then on."""

    accounts: list[str]
    name: str = "host-b"
    state: HostState = HostState.RUNNING

    @property
    def addresses(self) -> dict[str, str]:
        return {LOGGING: SECOND if self.name == "host-b" else FIRST}

    def run(self, command: Sequence[str], **_: Any) -> CommandResult:
        if command[0] == "ss":
            return CommandResult("ss", 0, self.accounts.pop(0) if len(self.accounts) > 1 else self.accounts[0], "")
        assert command[0] == "nft"
        dropped = ("pings of host-a", "heartbeats of host-a")
        rules = [{"rule": {"comment": label, "expr": [{"counter": {"packets": 3}}]}} for label in dropped]
        return CommandResult("nft", 0, json.dumps({"nftables": rules}), "")


@dataclass
class QuickLab:
    """A lab in which detection takes a part of its time."""

    pace: Pace = field(default_factory=lambda: Pace(timing=0.1))


def test_the_account_of_a_log_connection() -> None:
    traffic = LogTraffic.read(LogHost([account((700, 400), (90, 60))]))
    assert (traffic.arrived("upstream"), traffic.left("upstream"), traffic.waiting("upstream")) == (700, 400, 300)
    assert (traffic.arrived("downstream"), traffic.left("downstream"), traffic.waiting("downstream")) == (90, 60, 30)
    assert len(traffic.connections) == 2
    assert not LogTraffic.read(LogHost([account((700, 400), (90, 60), port=40002)])).follows(traffic)


@pytest.mark.parametrize(
    ("last", "verdict"),
    [
        pytest.param(account((95_000, 1100)), Verdict.CONFIRMED, id="slow"),
        pytest.param(account((95_000, 90_000)), Verdict.MISMATCH, id="fast"),
        pytest.param(account((1100, 1100)), Verdict.INCONCLUSIVE, id="nothing-waits"),
        pytest.param("", Verdict.INCONCLUSIVE, id="closed"),
        pytest.param(account((9000, 10), port=40002), Verdict.INCONCLUSIVE, id="dialled-anew"),
    ],
)
def test_a_throttle_is_measured_on_connections_that_stay(last: str, verdict: Verdict) -> None:
    queued = account((90_000, 1000))
    fault = LogThrottle(QuickLab(), LogHost([queued, queued, last]), rate_kib_per_second=16)
    assert fault.confirm(0.05).verdict is verdict


BEFORE, ARRIVED, GONE = account((500, 500)), account((600, 500)), account((600, 600))


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        pytest.param([*[ARRIVED] * 120, GONE], Verdict.CONFIRMED, id="late"),
        pytest.param([GONE], Verdict.MISMATCH, id="at-once"),
        pytest.param([ARRIVED], Verdict.INCONCLUSIVE, id="never"),
        pytest.param([*[ARRIVED] * 120, ""], Verdict.INCONCLUSIVE, id="closed"),
        pytest.param([*[ARRIVED] * 120, account((900, 900), port=40002)], Verdict.INCONCLUSIVE, id="dialled-anew"),
    ],
)
def test_a_delay_is_confirmed_by_bytes_that_are_seen_to_leave_late(after: list[str], verdict: Verdict) -> None:
    fault = LogDelay(QuickLab(), LogHost([BEFORE, ARRIVED, *after]), delay_ms=10_000)
    assert fault.confirm(0.1 if after == [ARRIVED] else 10).verdict is verdict


class CreditedProxy:
    """A proxy that takes every toxic, and reports it."""

    def __init__(self, *_: Any) -> None:
        self._toxics: dict[str, Any] = {}

    def toxics(self) -> dict[str, Any]:
        return self._toxics

    def add(self, toxic: Any) -> None:
        self._toxics[toxic.name] = toxic


def cut(monkeypatch: pytest.MonkeyPatch, *accounts: str, timeout_seconds: float = 10) -> Confirmation:
    """How a cut is judged whose pings are lost and counted and whose toxics are reported: by the accounts."""
    answers = iter([True, False, False])
    monkeypatch.setattr(logging_network, "answers_ping", lambda *_: next(answers))
    monkeypatch.setattr(logging_network, "LogProxy", CreditedProxy)
    fault = LoggingCut(QuickLab(), LogHost([""], "host-a"), LogHost(list(accounts)))
    fault.prepare()
    fault.inject()
    return fault.confirm(timeout_seconds)


def test_a_cut_holds_back_what_an_open_log_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downstream nothing is said, because nobody is heard."""
    confirmation = cut(monkeypatch, BEFORE, BEFORE, ARRIVED)
    assert confirmation.verdict is Verdict.CONFIRMED, confirmation.evidence
    assert "bytes of the log held back upstream on host-b: 100" in confirmation.evidence
    assert cut(monkeypatch, "").verdict is Verdict.CONFIRMED, "without a log nothing of it can be held back"
    given_up = cut(monkeypatch, BEFORE, "")
    assert given_up.verdict is Verdict.CONFIRMED, given_up.evidence
    assert "a log connection on host-b was given up" in given_up.evidence


@pytest.mark.parametrize("then", [BEFORE, account((900, 0), port=40002)], ids=["flows-on", "another"])
def test_a_cut_that_holds_nothing_of_an_open_log_back_is_inconclusive(
    monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    assert cut(monkeypatch, BEFORE, then, timeout_seconds=0.05).verdict is Verdict.INCONCLUSIVE
