"""``python -m lab.box``."""

import sys

from lab.box.program import main

sys.exit(main(sys.argv[1:]))
