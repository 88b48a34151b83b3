"""A version stands for one content, and a later content has a higher version."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab.box import catalogue
from lab.box.catalogue import Entry, next_version

MORNING = datetime(2026, 3, 4, 0, 5, 6, tzinfo=UTC)
EVENING = datetime(2026, 3, 4, 18, 30, 0, tzinfo=UTC)


def _entry(version: str, sha256: str = "aa") -> Entry:
    return Entry(version=version, sha256=sha256, box=Path("/boxes/a.box"))


def test_the_first_version_is_the_moment() -> None:
    assert next_version(None, sha256="aa", now=MORNING) == "0.20260304.506"


def test_an_unchanged_content_keeps_its_version() -> None:
    assert next_version(_entry("0.20260101.7"), sha256="aa", now=EVENING) == "0.20260101.7"


@pytest.mark.parametrize("before", ["0.20251231.235959", "0.20260304.506", "0.20260304.182959"])
def test_another_content_has_a_higher_version(before: str) -> None:
    assert next_version(_entry(before), sha256="bb", now=EVENING) == "0.20260304.183000"


@pytest.mark.parametrize(("before", "after"), [("0.20260304.183000", "183001"), ("0.20260304.235959", "235960")])
def test_a_clock_that_went_back_does_not_lower_it(before: str, after: str) -> None:
    assert next_version(_entry(before), sha256="bb", now=EVENING) == f"0.20260304.{after}"


def test_a_strange_version_is_followed_by_a_good_one() -> None:
    assert next_version(_entry("0.local.one"), sha256="bb", now=EVENING) == "0.20260304.183000"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    entry = Entry(version="0.20260304.506", sha256="ab" * 32, box=tmp_path / "a box.box")
    catalogue.write(tmp_path / "box.json", entry)
    assert catalogue.read(tmp_path / "box.json") == entry
    assert [path.name for path in tmp_path.iterdir()] == ["box.json"]


def test_vagrant_finds_what_it_looks_for(tmp_path: Path) -> None:
    catalogue.write(tmp_path / "box.json", _entry("0.20260304.506", "ab" * 32))
    written = json.loads((tmp_path / "box.json").read_text())
    assert written["name"] == "ftvmm/bookworm"
    (version,) = written["versions"]
    assert version["version"] == "0.20260304.506"
    assert version["providers"] == [
        {"name": "libvirt", "url": "file:///boxes/a.box", "checksum_type": "sha256", "checksum": "ab" * 32}
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"versions": []}', '{"versions": [{"version": "1"}]}', "null"])
def test_a_catalogue_cut_short_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "box.json").write_text(text)
    assert catalogue.read(tmp_path / "box.json") is None


def test_no_catalogue_is_none(tmp_path: Path) -> None:
    assert catalogue.read(tmp_path / "box.json") is None
