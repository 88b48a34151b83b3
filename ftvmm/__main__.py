"""`python -m ftvmm` is `ftvmm`."""

from ftvmm.cli import main

main()
