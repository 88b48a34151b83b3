"""One line of the table: a quantity without and with fault tolerance, and the goal that it has to reach."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table

from bench.distribution import Distribution

TITLE = "ftvmm: what fault tolerance costs, how long a failover takes, and a new backup"
DETAILS = "Live transfers to a new backup: medians, in brackets the largest; times in ms"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured. Texts carry their units; ``samples`` holds the numbers behind them, by name.

    ``details`` is its row in a table of its own, by column: what a figure is made of, where that is much.
    """

    title: str
    result: str
    without: str = ""
    protected: str = ""
    goal: str = ""
    reached: bool | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)


def part(title: str, samples_ms: list[float]) -> Figure:
    """The line of a part of what the line above it tells."""
    summary = Distribution.of(samples_ms).summary(unit="ms")
    return Figure(title=f"    {title}", protected=summary, result="", samples={"ms": samples_ms})


def print_table(figures: Sequence[Figure], console: Console) -> None:
    """Print all figures as one table."""
    table = Table(title=TITLE, title_justify="left")
    table.add_column("figure")
    table.add_column("without FT", justify="right")
    table.add_column("with FT", justify="right")
    table.add_column("result", justify="right", style="bold")
    table.add_column("goal", justify="right")
    table.add_column("")
    for figure in figures:
        mark = {None: "", True: "[green]reached[/]", False: "[red]missed[/]"}[figure.reached]
        table.add_row(figure.title, figure.without, figure.protected, figure.result, figure.goal, mark)
    console.print(table)


def print_details(figures: Sequence[Figure], console: Console) -> None:
    """Print what is to be told of some figures beside the figures themselves; nothing where there is nothing."""
    rows = [figure.details for figure in figures if figure.details]
    if not rows:
        return
    # Without lines between its many columns it fits beside the other one.
    table = Table(title=DETAILS, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in rows[0]:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
