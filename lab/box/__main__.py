"""The command line: ``python -m lab.box build``."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from lab.box.build import OUTPUT, build
from lab.box.commands import BoxFailed

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Return 0 when the box is there, 1 when it could not be built, 130 when the build was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m lab.box", description=sys.modules["lab.box"].__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    builder = commands.add_parser("build", help="build the box unless it is there")
    builder.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="where it goes (.state/box)")
    builder.add_argument("--force", action="store_true", help="build anew, with the package versions of today")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    os.umask(0o022)
    begin = time.monotonic()
    try:
        box = build(output=options.output, force=options.force, progress=sys.stderr)
    except BoxFailed as failure:
        print(f"There is no new box. {failure}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("The box's build was interrupted, and what it had made was removed.", file=sys.stderr)
        return EXIT_INTERRUPTED
    what = f"{box.name} {box.version}, {box.path.stat().st_size / 1e6:.0f} MB"
    if box.built:
        print(f"Built {what}, in {time.monotonic() - begin:.0f} s: {box.path}", file=sys.stderr)
    else:
        print(f"Nothing to do: {what} is there and nothing that makes it has changed: {box.path}", file=sys.stderr)
    print(box.catalogue)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


sys.exit(main(sys.argv[1:]))
