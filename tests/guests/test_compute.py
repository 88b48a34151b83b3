"""The guest that computes."""

import pytest

from tests.guests.guest import Guest

# SHA-256 over 50 rounds: the work must be the same on every machine.
DIGEST = "b8d3d9ca53521229698c437c7c89a0bccd027b9c3f8fd0f7abb276d1e140e874"


def test_its_digest_is_the_same_everywhere() -> None:
    with Guest("compute", "--rounds=50", memory_mib=16) as guest:
        assert guest.wait() == 0
    assert guest.console[-1] == f"compute: 50 rounds, digest {DIGEST}"
    assert guest.console[0] == "compute: round 5 of 50"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--rounds=0", "compute: --rounds=0: expected a whole number from 1 up"),
        ("--turns=1", "compute: there is no argument --turns"),
        ("fast", "compute: `fast` is not of the form --name=value"),
    ],
)
def test_a_bad_argument_is_named_and_ends_it_with_status_2(argument: str, message: str) -> None:
    with Guest("compute", argument, memory_mib=16) as guest:
        assert guest.wait() == 2
    assert message in guest.console
