"""Transparent failover: no TCP connection is reset or ended, as the client saw it and as the captures show it."""

from __future__ import annotations

import math
from itertools import chain

from harness.evidence.capture import Direction
from harness.evidence.client import LOST_EVENTS, ConnectionEvent
from harness.evidence.clocks import Clocks
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict

NAME = "connections-kept"
PROMISE = "transparent-failover"
_FIN, _RST = 0x01, 0x04


def applies(scenario: Scenario) -> bool:
    """Where there is a client with connections."""
    return scenario.client == "key-value"


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge the client's log, then every RST, and every FIN of the VM, in the captures."""
    findings = [
        Finding(f"connection-{event.event}", f"client {event.client}: {event.error}", at_ns=event.at_ns)
        for event in evidence.connections
        if event.event in LOST_EVENTS
    ]
    opened = sum(event.event == "opened" for event in evidence.connections)
    if not opened:
        findings.append(Finding("no-connection", "the client never had a connection", Verdict.INSUFFICIENT))
    segments = 0
    clocks = evidence.clocks
    if clocks is None:
        findings.append(Finding("no-clock", "nothing maps the captures' clock", Verdict.INSUFFICIENT))
    else:
        segments, in_captures = _judge_captures(evidence, clocks)
        findings += in_captures
    if not segments:
        message = "no TCP segment of a client's connection was captured"
        findings.append(Finding("no-segments", message, Verdict.INSUFFICIENT))
    counted = {
        "connections_opened": opened,
        "long_lived_kept": sum(one.event == "closed-by-client" and one.long_lived for one in evidence.connections),
        "segments": segments,
    }
    return Judgement.of(NAME, findings, counted)


def _judge_captures(evidence: EvidenceDirectory, clocks: Clocks) -> tuple[int, list[Finding]]:
    lives = _lives(evidence.connections)
    source = bytes.fromhex(evidence.scenario.mac.replace(":", ""))
    segments = 0
    findings = []
    from_client = evidence.frames("client", "client", Direction.SENT)
    for frame in chain(from_client, *evidence.vm_frames.values()):
        content = frame.tcp()
        if content is None:
            continue
        _, segment = content
        from_vm = frame.source == source
        port = segment.dport if from_vm else segment.sport
        at_ns = clocks.to_monotonic_ns(frame.wall_ns)
        if not any(opened <= at_ns < closed for opened, closed in lives.get(port, [])):
            continue
        segments += 1
        if segment.flags & _RST or (segment.flags & _FIN and from_vm):
            flag = "RST" if segment.flags & _RST else "FIN"
            who = "the VM" if from_vm else "the client's kernel"
            message = f"{who} sent a {flag} on the connection of port {port} ({frame})"
            findings.append(Finding(f"segment-{flag.lower()}", message, at_ns=at_ns))
    return segments, findings


def _lives(events: list[ConnectionEvent]) -> dict[int, list[tuple[float, float]]]:
    """From when to when each local port was a connection that the client had not closed (CLOCK_BOOTTIME).

    A segment within accuses, so each life is as short as the client's clock allows.
    """
    lives: dict[int, list[tuple[float, float]]] = {}
    for event in events:
        if event.event == "opened":
            lives.setdefault(event.local_port, []).append((event.at_ns + event.uncertainty_ns, math.inf))
        elif event.event == "closed-by-client" and lives.get(event.local_port):
            opened, _ = lives[event.local_port].pop()
            lives[event.local_port].append((opened, event.at_ns - event.uncertainty_ns))
    return lives
