"""The rack's way out, for real, in namespaces of the test's own: this machine's links and settings are not touched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.lab.vagrant.state import LabState, read_state
from lab.vagrant import uplink
from lab.vagrant.down import down

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("forwarding", ["0", "1"])
def test_the_rack_gets_out_and_nothing_of_it_stays(forwarding: str) -> None:
    before = uplink.forwarding()
    program = [sys.executable, "-m", "tests.vagrant.uplink_in_namespaces", forwarding]
    done = subprocess.run(
        ["unshare", "--net", "--mount", *program], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["reached_before"], seen["reached"], seen["reached_again"], seen["reached_after"]) == (
        False,
        True,
        True,
        False,
    )
    assert seen["before"]["forwarding"] == forwarding
    assert (seen["during"]["forwarding"], uplink.LINK in seen["during"]["links"]) == ("1", True)
    assert (seen["before"]["is there"], seen["during"]["is there"]) == ("False", "True")
    assert "masquerade" in seen["during"]["rules"]
    assert seen["again"]["rules"] == seen["during"]["rules"]
    assert seen["after"] == seen["before"]
    assert seen["after_nothing"] == seen["before"]
    assert uplink.forwarding() == before


def test_going_down_takes_the_uplink_away_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(uplink, "disconnect", given.append)
    LabState("libvirt", "tcg", forwarding_before="0").write(tmp_path)
    state = read_state(tmp_path)
    assert state is not None
    assert state.forwarding_before == "0"
    assert down(tmp_path, progress=lambda _: None)
    assert given == ["0"]
    assert read_state(tmp_path) is None
