"""The control socket of a node: an operation a line, one JSON answer a line, on a UNIX socket (0600).

An operation is its name, and behind a space what it takes as JSON, if it takes anything.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_REQUEST_BYTES_MAX = 4096
_TIMEOUT_SECONDS = 5.0


class ControlError(Exception):
    """The node did not answer on its control socket."""


class RefusedError(ControlError):
    """The node does not do what it was asked for; the message says why."""


class ControlServer:
    """Answers requests while a node runs.

    Args:
        path: where the socket is made; one left by a dead node is replaced, one of a live node is not.
        operations: by name, what to do; each takes what stands behind the name and returns what goes back as JSON. One
            that raises `RefusedError` is not done.

    Raises:
        ControlError: another node answers on this socket.
    """

    def __init__(self, path: Path, operations: dict[str, Callable[[str], Any]]) -> None:
        if path.exists():
            if status(path) is not None:
                raise ControlError(
                    f"{path}: a node already runs here; stop it, or give this one another node.directory"
                )
            path.unlink(missing_ok=True)
        self._path = path

        class Handler(socketserver.StreamRequestHandler):
            timeout = _TIMEOUT_SECONDS

            def handle(self) -> None:
                line = self.rfile.readline(_REQUEST_BYTES_MAX).decode(errors="replace").strip()
                name, _, argument = line.partition(" ")
                operation = operations.get(name)
                if operation is None:
                    answer: dict[str, Any] = {"error": f"unknown operation {name!r}; known: {', '.join(operations)}"}
                else:
                    try:
                        answer = {"answer": operation(argument)}
                    except RefusedError as refusal:
                        answer = {"error": str(refusal)}
                self.wfile.write(json.dumps(answer).encode() + b"\n")

        umask = os.umask(0o177)
        try:
            self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        finally:
            os.umask(umask)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="control", daemon=True).start()

    def close(self) -> None:
        """Stops answering and removes the socket."""
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


def status(path: Path) -> dict[str, Any] | None:
    """What the node behind a control socket says of itself; None where none answers."""
    try:
        answer: dict[str, Any] = request(path, "status")
    except ControlError:
        return None
    return answer


def request(path: Path, operation: str) -> Any:
    """Asks the node behind a control socket.

    Args:
        path: the control socket.
        operation: `status`, `stop`, `hand-over`, or `protect` and `let-backup-go` with where the new backup is.

    Raises:
        ControlError: nobody answers there.
        RefusedError: the node refuses.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_SECONDS)
            connection.connect(str(path))
            connection.sendall(operation.encode() + b"\n")
            with connection.makefile("rb") as stream:
                answer = json.loads(stream.readline())
    except (OSError, ValueError) as error:
        raise ControlError(f"{path}: no node answers ({error})") from error
    if isinstance(answer, dict) and "error" in answer:
        raise RefusedError(str(answer["error"]))
    if not isinstance(answer, dict):
        raise ControlError(f"{path}: no node answers like this: {answer!r}")
    return answer.get("answer")
