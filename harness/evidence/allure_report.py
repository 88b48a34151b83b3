"""What a reader of the Allure report sees of a scenario: faults and oracles as steps, the evidence as attachments."""

from __future__ import annotations

import gzip
import html
import json
from collections.abc import Sequence
from pathlib import Path

import allure

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.failover import PARTS, Failover, write_failovers
from harness.evidence.faults import InjectedFault
from harness.evidence.json_lines import EvidenceError
from harness.evidence.timeline import draw_timeline
from harness.evidence.verdicts import Judgement, Verdict

FINDINGS_SHOWN_MAX = 20
_UNPACKED_BYTES_MAX = 1 << 20
_COLOURS = {Verdict.PASSED: "#2e7d4f", Verdict.FAILED: "#b3261e", Verdict.INSUFFICIENT: "#9a6700"}
_MIME_TYPES = {
    ".jsonl": "application/x-ndjson",
    ".json": "application/json",
    ".log": "text/plain",
    ".gz": "application/gzip",
    ".html": "text/html",
    ".png": "image/png",
    ".toml": "text/plain",
}


class PromiseBrokenError(AssertionError):
    """An oracle found a promise broken; Allure shows the step and the scenario as failed."""


class EvidenceInsufficientError(Exception):
    """An oracle had too little to judge by; Allure shows the step as broken. It counts as a failure all the same."""


def report(evidence: EvidenceDirectory, judgements: Sequence[Judgement]) -> None:
    """Write `failover.json` and `timeline.png`, then show everything in the running Allure test.

    Never raises for bad evidence: what cannot be drawn is said in the report, the oracles have judged it already.
    """
    failovers: list[Failover] = []
    try:
        failovers = write_failovers(evidence)
        # It takes a second, and shows nothing where nothing happened.
        if failovers or any(judgement.verdict is not Verdict.PASSED for judgement in judgements):
            draw_timeline(evidence)
            allure.attach((evidence.path / "timeline.png").read_bytes(), "timeline", allure.attachment_type.PNG)
    except EvidenceError as error:
        allure.attach(str(error), "no timeline", allure.attachment_type.TEXT)
    allure.attach(verdict_page(judgements, failovers), "verdicts", allure.attachment_type.HTML)
    _show_faults(evidence)
    for judgement in judgements:
        _show_judgement(judgement)
    with allure.step("Evidence"):
        for path in sorted(evidence.path.rglob("*")):
            if path.is_file() and path.name != "timeline.png" and path.stat().st_size:
                _attach_file(path, str(path.relative_to(evidence.path)))


def raise_if_broken(judgements: Sequence[Judgement]) -> None:
    """Fail the scenario unless every oracle passed: `PromiseBrokenError`, or `EvidenceInsufficientError`.

    What evidence was missing stands below what was broken: it may explain it.
    """
    if not judgements:
        raise EvidenceInsufficientError("no oracle judged this scenario")
    failed, insufficient = (
        [_summary(one) for one in judgements if one.verdict is verdict]
        for verdict in (Verdict.FAILED, Verdict.INSUFFICIENT)
    )
    if failed:
        raise PromiseBrokenError("\n".join(failed + insufficient))
    if insufficient:
        raise EvidenceInsufficientError("\n".join(insufficient))


def show_second_attempt(reason: str, first_attempt: Path) -> None:
    """Say in the running Allure test why it is the second attempt; the first one's result stands beside it."""
    with allure.step("Begun anew"):
        text = f"{reason}\n\nWhat the first attempt left is in {first_attempt}."
        allure.attach(text, "why it was begun anew", allure.attachment_type.TEXT)


def verdict_page(judgements: Sequence[Judgement], failovers: Sequence[Failover] = ()) -> str:
    """The verdicts and the failover times as one small HTML page."""
    rows = []
    for judgement in judgements:
        findings = "".join(
            f"<li><b>{html.escape(finding.code)}</b> {html.escape(finding.message)}</li>"
            for finding in judgement.findings[:FINDINGS_SHOWN_MAX]
        )
        counted = ", ".join(f"{name} {value}" for name, value in judgement.counted.items())
        rows.append(
            f"<tr><td>{html.escape(judgement.oracle)}</td>"
            f"<td style='color:{_COLOURS[judgement.verdict]}'><b>{judgement.verdict}</b></td>"
            f"<td><ul>{findings}</ul></td><td class='counted'>{html.escape(counted)}</td></tr>"
        )
    head = "<tr><th>oracle</th><th>verdict</th><th>findings</th><th>counted</th></tr>"
    tables = f"<table>{head}{''.join(rows)}</table>"
    if failovers:
        tables += f"<h3>Failover time in its parts (ms)</h3><table>{_failover_rows(failovers)}</table>"
    style = (
        "body{font:14px system-ui,sans-serif;color:#22303c;margin:12px}table{border-collapse:collapse;width:100%}"
        "th,td{text-align:left;vertical-align:top;padding:6px 10px;border-bottom:1px solid #e3e8ec}"
        "ul{margin:0;padding-left:16px}.counted{color:#667480;font-size:12px}"
    )
    return f"<!doctype html><meta charset='utf-8'><style>{style}</style>{tables}"


def _failover_rows(failovers: Sequence[Failover]) -> str:
    names = [*PARTS, "total", "silence", "longest wait"]
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in ("survivor", *names))
    rows = [f"<tr>{head}</tr>"]
    for failover in failovers:
        values = [*failover.parts_ms().values(), failover.total_ms, failover.silence_ms, failover.longest_wait_ms]
        cells = "".join(f"<td>{'?' if value is None else f'{value:.1f}'}</td>" for value in values)
        rows.append(f"<tr><td>{html.escape(failover.survivor)}</td>{cells}</tr>")
    return "".join(rows)


def _show_faults(evidence: EvidenceDirectory) -> None:
    try:
        faults = evidence.faults
    except EvidenceError:
        return
    for fault in faults:
        with allure.step(f"Fault: {fault.fault} at {fault.target}: {fault.verdict}"):
            allure.attach(_fault_text(fault), "evidence of the fault", allure.attachment_type.TEXT)


def _fault_text(fault: InjectedFault) -> str:
    parameters = [f"{name}: {value}" for name, value in fault.parameters.items()]
    return "\n".join([*parameters, *fault.evidence]) or "no evidence"


def _show_judgement(judgement: Judgement) -> None:
    """One step an oracle; its colour is the verdict's, and the other steps go on."""
    try:
        with allure.step(f"Oracle {judgement.oracle}: {judgement.verdict}"):
            allure.attach(json.dumps(judgement.counted, indent=2), "counted", allure.attachment_type.JSON)
            if judgement.verdict is Verdict.FAILED:
                raise PromiseBrokenError(_summary(judgement))
            if judgement.verdict is Verdict.INSUFFICIENT:
                raise EvidenceInsufficientError(_summary(judgement))
    except (PromiseBrokenError, EvidenceInsufficientError):
        # Raised only to give the step its colour; `raise_if_broken` fails the scenario.
        pass


def _summary(judgement: Judgement) -> str:
    shown = [f"  {finding.code}: {finding.message}" for finding in judgement.findings[:FINDINGS_SHOWN_MAX]]
    if len(judgement.findings) > FINDINGS_SHOWN_MAX:
        shown.append(f"  and {len(judgement.findings) - FINDINGS_SHOWN_MAX} more")
    return "\n".join([f"oracle {judgement.oracle}: {judgement.verdict}", *shown])


def _attach_file(path: Path, name: str) -> None:
    content = path.read_bytes()
    if len(content) > _UNPACKED_BYTES_MAX and path.suffix != ".gz":
        # Nobody reads so much in a browser, and a report holds a hundred scenarios.
        content, name, suffix = gzip.compress(content, compresslevel=1), f"{name}.gz", ".gz"
    else:
        suffix = path.suffix
    mime_type = _MIME_TYPES.get(suffix, "application/octet-stream")
    allure.attach(content, name, mime_type, suffix.removeprefix(".") or "bin")
