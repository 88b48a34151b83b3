"""Builds the lab hosts' Vagrant box from Debian packages only: ``python -m lab.box build``.

Standard library only, like the set-up. ``lab.box.build.build`` is what other programs call; ``PACKAGES`` is what the
machine needs for it.
"""

from lab.box.tools import PACKAGES

__all__ = ["PACKAGES"]
