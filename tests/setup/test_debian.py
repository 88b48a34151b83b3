"""What the set-up does with Debian's packages, as far as it can be tried without installing any."""

from pathlib import Path

import pytest

from lab.provision import debian


def test_only_a_service_with_an_init_script_is_disabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt-daemon-system names three services and has no init script for some of them."""
    (tmp_path / "ssh").touch()
    monkeypatch.setattr(debian, "INIT_SCRIPTS", tmp_path)
    assert debian._services_to_disable(["openssh-server", "libvirt-daemon-system", "gcc"]) == ["ssh"]
    (tmp_path / "virtlogd").touch()
    assert debian._services_to_disable(["libvirt-daemon-system"]) == ["virtlogd"]
