"""``python3 -m lab.provision``. Any Python 3 can read this file, so an old one says a sentence and no SyntaxError."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this is where the requirement is enforced
    sys.stderr.write(
        "ftvmm cannot be set up here. Python %d.%d is too old: install Python 3.11 or newer, "  # noqa: UP031
        "or name one: make PYTHON=python3.11\n" % sys.version_info[:2]
    )
    sys.exit(2)

from lab.provision.program import main

sys.exit(main(sys.argv[1:]))
