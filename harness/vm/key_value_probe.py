"""What a scenario asks of the key-value server by itself, beside the load, and looks for on its disk."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator

from harness.lab import topology
from harness.lab.interface import Conversation, Lab

# Runs on the storage host: where a file holds one of these strings of bytes last, the first that it holds; -1: none.
_FIND = (
    "import sys; image = open(sys.argv[1], 'rb').read();"
    " print(next((at for part in sys.argv[2:] if (at := image.rfind(bytes.fromhex(part))) >= 0), -1))"
)


def find_arguments(image: str, content: bytes) -> list[str]:
    """What Python is given behind `-c` to print where an image holds these bytes, or one half of them: -1: nowhere."""
    half = len(content) // 2
    return [_FIND, image, *(part.hex() for part in (content, content[:half], content[half:]) if part)]


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

        The server's log divides what it holds over sectors, each with a header of its own. Where that cut goes through
        the bytes, it is the place of one half of them: at least one is whole, if they fit into a sector.

        Raises:
            LookupError: nowhere.
        """
        storage = self._lab.storage_host
        script = shlex.join(find_arguments(topology.STORAGE_IMAGE, content))
        offset = int(storage.run(f"{storage.python} -c {script}", check=True).stdout)
        if offset < 0:
            raise LookupError(f"the disk image does not hold {content!r}")
        return offset

    def disk_modified_ns(self) -> int:
        """When the disk image was written to last, by the storage host's clock."""
        command = ["stat", "--format=%.9Y", topology.STORAGE_IMAGE]
        return int(self._lab.storage_host.run(command, check=True).stdout.strip().replace(".", ""))
