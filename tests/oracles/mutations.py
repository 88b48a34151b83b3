"""Ways to break the evidence of a good run, each with the oracle that must notice and the finding that it must name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import dpkt

from harness.evidence.wire.wire import Refused
from tests.oracles.run_builder import (
    BACKUP,
    END_MS,
    KILL_MS,
    LIVE_MS,
    PRIMARY,
    VM_ADDRESS,
    Record,
    Run,
    boot_ns,
    connection,
    segment,
    wall_ns,
)

Change = Callable[[Run], None]


@dataclass(frozen=True)
class Mutation:
    """One way to break a run."""

    oracle: str
    code: str
    apply: Change

    @property
    def name(self) -> str:
        return self.apply.__name__


MUTATIONS: list[Mutation] = []
TICKER_MUTATIONS: list[Mutation] = []


def breaks(oracle: str, code: str, *, into: list[Mutation] = MUTATIONS) -> Callable[[Change], Change]:
    """Register a mutation."""

    def register(apply: Change) -> Change:
        into.append(Mutation(oracle, code, apply))
        return apply

    return register


def _read_back(run: Run, **changes: Any) -> None:
    assert run.read_back is not None
    run.read_back = replace(run.read_back, **changes)


def _values(run: Run) -> dict[str, str | None]:
    assert run.read_back is not None
    return dict(run.read_back.values)


def _written_key(run: Run) -> str:
    """A key that holds something at the end."""
    return next(key for key, value in _values(run).items() if value is not None)


def _answers(run: Run, operation: str) -> list[Record]:
    return [one for one in run.history if one.get("operation") == operation and one["phase"] == "load"]


# Transparent failover


@breaks("linearizable", "not-linearizable")
def a_read_is_stale(run: Run) -> None:
    reads = [one for one in _answers(run, "GET") if one["result"] and one["call_ns"] > boot_ns(LIVE_MS + 300)]
    early = next(one for one in _answers(run, "GET") if one["key"] == reads[0]["key"] and one["result"])
    assert early["result"] != reads[0]["result"]
    reads[0]["result"] = early["result"]


@breaks("linearizable", "not-linearizable")
def a_counter_loses_an_increment(run: Run) -> None:
    for one in _answers(run, "INCR"):
        if one["call_ns"] > boot_ns(LIVE_MS + 20):
            one["result"] -= 1


@breaks("linearizable", "not-linearizable")
def a_value_is_made_up(run: Run) -> None:
    next(one for one in _answers(run, "GET") if one["result"])["result"] = "<9.9>"


@breaks("linearizable", "not-linearizable")
def a_fresh_guest_has_forgotten_everything(run: Run) -> None:
    for one in _answers(run, "GET"):
        if one["call_ns"] > boot_ns(LIVE_MS + 300):
            one["result"] = None


@breaks("linearizable", "history-not-sealed")
def the_client_was_killed(run: Run) -> None:
    run.history.pop()


@breaks("linearizable", "evidence-unreadable")
def a_history_line_is_malformed(run: Run) -> None:
    del run.history[20]["call_ns"]


@breaks("durable", "write-lost")
def an_acknowledged_write_is_gone_at_the_end(run: Run) -> None:
    final = [one for one in run.history if one.get("phase") == "final" and one["result"]]
    final[0]["result"] = None


@breaks("durable", "no-final-read")
def nobody_reads_at_the_end(run: Run) -> None:
    run.history = [one for one in run.history if one.get("phase") != "final"]


@breaks("durable", "write-lost")
def the_client_reads_less_than_it_was_told_at_the_end(run: Run) -> None:
    """Its last writes overlap, and still none of them explains what it reads."""
    last = _answers(run, "INCR")[-1]
    last["call_ns"] -= 3_000_000_000
    final = next(one for one in run.history if one.get("phase") == "final" and one["key"] == last["key"])
    final["result"] = str(int(final["result"]) - 2)


@breaks("durable", "nothing-compared")
def no_key_was_ever_used(run: Run) -> None:
    run.history = [one for one in run.history if "key" not in one]


@breaks("durable", "write-not-on-disk")
def an_acknowledged_write_is_not_on_the_disk(run: Run) -> None:
    _read_back(run, values={**_values(run), _written_key(run): "<9.9>"})


@breaks("durable", "write-not-on-disk")
def an_acknowledged_key_is_not_on_the_disk(run: Run) -> None:
    _read_back(run, values={**_values(run), _written_key(run): None})


@breaks("durable", "write-not-on-disk")
def a_damaged_value_is_served(run: Run) -> None:
    run.scenario["damage_allowed"] = True
    _read_back(run, values={**_values(run), _written_key(run): "<9.8>"})


@breaks("durable", "read-back-error")
def a_fresh_vm_cannot_read_a_key(run: Run) -> None:
    values = _values(run)
    key = _written_key(run)
    del values[key]
    _read_back(run, values=values, errors={key: "DAMAGED the record of this key is damaged"})


@breaks("durable", "damage-on-disk")
def a_scrub_of_the_image_finds_damage(run: Run) -> None:
    _read_back(run, damages=["damaged: a copy of the superblock"])


@breaks("durable", "damage-on-disk")
def a_fresh_vm_prints_damage(run: Run) -> None:
    _read_back(run, console="kv: damaged at byte 512 of the device: a sector; its records are lost\n")


@breaks("durable", "disk-not-served")
def a_fresh_vm_does_not_take_the_disk(run: Run) -> None:
    console = "kv: storage: both copies of the superblock are damaged\n"
    _read_back(run, values={}, console=console, failure="the VM ended", refused_by_guest=True)


@breaks("durable", "no-read-back")
def no_fresh_vm_was_booted(run: Run) -> None:
    run.read_back = None


@breaks("durable", "no-read-back")
def no_host_could_boot_a_fresh_vm(run: Run) -> None:
    _read_back(run, values={}, failure="host-c is not up; host-a is not up")


@breaks("durable", "key-not-read-back")
def a_key_was_not_read_back(run: Run) -> None:
    values = _values(run)
    del values[_written_key(run)]
    _read_back(run, values=values)


@breaks("durable", "block-write-lost")
def a_block_write_never_reaches_the_image(run: Run) -> None:
    run.disk = [replace(run.written[0], digest="00" * 16), *run.written[1:]]


@breaks("durable", "extent-not-read")
def a_part_of_the_image_was_not_read(run: Run) -> None:
    run.disk = run.written[1:]


@breaks("durable", "damage-reported")
def the_guest_reads_back_something_else(run: Run) -> None:
    run.consoles[BACKUP] += b"kv: scrub: the log on the device is not the one in memory\n"


@breaks("connections-kept", "connection-reset")
def a_connection_is_reset(run: Run) -> None:
    run.connections.append(connection(2, "reset", 1300, error="reset by peer"))


@breaks("connections-kept", "connection-closed")
def a_connection_is_closed_by_the_vm(run: Run) -> None:
    run.connections.append(connection(2, "closed", 1300, error="closed"))


@breaks("connections-kept", "segment-rst")
def the_capture_shows_a_reset(run: Run) -> None:
    run.frame(BACKUP, LIVE_MS + 100, segment(1, 8888, b"", flags=dpkt.tcp.TH_RST))


@breaks("connections-kept", "segment-fin")
def the_capture_shows_a_fin_of_the_vm(run: Run) -> None:
    run.frame(BACKUP, LIVE_MS + 100, segment(1, 8888, b"", flags=dpkt.tcp.TH_FIN | dpkt.tcp.TH_ACK))


@breaks("connections-kept", "no-segments")
def no_segment_was_captured(run: Run) -> None:
    for host, frames in run.captures.items():
        run.captures[host] = [one for one in frames if VM_ADDRESS not in one.content[26:30]]


@breaks("stall-bounded", "stall-too-long")
def the_stall_is_longer_than_the_bound(run: Run) -> None:
    run.scenario["stall_ms_max"] = 200.0


@breaks("stall-bounded", "stall-too-long")
def one_connection_waits_longer_than_the_others(run: Run) -> None:
    _answers(run, "GET")[10]["return_ns"] += 700_000_000


@breaks("stall-bounded", "unanswered")
def an_operation_gets_no_answer(run: Run) -> None:
    _answers(run, "GET")[-1] |= {"return_ns": None, "error": "no answer", "result": None}


@breaks("stall-bounded", "handshake-too-long")
def a_new_connection_opens_late(run: Run) -> None:
    run.connections.append(connection(90, "opened", 700, asked_ms=100, long_lived=False))


@breaks("stall-bounded", "handshake-too-long")
def a_new_connection_opens_at_the_third_asking(run: Run) -> None:
    run.scenario["stall_ms_max"] = 900.0
    run.connections.append(connection(90, "opened", 3101, asked_ms=100, long_lived=False))


@breaks("stall-bounded", "nobody-let-in")
def nobody_new_is_let_in_any_more(run: Run) -> None:
    gone = [one for one in run.connections if not one["long_lived"] and one["asked_ns"] > boot_ns(KILL_MS)]
    for one in gone:
        if one["event"] == "opened":
            one |= {"event": "timed-out", "at_ns": boot_ns(END_MS), "error": "no answer"}
    run.connections = [one for one in run.connections if one not in gone or one["event"] == "timed-out"]


@breaks("stall-bounded", "nobody-let-in")
def nobody_new_is_let_in_for_too_long(run: Run) -> None:
    failed = {"at_ms": 1400, "asked_ms": 750, "long_lived": False, "error": "no answer"}
    run.connections = [one for one in run.connections if not boot_ns(749) < one["asked_ns"] < boot_ns(1301)]
    run.connections.append(connection(90, "timed-out", **failed))  # type: ignore[arg-type]


@breaks("stall-bounded", "connection-ignored")
def one_new_connection_is_never_let_in(run: Run) -> None:
    run.connections.append(connection(90, "timed-out", 3500, asked_ms=301, long_lived=False, error="no answer"))


@breaks("stall-bounded", "no-newcomer")
def nobody_connects_after_the_fault(run: Run) -> None:
    run.connections = [one for one in run.connections if one["asked_ns"] < boot_ns(KILL_MS)]


@breaks("stall-bounded", "stall-noticed")
def somebody_notices(run: Run) -> None:
    run.scenario["latency_over_before_ms_max"] = 100.0


@breaks("stall-bounded", "stall-afterwards")
def the_survivor_is_slow_when_all_is_well_again(run: Run) -> None:
    run.scenario["time_scale"] = 0.3  # The builder's run ends before a second has passed.
    _answers(run, "GET")[-1]["return_ns"] += 200_000_000


@breaks("stall-bounded", "nothing-to-compare")
def nothing_tells_what_is_usual(run: Run) -> None:
    run.scenario["latency_over_before_ms_max"] = 100.0
    run.faults[0]["injected_ns"] = wall_ns(1)


@breaks("answers-clean", "error-answered")
def a_write_is_answered_with_an_error(run: Run) -> None:
    error = "IOERR the storage device cannot write: the write at byte 512 failed"
    _answers(run, "SET")[-1] |= {"result": None, "error": error}


@breaks("answers-clean", "error-answered")
def a_read_is_answered_with_another_error_than_is_allowed(run: Run) -> None:
    run.scenario["errors_allowed"] = ["IOERR"]
    _answers(run, "GET")[-1] |= {"result": None, "error": "DAMAGED the record of this key is damaged"}


@breaks("answers-clean", "connection-refused")
def a_new_connection_is_refused_after_the_takeover(run: Run) -> None:
    run.connections.append(
        connection(90, "refused", LIVE_MS + 50, asked_ms=LIVE_MS + 49, long_lived=False, error="ECONNREFUSED")
    )


@breaks("answers-clean", "no-answers")
def nobody_was_answered(run: Run) -> None:
    for one in run.history:
        if "return_ns" in one:
            one |= {"return_ns": None, "result": None, "error": "no answer"}


# Faults and evidence


@breaks("faults-confirmed", "fault-inconclusive")
def the_fault_is_inconclusive(run: Run) -> None:
    run.faults[0]["verdict"] = "inconclusive"


@breaks("faults-confirmed", "fault-mismatch")
def the_fault_did_not_bite(run: Run) -> None:
    run.faults[0]["verdict"] = "mismatch"


@breaks("faults-confirmed", "fault-without-evidence")
def the_confirmation_rests_on_nothing(run: Run) -> None:
    run.faults[0]["evidence"] = []


@breaks("faults-confirmed", "evidence-unreadable")
def no_fault_was_injected(run: Run) -> None:
    run.faults = []


@breaks("evidence-sufficient", "too-few-before")
def the_fault_came_too_early(run: Run) -> None:
    run.faults[0]["injected_ns"] = wall_ns(100)


@breaks("evidence-sufficient", "too-few-after")
def the_client_stopped_too_early(run: Run) -> None:
    end = run.history.pop()
    run.history = [one for one in run.history if one.get("return_ns", 0) < boot_ns(LIVE_MS + 40)] + [end]


@breaks("evidence-sufficient", "nobody-waited")
def the_fault_was_not_felt(run: Run) -> None:
    run.scenario["stall_ms_min"] = 400.0


@breaks("evidence-sufficient", "lab-too-slow")
def the_lab_was_too_slow_for_any_bound(run: Run) -> None:
    run.scenario["time_scale"] = 90.0


@breaks("faults-confirmed", "fault-missing")
def a_fault_that_was_planned_was_never_injected(run: Run) -> None:
    run.scenario["faults"] = ("power-off", "freeze")


@breaks("evidence-sufficient", "load-too-short")
def the_load_ends_soon_after_the_failover(run: Run) -> None:
    run.scenario["load_seconds_after_min"] = 5.0


@breaks("evidence-sufficient", "no-failover")
def nobody_took_over(run: Run) -> None:
    del run.records[1]


@breaks("evidence-sufficient", "survivor-silent")
def the_survivor_hardly_speaks(run: Run) -> None:
    run.captures[BACKUP] = run.captures[BACKUP][:7]


@breaks("evidence-sufficient", "no-wire")
def what_the_nodes_said_was_not_captured(run: Run) -> None:
    run.messages = []


@breaks("evidence-sufficient", "wire-unreadable")
def a_node_says_what_nobody_can_read(run: Run) -> None:
    run.refused.append(Refused(PRIMARY, BACKUP, "log", wall_ns(300), 99, "the tag of frame 3 does not fit"))


@breaks("evidence-sufficient", "no-recording")
def an_owner_left_no_recording(run: Run) -> None:
    run.unrecorded.add(BACKUP)


@breaks("evidence-sufficient", "too-few-frames-before")
def hardly_a_frame_was_seen_before_the_fault(run: Run) -> None:
    run.captures[PRIMARY] = [one for one in run.captures[PRIMARY] if one.wall_ns < wall_ns(50)]


@breaks("evidence-sufficient", "too-few-blocks-before")
def hardly_a_block_was_written_before_the_fault(run: Run) -> None:
    run.writes = [one for one in run.writes if not wall_ns(50) < one.asked_ns < wall_ns(KILL_MS)]


@breaks("evidence-sufficient", "too-few-consoles-before")
def nothing_was_printed_before_the_fault(run: Run) -> None:
    run.consoles[PRIMARY] = b""


@breaks("evidence-sufficient", "no-capture")
def a_port_was_not_captured(run: Run) -> None:
    del run.captures[BACKUP]


@breaks("evidence-sufficient", "capture-silent")
def the_captures_are_silent(run: Run) -> None:
    run.captures = {host: [] for host in run.captures}


@breaks("evidence-sufficient", "capture-incomplete")
def a_capture_missed_frames(run: Run) -> None:
    run.dropped[BACKUP] = 7


@breaks("evidence-sufficient", "capture-torn")
def a_capture_lost_a_frame_after_it_was_counted(run: Run) -> None:
    run.lost[BACKUP] = 1


@breaks("evidence-sufficient", "clock-stepped")
def the_wall_clock_was_stepped(run: Run) -> None:
    for events in run.traces.values():
        for event in events:
            if event["monotonic_ns"] > boot_ns(KILL_MS):
                event["wall_ns"] += 3_000_000_000


@breaks("evidence-sufficient", "too-few-traces")
def only_one_node_ever_started(run: Run) -> None:
    run.traces[BACKUP] = [one for one in run.traces[BACKUP] if one["event"] != "node-started"]


# Ticker


@breaks("ticks-complete", "tick-repeated", into=TICKER_MUTATIONS)
def a_tick_comes_twice(run: Run) -> None:
    run.ticks.insert(51, dict(run.ticks[50]))


@breaks("ticks-complete", "tick-lost", into=TICKER_MUTATIONS)
def a_tick_is_lost(run: Run) -> None:
    del run.ticks[120]


@breaks("ticks-complete", "stall-too-long", into=TICKER_MUTATIONS)
def the_ticker_is_silent_for_too_long(run: Run) -> None:
    run.scenario["stall_ms_max"] = 200.0


@breaks("ticks-complete", "stall-too-long", into=TICKER_MUTATIONS)
def the_ticker_is_silent_to_the_end(run: Run) -> None:
    *rest, end = run.ticks
    run.ticks = [*rest[:185], end | {"monotonic_ns": boot_ns(END_MS + 500)}]


@breaks("ticks-complete", "stall-noticed", into=TICKER_MUTATIONS)
def somebody_who_listens_notices(run: Run) -> None:
    run.scenario["latency_over_before_ms_max"] = 100.0


@breaks("ticks-complete", "nothing-to-compare", into=TICKER_MUTATIONS)
def nothing_tells_what_silence_is_usual(run: Run) -> None:
    run.scenario["latency_over_before_ms_max"] = 100.0
    run.faults[0]["injected_ns"] = wall_ns(1)


@breaks("ticks-complete", "tick-late", into=TICKER_MUTATIONS)
def a_tick_is_overtaken(run: Run) -> None:
    first, second = run.ticks[60:62]
    run.ticks[60:62] = [
        second | {"arrived_ns": first["arrived_ns"]},
        first | {"arrived_ns": second["arrived_ns"]},
    ]


@breaks("ticks-complete", "tick-differs", into=TICKER_MUTATIONS)
def a_tick_comes_again_and_says_something_else(run: Run) -> None:
    run.scenario["ticks_duplicated_max"] = 8
    run.ticks.insert(51, run.ticks[50] | {"guest_ns": 1, "payload": "tick 000050 1"})


@breaks("ticks-complete", "no-tick", into=TICKER_MUTATIONS)
def a_datagram_is_no_tick(run: Run) -> None:
    run.ticks[30] |= {"number": None, "guest_ns": None, "payload": "tock"}


@breaks("ticks-complete", "too-few-after", into=TICKER_MUTATIONS)
def the_ticker_falls_silent(run: Run) -> None:
    end = run.ticks.pop()
    run.ticks = [*run.ticks[:105], end | {"monotonic_ns": boot_ns(END_MS)}]


@breaks("ticks-complete", "ticks-not-sealed", into=TICKER_MUTATIONS)
def the_listener_was_killed(run: Run) -> None:
    run.ticks.pop()
