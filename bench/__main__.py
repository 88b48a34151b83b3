"""``make bench``: measures everything in one run and prints one table."""

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from bench import compute_speed, failover_time, key_value_speed, renewed_protection, transfer_stop
from bench.figure import Figure, print_details, print_table
from harness.evidence.allure_report import EvidenceInsufficientError, PromiseBrokenError
from harness.lab.interface import LabError
from harness.promise import Workload
from harness.vm.client import ClientError
from harness.vm.pair import PairError

RESULTS = Path(__file__).resolve().parents[1] / "reports" / "bench"
MEASUREMENTS = ("compute", "kv", "redis", "failover", "transfer", "renewal")
FAILURES = (LabError, PairError, ClientError, PromiseBrokenError, EvidenceInsufficientError, OSError, ValueError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit status is 1 when a measurement could not be made. A missed goal is printed, and no failure."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="measure only this")
    parser.add_argument("--repetitions", type=int, default=3, help="of compute, kv and redis, each without and with FT")
    parser.add_argument("--rounds", type=int, default=10_000, help="of work that compute does")
    parser.add_argument("--requests", type=int, default=20_000, help="of each redis-benchmark")
    parser.add_argument("--kills", type=int, default=20, help="of primaries")
    parser.add_argument("--transfers", type=int, default=5, help="to a new backup, for each memory size and load")
    parser.add_argument("--losses", type=int, default=5, help="of primaries whose VM managers protect again")
    sizes = ", ".join(map(str, transfer_stop.MEMORY_MIB))
    parser.add_argument(
        "--memory",
        type=int,
        action="append",
        help=f"MiB of a kv that is carried (default: {sizes}, and a redis-server of {transfer_stop.GOAL_MIB})",
    )
    options = parser.parse_args(arguments)
    chosen = options.only or MEASUREMENTS
    console = Console(width=None if sys.stdout.isatty() else 150)

    def progress(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def measure_compute() -> list[Figure]:
        return compute_speed.measure(repetitions=options.repetitions, rounds=options.rounds, progress=progress)

    def measure_server(workload: Workload) -> list[Figure]:
        return key_value_speed.measure(
            workload, repetitions=options.repetitions, requests=options.requests, progress=progress
        )

    def measure_failover() -> list[Figure]:
        return failover_time.measure(kills=options.kills, progress=progress)

    def measure_transfer() -> list[Figure]:
        subjects = transfer_stop.subjects(options.memory)
        return transfer_stop.measure(subjects, repetitions=options.transfers, progress=progress)

    def measure_renewal() -> list[Figure]:
        return renewed_protection.measure(losses=options.losses, progress=progress)

    measurements: dict[str, Callable[[], list[Figure]]] = {
        "compute": measure_compute,
        "kv": lambda: measure_server(Workload.KV),
        "redis": lambda: measure_server(Workload.REDIS),
        "failover": measure_failover,
        "transfer": measure_transfer,
        "renewal": measure_renewal,
    }
    figures: list[Figure] = []
    failures: list[str] = []
    for name, measure in measurements.items():
        if name not in chosen:
            continue
        try:
            figures += measure()
        except FAILURES as error:
            failures.append(f"{name} could not be measured: {error}")
    print_table(figures, console)
    print_details(figures, console)
    for failure in failures:
        console.print(f"[red]{failure}[/]", highlight=False)
    console.print(f"Samples: {_keep(figures)}", highlight=False)
    return 1 if failures else 0


def _keep(figures: Sequence[Figure]) -> Path:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / time.strftime("%Y%m%d-%H%M%S.json")
    machine = {"kernel": platform.release(), "cores": os.cpu_count()}
    content = {"machine": machine, "figures": [dataclasses.asdict(figure) for figure in figures]}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path.relative_to(RESULTS.parents[1])


if __name__ == "__main__":
    sys.exit(main())
