"""The demonstration's picture: the nodes side by side, the client below, and what happened in the order it happened."""

import itertools
import time
from collections.abc import Mapping
from typing import Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bench.demo.narration import sentence
from bench.demo.observation import ClientView, NodeView, Scene

ROLE_STYLES = {
    "PROTECTED": "bold green",
    "BACKUP": "cyan",
    "SPARE": "dim",
    "JOINING": "cyan",
    "ALONE": "bold yellow",
    "HALTED": "bold red",
}
SILENT_SECONDS = 1.5
BARS = " ▁▂▃▄▅▆▇█"
EVENTS_SHOWN, EVENTS_SHOWN_MIN = 14, 4
WIDTH_MAX = 132
# Narrower panels break their lines: two stand side by side then, and the third below.
NODE_WIDTH_MIN = 40
NODE_ROWS, CLIENT_ROWS, BORDER_ROWS = 7, 4, 2
BESIDE_BARS = 37
HEARD_COLUMNS = 27


def picture(scene: Scene, *, headline: str, columns: int, rows: int | None = None) -> RenderableType:
    """Draw the state of things now, for a terminal of so many columns, and rows where not all may be shown.

    Event times are relative to the newest fault once there was one.
    """
    width = min(columns, WIDTH_MAX)
    now = time.monotonic()
    beside = max(1, min(len(scene.nodes), width // NODE_WIDTH_MIN))
    nodes = [_node(view, now, (width - beside + 1) // beside) for view in scene.nodes.values()]
    title = Text(headline, style="bold")
    shown = EVENTS_SHOWN
    if rows is not None:
        # The last row stays free: a terminal that scrolls would tear the picture.
        taken = -(-len(headline) // width) + NODE_ROWS * -(-len(nodes) // beside) + CLIENT_ROWS + BORDER_ROWS + 1
        shown = max(EVENTS_SHOWN_MIN, min(EVENTS_SHOWN, rows - taken))
    return Group(
        title,
        Columns(nodes),
        _client(scene.client, width),
        Panel(_story(scene, shown), title="what happened", title_align="left", width=width),
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
    role, output = status["role"], status["output"]
    if role == "SPARE":
        return Panel(
            Text("\nSPARE\nwaits to become the backup\n\n", ROLE_STYLES[role], justify="center"),
            title=view.name,
            width=width,
        )
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", min_width=6)
    table.add_column(no_wrap=True)
    table.add_row("role", Text(f"{role}, generation {status['generation']}", ROLE_STYLES.get(role, "")))
    table.add_row("log", _log(status))
    table.add_row("output", f"{output['released']} released of {output['produced']}")
    table.add_row("lag", f"{status['lag_ms']:.1f} ms, {status['lag_bytes']} bytes")
    table.add_row("hears", _heard(status["peer"]["heard_ms"]))
    return Panel(table, title=view.name, width=width)


def _log(status: Mapping[str, Any]) -> str:
    position, joining = status["position"], status.get("joining")
    if status["role"] == "BACKUP":
        return f"{position['stored']} stored, {position['replayed']} replayed"
    if status["role"] == "ALONE":
        if joining is not None and joining["stage"] in ("copying", "stopped"):
            return f"{joining['copied_bytes'] >> 20} MiB are copied to a spare"
        return "none is kept: no backup"
    return f"{position['appended']} written, {position['acknowledged']} acked"


def _heard(heard_ms: Mapping[str, float | None]) -> str:
    known = [
        f"{path.removeprefix('heartbeat-')} {age:.0f} ms"
        for path, age in heard_ms.items()
        if age is not None and age < 1000
    ]
    # As many as there is room for in a narrow panel; the log comes first.
    while len(told_of := ", ".join(known)) > HEARD_COLUMNS and len(known) > 1:
        known.pop()
    return told_of or "nothing"


def _client(view: ClientView, width: int) -> Panel:
    progress = view.progress
    if progress is None:
        return Panel("starting", title="client", width=width)
    silence_ms = (progress.now_ns - progress.last_return_ns) / 1e6 if progress.last_return_ns else 0.0
    largest = max([*view.answers, 1])
    shown = list(view.answers)[-(width - BESIDE_BARS) :]
    bars = "".join(BARS[-(-count * (len(BARS) - 1) // largest)] for count in shown)
    text = Text()
    text.append(f"{progress.answered} answers, {progress.open_connections} connections, ")
    text.append(f"{progress.lost_connections} lost", style="bold red" if progress.lost_connections else "green")
    text.append(f"; silent for {silence_ms:.0f} ms, at most {view.silence_ms_max:.0f} ms\n")
    text.append(f"{bars:>{width - BESIDE_BARS}}", style="green")
    text.append(f" answers each 0.1 s, in {progress.latency_ms:.1f} ms", style="dim")
    return Panel(text, title="client", width=width)


def _story(scene: Scene, shown: int) -> RenderableType:
    events = told(scene)
    if not events:
        return Text("nothing yet", style="dim")
    zero_ns = zero(scene)
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for event in events[-shown:]:
        at = f"{(event['monotonic_ns'] - zero_ns) / 1e6:+.0f} ms"
        is_fault = event["event"] == "deed" and event["is_fault"]
        table.add_row(at, event["node"], Text(told_as(event), style="bold red" if is_fault else ""))
    return table


def zero(scene: Scene) -> int:
    """From when times are counted: the newest fault, or the first event."""
    return scene.fault_ns or min((int(event["monotonic_ns"]) for event in told(scene)), default=0)


def told_as(event: Mapping[str, Any]) -> str:
    """What is said of an event, or of a deed."""
    return str(event["what"]) if event["event"] == "deed" else str(sentence(dict(event)))


def told(scene: Scene) -> list[dict[str, Any]]:
    """All events that have a sentence, of all nodes, and what was done to them, in the order of their time."""
    events = itertools.chain.from_iterable(view.events for view in scene.nodes.values())
    deeds: list[dict[str, Any]] = [
        {"event": "deed", "node": "you", "monotonic_ns": deed.at_ns, "what": deed.what, "is_fault": deed.is_fault}
        for deed in list(scene.deeds)
    ]
    return sorted([*(one for one in events if sentence(one)), *deeds], key=lambda event: int(event["monotonic_ns"]))
