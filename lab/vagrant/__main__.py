"""`python -m lab.vagrant`: see `--help`."""

import sys

from lab.vagrant.program import main

sys.exit(main())
