"""``make demo``: a VM that survives the loss of one host after the other, and has a backup again after each."""

import argparse
import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.live import Live

from bench.demo.circle import CIRCLE, circle
from bench.demo.observation import Observation
from bench.demo.view import picture, told, told_as, zero
from bench.deployment import fresh_lab
from harness.evidence.allure_report import EvidenceInsufficientError, PromiseBrokenError
from harness.evidence.client import LOST_EVENTS
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.failover import Failover, find_failovers
from harness.evidence.transfer import LiveTransfer, find_transfers
from harness.evidence.verdicts import Verdict
from harness.lab.interface import LabError
from harness.promise import Workload
from harness.vm.client import ClientError
from harness.vm.pair import Node, PairError
from harness.vm.run import Run

FRAMES_PER_SECOND = 8
PLAIN_COLUMNS = 124


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the circle. Returns 0 when every oracle passed what it saw of it, else 1."""
    parser = argparse.ArgumentParser(prog="make demo ARGS=...", description=__doc__)
    parser.add_argument("--once", action="store_true", help="print plain lines instead of a live picture")
    parser.add_argument("--seconds", type=float, default=6, help="to watch each of the four acts, at least")
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
            console.print(
                f"{options.workload} starts in a VM on host-a, its backup on host-b, a spare on host-c ...",
                style="dim",
                highlight=False,
            )
            run = Run(lab, Path(directory) / "evidence", CIRCLE, name="demo", workload=options.workload)
            run.start()
            spare = run.pair.start_spare()
            run.pair.start_managers()
            return _show(run, spare, console, live=live, seconds=options.seconds)
    except (LabError, PairError, ClientError) as error:
        console.print(f"The demonstration could not go on: {error}", style="red", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; the lab is gone.")
        return 130


def _show(run: Run, spare: Node, console: Console, *, live: bool, seconds: float) -> int:
    observation = Observation(run.lab.fault_tolerant_hosts, run.client)
    acts = circle(run, observation.scene, spare)
    observation.start()
    try:
        with contextlib.ExitStack() as stack:
            stage: Stage = functools.partial(_plain_stage, said=set())
            if live:
                # One screen for all acts: the picture that is there when the last one ends stays.
                screen = stack.enter_context(Live(console=console, auto_refresh=False))
                stage = functools.partial(_live_stage, screen=screen)
            beside = stack.enter_context(ThreadPoolExecutor(max_workers=1))
            for act in acts:
                performed = beside.submit(act.perform)
                stage(observation, console, act.headline, performed, seconds)
                performed.result()
    finally:
        observation.stop()
    return _summary(run, console)


Stage = Callable[[Observation, Console, str, "Future[None]", float], None]


def _live_stage(
    observation: Observation,
    console: Console,
    headline: str,
    performed: "Future[None]",
    seconds: float,
    *,
    screen: Live,
) -> None:
    """The picture, drawn anew all the while, until the act is over."""
    end = time.monotonic() + seconds
    is_over = False
    while not is_over:
        rest = end - time.monotonic()
        is_over = rest <= 0 and performed.done()
        until = "" if is_over else f" [{max(0.0, rest):.0f} s]"
        screen.update(
            picture(observation.scene, headline=headline + until, columns=console.width, rows=console.height),
            refresh=True,
        )
        time.sleep(1 / FRAMES_PER_SECOND)


def _plain_stage(
    observation: Observation,
    console: Console,
    headline: str,
    performed: "Future[None]",
    seconds: float,
    *,
    said: set[str],
) -> None:
    """The same in lines: what happens when it is heard of, and the whole picture at the end."""
    console.print(headline, style="bold", highlight=False)
    scene = observation.scene
    end = time.monotonic() + seconds
    while time.monotonic() < end or not performed.done():
        for event in told(scene):
            if (line := f"{event['monotonic_ns']} {event['node']}: {told_as(event)}") not in said:
                said.add(line)
                at_ms = (event["monotonic_ns"] - zero(scene)) / 1e6
                console.print(f"  {at_ms:+8.0f} ms  {event['node']}: {told_as(event)}", highlight=False)
        time.sleep(1 / FRAMES_PER_SECOND)
    console.print(picture(scene, headline="", columns=console.width))


def _summary(run: Run, console: Console) -> int:
    """What the evidence says of the circle, and what the oracles say of the evidence."""
    with contextlib.suppress(PromiseBrokenError, EvidenceInsufficientError):
        run.conclude()
    evidence = EvidenceDirectory(run.directory)
    failovers, transfers = find_failovers(evidence), find_transfers(evidence.traces.values())
    told_of = [(one.live_ns, _failover_told(one)) for one in failovers]
    told_of += [(one.resumed_ns, _transfer_told(one)) for one in transfers]
    for _, line in sorted(told_of):
        console.print(line, highlight=False)
    history = evidence.history
    unanswered = sum(not one.is_answered for one in history.operations)
    stayed = {event.client for event in evidence.connections if event.long_lived and event.event == "opened"}
    stayed -= {event.client for event in evidence.connections if event.event in LOST_EVENTS}
    console.print(
        f"{len(stayed)} connections were open from start to end, over {len(failovers)} failovers; "
        f"{unanswered} of {len(history.operations)} operations stayed without an answer.",
        style="bold",
        highlight=False,
    )
    for judgement in run.judgements:
        style = "green" if judgement.verdict is Verdict.PASSED else "red"
        console.print(f"  {judgement.verdict:<12} {judgement.oracle}", style=style, highlight=False)
        for finding in judgement.findings[:1]:
            console.print(f"    {finding.code}: {finding.message}", style=style, highlight=False)
    return 0 if all(judgement.verdict is Verdict.PASSED for judgement in run.judgements) else 1


def _failover_told(failover: Failover) -> str:
    silence = "?" if failover.silence_ms is None else f"{failover.silence_ms:.0f}"
    known = {name: value for name, value in failover.parts_ms().items() if value is not None}
    taken = ", ".join(f"{name.replace('_', ' ')} {value:.0f}" for name, value in known.items())
    return f"{failover.survivor} took the VM over: no client got an answer for {silence} ms ({taken})."


def _transfer_told(transfer: LiveTransfer) -> str:
    return (
        f"{transfer.joiner or '?'} became its backup: the VM's memory was copied for {transfer.copy_ms:.0f} ms while "
        f"it ran, then it stood still for {transfer.stop_ms:.0f} ms."
    )


if __name__ == "__main__":
    sys.exit(main())
