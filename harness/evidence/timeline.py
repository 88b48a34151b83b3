"""`timeline.png`: roles, log lag, client latency and faults of one run on one time axis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.failover import Failover, find_failovers
from harness.evidence.trace import Halted, Lag, Role, Stopped, Trace

ROLE_COLOURS = {
    "SPARE": "#d8dee4",
    "JOINING": "#a9c4de",
    "BACKUP": "#4f8fc4",
    "CANDIDATE": "#e8b23a",
    "WON": "#d98324",
    "PROTECTED": "#3c9d6b",
    "ALONE": "#8fc95f",
    "HALTED": "#8c4a52",
}
PART_COLOURS = {
    "detect": "#f2c14e",
    "drain": "#8fb8de",
    "arbitrate": "#d98324",
    "announce": "#b48ead",
    "first_byte": "#6bbf8a",
}
_DARK_TEXT_ROLES = {"SPARE", "JOINING", "CANDIDATE", "ALONE"}
_HOST_COLOURS = ("#35618f", "#a34f6b", "#54802f")
_FAULT_COLOUR = "#c0392b"
_INK, _FAINT = "#22303c", "#8896a3"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": "#c3ccd4",
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
}
_WIDTH_INCHES, _DOTS_PER_INCH = 14.0, 110


@dataclass(frozen=True)
class _Span:
    start_seconds: float
    end_seconds: float
    label: str


class Timeline:
    """Draws one run. Times on the axis are seconds since the run's first event."""

    def __init__(self, evidence: EvidenceDirectory) -> None:
        self._evidence = evidence
        self._traces = sorted(evidence.traces.values(), key=lambda trace: trace.host)
        times_ns = [event.monotonic_ns for trace in self._traces for event in trace.events]
        self._has_history = (evidence.path / "history.jsonl").exists()
        self._has_ticks = (evidence.path / "ticks.jsonl").exists()
        if self._has_history:
            times_ns += [one.call_ns for one in evidence.history.operations]
            times_ns += [one.return_ns for one in evidence.history.operations if one.return_ns is not None]
        if self._has_ticks:
            times_ns += [tick.arrived_ns for tick in evidence.ticks.ticks]
        self._start_ns = min(times_ns, default=0)
        self._end_seconds = self._seconds(max(times_ns, default=0))
        self._faults = self._fault_spans()
        self._failovers = find_failovers(evidence)

    def draw(self, path: Path) -> Path:
        """Draw the picture as PNG."""
        hosts = max(1, len(self._traces))
        zooms = 1 if self._failovers else 0
        heights = [0.42 * hosts + 0.25, 1.1, 2.2, *[1.15] * zooms]
        with mpl.rc_context(_STYLE):
            figure = Figure(figsize=(_WIDTH_INCHES, sum(heights) + 1.6), dpi=_DOTS_PER_INCH, facecolor="white")
            FigureCanvasAgg(figure)
            grid = figure.add_gridspec(
                len(heights), 1, height_ratios=heights, hspace=0.32, left=0.075, right=0.985, top=0.88, bottom=0.07
            )
            roles = figure.add_subplot(grid[0])
            lag = figure.add_subplot(grid[1], sharex=roles)
            client = figure.add_subplot(grid[2], sharex=roles)
            self._draw_title(figure)
            self._draw_roles(roles)
            self._draw_lag(lag)
            self._draw_client(client)
            for axes in (roles, lag, client):
                self._draw_faults(axes, labelled=axes is roles)
                axes.set_xlim(0, max(self._end_seconds, 0.001))
            roles.tick_params(labelbottom=False)
            lag.tick_params(labelbottom=False)
            client.set_xlabel("seconds since the start of the run", labelpad=2)
            if zooms:
                self._draw_failover(figure.add_subplot(grid[3]), self._failovers[0])
            figure.savefig(path)
        return path

    def _seconds(self, at_ns: int) -> float:
        return (at_ns - self._start_ns) / 1e9

    def _fault_spans(self) -> list[_Span]:
        clocks = self._evidence.clocks
        if clocks is None:
            return []
        spans = []
        for fault in self._evidence.faults:
            if fault.injected_ns is not None:
                start = self._seconds(clocks.to_monotonic_ns(fault.injected_ns))
                healed = fault.healed_ns and self._seconds(clocks.to_monotonic_ns(fault.healed_ns))
                mark = "" if fault.verdict == "confirmed" else f" ({fault.verdict})"
                spans.append(_Span(start, healed or self._end_seconds, f"{fault.fault} at {fault.target}{mark}"))
        return spans

    def _draw_title(self, figure: Figure) -> None:
        scenario = self._evidence.scenario
        title = scenario.title or scenario.name.replace("_", " ").replace("-", " ")
        left = 0.012
        figure.text(left, 0.975, title, fontsize=15, fontweight="bold", va="top")
        summary = [f"lab {scenario.lab}", f"seed {scenario.seed}", f"{self._end_seconds:.1f} s"]
        for failover in self._failovers[:1]:
            if failover.silence_ms is not None:
                summary.append(f"no answer for {failover.silence_ms:.0f} ms")
            summary.append(f"{failover.survivor} live in generation {failover.generation}")
        figure.text(left, 0.937, "  ·  ".join(summary), fontsize=10, color=_FAINT, va="top")
        used = [role for role in ROLE_COLOURS if any(span.label == role for spans in self._roles for span in spans)]
        handles = [Patch(color=ROLE_COLOURS[role], label=role.lower()) for role in used]
        figure.legend(
            handles=handles,
            loc="upper right",
            ncols=len(handles) or 1,
            frameon=False,
            bbox_to_anchor=(0.99, 0.951),  # beneath the title, which can be long
            fontsize=9,
            handlelength=1.1,
            handleheight=1.0,
            columnspacing=1.2,
        )

    @cached_property
    def _roles(self) -> list[list[_Span]]:
        return [self._role_spans(trace) for trace in self._traces]

    def _role_spans(self, trace: Trace) -> list[_Span]:
        """The roles of a node; a trace that ends without a word ends in silence, not in its last role for ever."""
        spans: list[_Span] = []
        current: tuple[float, str] | None = None
        for event in trace.events:
            at = self._seconds(event.monotonic_ns)
            if isinstance(event, Role):
                if current is None and event.before:
                    current = (self._seconds(trace.events[0].monotonic_ns), event.before)
                if current is not None:
                    spans.append(_Span(current[0], at, current[1]))
                current = (at, event.to)
            elif isinstance(event, Stopped) and current is not None:
                spans.append(_Span(current[0], at, current[1]))
                current = None
        if current is not None:
            halted = bool(trace.of(Halted))
            end = self._end_seconds if halted else self._seconds(trace.events[-1].monotonic_ns)
            spans.append(_Span(current[0], end, current[1]))
        return spans

    def _draw_roles(self, axes: Any) -> None:
        for row, (trace, spans) in enumerate(zip(self._traces, self._roles, strict=True)):
            for span in spans:
                width = span.end_seconds - span.start_seconds
                colour = ROLE_COLOURS.get(span.label, "#bbbbbb")
                axes.barh(row, width, left=span.start_seconds, height=0.62, color=colour, linewidth=0)
                if width > 0.08 * self._end_seconds:
                    ink = _INK if span.label in _DARK_TEXT_ROLES else "white"
                    middle = span.start_seconds + width / 2
                    axes.text(middle, row, span.label.lower(), ha="center", va="center", color=ink, fontsize=9)
            if spans and spans[-1].end_seconds < 0.97 * self._end_seconds:
                axes.text(
                    spans[-1].end_seconds + 0.006 * self._end_seconds,
                    row,
                    "silent",
                    va="center",
                    fontsize=9,
                    color=_FAINT,
                    style="italic",
                )
            axes.axhline(row, color="#e6eaee", linewidth=1, zorder=0)
            del trace
        axes.set_yticks(range(len(self._traces)), [trace.host for trace in self._traces])
        axes.set_ylim(len(self._traces) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)

    def _draw_lag(self, axes: Any) -> None:
        drawn = False
        for trace, colour in zip(self._traces, _HOST_COLOURS, strict=False):
            samples = trace.of(Lag)
            if samples:
                seconds = [self._seconds(sample.monotonic_ns) for sample in samples]
                values = [sample.milliseconds for sample in samples]
                axes.plot(seconds, values, color=colour, linewidth=1.4, label=trace.host, drawstyle="steps-post")
                drawn = True
        axes.set_ylabel("log lag\n(ms)")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="#edf0f2")
        if drawn:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 0.96), frameon=False, fontsize=8.5, ncols=3)
        else:
            axes.text(0.5, 0.5, "no samples", transform=axes.transAxes, ha="center", color=_FAINT)

    def _draw_client(self, axes: Any) -> None:
        if self._has_history:
            self._draw_latency(axes)
        elif self._has_ticks:
            self._draw_ticks(axes)
        else:
            axes.text(0.5, 0.5, "no client in this scenario", transform=axes.transAxes, ha="center", color=_FAINT)

    def _draw_latency(self, axes: Any) -> None:
        operations = self._evidence.history.operations
        kinds = (("reads", ("GET",), "#4f8fc4"), ("writes", ("SET", "APPEND", "INCR", "DEL"), "#3c9d6b"))
        for label, names, colour in kinds:
            points = [
                (self._seconds(one.return_ns), (one.return_ns - one.call_ns) / 1e6)
                for one in operations
                if one.operation in names and one.return_ns is not None
            ]
            if points:
                seconds, milliseconds = zip(*points, strict=True)
                axes.scatter(seconds, milliseconds, s=7, color=colour, alpha=0.55, linewidths=0, label=label)
        lost = [self._seconds(one.call_ns) for one in operations if one.return_ns is None]
        if lost:
            axes.scatter(
                lost,
                [0.97] * len(lost),
                transform=axes.get_xaxis_transform(),
                marker="x",
                s=28,
                color=_FAULT_COLOUR,
                label="no answer",
                clip_on=False,
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylabel("client latency\n(ms, when answered)")
        axes.grid(axis="y", color="#edf0f2")
        axes.margins(y=0.12)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.97), frameon=False, fontsize=8.5, ncols=3, markerscale=1.8)
        for failover in self._failovers:
            self._mark_silence(axes, failover)

    def _draw_ticks(self, axes: Any) -> None:
        ticks = [tick for tick in self._evidence.ticks.ticks if tick.number is not None]
        seconds = [self._seconds(tick.arrived_ns) for tick in ticks]
        axes.scatter(seconds, [tick.number for tick in ticks], s=6, color="#4f8fc4", linewidths=0)
        axes.set_ylabel("tick number\n(when it arrived)")
        axes.grid(axis="y", color="#edf0f2")
        for failover in self._failovers:
            self._mark_silence(axes, failover)

    def _mark_silence(self, axes: Any, failover: Failover) -> None:
        if failover.silence_start_ns is None or failover.silence_end_ns is None:
            return
        start, end = self._seconds(failover.silence_start_ns), self._seconds(failover.silence_end_ns)
        axes.axvspan(start, end, color="#f2c14e", alpha=0.18, linewidth=0)
        axes.annotate(
            f"silence {failover.silence_ms:.0f} ms",
            (end, 0.5),
            xycoords=axes.get_xaxis_transform(),
            xytext=(6, 0),
            textcoords="offset points",
            fontsize=9,
            color="#8a6510",
        )

    def _draw_faults(self, axes: Any, *, labelled: bool) -> None:
        for number, span in enumerate(self._faults):
            axes.axvspan(span.start_seconds, span.end_seconds, color=_FAULT_COLOUR, alpha=0.05, linewidth=0, zorder=0)
            axes.axvline(span.start_seconds, color=_FAULT_COLOUR, linewidth=1.3)
            if labelled:
                late = span.start_seconds > 0.7 * self._end_seconds
                axes.annotate(
                    span.label,
                    (span.start_seconds, 1.0),
                    xycoords=axes.get_xaxis_transform(),
                    xytext=(-4 if late else 4, 3 + 11 * (number % 2)),
                    textcoords="offset points",
                    ha="right" if late else "left",
                    fontsize=9,
                    color=_FAULT_COLOUR,
                    fontweight="bold",
                )

    def _draw_failover(self, axes: Any, failover: Failover) -> None:
        """The parts of the first failover, in milliseconds since the fault."""
        parts = {name: value for name, value in failover.parts_ms().items() if value is not None}
        total = sum(parts.values()) or 1.0
        left = 0.0
        narrow = []
        for name, value in parts.items():
            part, duration = name.replace("_", " "), f"{value:.1f} ms"
            bar = axes.barh(0, value, left=left, height=0.5, color=PART_COLOURS[name], linewidth=0)
            bar.set_label(f"{part} {duration}")
            if value > 0.09 * total:
                axes.text(left + value / 2, 0, f"{part}\n{duration}", ha="center", va="center", fontsize=9)
            else:
                narrow.append(bar)
            left += value
        # Too narrow for their own labels.
        axes.legend(handles=narrow, loc="lower right", bbox_to_anchor=(1, -0.05), frameon=False, fontsize=9, ncols=5)
        axes.set_ylim(-0.85, 0.85)
        axes.set_xlim(0, left * 1.02)
        axes.set_yticks([0], ["failover"])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"milliseconds since the fault ({failover.fault or 'no fault known'})", labelpad=2)


def draw_timeline(evidence: EvidenceDirectory) -> Path:
    """Draw `timeline.png` into the evidence directory. Raises `EvidenceError` when the evidence is malformed."""
    return Timeline(evidence).draw(evidence.path / "timeline.png")
