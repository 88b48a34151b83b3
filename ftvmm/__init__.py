"""A compact fault-tolerant virtual machine monitor.

Its core is `ftvmm._core`. With `FTVMM_CORE=lab` in the environment that is the lab's build of it, which can be broken
on purpose and stopped at exact moments, and which is never shipped.
"""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType


def _lab_core() -> ModuleType:
    path = Path(__file__).with_name("_core_lab.abi3.so")
    spec = importlib.util.spec_from_file_location("ftvmm._core", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ImportError(f"FTVMM_CORE=lab asks for {path}, which does not exist: `make setup` builds it")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if build := os.environ.get("FTVMM_CORE"):
    if build != "lab":
        raise ImportError(f"FTVMM_CORE must be 'lab' or unset, found {build!r}")
    sys.modules["ftvmm._core"] = _lab_core()
