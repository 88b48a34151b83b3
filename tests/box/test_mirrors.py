"""The box comes from the mirrors that the machine's own apt uses."""

import pytest

from lab.box import mirrors
from lab.box.failure import BoxFailed

BOOKWORM = [
    "https://one.example/debian\tDebian\tDebian\tbookworm",
    "https://one.example/debian\tDebian\tDebian\tbookworm-updates",
    "https://two.example/security\tDebian\tDebian-Security\tbookworm-security",
]


def test_each_archive_has_its_own_mirror() -> None:
    assert mirrors.choose(BOOKWORM, suite="bookworm").lines("bookworm") == [
        "deb https://one.example/debian bookworm main",
        "deb https://one.example/debian bookworm-updates main",
        "deb https://two.example/security bookworm-security main",
    ]


def test_the_suites_own_mirror_comes_first() -> None:
    other = "https://three.example/debian\tDebian\tDebian\ttrixie"
    assert mirrors.choose([other, *BOOKWORM], suite="bookworm").main == "https://one.example/debian"


def test_another_releases_mirrors_carry_the_suite_too() -> None:
    newer = [line.replace("bookworm", "trixie") for line in BOOKWORM]
    assert mirrors.choose(newer, suite="bookworm").security == "https://two.example/security"


@pytest.mark.parametrize("lines", [[], BOOKWORM[:2], BOOKWORM[2:], ["https://four.example/\tDocker\tDocker\tbookworm"]])
def test_without_debians_archives_it_says_what_to_do(lines: list[str]) -> None:
    with pytest.raises(BoxFailed, match="apt-get update"):
        mirrors.choose(lines, suite="bookworm")
