"""The VM's client on the client host: a program of its own that keeps a history which oracles can judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.clients.control import ClientControl, Progress
from harness.lab import topology
from harness.lab.interface import Lab, LabError, RemoteProcess
from harness.promise import ClientKind, Workload
from harness.vm.guests import SERVERS, TICKER_PORT

_DIRECTORY = "/var/lib/ftvmm"
_CONTROL_PORT = 7500
DRAIN_SECONDS = 5.0
_FILES: Mapping[ClientKind, Sequence[str]] = {
    ClientKind.KEY_VALUE: ("history.jsonl", "connections.jsonl"),
    ClientKind.TICKER: ("ticks.jsonl",),
}


class ClientError(Exception):
    """The client did not start, or saw less than a scenario waits for."""


class Client:
    """A client under whose eyes a scenario happens. Timeouts are given as for this machine.

    Args:
        lab: where.
        kind: which client.
        seed: what the key-value load is drawn from.
        workload: the server that the key-value client asks.
        drain_seconds: how long it waits at its end for answers that are still out, and then for its last reads.
    """

    def __init__(
        self,
        lab: Lab,
        kind: ClientKind,
        *,
        seed: int,
        workload: Workload = Workload.KV,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self._host, self._pace, self._drain_seconds = lab.client_host, lab.pace, drain_seconds
        self.kind, self._seed, self._server = kind, seed, SERVERS[workload]
        self._files = _FILES[kind]
        self._process: RemoteProcess | None = None
        self._control: ClientControl | None = None

    def prepare(self) -> None:
        """Starts its program, which begins when `start` lets it: that takes seconds on a slow host.

        Not the ticker's listener, which would hear the guest boot.

        Raises:
            ClientError: it has not started in time; the message has what it printed.
        """
        if self.kind is ClientKind.KEY_VALUE:
            self._start_program()

    def start(self) -> None:
        """Lets it begin, and waits until it has seen its first answers.

        Raises:
            ClientError: it has not in time; the message has what it printed.
        """
        if self._control is None:
            self._start_program()
        if self.kind is ClientKind.KEY_VALUE:
            self._asked().begin()
        self.wait_for_answers(20)

    def _start_program(self) -> None:
        log = f"{_DIRECTORY}/client.log"
        command = f"{self._host.python} -m {self._command} --control 127.0.0.1:{_CONTROL_PORT}"
        self._process = self._host.start(command, log=log)
        # Asked of the host and not by connecting: paramiko tells each refused channel aloud.
        listens = f"ss -Hltn 'sport = :{_CONTROL_PORT}' | grep -q ."
        wait = f"until {listens}; do kill -0 {self._process.pid} 2>/dev/null || exit 1; sleep 0.02; done"
        try:
            self._host.run(wait, timeout_seconds=self._pace.stretch(30), check=True)
            self._control = self.control()
            self._control.progress()
        except (LabError, OSError, ValueError) as error:
            self._close_control()
            printed = self._host.run(f"tail -c 2000 {log}").stdout
            raise ClientError(f"the client cannot be reached ({error}); it printed: {printed}") from error

    @property
    def _command(self) -> str:
        if self.kind is ClientKind.TICKER:
            return (
                f"harness.clients.ticks --listen {topology.VM_GATEWAY}:{TICKER_PORT} --ticks {_DIRECTORY}/ticks.jsonl"
            )
        return (
            f"harness.clients.key_value --held --target {topology.VM_ADDRESS}:{self._server.port} --seed {self._seed}"
            f" --protocol {self._server.protocol} --connect-seconds {self._pace.stretch(15):g}"
            f" --drain-seconds {self._pace.stretch(self._drain_seconds):g}"
            f" --visitors {10 / self._pace.factor:g} --patience-seconds {self._pace.stretch(3.2):g}"
            f" --history {_DIRECTORY}/history.jsonl --connections-log {_DIRECTORY}/connections.jsonl"
        )

    def control(self) -> ClientControl:
        """A channel of its own, for another thread; whoever takes it closes it."""
        return ClientControl(self._host.forward(_CONTROL_PORT), timeout_seconds=self._pace.stretch(5))

    def _asked(self) -> ClientControl:
        if self._control is None:
            raise ClientError("the client was not started")
        return self._control

    def progress(self) -> Progress:
        """How far it is."""
        return self._asked().progress()

    def wait_for_answers(self, count: int, *, after_seconds: float = 0, timeout_seconds: float = 30) -> None:
        """Waits until `count` operations have been answered that are called in `after_seconds` or later.

        Raises:
            ClientError: they were not in time.
        """
        control, timeout_seconds = self._asked(), self._pace.stretch(timeout_seconds + after_seconds)
        from_ns = control.progress().now_ns + round(after_seconds * 1e9)
        try:
            control.wait_answered(count, called_after_ns=from_ns, timeout_seconds=timeout_seconds)
        except TimeoutError as error:
            control.close()
            self._control = self.control()
            raise ClientError(f"{count} answers from now on: not within {timeout_seconds:g} s") from error

    def load_for(self, seconds: float) -> None:
        """Lets the load go on for so long, and sees it answered after that.

        Raises:
            ClientError: it was not.
        """
        self.wait_for_answers(1, after_seconds=seconds)

    def stop(self) -> None:
        """Ends the load, lets it read all keys a last time and seal its files."""
        if self._control is not None:
            try:
                self._control.stop(timeout_seconds=self._pace.stretch(30))
            finally:
                self._close_control()

    def _close_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def collect(self, directory: Path) -> None:
        """Copies what it wrote into an evidence directory."""
        for name in self._files:
            (directory / name).write_bytes(self._host.read_file(f"{_DIRECTORY}/{name}"))
