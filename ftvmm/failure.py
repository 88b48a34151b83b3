"""The one way in which a command fails: a sentence on standard error, and an exit status."""

from typing import IO, Any

import click


class Failure(click.ClickException):
    """A command cannot do what it was asked to.

    Args:
        message: one sentence for the user.
        exit_status: 2 for bad input, 3 for a divergence, 1 for a failure of the host.
    """

    def __init__(self, message: str, exit_status: int = 2) -> None:
        super().__init__(message)
        # click documents the attribute as settable, and types it as the class's.
        self.exit_code = exit_status  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints the sentence, without a traceback."""
        click.echo(f"ftvmm: {self.format_message()}", file=file, err=file is None)
