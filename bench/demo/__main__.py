"""``make demo``: brings a pair up in the lab, takes the primary's power away, and shows what happens."""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from bench.demo.narration import sentence
from bench.demo.observation import Observation
from bench.demo.view import picture, told
from bench.deployment import fresh_lab
from bench.failover_time import PRIMARY_KILL
from fault_injectors.host import PowerOff
from harness.evidence.allure_report import EvidenceInsufficientError, PromiseBrokenError
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.failover import find_failovers
from harness.evidence.verdicts import Verdict
from harness.lab.interface import LabError
from harness.promise import Workload
from harness.vm.client import ClientError
from harness.vm.pair import PairError
from harness.vm.run import Run

FRAMES_PER_SECOND = 8
PLAIN_COLUMNS = 110


def main(arguments: Sequence[str] | None = None) -> int:
    """Show one failover. Returns 0 when every oracle passed what it saw of it, else 1."""
    parser = argparse.ArgumentParser(prog="make demo ARGS=...", description=__doc__)
    parser.add_argument("--once", action="store_true", help="print plain lines instead of a live picture")
    parser.add_argument("--seconds", type=float, default=6, help="to watch before the fault, and again after it")
    parser.add_argument(
        "--workload",
        type=Workload,
        choices=list(Workload),
        default=Workload.REDIS,
        help="what the VM runs: this project's own key-value guest, or a packed program of Debian's (default: redis)",
    )
    options = parser.parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_COLUMNS)
    live = console.is_terminal and not options.once
    try:
        console.print("Five hosts, their networks and a shared disk come up ...", style="dim")
        with fresh_lab() as lab, tempfile.TemporaryDirectory(prefix="ftvmm-demo-") as directory:
            console.print(f"{options.workload} starts in a VM on host-a, its backup on host-b ...", style="dim")
            run = Run(lab, Path(directory) / "evidence", PRIMARY_KILL, name="demo", workload=options.workload)
            run.start()
            return _show(run, console, live=live, seconds=options.seconds)
    except (LabError, PairError, ClientError) as error:
        console.print(f"The demonstration could not go on: {error}", style="red", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; the lab is gone.")
        return 130


def _show(run: Run, console: Console, *, live: bool, seconds: float) -> int:
    primary, survivor = run.primary, run.backup
    observation = Observation([primary.host, survivor.host], run.client)
    observation.start()
    stage = _live_stage if live else _plain_stage
    try:
        headline = "One VM on two hosts: host-a runs it and logs, host-b replays the log, a client writes and reads."
        stage(observation, console, headline, None, seconds)
        fault_ns = run.client.progress().now_ns
        run.inject(PowerOff(run.lab, primary.host))
        stage(observation, console, f"{primary.name} has lost its power.", fault_ns, seconds)
        run.expect_takeover(survivor)
    finally:
        observation.stop()
    return _summary(run, console)


Stage = Callable[[Observation, Console, str, int | None, float], None]


def _live_stage(
    observation: Observation, console: Console, headline: str, fault_ns: int | None, seconds: float
) -> None:
    end = time.monotonic() + seconds
    with Live(console=console, auto_refresh=False, transient=fault_ns is None) as screen:
        while time.monotonic() < end:
            rest = f" [{end - time.monotonic():.0f} s]" if fault_ns is None else ""
            screen.update(
                picture(observation.scene, headline=headline + rest, fault_ns=fault_ns, columns=console.width),
                refresh=True,
            )
            time.sleep(1 / FRAMES_PER_SECOND)


def _plain_stage(
    observation: Observation, console: Console, headline: str, fault_ns: int | None, seconds: float
) -> None:
    """The same in lines: what happens when it happens, and the whole picture at the end."""
    console.print(headline, style="bold")
    said = len(told(observation.scene)) if fault_ns is not None else 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        events = told(observation.scene)
        zero_ns = fault_ns if fault_ns is not None else (events[0]["monotonic_ns"] if events else 0)
        for event in events[said:]:
            at_ms = (event["monotonic_ns"] - zero_ns) / 1e6
            console.print(f"  {at_ms:+8.0f} ms  {event['node']}: {sentence(event)}", highlight=False)
        said = max(said, len(events))
        time.sleep(1 / FRAMES_PER_SECOND)
    console.print(picture(observation.scene, headline="", fault_ns=fault_ns, columns=console.width))


def _summary(run: Run, console: Console) -> int:
    """What the evidence says of the failover, and what the oracles say of the evidence."""
    with contextlib.suppress(PromiseBrokenError, EvidenceInsufficientError):
        run.conclude()
    evidence = EvidenceDirectory(run.directory)
    history = evidence.history
    unanswered = sum(not one.is_answered for one in history.operations)
    for failover in find_failovers(evidence):
        silence = "?" if failover.silence_ms is None else f"{failover.silence_ms:.0f}"
        console.print(
            f"No client got an answer for {silence} ms; "
            f"{unanswered} of its {len(history.operations)} operations stayed without one.",
            style="bold",
            highlight=False,
        )
        known = {name: value for name, value in failover.parts_ms().items() if value is not None}
        taken = ", ".join(f"{name.replace('_', ' ')} {value:.0f} ms" for name, value in known.items())
        console.print(f"The failover: {taken}.", highlight=False)
    for judgement in run.judgements:
        style = "green" if judgement.verdict is Verdict.PASSED else "red"
        console.print(f"  {judgement.verdict:<12} {judgement.oracle}", style=style, highlight=False)
        for finding in judgement.findings[:1]:
            console.print(f"    {finding.code}: {finding.message}", style=style, highlight=False)
    return 0 if all(judgement.verdict is Verdict.PASSED for judgement in run.judgements) else 1


if __name__ == "__main__":
    sys.exit(main())
