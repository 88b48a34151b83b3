"""What the documents point to is there: every test that SPECIFICATION.md names, every file that a page links to, and
every place and test of README.md's table of mechanisms."""

import re
from pathlib import Path

import pytest

from harness.oracles.registry import ORACLES
from tests.mutants.table import TABLE

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "SPECIFICATION.md", "lab/README.md", "lab/box/README.md")),
    *(ROOT / name for name in ("harness/lab/README.md", "ftvmm/guests/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
ENFORCER = re.compile(r"`([\w/.]+\.(?:py|rs))::(\w+)`")
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


SPECIFICATION = (ROOT / "SPECIFICATION.md").read_text()
# Promises that a running pair keeps: scenarios, oracles and mutants stand in columns of their own.
KEPT = re.compile(r"^\| ([TOS]\d+) \| .* \| (.*) \| (.*) \| (.*) \| (.*) \|$", re.MULTILINE)
TESTED = re.compile(r"^\| ([VEU]\d+) \| .* \| (.*) \|$", re.MULTILINE)
ROWS = re.findall(r"^\| ([A-Z]\d+) \|", SPECIFICATION, re.MULTILINE)
MEASURED = "measured by `make bench`"
SCENARIO = re.compile(r"`(test_\w+)::(test_\w+)`")
README = (ROOT / "README.md").read_text()
MECHANISMS_TITLE = "## VMware FT's mechanisms, and where they are\n"
MECHANISMS = re.findall(
    r"^\| (.+) \| (`.+) \| (`.+) \|$", README.split(MECHANISMS_TITLE)[1].split("\n## ")[0], re.MULTILINE
)


def assert_exist(tests: str) -> None:
    for path, test in ENFORCER.findall(tests):
        definition = rf"^\s*(def|fn) {test}\b"
        assert re.search(definition, (ROOT / path).read_text(), re.MULTILINE), f"{path} has no {test}"


@pytest.mark.parametrize("row", KEPT.findall(SPECIFICATION), ids=lambda row: row[0])
def test_a_promise_of_a_running_pair_has_its_scenario_its_oracle_and_its_mutant(row: tuple[str, ...]) -> None:
    _, scenarios, oracles, mutants, others = row
    assert_exist(others)
    if others.startswith(MEASURED):
        return
    named = re.findall(r"`(\w+)::(\w+)`", scenarios)
    assert named
    assert_exist("".join(f"`scenarios/{file}.py::{test}`" for file, test in named))
    judges = set(re.findall(r"`([\w-]+)`", oracles))
    assert judges
    assert judges <= {oracle.name for oracle in ORACLES}
    broken = set(re.findall(r"`([\w:-]+)`", mutants))
    assert broken
    caught_by = {mutant.name: mutant.oracles for mutant in TABLE}
    assert broken <= caught_by.keys()
    assert all(caught_by[name] & judges for name in broken), "a mutant of this line is caught by none of its oracles"


@pytest.mark.parametrize("row", TESTED.findall(SPECIFICATION), ids=lambda row: row[0])
def test_a_guarantee_names_tests_that_exist(row: tuple[str, str]) -> None:
    _, enforced_by = row
    assert ENFORCER.findall(enforced_by) or enforced_by.startswith(MEASURED)
    assert_exist(enforced_by)


def test_every_line_of_the_specification_is_looked_at() -> None:
    looked_at = [row[0] for row in KEPT.findall(SPECIFICATION) + TESTED.findall(SPECIFICATION)]
    assert sorted(looked_at) == sorted(ROWS)
    assert len(ROWS) == len(set(ROWS)) > 40


@pytest.mark.parametrize("row", MECHANISMS, ids=lambda row: row[0])
def test_a_mechanism_lives_where_the_table_says_and_something_shows_it(row: tuple[str, str, str]) -> None:
    _, places, shown_by = row
    for place in re.split(r", ", places):
        assert (ROOT / place.strip("`")).exists(), f"there is no {place}"
        assert place.startswith("`ftvmm/")
    named = shown_by.split(", ")
    for one in named:
        assert SCENARIO.fullmatch(one) or ENFORCER.fullmatch(one), f"{one} names no test"
    assert_exist(shown_by)
    scenarios = SCENARIO.findall(shown_by)
    assert scenarios, "no scenario shows it"
    assert_exist("".join(f"`scenarios/{file}.py::{test}`" for file, test in scenarios))


def test_every_row_of_the_table_is_looked_at() -> None:
    rows = README.split(MECHANISMS_TITLE)[1].split("\n## ")[0].count("\n| ")
    # Its heading is no mechanism.
    assert len(MECHANISMS) == rows - 1 > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
