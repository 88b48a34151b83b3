"""The guest that sends numbered datagrams at a fixed period."""

import socket

from tests.guests.conftest import GUEST_ADDRESS, HOST_ADDRESS
from tests.guests.guest import Guest

COUNT = 25
PERIOD_MS = 10


def test_datagrams_and_console_lines_are_numbered_without_a_gap_and_keep_the_period(
    service_network: tuple[str, ...],
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target:
        target.bind((HOST_ADDRESS, 9000))
        target.settimeout(30)
        arguments = (f"--target={HOST_ADDRESS}:9000", f"--period-ms={PERIOD_MS}", f"--count={COUNT}")
        with Guest("ticker", f"--ipv4={GUEST_ADDRESS}/24", *arguments, devices=service_network) as guest:
            datagrams = [target.recv(100).decode() for _ in range(COUNT)]
            assert guest.wait() == 0
    words = [line.split() for line in datagrams]
    assert [word for word, _, _ in words] == ["tick"] * COUNT
    assert [int(number) for _, number, _ in words] == list(range(1, COUNT + 1))
    assert [line for line in guest.console if line.startswith("tick")] == datagrams
    # Late by any amount on a busy machine, but never early: ticks do not drift toward each other.
    first = int(words[0][2])
    assert all(int(word[2]) - first >= index * PERIOD_MS * 1_000_000 for index, word in enumerate(words))


def test_it_needs_a_target(service_network: tuple[str, ...]) -> None:
    with Guest("ticker", f"--ipv4={GUEST_ADDRESS}/24", devices=service_network) as guest:
        assert guest.wait() == 2
    assert "ticker: the argument --target is missing" in guest.console
