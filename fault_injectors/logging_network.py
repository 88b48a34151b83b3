"""Faults of the log channel: cut, delayed, throttled, reset, corrupted, on the host where it lands.

TCP is struck in Toxiproxy, through which the log always runs; heartbeats are UDP and are struck by the packet filter.
Entries flow *upstream* through the proxy of the host that listens, acknowledgements *downstream*.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fault_injectors.base import HostFault, HostPairFault
from fault_injectors.fault import Confirmation, Direction
from fault_injectors.log_traffic import LogTraffic
from fault_injectors.networks import new_table
from fault_injectors.packet_filter import DropRule, PacketFilter
from fault_injectors.probes import answers_ping
from fault_injectors.toxiproxy_client import LogProxy, Toxic
from harness.lab.interface import Host, HostState
from harness.lab.topology import HEARTBEAT_PORT, LOGGING, LOGGING_PORT, LOGGING_PROXY_PORT
from harness.lab.waiting import wait_until

UPSTREAM = "upstream"
DOWNSTREAM = "downstream"
_TOXIPROXY_LOG = "/var/log/toxiproxy.log"
_CHANGED = "the log connections on {} changed within the look"
# How long a rate is measured, beside the VMM's default detection times. Long enough that the rate weighs more than the
# bursts of a tenth of a second in which Toxiproxy sends, and over well before T_ACK (1 s), when a primary whose log is
# throttled gives its backup up and closes the connection.
_RATE_SECONDS = 0.5


def _toxic(kind: str, stream: str, **attributes: Any) -> Toxic:
    return Toxic(f"{kind}-{stream}-{secrets.token_hex(3)}", kind, stream, 1.0, attributes)


@dataclass
class LoggingCut(HostPairFault):
    """Nothing passes between two hosts on the logging network, both ways or one: log, acknowledgements, heartbeats.

    TCP behaves as over a cut wire: bytes wait and flow on after healing, a close is not seen, nobody gets through anew.
    """

    direction: Direction = Direction.BOTH
    name = "logging-cut"
    _filters: list[tuple[Host, PacketFilter]] = field(default_factory=list)
    _toxics: list[tuple[LogProxy, Host, Toxic]] = field(default_factory=list)
    _before: list[tuple[Host, LogTraffic]] = field(default_factory=list)
    _reached_before: bool = False

    def prepare(self) -> None:
        table = new_table()
        proxies = {host.name: LogProxy(host, self.lab.pace) for host in (self.first, self.second)}
        for sender, receiver in self._unheard(self.direction):
            source = f"ip saddr {sender.addresses[LOGGING]}"
            rules = [
                DropRule(f"heartbeats of {sender.name}", "input", f"{source} udp dport {HEARTBEAT_PORT}"),
                DropRule(f"pings of {sender.name}", "input", f"{source} ip protocol icmp"),
                DropRule(
                    f"new connections of {sender.name}",
                    "input",
                    f"{source} tcp dport {LOGGING_PROXY_PORT} tcp flags & (syn | ack) == syn",
                ),
            ]
            self._filters.append((receiver, PacketFilter(receiver, table, rules)))
            # The log lands on one of the two, whoever dialled: what the sender says runs upstream through the proxy of
            # the receiver, or downstream through its own.
            self._toxics.append((proxies[receiver.name], receiver, _toxic("hold", UPSTREAM)))
            self._toxics.append((proxies[sender.name], sender, _toxic("hold", DOWNSTREAM)))
        for proxy in proxies.values():
            proxy.toxics()  # opens the way to the server before the blow, so that the blow is quick
        self._reached_before = answers_ping(self.lab, self.first, self.second.addresses[LOGGING])
        self._before = [(host, LogTraffic.read(host)) for host in (self.first, self.second)]

    def inject(self) -> None:
        for _, packet_filter in self._filters:
            packet_filter.install()
        for proxy, _, toxic in self._toxics:
            proxy.add(toxic)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """Pings and heartbeats are lost and counted, the proxies report the toxics, an open log holds bytes back.

        Signs of life go over it all the time, and are answered, so that something is always held back. With both ways
        cut it is what goes upstream only: an answer that nobody is asked for is not given.
        """
        if not self._reached_before:
            return Confirmation.of(None, "the two did not reach each other on the logging network before")
        # First of all, because the pair gives the connection up as soon as it suspects.
        seen = {host.name: self._of_log(host, before, timeout_seconds) for host, before in self._before}
        reached = answers_ping(self.lab, self.first, self.second.addresses[LOGGING])
        answers_ping(self.lab, self.second, self.first.addresses[LOGGING])
        dropped = {host.name: packet_filter.dropped() for host, packet_filter in self._filters}
        pings = all(count > 0 for counts in dropped.values() for label, count in counts.items() if "pings" in label)
        heartbeats = wait_until(self._lost_heartbeats, timeout_seconds=timeout_seconds)
        present = all(toxic.name in proxy.toxics() for proxy, _, toxic in self._toxics)
        evidence = [
            f"pings over the logging network, answered before, are {'still answered' if reached else 'lost'}",
            f"packets dropped: {dropped}",
            f"the proxies {'report' if present else 'do not report'} the toxics",
        ]
        evidence += [line for lines in seen.values() for line in lines]
        if reached or not pings or not present:
            return Confirmation.of(False, *evidence)
        passed = [host.name for host, before in self._before if before.connections and not seen[host.name]]
        if passed:
            return Confirmation.of(None, *evidence, f"no byte of the open log was seen held back on {passed[0]}")
        if not heartbeats:
            return Confirmation.of(None, *evidence, "no heartbeat was seen lost")
        return Confirmation.of(True, *evidence)

    def _lost_heartbeats(self) -> bool:
        """Whether heartbeats were dropped, whichever way they went: who hears no question gives no answer."""
        counts = [packet_filter.dropped() for _, packet_filter in self._filters]
        return any(count > 0 for each in counts for label, count in each.items() if label.startswith("heartbeats"))

    def _of_log(self, host: Host, before: LogTraffic, timeout_seconds: float) -> list[str]:
        """What shows on a host that an open log connection is cut: bytes wait in the proxy, or the pair gave it up.

        Empty when nothing does in time, or a connection was opened since.
        """
        streams = [toxic.stream for _, where, toxic in self._toxics if where is host]
        if not before.connections:
            return []

        def look() -> LogTraffic | None:
            traffic = LogTraffic.read(host)
            shows = not traffic.follows(before) or any(traffic.waiting(stream) > 0 for stream in streams)
            return traffic if shows else None

        traffic = wait_until(look, timeout_seconds=timeout_seconds)
        if traffic is None or traffic.connections - before.connections:
            return []
        if not traffic.follows(before):
            return [f"a log connection on {host.name} was given up"]
        waiting = {stream: traffic.waiting(stream) for stream in streams}
        return [
            f"bytes of the log held back {stream} on {host.name}: {count}" for stream, count in waiting.items() if count
        ]

    def heal(self) -> None:
        for host, packet_filter in self._filters:
            if host.state is not HostState.OFF:
                packet_filter.remove()
        _remove_toxics([(proxy, host, toxic) for proxy, host, toxic in self._toxics])


def _remove_toxics(toxics: Sequence[tuple[LogProxy, Host, Toxic]]) -> None:
    for proxy, host, toxic in toxics:
        if host.state is not HostState.OFF and toxic.name in proxy.toxics():
            proxy.remove(toxic.name)


@dataclass
class _LogToxic(HostFault):
    """What the faults by one toxic share. `host` is the one where the log lands."""

    stream: str = UPSTREAM
    _proxy: LogProxy | None = None
    _toxic: Toxic | None = None

    def _prepare(self, toxic: Toxic) -> None:
        self._proxy, self._toxic = LogProxy(self.host, self.lab.pace), toxic
        self._proxy.toxics()

    def inject(self) -> None:
        assert self._proxy is not None
        assert self._toxic is not None
        self._proxy.add(self._toxic)

    def heal(self) -> None:
        if self._proxy is not None and self._toxic is not None:
            _remove_toxics([(self._proxy, self.host, self._toxic)])


@dataclass
class LogDelay(_LogToxic):
    """Log entries (or acknowledgements, `downstream`) pass later than they came.

    They pass by up to `jitter_ms` sooner or later than that, in order. Both are as for this machine, and grow with the
    lab's detection times.
    """

    delay_ms: int = 200
    jitter_ms: int = 0
    name = "log-delay"

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {**super().parameters, "delay_ms": self._lab_delay_ms, "jitter_ms": self._lab_jitter_ms}

    @property
    def _lab_jitter_ms(self) -> int:
        return round(self.jitter_ms * self.lab.pace.timing)

    @property
    def _lab_delay_ms(self) -> int:
        """A delay means something beside T_ACK only, which is longer where detection has to be."""
        return round(self.delay_ms * self.lab.pace.timing)

    def prepare(self) -> None:
        self._prepare(_toxic("latency", self.stream, latency=self._lab_delay_ms, jitter=self._lab_jitter_ms))

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """Bytes that the kernel counted into the proxy are counted out of it half the delay later or more.

        Bytes that were not seen to leave tell nothing: a log that is stuck, or a connection that closed, is no delay.
        """
        before = LogTraffic.read(self.host)

        def fresh() -> LogTraffic | None:
            traffic = LogTraffic.read(self.host)
            return traffic if traffic.arrived(self.stream) > before.arrived(self.stream) else None

        arrival = wait_until(fresh, timeout_seconds=timeout_seconds, interval_seconds=0.005)
        if arrival is None:
            return Confirmation.of(None, f"no log traffic {self.stream} on {self.host.name} within {timeout_seconds} s")
        arrived_at, wanted = time.monotonic(), arrival.arrived(self.stream)

        def gone() -> LogTraffic | None:
            traffic = LogTraffic.read(self.host)
            return traffic if traffic.left(self.stream) >= wanted or not traffic.follows(before) else None

        departure = wait_until(
            gone, timeout_seconds=self._lab_delay_ms / 1000 + timeout_seconds, interval_seconds=0.005
        )
        measured_ms = (time.monotonic() - arrived_at) * 1000
        if departure is None:
            return Confirmation.of(None, f"byte {wanted} of the log did not leave the proxy in {measured_ms:.0f} ms")
        if not departure.follows(before):
            return Confirmation.of(None, _CHANGED.format(self.host.name))
        evidence = f"byte {wanted} of the log {self.stream} left the proxy {measured_ms:.0f} ms after it had come in"
        return Confirmation.of(measured_ms >= self._lab_delay_ms / 2, evidence)


@dataclass
class LogThrottle(_LogToxic):
    """The log passes at a bounded rate; what comes faster queues up.

    `rate_kib_per_second` is as for this machine: a slower lab's guest needs less, and so gets less.
    """

    rate_kib_per_second: int = 16
    name = "log-throttle"

    @property
    def parameters(self) -> Mapping[str, Any]:
        parameters = {name: value for name, value in super().parameters.items() if name != "rate_kib_per_second"}
        return {**parameters, "bytes_per_second": self._lab_rate}

    @property
    def _lab_rate(self) -> int:
        """In bytes a second: the queue of a rate means something beside T_ACK only, which is longer in a slower lab."""
        return max(1, round(self.rate_kib_per_second * 1024 / self.lab.pace.factor))

    def prepare(self) -> None:
        self._prepare(_toxic("throttle", self.stream, rate=self._lab_rate))

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """More has come into the proxy than went out, and it goes out no faster than the rate (and a quarter)."""

        def queued() -> bool:
            return LogTraffic.read(self.host).waiting(self.stream) > 0

        if not wait_until(queued, timeout_seconds=timeout_seconds):
            return Confirmation.of(None, f"the log on {self.host.name} never came faster than the rate")
        first, started = LogTraffic.read(self.host), time.monotonic()
        last, seconds, window_seconds = first, 0.0, _RATE_SECONDS * self.lab.pace.timing
        while seconds < window_seconds and (traffic := LogTraffic.read(self.host)).follows(first):
            last, seconds = traffic, time.monotonic() - started
        if seconds < window_seconds / 2:  # the pair gave the log up before its rate could be told
            return Confirmation.of(None, _CHANGED.format(self.host.name))
        rate = (last.left(self.stream) - first.left(self.stream)) / seconds
        is_bounded = rate <= self._lab_rate * 1.25
        # With nothing left to send it may be the sender who is slow.
        is_known = not is_bounded or last.waiting(self.stream) > 0
        return Confirmation.of(
            is_bounded if is_known else None,
            f"{rate:.0f} bytes/s of the log left the proxy over {seconds:.1f} s",
            f"{last.waiting(self.stream)} bytes were waiting in it",
        )


@dataclass
class LogCorruption(_LogToxic):
    """Bits of one byte of the log are flipped on its way, `after_bytes` into the stream from the injection on."""

    after_bytes: int = 0
    mask: int = 1
    name = "log-corruption"
    _lines_before: int = 0

    def prepare(self) -> None:
        self._prepare(_toxic("corrupt", self.stream, after=self.after_bytes, mask=self.mask, limit=1))
        self._lines_before = len(self._server_log())

    def _server_log(self) -> list[str]:
        return self.host.run(["cat", _TOXIPROXY_LOG], check=True).stdout.splitlines()

    def _flips(self) -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in self._server_log()[self._lines_before :] if '"flipped"' in line)
        return [line for line in lines if line.get("toxic") == "corrupt"]

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The server logged the byte before and after; without traffic there is nothing to flip."""
        flips = wait_until(self._flips, timeout_seconds=timeout_seconds)
        if not flips:
            return Confirmation.of(None, f"no byte passed {self.stream} on {self.host.name} within {timeout_seconds} s")
        flip = flips[0]
        return Confirmation.of(
            flip["before"] ^ flip["after"] == self.mask,
            f"Toxiproxy on {self.host.name} sent byte {flip['offset']} on as {flip['after']:#04x} "
            f"where {flip['before']:#04x} had come in",
        )


@dataclass
class LogReset(HostFault):
    """The log connection is reset (RST) while both nodes live; with `lasting`, each new one too until healed.

    The dialler sees the reset for certain, the listener a reset or a close.

    Toxiproxy's `reset_peer` makes a connection close by RST only if the toxic was there when it opened, so the open
    connection is reset by the kernel, on the proxy's two sockets, and `reset_peer` serves the ones that follow.
    """

    lasting: bool = False
    name = "log-reset"
    _counter: PacketFilter | None = None
    _before: LogTraffic | None = None
    _proxy: LogProxy | None = None
    _toxics: list[Toxic] = field(default_factory=list)

    def prepare(self) -> None:
        self._proxy = LogProxy(self.host, self.lab.pace)
        self._proxy.toxics()
        if self.lasting:
            self._toxics = [_toxic("reset_peer", stream, timeout=0) for stream in (UPSTREAM, DOWNSTREAM)]
        reset = "tcp flags & rst == rst"
        rules = [
            DropRule("to the dialler", "output", f"tcp sport {LOGGING_PROXY_PORT} {reset}", action=""),
            DropRule("to the listener", "output", f"tcp dport {LOGGING_PORT} {reset}", action=""),
        ]
        self._counter = PacketFilter(self.host, new_table(), rules)
        self._counter.install()
        self._before = LogTraffic.read(self.host)

    def inject(self) -> None:
        assert self._proxy is not None
        for toxic in self._toxics:
            self._proxy.add(toxic)
        # The dialler's side first: were the other one gone before, the proxy might close this one in order, by FIN.
        kill = "ss -KtnH state established"
        sides = (f"sport = :{LOGGING_PROXY_PORT}", f"dport = :{LOGGING_PORT}")
        self.host.run("; ".join(f"{kill} '( {side} )'" for side in sides), check=True)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The connections that were open are gone, and the kernel counted the RSTs that went to the dialling node."""
        assert self._counter is not None
        assert self._before is not None
        counter, before = self._counter, self._before
        if not before.connections:
            return Confirmation.of(None, f"no log connection was open on {self.host.name}")
        gone = wait_until(
            lambda: not (before.connections & LogTraffic.read(self.host).connections), timeout_seconds=timeout_seconds
        )
        resets = counter.dropped()
        return Confirmation.of(
            gone and resets["to the dialler"] > 0,
            f"connections open before: {sorted(before.connections)}, {'all gone' if gone else 'some are still open'}",
            f"RST segments sent by {self.host.name}: {resets}",
        )

    def heal(self) -> None:
        if self._proxy is not None:
            _remove_toxics([(self._proxy, self.host, toxic) for toxic in self._toxics])
        if self._counter is not None and self.host.state is not HostState.OFF:
            self._counter.remove()
