"""A kept SSH connection to one host: commands, processes, programs that are talked to, files and forwarded ports."""

from __future__ import annotations

import contextlib
import io
import select
import shlex
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness.lab.interface import CommandResult, Conversation, Host, HostUnreachableError, LabError
from harness.lab.process_identity import parse_stat

Connector = Callable[[], socket.socket]
_START_SECONDS = 30.0
_FILE_SECONDS = 120.0
_SEND_BYTES = 1 << 18
# Told apart from what cat(1) and the shell end with.
_NO_SUCH_FILE = 44


@dataclass(frozen=True)
class SshKey:
    """One ed25519 key: the private half in OpenSSH's format, the public half as an authorized_keys line."""

    private: bytes
    public: str

    @classmethod
    def generate(cls) -> SshKey:
        """Draw a new key."""
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return cls(private, public.decode())

    def as_paramiko(self) -> paramiko.PKey:
        """The key as paramiko wants it."""
        return paramiko.Ed25519Key.from_private_key(io.StringIO(self.private.decode()))


def as_shell(command: str | Sequence[str]) -> str:
    """A command as one line for the shell."""
    return command if isinstance(command, str) else shlex.join(command)


class SshProcess:
    """A process on the far side whose channel is kept, so that its exit status is known. See `RemoteProcess`."""

    def __init__(
        self,
        connection: SshConnection,
        channel: paramiko.Channel,
        pid: int,
        start_ticks: int,
        command: str,
        log: str | None,
    ) -> None:
        self._connection = connection
        self._channel = channel
        self.pid = pid
        self._start_ticks = start_ticks
        self.command = command
        self.log = log

    @property
    def exit_status(self) -> int | None:
        """The exit status, None while it is not known, -1 when a signal ended the process."""
        if not self._channel.exit_status_ready() or self._channel.get_transport() is None:
            return None
        return self._channel.recv_exit_status()

    def is_running(self) -> bool:
        """Whether the host says that the process exists and is no zombie."""
        stat = self._connection.run(f"cat /proc/{self.pid}/stat").stdout
        if not stat:
            return False
        # A host that was started again gives the same pid to others, which have another start time.
        state, start_ticks = parse_stat(stat)
        return state not in "ZX" and start_ticks == self._start_ticks

    def signal(self, name: str) -> None:
        """Send a signal by name."""
        self._connection.run(f"kill -{name} {self.pid}").check()

    def wait(self, timeout_seconds: float) -> int:
        """Wait for the end; `LabError` when it does not come in time."""
        if not self._channel.status_event.wait(timeout_seconds):
            raise LabError(f"`{self.command}` (pid {self.pid}) still runs after {timeout_seconds} s")
        return self._channel.recv_exit_status()


class SshConversation:
    """A running program on the far side that answers each line with one. See `Conversation`."""

    def __init__(self, connection: SshConnection, channel: paramiko.Channel, command: str) -> None:
        self._connection = connection
        self._channel = channel
        self._command = command
        self._timeout_seconds = channel.gettimeout()
        self._answers = channel.makefile("r")

    def ask(self, line: str, *, timeout_seconds: float | None = None) -> str:
        self._channel.settimeout(self._timeout_seconds if timeout_seconds is None else timeout_seconds)
        self.tell(line)
        try:
            answer = str(self._answers.readline())
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._gone(error) from error
        if not answer.endswith("\n"):
            raise HostUnreachableError(f"`{self._command}` on {self._connection.name} ended")
        return answer.removesuffix("\n")

    def tell(self, line: str) -> None:
        try:
            self._channel.sendall(f"{line}\n".encode())
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._gone(error) from error

    def _gone(self, error: Exception) -> HostUnreachableError:
        return HostUnreachableError(f"`{self._command}` on {self._connection.name}: {error!r}")


class SshConnection:
    """One connection, opened by `connect` and kept. Thread-safe: every call has a channel of its own."""

    def __init__(self, name: str, connector: Connector, key: paramiko.PKey, host_key: paramiko.PKey) -> None:
        self.name = name
        self._connector = connector
        self._key = key
        self._host_key = host_key
        self._client: paramiko.SSHClient | None = None
        self._forwards: list[socketserver.ThreadingTCPServer] = []

    @property
    def client(self) -> paramiko.SSHClient:
        """paramiko's client; `HostUnreachableError` when there is no connection."""
        if self._client is None:
            raise HostUnreachableError(f"{self.name} is not connected")
        return self._client

    def connect(self, timeout_seconds: float = 20.0) -> None:
        """Connect, trying again until the host's sshd listens. The host key is checked against the run's own."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            client = paramiko.SSHClient()
            client.get_host_keys().add(self.name, self._host_key.get_name(), self._host_key)
            client.set_missing_host_key_policy(paramiko.RejectPolicy())
            try:
                client.connect(
                    self.name,
                    sock=self._connector(),
                    username="root",
                    pkey=self._key,
                    look_for_keys=False,
                    allow_agent=False,
                    timeout=5,
                    banner_timeout=10,
                    auth_timeout=10,
                )
            except (OSError, EOFError, paramiko.SSHException) as error:
                client.close()
                if time.monotonic() > deadline:
                    raise HostUnreachableError(f"{self.name} did not answer over SSH in time: {error}") from error
                time.sleep(0.02)  # sshd is still on its way up, and tells nobody when it listens
            else:
                self._client = client
                return

    def close(self) -> None:
        """Close the connection and all that was forwarded over it."""
        for forward in self._forwards:
            forward.shutdown()
            forward.server_close()
        self._forwards.clear()
        if self._client is not None:
            self._client.close()
            self._client = None

    def _open(self, timeout_seconds: float) -> paramiko.Channel:
        transport = self.client.get_transport()
        if transport is None or not transport.is_active():
            raise HostUnreachableError(f"the SSH connection to {self.name} is gone")
        try:
            return transport.open_session(timeout=timeout_seconds)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise HostUnreachableError(f"{self.name} does not answer over SSH: {error}") from error

    @contextlib.contextmanager
    def _opened(self, timeout_seconds: float) -> Iterator[paramiko.Channel]:
        channel = self._open(timeout_seconds)
        try:
            yield channel
        finally:
            _close(channel)

    def run(
        self, command: str | Sequence[str], *, timeout_seconds: float = 30.0, check: bool = False, input: bytes = b""
    ) -> CommandResult:
        """Run a command to its end; `HostUnreachableError` when it does not end in time."""
        line = as_shell(command)
        status, output, errors = self._exchange(line, input, timeout_seconds)
        result = CommandResult(line, status, output.decode(errors="replace"), errors.decode(errors="replace"))
        return result.check() if check else result

    def _exchange(self, line: str, input: bytes, timeout_seconds: float) -> tuple[int, bytes, bytes]:
        """Exit status, standard output and standard error of a command."""
        deadline = time.monotonic() + timeout_seconds
        with self._opened(timeout_seconds) as channel:
            channel.settimeout(timeout_seconds)
            output, errors = bytearray(), bytearray()
            try:
                _execute(channel, _with_input(line, len(input)), timeout_seconds)
                _send(channel, input)
                while True:
                    channel.settimeout(max(0.001, deadline - time.monotonic()))
                    if not (part := channel.recv(65536)):
                        break
                    output += part
                    _drain(channel, errors)
                while part := channel.recv_stderr(65536):
                    errors += part
                if not channel.status_event.wait(max(0.001, deadline - time.monotonic())):
                    raise TimeoutError(f"no exit status after {timeout_seconds} s")
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise HostUnreachableError(f"`{line}` on {self.name} did not end: {error!r}") from error
            return channel.recv_exit_status(), bytes(output), bytes(errors)

    @contextlib.contextmanager
    def converse(self, command: str | Sequence[str], *, timeout_seconds: float = 30.0) -> Iterator[SshConversation]:
        """Run a command that is talked to line by line; it ends with the block."""
        line = as_shell(command)
        with self._opened(timeout_seconds) as channel:
            channel.settimeout(timeout_seconds)
            try:
                _execute(channel, line, timeout_seconds)
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise HostUnreachableError(f"`{line}` could not be started on {self.name}: {error!r}") from error
            yield SshConversation(self, channel, line)

    def start(self, command: str | Sequence[str], *, log: str | None = None) -> SshProcess:
        """Start a command; it lives on when the connection closes."""
        line = as_shell(command)
        target = shlex.quote(log) if log else "/dev/null"
        channel = self._open(_START_SECONDS)
        channel.settimeout(_START_SECONDS)
        try:
            # bash execs a single command, so the pid that is printed stays the command's own.
            identity = "echo $$ $(cut -d' ' -f22 /proc/$$/stat) >&3"
            begin = f"exec 3>&1 </dev/null >>{target} 2>&1; {identity}; exec 3>&-; exec bash -c {shlex.quote(line)}"
            _execute(channel, begin, _START_SECONDS)
            pid, start_ticks = map(int, channel.makefile("r").readline().split())
        except (OSError, EOFError, ValueError, paramiko.SSHException) as error:
            _close(channel)
            raise HostUnreachableError(f"`{line}` could not be started on {self.name}: {error!r}") from error
        return SshProcess(self, channel, pid, start_ticks, line, log)

    def read_file(self, path: str) -> bytes:
        """The content of a file; `FileNotFoundError` when there is none."""
        quoted = shlex.quote(path)
        line = f"[ -e {quoted} ] || exit {_NO_SUCH_FILE}; exec cat {quoted}"
        status, content, errors = self._exchange(line, b"", _FILE_SECONDS)
        if status == _NO_SUCH_FILE:
            raise FileNotFoundError(f"{self.name} has no file {path}")
        if status != 0:
            raise OSError(f"{path} on {self.name}: {errors.decode(errors='replace').strip()}")
        return content

    def write_file(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """Replace a file's content."""
        target, parent = shlex.quote(path), shlex.quote(str(PurePosixPath(path).parent))
        command = f"mkdir -p {parent} && umask 077 && cat >{target} && chmod {mode:o} {target}"
        self.run(command, input=content, check=True)

    def forward(self, port: int, address: str = "127.0.0.1") -> tuple[str, int]:
        """Listen on a local port and carry each connection to the far side's `address:port`."""
        connection = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                transport = connection.client.get_transport()
                if transport is None:
                    return
                try:
                    channel = transport.open_channel("direct-tcpip", (address, port), self.client_address, timeout=10)
                except (OSError, EOFError, paramiko.SSHException):
                    return  # the caller sees its connection closed
                try:
                    _carry(self.request, channel)
                finally:
                    _close(channel)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True, name=f"forward-{self.name}").start()
        self._forwards.append(server)
        local_address, local_port = server.server_address[:2]
        return str(local_address), int(local_port)


def _with_input(line: str, size: int) -> str:
    """A command that finds the end of its input by itself, after `size` bytes.

    It must not be told by an end-of-file over the channel: one that paramiko sends while its other thread answers the
    close of a command that has just ended comes for a channel that is gone, and sshd ends the whole connection for it.
    """
    return f"head -c {size} | {{\n{line}\n}}" if size else f"exec </dev/null\n{line}"


def _close(channel: paramiko.Channel) -> None:
    """Close a channel, also of a connection that breaks, or that another thread closes, before all of it is said."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.close()


def _execute(channel: paramiko.Channel, line: str, timeout_seconds: float) -> None:
    """Have a command started; paramiko itself waits for the answer for ever, also of a host that died meanwhile."""
    guard = threading.Timer(timeout_seconds, _close, [channel])
    guard.daemon = True
    guard.start()
    try:
        channel.exec_command(line)
    finally:
        guard.cancel()


def _send(channel: paramiko.Channel, content: bytes) -> None:
    """Send all of it; paramiko's own `sendall` copies what is left for each packet, which takes minutes for 100 MB."""
    for start in range(0, len(content), _SEND_BYTES):
        channel.sendall(content[start : start + _SEND_BYTES])


def _drain(channel: paramiko.Channel, errors: bytearray) -> None:
    while channel.recv_stderr_ready():
        errors += channel.recv_stderr(65536)


def _carry(local: socket.socket, channel: Any) -> None:
    """Carry bytes both ways until both sides have closed."""
    other = {local: channel, channel: local}
    while True:
        readable, _, _ = select.select(list(other), [], [])
        for side in readable:
            data = side.recv(65536)
            if data:
                other[side].sendall(data)
            else:
                # One end-of-file ends the pair: HTTP, the only user, never talks on after a half-close.
                return


class KeptConversation:
    """Started when it is first asked, and again when the host has gone away meanwhile.

    Args:
        host: where.
        script: Python source that answers each line of its standard input with one line.
        arguments: the script's `sys.argv[1:]`.
    """

    def __init__(self, host: Host, script: str, *arguments: str) -> None:
        self._host = host
        self._command = ["sh", "-c", f'exec {host.python} -c "$0" "$@"', script, *arguments]
        self._open = contextlib.ExitStack()
        self._conversation: Conversation | None = None

    @property
    def is_open(self) -> bool:
        """Whether the program was started and has answered ever since."""
        return self._conversation is not None

    def ask(self, line: str, *, timeout_seconds: float, start_seconds: float | None = None) -> str:
        """The answer to one line; where the program has to be started first there are `start_seconds` for it instead.

        Raises:
            HostUnreachableError: none came in time; the next question starts the program anew.
        """
        try:
            if self._conversation is None:
                timeout_seconds = start_seconds or timeout_seconds
                self._conversation = self._open.enter_context(
                    self._host.converse(self._command, timeout_seconds=timeout_seconds)
                )
            return self._conversation.ask(line, timeout_seconds=timeout_seconds)
        except HostUnreachableError:
            self.close()
            raise

    def close(self) -> None:
        """End the program."""
        self._conversation = None
        self._open.close()
