"""A small program that stays on a host and answers questions, which costs no start of an interpreter each time."""

from __future__ import annotations

import contextlib

from harness.lab.interface import Conversation, Host, HostUnreachableError


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
