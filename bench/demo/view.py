"""The demonstration's picture: two nodes side by side, the client below, and what happened in the order it happened."""

import itertools
import time
from typing import Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bench.demo.narration import sentence
from bench.demo.observation import ClientView, NodeView, Scene

ROLE_STYLES = {"PROTECTED": "bold green", "BACKUP": "cyan", "ALONE": "bold yellow", "HALTED": "bold red"}
SILENT_SECONDS = 1.5
BARS = " ▁▂▃▄▅▆▇█"
EVENTS_SHOWN = 14
WIDTH_MAX = 96


def picture(scene: Scene, *, headline: str, fault_ns: int | None, columns: int) -> RenderableType:
    """Draw the state of things now, for a terminal of so many columns.

    Event times are relative to the fault once there was one (``fault_ns``, CLOCK_BOOTTIME).
    """
    width = min(columns, WIDTH_MAX)
    now = time.monotonic()
    nodes = [_node(view, now, (width - 1) // 2) for view in scene.nodes.values()]
    return Group(
        Text(headline, style="bold"),
        Columns(nodes),
        _client(scene.client, width),
        Panel(_story(scene, fault_ns), title="what happened", title_align="left", width=width),
    )


def _node(view: NodeView, now: float, width: int) -> Panel:
    silence = view.silence_seconds(now)
    if not view.powered:
        return Panel(
            Text("\nNO POWER\n\n\n", style="bold white on red", justify="center"), title=view.name, width=width
        )
    if view.status is None or silence is None or silence > SILENT_SECONDS:
        return Panel(Text("\nno answer\n\n\n", style="dim", justify="center"), title=view.name, width=width)
    status = view.status
    position, output = status["position"], status["output"]
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim")
    table.add_column()
    table.add_row(
        "role", Text(f"{status['role']}, generation {status['generation']}", ROLE_STYLES.get(status["role"], ""))
    )
    table.add_row("log", _log(status["role"], position))
    table.add_row("output", f"{output['released']} released of {output['produced']}")
    table.add_row("lag", f"{status['lag_ms']:.1f} ms, {status['lag_bytes']} bytes")
    table.add_row("hears peer", _heard(status["peer"]["heard_ms"]))
    return Panel(table, title=view.name, width=width)


def _log(role: str, position: dict[str, int]) -> str:
    if role == "BACKUP":
        return f"{position['stored']} stored, {position['replayed']} replayed"
    if role == "ALONE":
        return "none is kept: no backup"
    return f"{position['appended']} written, {position['acknowledged']} acked"


def _heard(heard_ms: dict[str, float | None]) -> str:
    known = [f"{network} {age:.0f} ms" for network, age in heard_ms.items() if age is not None and age < 1000]
    return ", ".join(known) or "nothing"


def _client(view: ClientView, width: int) -> Panel:
    progress = view.progress
    if progress is None:
        return Panel("starting", title="client", width=width)
    silence_ms = (progress.now_ns - progress.last_return_ns) / 1e6 if progress.last_return_ns else 0.0
    largest = max([*view.answers, 1])
    shown = list(view.answers)[-(width - 27) :]
    bars = "".join(BARS[-(-count * (len(BARS) - 1) // largest)] for count in shown)
    text = Text()
    text.append(f"{progress.answered} answers, {progress.open_connections} connections, ")
    text.append(f"{progress.lost_connections} lost", style="bold red" if progress.lost_connections else "green")
    text.append(f"; silent for {silence_ms:.0f} ms, at most {view.silence_ms_max:.0f} ms\n")
    text.append(f"{bars:>{width - 27}}", style="green")
    text.append(" answers each 0.1 s", style="dim")
    return Panel(text, title="client", width=width)


def _story(scene: Scene, fault_ns: int | None) -> RenderableType:
    events = told(scene)
    if fault_ns is not None:
        fault: dict[str, Any] = {"event": "fault", "node": "you", "monotonic_ns": fault_ns}
        events = sorted([*events, fault], key=lambda event: int(event["monotonic_ns"]))
    if not events:
        return Text("nothing yet", style="dim")
    zero_ns = fault_ns or events[0]["monotonic_ns"]
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim")
    table.add_column()
    table.add_column()
    for event in events[-EVENTS_SHOWN:]:
        at = f"{(event['monotonic_ns'] - zero_ns) / 1e6:+.0f} ms"
        is_fault = event["event"] == "fault"
        text = "take the primary's power away" if is_fault else str(sentence(event))
        table.add_row(at, event["node"], Text(text, style="bold red" if is_fault else ""))
    return table


def told(scene: Scene) -> list[dict[str, Any]]:
    """All events that have a sentence, of both nodes, in the order of their time."""
    events = itertools.chain.from_iterable(view.events for view in scene.nodes.values())
    return sorted((one for one in events if sentence(one)), key=lambda event: int(event["monotonic_ns"]))
