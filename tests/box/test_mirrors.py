"""The box comes from the mirrors that the machine's own apt uses."""

import pytest

from lab.box import tools
from lab.box.commands import BoxFailed

BOOKWORM = [
    "https://one.example/debian\tDebian\tDebian\tbookworm",
    "https://one.example/debian\tDebian\tDebian\tbookworm-updates",
    "https://two.example/security\tDebian\tDebian-Security\tbookworm-security",
]


def test_each_archive_has_its_own_mirror() -> None:
    assert tools.choose_mirrors(BOOKWORM, suite="bookworm").lines("bookworm") == [
        "deb https://one.example/debian bookworm main",
        "deb https://one.example/debian bookworm-updates main",
        "deb https://two.example/security bookworm-security main",
    ]


def test_the_suites_own_mirror_comes_first() -> None:
    other = "https://three.example/debian\tDebian\tDebian\ttrixie"
    assert tools.choose_mirrors([other, *BOOKWORM], suite="bookworm").main == "https://one.example/debian"


def test_another_releases_mirrors_carry_the_suite_too() -> None:
    newer = [line.replace("bookworm", "trixie") for line in BOOKWORM]
    assert tools.choose_mirrors(newer, suite="bookworm").security == "https://two.example/security"


@pytest.mark.parametrize("lines", [[], BOOKWORM[:2], BOOKWORM[2:], ["https://four.example/\tDocker\tDocker\tbookworm"]])
def test_without_debians_archives_it_says_what_to_do(lines: list[str]) -> None:
    with pytest.raises(BoxFailed, match="apt-get update"):
        tools.choose_mirrors(lines, suite="bookworm")
