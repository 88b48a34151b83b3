"""What the documents point to is there: every test that SPECIFICATION.md names, every file that a page links to."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "SPECIFICATION.md", "lab/README.md", "lab/box/README.md")),
    *(ROOT / name for name in ("harness/lab/README.md", "ftvmm/guests/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
ENFORCER = re.compile(r"`([\w/.]+\.(?:py|rs))::(\w+)`")
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def _guarantees() -> list[tuple[str, str]]:
    rows = re.findall(r"^\| ([A-Z]\d+) \|.*\| (.*) \|$", (ROOT / "SPECIFICATION.md").read_text(), re.MULTILINE)
    assert rows
    return rows


@pytest.mark.parametrize(("number", "enforced_by"), _guarantees(), ids=[number for number, _ in _guarantees()])
def test_a_guarantee_names_tests_that_exist(number: str, enforced_by: str) -> None:
    named = ENFORCER.findall(enforced_by)
    assert named or enforced_by.startswith("measured by `make bench`"), f"{number} is enforced by nothing"
    for path, test in named:
        definition = rf"^\s*(def|fn) {test}\b"
        assert re.search(definition, (ROOT / path).read_text(), re.MULTILINE), f"{path} has no {test}"


def test_guarantees_are_numbered_once() -> None:
    numbers = [number for number, _ in _guarantees()]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
