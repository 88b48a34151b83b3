"""``make demo``: brings a pair up in the lab, takes the primary's power away, and shows what happens."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live

from bench.demo.narration import sentence
from bench.demo.observation import Observation
from bench.demo.view import picture, told
from bench.deployment import KEY_VALUE, fresh_lab, running_pair
from bench.failover_parts import PARTS, failover_parts
from bench.failover_stall import silence
from bench.load import Load, running_load
from harness.lab.interface import Lab, LabError
from harness.vm.pair import Pair, PairError

FRAMES_PER_SECOND = 8
PLAIN_COLUMNS = 110
WARM_UP_OPERATIONS = 200
OPERATIONS_AFTER = 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Show one failover. Returns 0 when the client went on over the connections that it had, else 1."""
    parser = argparse.ArgumentParser(prog="make demo ARGS=...", description=__doc__)
    parser.add_argument("--once", action="store_true", help="print plain lines instead of a live picture")
    parser.add_argument("--seconds", type=float, default=6, help="to watch before the fault, and again after it")
    options = parser.parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_COLUMNS)
    live = console.is_terminal and not options.once
    try:
        console.print("Five hosts, their networks and a shared disk come up ...", style="dim")
        with fresh_lab() as lab:
            console.print("The key-value guest starts on host-a, its backup on host-b ...", style="dim")
            with running_pair(lab, KEY_VALUE) as pair, running_load(lab.client_host) as load:
                return _show(lab, pair, load, console, live=live, seconds=options.seconds)
    except (LabError, PairError, TimeoutError) as error:
        console.print(f"The demonstration could not go on: {error}", style="red", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; the lab is gone.")
        return 130


def _show(lab: Lab, pair: Pair, load: Load, console: Console, *, live: bool, seconds: float) -> int:
    hosts = list(lab.fault_tolerant_hosts[:2])
    observation = Observation(hosts, load)
    observation.start()
    stage = _live_stage if live else _plain_stage
    try:
        load.control.wait_answered(WARM_UP_OPERATIONS)
        headline = "One VM on two hosts: host-a runs it and logs, host-b replays the log, a client writes and reads."
        stage(observation, console, headline, None, seconds)
        fault_ns = load.control.progress().now_ns
        hosts[0].power_off()
        headline = "host-a has lost its power."
        stage(observation, console, headline, fault_ns, seconds)
        load.control.wait_answered(OPERATIONS_AFTER // 10, called_after_ns=fault_ns)
    finally:
        observation.stop()
    return _summary(pair, load, console, survivor=hosts[1].name, fault_ns=fault_ns)


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


def _summary(pair: Pair, load: Load, console: Console, *, survivor: str, fault_ns: int) -> int:
    end = load.control.stop()
    history = load.history()
    start_ns, end_ns = silence(history, around_ns=fault_ns)
    unanswered = sum(not one.is_answered for one in history.operations)
    parts = failover_parts(pair.nodes[survivor].trace(), fault_ns=fault_ns, first_answer_ns=end_ns)
    console.print(
        f"The client was without an answer for {(end_ns - start_ns) / 1e6:.0f} ms, lost {end.lost_connections} of its "
        f"connections, and {unanswered} of its {len(history.operations)} operations stayed without an answer.",
        style="bold",
        highlight=False,
    )
    if parts is not None:
        taken = ", ".join(f"{part} {value:.0f} ms" for part, value in zip(PARTS, parts.values(), strict=True))
        console.print(f"The failover: {taken}.", highlight=False)
    return 0 if not end.lost_connections and not unanswered else 1


if __name__ == "__main__":
    sys.exit(main())
