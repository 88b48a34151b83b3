"""What a scenario asks of the key-value server by itself, beside the load, and looks for on its disk."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator

from harness.lab import topology
from harness.lab.interface import Conversation, Lab

# Runs on the storage host: where a file holds these bytes last; -1: nowhere.
_FIND = "import sys; print(open(sys.argv[1], 'rb').read().rfind(bytes.fromhex(sys.argv[2])))"


class KeyValueProbe:
    """Speaks to the server over connections of its own, and reads the disk image on the storage host."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def command(self, *words: str) -> str:
        """Gives the server one command; its answer as redis-cli prints it."""
        return self._lab.client_host.run(
            ["redis-cli", "-h", topology.VM_ADDRESS, *words], check=True, timeout_seconds=self._lab.pace.stretch(30)
        ).stdout.strip()

    @contextlib.contextmanager
    def converse(self) -> Iterator[Conversation]:
        """A connection that is kept, open already: each line is a command."""
        with self._lab.client_host.converse(["redis-cli", "-h", topology.VM_ADDRESS]) as conversation:
            conversation.ask("PING", timeout_seconds=self._lab.pace.stretch(30))
            yield conversation

    def offset_on_disk(self, content: bytes) -> int:
        """Where the disk image holds these bytes, counted from its start; the last place if there are several.

        Raises:
            LookupError: nowhere.
        """
        storage = self._lab.storage_host
        script = shlex.join([_FIND, topology.STORAGE_IMAGE, content.hex()])
        offset = int(storage.run(f"{storage.python} -c {script}", check=True).stdout)
        if offset < 0:
            raise LookupError(f"the disk image does not hold {content!r}")
        return offset

    def disk_modified_ns(self) -> int:
        """When the disk image was written to last, by the storage host's clock."""
        command = ["stat", "--format=%.9Y", topology.STORAGE_IMAGE]
        return int(self._lab.storage_host.run(command, check=True).stdout.strip().replace(".", ""))
