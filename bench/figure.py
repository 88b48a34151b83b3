"""One line of the table: a quantity without and with fault tolerance, and the goal that it has to reach."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured. Texts carry their units; ``samples`` holds the numbers behind them, by name."""

    title: str
    result: str
    without: str = ""
    protected: str = ""
    goal: str = ""
    reached: bool | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)


def print_table(figures: Sequence[Figure], console: Console) -> None:
    """Print all figures as one table."""
    table = Table(title="ftvmm: what fault tolerance costs, and how long a failover takes", title_justify="left")
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
