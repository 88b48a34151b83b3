"""The rack's way out, for real, in namespaces of the test's own: this machine's links and settings are not touched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lab.vagrant import uplink
from lab.vagrant.up import down

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
    assert ("hook forward" in seen["during"]["rules"]) == (forwarding == "0"), "it forwards for the lab alone"
    assert seen["again"]["rules"] == seen["during"]["rules"]
    assert seen["after"] == seen["before"]
    assert seen["after_nothing"] == seen["before"]
    assert uplink.forwarding() == before


@pytest.mark.parametrize("state", ["", "{"], ids=["no state", "a damaged state"])
def test_going_down_takes_the_uplink_away_whatever_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    connected: list[str] = []
    given: list[str] = []
    monkeypatch.setattr(uplink, "forwarding", lambda: "0")
    monkeypatch.setattr(uplink, "connect", lambda _, forwarding_before: connected.append(forwarding_before))
    monkeypatch.setattr(uplink, "disconnect", given.append)
    uplink.lead_out(tmp_path, 1)
    monkeypatch.setattr(uplink, "forwarding", lambda: "1")
    monkeypatch.setattr(uplink, "is_there", lambda: True)
    uplink.lead_out(tmp_path, 1)
    if state:
        (tmp_path / "state.json").write_text(state)
    down(tmp_path, progress=lambda _: None)
    assert (connected, given) == (["0", "0"], ["0"])
    assert not list(tmp_path.iterdir())
