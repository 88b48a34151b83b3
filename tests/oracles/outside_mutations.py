"""Ways to break what was seen from outside: the wire, the captures, the storage, the console, the arbiter's records.

Each is a small thing that a VMM could do wrong, or evidence that could be missing, with the oracle that must notice and
the finding that it must name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from harness.evidence.capture import Frame
from harness.evidence.digest import digest
from harness.evidence.ownership import ArbiterEvent, ArbiterRecord
from harness.evidence.replay import ReplayedOutput
from harness.evidence.wire.messages import Answer, Commit, Entries, HandOver, Heartbeat, LogEntry, Restored
from harness.evidence.wire.wire import Said
from harness.promise import Expect
from tests.oracles.mutations import Mutation, breaks
from tests.oracles.run_builder import (
    BACKUP,
    COUNTER,
    HEARTBEATS,
    INCARNATIONS,
    KILL_MS,
    LIVE_MS,
    PAIR_NS,
    POLL,
    PRIMARY,
    VM_MAC,
    WALLTIME,
    Record,
    Run,
    boot_ns,
    gratuitous_arp,
    segment,
    wall_ns,
)

OUTSIDE_MUTATIONS: list[Mutation] = []
found = partial(breaks, into=OUTSIDE_MUTATIONS)


def shift(record: Record, by_ms: float) -> None:
    """Move an event of a trace in time."""
    record["monotonic_ns"] += int(by_ms * 1e6)
    record["wall_ns"] += int(by_ms * 1e6)


def change_messages(run: Run, kind: type, change: Callable[[Said], Said | None]) -> None:
    """Change the messages of one kind; None leaves one out."""
    changed = [change(one) if isinstance(one.body, kind) else one for one in run.messages]
    run.messages = [one for one in changed if one is not None]


def released(run: Run, host: str, kind: str, number: int = 50) -> ReplayedOutput:
    """One of the outputs that a host let go in good time."""
    traced = run.events(host, "output", why="release", kind=kind)[number]
    return next(one for one in run.outputs[host] if one.index == traced["index"])


def frame_of(run: Run, host: str, output: ReplayedOutput) -> Frame:
    """The frame that an output left as."""
    return next(frame for frame in run.captures[host] if frame.digest == output.digest)


def move_frame(run: Run, frame: Frame, by_ms: float) -> None:
    """Let a frame leave at another time."""
    run.captures[frame.host].remove(frame)
    run.captures[frame.host].append(replace(frame, wall_ns=frame.wall_ns + int(by_ms * 1e6)))


def ms(at_wall_ns: int) -> float:
    """A time of the builder."""
    return (at_wall_ns - wall_ns(0)) / 1e6


# Output rule: before the acknowledgement, without a lease


@found("output-rule", "frame-before-acknowledgement")
def acknowledgements_come_a_millisecond_late(run: Run) -> None:
    change_messages(run, Answer, lambda one: replace(one, arrived_ns=(one.arrived_ns or 0) + 1_000_000))


@found("output-rule", "frame-before-acknowledgement")
def one_frame_leaves_before_its_acknowledgement(run: Run) -> None:
    move_frame(run, frame_of(run, PRIMARY, released(run, PRIMARY, "frame")), -0.3)


@found("output-rule", "frame-before-acknowledgement")
def one_acknowledgement_is_of_one_entry_too_few(run: Run) -> None:
    position = released(run, PRIMARY, "frame").depends_on

    def change(one: Said) -> Said:
        assert isinstance(one.body, Answer)
        return replace(one, body=replace(one.body, stored=position - 1)) if one.body.stored == position else one

    change_messages(run, Answer, change)


@found("output-rule", "frame-before-acknowledgement")
def the_acknowledgement_is_given_and_never_arrives(run: Run) -> None:
    position = released(run, PRIMARY, "frame").depends_on

    def change(one: Said) -> Said:
        assert isinstance(one.body, Answer)
        return replace(one, arrived_ns=None) if one.body.stored == position else one

    change_messages(run, Answer, change)


@found("output-rule", "frame-before-acknowledgement")
def the_acknowledgement_is_of_another_incarnation(run: Run) -> None:
    position = released(run, PRIMARY, "frame").depends_on

    def change(one: Said) -> Said:
        assert isinstance(one.body, Answer)
        return replace(one, incarnation="c" * 16) if one.body.stored == position else one

    change_messages(run, Answer, change)


@found("output-rule", "block-before-acknowledgement")
def a_block_write_is_asked_for_before_its_acknowledgement(run: Run) -> None:
    output = released(run, PRIMARY, "block")
    place = next(at for at, one in enumerate(run.writes) if one.offset == output.offset)
    run.writes[place] = replace(run.writes[place], asked_ns=run.writes[place].asked_ns - 300_000)


@found("output-rule", "console-before-acknowledgement")
def a_console_line_stands_there_before_its_acknowledgement(run: Run) -> None:
    """Nobody stamps it, and no trace tells; a look at the file saw it too soon."""
    output = released(run, PRIMARY, "console", number=3)
    came_ns = min(
        one.arrived_ns
        for one in run.messages
        if isinstance(one.body, Answer) and one.body.stored >= output.depends_on and one.arrived_ns is not None
    )
    printed = [one for one in run.outputs[PRIMARY] if one.kind == "console" and one.index <= output.index]
    length = sum(one.length for one in printed)
    run.looks = [
        {"at_ns": seen_ns - PAIR_NS, "seen_ns": seen_ns, "waited_us": {}, "console_bytes": {PRIMARY: console_bytes}}
        for seen_ns, console_bytes in ((came_ns - 20_000_000, 0), (came_ns - 100_000, length))
    ]


@found("output-rule", "output-before-acknowledgement")
def a_console_line_is_traced_before_its_acknowledgement(run: Run) -> None:
    shift(run.events(PRIMARY, "output", why="release", kind="console")[3], -0.3)


@found("output-rule", "output-before-acknowledgement")
def the_backup_says_that_it_acknowledged_later(run: Run) -> None:
    for event in run.events(BACKUP, "acknowledged"):
        shift(event, 1)


def _no_lease(run: Run, from_ms: float, to_ms: float) -> None:
    """Answers still acknowledge, and echo what was said before."""
    old = max(one.stamp_ns for one in run.messages if one.sender == PRIMARY and one.stamp_ns <= boot_ns(from_ms))

    def change(one: Said) -> Said:
        stale = wall_ns(from_ms) <= (one.left_ns or 0) <= wall_ns(to_ms)
        return replace(one, echo_ns=min(one.echo_ns, old)) if stale else one

    change_messages(run, Answer, change)


@found("output-rule", "frame-after-lease")
def answers_echo_what_is_older_than_the_lease(run: Run) -> None:
    _no_lease(run, 500, 650)


@found("output-rule", "frame-after-lease")
def outputs_leave_a_little_after_their_lease(run: Run) -> None:
    """By a few milliseconds, which a busy scheduler could do to one of them and not to all."""
    for from_ms in range(150, 880, 115):
        _no_lease(run, from_ms, from_ms + 107)


@found("output-rule", "block-after-lease")
def writes_are_asked_for_after_lease_and_bound(run: Run) -> None:
    _no_lease(run, 500, 700)


@found("output-rule", "frame-after-lease")
def frames_leave_before_anything_was_answered(run: Run) -> None:
    change_messages(run, Answer, lambda one: replace(one, echo_ns=0))


# Output rule: order and repetition


@found("output-rule", "output-before-write-completed")
def an_answer_overtakes_the_write_that_it_speaks_of(run: Run) -> None:
    output = released(run, PRIMARY, "block")
    place = next(at for at, one in enumerate(run.writes) if one.offset == output.offset)
    run.writes[place] = replace(run.writes[place], answered_ns=(run.writes[place].answered_ns or 0) + 3_000_000)


@found("output-rule", "output-before-write-completed")
def the_vm_goes_on_after_a_write_that_failed(run: Run) -> None:
    run.writes[-30] = replace(run.writes[-30], error=5)


@found("output-rule", "frame-repeated")
def a_frame_leaves_twice(run: Run) -> None:
    frame = frame_of(run, PRIMARY, released(run, PRIMARY, "frame"))
    run.frame(PRIMARY, ms(frame.wall_ns) + 0.1, frame.content)


@found("output-rule", "frame-repeated")
def a_frame_of_long_ago_leaves_again(run: Run) -> None:
    frame = frame_of(run, BACKUP, released(run, BACKUP, "frame", 10))
    run.frame(BACKUP, ms(frame.wall_ns) + 200, frame.content)


@found("output-rule", "block-repeated")
def a_block_is_written_twice(run: Run) -> None:
    write = run.writes[20]
    run.writes.insert(21, replace(write, asked_ns=write.asked_ns + 100_000))


@found("output-rule", "frame-not-replayed")
def a_frame_leaves_that_the_vm_never_said(run: Run) -> None:
    run.frame(PRIMARY, 500, segment(0, 5000, b"never said"))


@found("output-rule", "frame-out-of-order")
def two_frames_change_places(run: Run) -> None:
    first, second = (frame_of(run, PRIMARY, released(run, PRIMARY, "frame", number)) for number in (50, 51))
    apart_ms = (second.wall_ns - first.wall_ns) / 1e6
    move_frame(run, first, apart_ms + 0.1)


@found("output-rule", "block-not-replayed")
def a_block_is_written_that_the_vm_never_wrote(run: Run) -> None:
    write = run.writes[20]
    other = replace(write, data=b"x", digest=digest(b"x"), length=1, offset=1 << 30, asked_ns=write.asked_ns + 100_000)
    run.writes.insert(21, other)


@found("output-rule", "two-contents")
def a_reissue_says_something_else(run: Run) -> None:
    place, frame = next(
        (at, one) for at, one in enumerate(run.captures[BACKUP]) if one.wall_ns == wall_ns(LIVE_MS + 0.35)
    )
    run.captures[BACKUP][place] = replace(frame, content=frame.content[:-1] + b"!")


@found("output-rule", "two-contents")
def a_block_write_differs_in_one_byte(run: Run) -> None:
    write = run.writes[30]
    data = write.data[:-1] + b"!"
    run.writes[30] = replace(write, data=data, digest=digest(data))


@found("output-rule", "two-contents")
def half_of_a_block_write_never_comes(run: Run) -> None:
    write = run.writes[30]
    run.writes[30] = replace(write, data=write.data[:4], digest=digest(write.data[:4]), length=4)


@found("output-rule", "two-contents")
def both_hosts_emit_one_output_in_two_versions(run: Run) -> None:
    """The survivor's log led it elsewhere: each says what its own replay says."""
    for place, output in enumerate(run.outputs[BACKUP]):
        if output.index == run.events(BACKUP, "output", why="re-issue", kind="frame")[0]["index"]:
            frame = frame_of(run, BACKUP, output)
            run.frame(PRIMARY, KILL_MS - 0.1, frame.content)
            other = replace(frame, content=frame.content + b"!")
            run.captures[BACKUP][run.captures[BACKUP].index(frame)] = other
            changed = replace(output, digest=other.digest, length=len(other.content))
            run.outputs[BACKUP][place] = changed
            for event in [*run.events(BACKUP, "output"), *run.events(BACKUP, "replayed-output")]:
                if event["index"] == output.index:
                    event |= {"digest": changed.digest, "length": changed.length}


@found("output-rule", "two-contents")
def a_backup_says_that_it_replayed_another_content(run: Run) -> None:
    run.events(BACKUP, "replayed-output")[30]["digest"] = "00" * 16


@found("output-rule", "completed-output-repeated")
def an_output_completed_long_ago_is_reissued(run: Run) -> None:
    frame = frame_of(run, PRIMARY, released(run, PRIMARY, "frame", 3))
    run.frame(BACKUP, LIVE_MS + 0.25, frame.content)


@found("output-rule", "completed-output-repeated")
def the_last_output_below_the_known_mark_is_reissued(run: Run) -> None:
    """One too many: the released mark itself, which the backup had answered."""
    mark = max(one.body.released for one in run.messages if isinstance(one.body, Entries))
    output = next(one for one in reversed(run.outputs[PRIMARY]) if one.index <= mark and one.kind == "frame")
    run.frame(BACKUP, LIVE_MS + 0.01, frame_of(run, PRIMARY, output).content)


@found("output-rule", "reissued-twice")
def an_uncertain_output_is_traced_as_reissued_twice(run: Run) -> None:
    run.traces[BACKUP].append(dict(run.events(BACKUP, "output", why="re-issue")[0]))


@found("output-rule", "released-twice")
def an_output_is_traced_as_released_twice(run: Run) -> None:
    run.traces[PRIMARY].append(dict(run.events(PRIMARY, "output", kind="frame")[50]))


@found("output-rule", "traced-not-seen")
def a_frame_is_traced_that_nobody_saw(run: Run) -> None:
    run.captures[PRIMARY].remove(frame_of(run, PRIMARY, released(run, PRIMARY, "frame")))


@found("output-rule", "traced-not-seen")
def a_block_write_is_traced_that_never_came_to_the_storage(run: Run) -> None:
    del run.writes[20]


@found("output-rule", "refused-but-seen")
def a_frame_that_left_is_traced_as_refused(run: Run) -> None:
    run.traces[PRIMARY].append(refused(run))


@found("output-rule", "refused-without-cause")
def a_frame_is_refused_though_no_fault_was_there(run: Run) -> None:
    event = refused(run)
    run.captures[PRIMARY].remove(frame_of(run, PRIMARY, released(run, PRIMARY, "frame")))
    run.traces[PRIMARY].append(event)


def refused(run: Run) -> dict[str, object]:
    """The primary's word that its interface refused a frame."""
    output = released(run, PRIMARY, "frame")
    line = next(one for one in run.events(PRIMARY, "output", kind="frame") if one["index"] == output.index)
    kept = ("node", "incarnation", "generation", "monotonic_ns", "wall_ns", "index")
    return {name: line[name] for name in kept} | {"event": "frame-refused", "reason": "it is down"}


# Output rule: marks, backups, evidence


@found("output-rule", "released-mark-ahead")
def the_mark_is_told_before_the_output_completed(run: Run) -> None:
    frame = frame_of(run, PRIMARY, released(run, PRIMARY, "frame"))
    index = released(run, PRIMARY, "frame").index
    run.say(PRIMARY, ms(frame.wall_ns) - 30, Heartbeat(index), path=HEARTBEATS[0])


@found("output-rule", "released-mark-behind")
def the_mark_is_never_told(run: Run) -> None:
    def change(one: Said) -> Said:
        assert isinstance(one.body, Heartbeat)
        return replace(one, body=Heartbeat(0))

    change_messages(run, Heartbeat, change)


@found("output-rule", "acknowledged-unheld")
def the_backup_acknowledges_what_has_not_arrived(run: Run) -> None:
    place, one = next((at, one) for at, one in enumerate(run.messages) if isinstance(one.body, Entries))
    run.messages[place] = replace(one, arrived_ns=(one.arrived_ns or 0) + 2_000_000)


@found("output-rule", "acknowledged-unheld")
def the_backup_acknowledges_one_entry_more(run: Run) -> None:
    def change(one: Said) -> Said:
        assert isinstance(one.body, Answer)
        return replace(one, body=replace(one.body, stored=one.body.stored + 1))

    change_messages(run, Answer, change)


@found("output-rule", "replay-diverged")
def the_log_does_not_lead_to_what_was_said(run: Run) -> None:
    run.divergence[PRIMARY] = "entry 40 has another fingerprint"


@found("output-rule", "block-out-of-order")
def two_block_writes_change_places(run: Run) -> None:
    first, second = run.writes[30:32]
    run.writes[30:32] = [replace(second, asked_ns=first.asked_ns - 1000), first]


@found("output-rule", "acknowledged-log-lost")
def the_survivor_goes_live_before_the_end_of_its_log(run: Run) -> None:
    run.recorded[BACKUP].insert(0, run.recorded[PRIMARY][-1])


@found("output-rule", "emitted-output-forgotten")
def the_survivors_history_lacks_what_was_emitted(run: Run) -> None:
    output = released(run, PRIMARY, "frame")
    run.outputs[BACKUP] = [one for one in run.outputs[BACKUP] if one.index != output.index]


@found("output-rule", "released-mark-ahead")
def the_mark_is_told_before_the_storage_answered(run: Run) -> None:
    write = run.writes[20]
    output = next(one for one in run.outputs[PRIMARY] if one.offset == write.offset)
    run.say(PRIMARY, ms(write.asked_ns) + 0.01, Heartbeat(output.index), path=HEARTBEATS[0])


@found("output-rule", "log-disagrees")
def a_node_sends_another_entry_than_it_answered(run: Run) -> None:
    run.disagreement[PRIMARY] = "entry 40 that host-a sent is not the one that it recorded"


@found("output-rule", "no-replay")
def an_owners_log_is_missing(run: Run) -> None:
    run.outputs[BACKUP] = []


@found("output-rule", "nothing-protected")
def the_vm_was_never_protected(run: Run) -> None:
    change_messages(run, Commit, lambda _: None)


@found("output-rule", "no-frames")
def no_captured_frame_is_of_the_vm(run: Run) -> None:
    run.captures = {host: [] for host in run.captures}


@found("output-rule", "unasked-reply")
def the_client_sees_a_reply_twice(run: Run) -> None:
    run.history.insert(100, {"event": "unasked-reply", "client": 1, "at_ns": boot_ns(500), "reply": "OK"})


# Completeness


def _forget(run: Run, host: str, output: ReplayedOutput) -> None:
    """An output that neither left nor stands in a trace."""
    if output.kind == "frame":
        run.captures[host].remove(frame_of(run, host, output))
    else:
        run.writes = [one for one in run.writes if one.offset != output.offset]
    run.traces[host] = [one for one in run.traces[host] if one["event"] != "output" or one["index"] != output.index]


@found("outputs-complete", "frame-missing")
def a_frame_is_left_out(run: Run) -> None:
    _forget(run, PRIMARY, released(run, PRIMARY, "frame"))


@found("outputs-complete", "frame-missing")
def an_uncertain_frame_is_not_reissued(run: Run) -> None:
    event = run.events(BACKUP, "output", why="re-issue", kind="frame")[0]
    _forget(run, BACKUP, next(one for one in run.outputs[BACKUP] if one.index == event["index"]))


@found("outputs-complete", "block-missing")
def a_block_write_is_left_out(run: Run) -> None:
    _forget(run, BACKUP, released(run, BACKUP, "block", 20))


@found("outputs-complete", "frame-missing")
def a_frame_is_left_out_while_the_other_hosts_network_is_cut(run: Run) -> None:
    cut = {"fault": "network-cut", "target": BACKUP, "parameters": {"network": "client", "direction": "both"}}
    times = {"injected_ns": wall_ns(100), "confirmed_ns": wall_ns(110), "healed_ns": wall_ns(900)}
    run.faults.append(cut | times | {"verdict": "confirmed", "evidence": ["frames dropped"]})
    _forget(run, PRIMARY, released(run, PRIMARY, "frame"))


@found("outputs-complete", "block-missing")
def a_block_write_fails_and_nobody_repeats_it(run: Run) -> None:
    run.writes[20] = replace(run.writes[20], error=5)


@found("outputs-complete", "frame-missing")
def a_mark_covers_outputs_that_nobody_emitted(run: Run) -> None:
    """The primary dies with the mark moved and the frame not sent: the survivor leaves it out."""
    event = run.events(BACKUP, "output", why="re-issue", kind="frame")[0]
    run.say(PRIMARY, KILL_MS - 0.1, Heartbeat(event["index"]), path=HEARTBEATS[0])
    _forget(run, BACKUP, next(one for one in run.outputs[BACKUP] if one.index == event["index"]))


@found("outputs-complete", "console-missing")
def a_line_is_left_out(run: Run) -> None:
    run.consoles[PRIMARY] = run.consoles[PRIMARY].replace(b"kv: 99 commands\n", b"")


@found("outputs-complete", "no-replay")
def a_replay_ends_too_early(run: Run) -> None:
    for host in run.outputs:
        run.outputs[host] = [one for one in run.outputs[host] if one.index < 100]


@found("outputs-complete", "no-outputs")
def nobody_saw_anything(run: Run) -> None:
    run.captures, run.writes, run.messages = {host: [] for host in run.captures}, [], []
    run.consoles = {host: b"" for host in run.consoles}


# Console


@found("console", "console-repeated")
def a_line_stands_there_twice(run: Run) -> None:
    run.consoles[PRIMARY] = run.consoles[PRIMARY].replace(b"kv: 99 commands\n", b"kv: 99 commands\n" * 2)


@found("console", "completed-output-repeated")
def the_survivor_prints_what_was_printed_long_ago(run: Run) -> None:
    run.consoles[BACKUP] = b"kv: 99 commands\n" + run.consoles[BACKUP]


@found("console", "two-contents")
def a_line_differs_in_one_letter(run: Run) -> None:
    run.consoles[PRIMARY] = run.consoles[PRIMARY].replace(b"kv: 99 commands\n", b"kv: 99 comments\n")


@found("console", "two-contents")
def a_line_is_torn(run: Run) -> None:
    run.consoles[PRIMARY] = run.consoles[PRIMARY].replace(b"kv: 99 commands\n", b"kv: 99\n")


@found("console", "console-not-replayed")
def a_line_was_never_printed(run: Run) -> None:
    run.consoles[BACKUP] += b"a word of nobody's\n"


@found("console", "console-missing")
def a_line_is_missing_between_others(run: Run) -> None:
    run.consoles[BACKUP] = run.consoles[BACKUP].replace(b"kv: 259 commands\n", b"")


@found("console", "console-repeated")
def two_lines_change_places(run: Run) -> None:
    first, second = b"kv: 99 commands\n", b"kv: 119 commands\n"
    run.consoles[PRIMARY] = run.consoles[PRIMARY].replace(first + second, second + first)


@found("console", "no-replay")
def a_console_cannot_be_judged_without_a_replay(run: Run) -> None:
    run.outputs[BACKUP] = []


@found("console", "no-console")
def the_consoles_are_empty(run: Run) -> None:
    run.consoles = {host: b"" for host in run.consoles}


# No split brain


@found("single-speaker", "two-speakers")
def a_woken_primary_speaks(run: Run) -> None:
    run.frame(PRIMARY, LIVE_MS + 50.1, segment(0, 9999, b"I am still here"))


@found("single-speaker", "two-speakers")
def a_woken_primary_repeats_what_it_said(run: Run) -> None:
    run.frame(PRIMARY, LIVE_MS + 50.1, run.captures[PRIMARY][40].content)


@found("single-speaker", "two-speakers")
def a_frozen_primary_says_what_it_was_about_to_say(run: Run) -> None:
    """Byte for byte what the survivor says too: identical frames are speech all the same."""
    event = run.events(BACKUP, "output", why="re-issue", kind="frame")[0]
    output = next(one for one in run.outputs[BACKUP] if one.index == event["index"])
    run.frame(PRIMARY, LIVE_MS + 43, frame_of(run, BACKUP, output).content)


@found("single-speaker", "two-speakers")
def a_superseded_primary_announces_itself(run: Run) -> None:
    run.frame(PRIMARY, 700, gratuitous_arp())
    run.frame(PRIMARY, LIVE_MS + 50, gratuitous_arp())


@found("single-speaker", "two-speakers")
def a_superseded_primary_writes_to_the_disk(run: Run) -> None:
    event = run.events(BACKUP, "output", why="re-issue", kind="block")[0]
    write = next(one for one in run.writes if one.offset == event["offset"])
    late = replace(write, host=PRIMARY, asked_ns=wall_ns(LIVE_MS + 40), answered_ns=wall_ns(LIVE_MS + 41))
    run.writes.append(late)


@found("single-speaker", "spoke-without-claim")
def the_backup_speaks_before_it_wins(run: Run) -> None:
    run.frame(BACKUP, 500, segment(0, 77, b"too early"))


@found("single-speaker", "spoke-without-claim")
def the_backup_announces_itself_before_it_wins(run: Run) -> None:
    run.frame(BACKUP, KILL_MS + 160, gratuitous_arp())


@found("single-speaker", "spoke-without-claim")
def the_backup_writes_before_it_wins(run: Run) -> None:
    run.writes.append(replace(run.writes[30], host=BACKUP))


@found("single-speaker", "alone-without-asking")
def a_primary_goes_on_alone_without_having_asked(run: Run) -> None:
    """Its backup falls silent for good, and it serves on in its own generation."""
    change_messages(run, Answer, lambda one: one if (one.left_ns or 0) < wall_ns(500) else None)


@found("single-speaker", "asked-within-lease")
def the_survivor_asks_five_milliseconds_too_early(run: Run) -> None:
    early = wall_ns(KILL_MS - 0.9 + 94)
    run.arbiter_events.insert(-2, ArbiterEvent("created", f"claim-00000002-{INCARNATIONS[BACKUP]}-{'1' * 16}", early))


@found("single-speaker", "asked-within-lease")
def a_candidate_goes_on_answering(run: Run) -> None:
    run.say(PRIMARY, KILL_MS + 150, Heartbeat(0), path=HEARTBEATS[1])
    run.say(BACKUP, KILL_MS + 150.1, Answer(3, 3), path=HEARTBEATS[1], echo_ms=KILL_MS + 150)


@found("single-speaker", "spoke-within-write-bound")
def the_survivor_speaks_before_the_last_write_is_sure_to_have_landed(run: Run) -> None:
    """Its last answer was later: it might ask by then, and not speak yet."""
    run.say(PRIMARY, KILL_MS + 90, Heartbeat(0), path=HEARTBEATS[1])
    run.say(BACKUP, KILL_MS + 90.1, Answer(3, 3), path=HEARTBEATS[1], echo_ms=KILL_MS + 90)


def hands_over(run: Run, at_ms: float) -> None:
    """The primary says so before it dies; the survivor hears it."""
    run.say(PRIMARY, at_ms, HandOver(3, 0))


@found("single-speaker", "spoke-after-hand-over")
def a_primary_speaks_five_milliseconds_after_it_has_handed_the_vm_over(run: Run) -> None:
    hands_over(run, ms(max(one.wall_ns for one in run.captures[PRIMARY])) - 5)


@found("single-speaker", "spoke-after-hand-over")
def a_primary_announces_itself_after_it_has_handed_the_vm_over(run: Run) -> None:
    hands_over(run, KILL_MS - 6)
    run.captures[PRIMARY] = [one for one in run.captures[PRIMARY] if one.wall_ns < wall_ns(KILL_MS - 6)]
    run.frame(PRIMARY, KILL_MS - 1, gratuitous_arp())


@found("single-speaker", "spoke-after-hand-over")
def a_write_was_under_way_when_the_vm_was_handed_over(run: Run) -> None:
    last = max(one.answered_ns for one in run.writes if one.host == PRIMARY)
    hands_over(run, ms(last) - 0.01)
    run.captures[PRIMARY] = [one for one in run.captures[PRIMARY] if one.wall_ns < last]


@found("single-speaker", "not-announced")
def the_survivor_does_not_announce_itself(run: Run) -> None:
    run.captures[BACKUP] = [one for one in run.captures[BACKUP] if one.content != gratuitous_arp()]


@found("single-speaker", "led-without-claim")
def a_node_leads_a_generation_that_another_owns(run: Run) -> None:
    run.say(PRIMARY, LIVE_MS + 60, Heartbeat(3), path=HEARTBEATS[0], generation=2)


@found("single-speaker", "foreign-frame")
def a_host_speaks_under_another_address(run: Run) -> None:
    content = segment(0, 5000, b"whose is this")
    run.frame(BACKUP, LIVE_MS + 60, content[:6] + VM_MAC[:-1] + b"\x99" + content[12:])


@found("single-speaker", "unknown-owner")
def somebody_unknown_takes_the_vm(run: Run) -> None:
    coarse_ns = wall_ns(LIVE_MS + 100)
    run.records.append(ArbiterRecord(3, "d" * 16, "host-d", coarse_ns, 4_000_000, coarse_ns, PAIR_NS))


@found("single-speaker", "generation-skipped")
def a_generation_is_skipped(run: Run) -> None:
    run.records[1] = replace(run.records[1], generation=3)


@found("single-speaker", "no-arbiter-records")
def nobody_read_the_arbiter(run: Run) -> None:
    run.records = []


@found("single-speaker", "arbiter-disagrees")
def the_arbiter_gave_the_generation_to_the_other(run: Run) -> None:
    run.records[1] = replace(run.records[1], incarnation=INCARNATIONS[PRIMARY])


@found("single-speaker", "live-without-winning")
def the_survivor_says_that_it_never_asked(run: Run) -> None:
    run.traces[BACKUP] = [one for one in run.traces[BACKUP] if one["event"] != "arbiter"]


@found("single-speaker", "two-owners")
def both_say_that_they_took_one_generation(run: Run) -> None:
    run.trace(PRIMARY, KILL_MS + 300, "arbiter", 1, operation="ask", wanted=2, outcome="won")


@found("single-speaker", "no-frames")
def nobody_said_anything(run: Run) -> None:
    run.captures, run.writes = {host: [] for host in run.captures}, []


# How the pair comes out of it


@found("outcome", "pair-parted")
def the_backup_took_over_where_nothing_was_to_happen(run: Run) -> None:
    run.scenario["expect"] = Expect.STAYS_TOGETHER


@found("outcome", "nobody-went-on")
def nobody_claims_another_generation(run: Run) -> None:
    del run.records[1:]


@found("outcome", "no-failover")
def the_primary_goes_on_where_the_backup_was_to_take_over(run: Run) -> None:
    run.records[1] = replace(run.records[1], incarnation=INCARNATIONS[PRIMARY])


@found("outcome", "changed-hosts")
def the_backup_took_over_where_the_primary_was_to_go_on(run: Run) -> None:
    run.scenario["expect"] = Expect.PRIMARY_ALONE


@found("outcome", "no-arbiter-records")
def nobody_knows_who_owns_the_vm_at_the_end(run: Run) -> None:
    run.records = []


# The machine below


@found("outcome", "machine-stood-still")
@found("evidence-sufficient", "machine-stood-still")
def the_machine_stands_still_and_the_backup_takes_over(run: Run) -> None:
    run.scenario |= {"expect": Expect.STAYS_TOGETHER, "faults": ()}
    run.faults = []
    run.stand_still(KILL_MS, KILL_MS + 162)


# Guest time


def change_looks(run: Run, host: str, change: Callable[[int, int], int]) -> None:
    """Change what the guest was told of its counter: by position and value."""

    def changed(entry: LogEntry) -> LogEntry:
        if entry.kind != COUNTER:
            return entry
        value = change(entry.position, int.from_bytes(entry.answer, "little"))
        return replace(entry, answer=value.to_bytes(8, "little"))

    run.recorded[host] = [changed(entry) for entry in run.recorded[host]]


@found("guest-time", "guest-time-back")
def the_counter_goes_back_at_the_go_live(run: Run) -> None:
    change_looks(run, BACKUP, lambda _, value: value - 400_000_000)


@found("guest-time", "guest-time-back")
def the_counter_goes_back_once(run: Run) -> None:
    entry = [one for one in run.recorded[BACKUP] if one.kind == COUNTER][40]
    change_looks(run, BACKUP, lambda position, value: value - 9_000_000 if position == entry.position else value)


@found("guest-time", "guest-time-leaps")
def the_counter_leaps_by_five_milliseconds_at_the_go_live(run: Run) -> None:
    change_looks(run, BACKUP, lambda _, value: value + 5_000_000)


@found("guest-time", "guest-time-leaps")
def the_wall_clock_is_ahead(run: Run) -> None:
    run.recorded[PRIMARY] = [
        replace(entry, answer=wall_ns(60).to_bytes(8, "little")) if entry.kind == WALLTIME else entry
        for entry in run.recorded[PRIMARY]
    ]


@found("guest-time", "guest-time-fast")
def the_counter_runs_too_fast(run: Run) -> None:
    change_looks(run, PRIMARY, lambda _, value: value + value // 100)


@found("guest-time", "guest-time-stands")
def the_counter_stands_still(run: Run) -> None:
    run.scenario["stall_ms_max"] = 300.0
    first = next(int.from_bytes(one.answer, "little") for one in run.recorded[BACKUP] if one.kind == COUNTER)
    change_looks(run, BACKUP, lambda _, value: first + (value - first) // 8)


@found("guest-time", "no-looks")
def the_log_holds_no_look_at_a_clock(run: Run) -> None:
    run.recorded = {host: [one for one in entries if one.kind == POLL] for host, entries in run.recorded.items()}

    def change(one: Said) -> Said:
        assert isinstance(one.body, Entries)
        return replace(one, body=replace(one.body, entries=()))

    change_messages(run, Entries, change)


def _carry(run: Run, *, committed: bool = True) -> None:
    """The backup was given the state of a guest that ran."""
    state = "5a" * 16
    run.carried[INCARNATIONS[PRIMARY], 2] = state
    if committed:
        run.say(BACKUP, 8.0, Restored(2, state))
    run.say(PRIMARY, 8.2, Commit(2, 0))


@found("carried-state", "state-differs")
def a_joiner_was_given_another_state_than_the_guests(run: Run) -> None:
    _carry(run)
    run.carried[INCARNATIONS[PRIMARY], 2] = "a5" * 16


@found("carried-state", "committed-unasked")
def a_joiner_is_committed_to_before_it_has_the_state(run: Run) -> None:
    _carry(run, committed=False)


@found("outcome", "not-renewed")
def no_new_backup_came(run: Run) -> None:
    run.scenario["renewals_min"] = 1
