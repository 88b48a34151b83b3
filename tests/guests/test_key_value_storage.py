"""What the key-value guest keeps on its block device."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.guests.conftest import GUEST_ADDRESS
from tests.guests.guest import Guest

Boot = Callable[[], Guest]


def connect() -> redis.Redis:
    return redis.Redis(GUEST_ADDRESS, protocol=2, socket_timeout=10, decode_responses=True)


def flip_bit_in(storage: Path, needle: bytes) -> int:
    """Flips a bit in the middle of the only place of the device that holds these bytes; returns that place."""
    content = bytearray(storage.read_bytes())
    assert content.count(needle) == 1
    place = content.index(needle)
    content[place + len(needle) // 2] ^= 4
    storage.write_bytes(content)
    return place


def test_acknowledged_writes_outlive_a_killed_guest(boot_key_value: Boot) -> None:
    with boot_key_value() as guest, connect() as client:
        guest.expect("serving")
        for number in range(200):
            client.set(f"key-{number}", f"value-{number}")
        client.delete("key-7")
        guest.kill()
    with boot_key_value() as guest, connect() as client:
        guest.expect("recovered 199 keys")
        guest.expect("serving")
        assert client.get("key-199") == "value-199"
        assert client.get("key-7") is None


def test_a_damaged_record_is_reported_at_boot_and_never_served(boot_key_value: Boot, storage: Path) -> None:
    with boot_key_value() as guest, connect() as client:
        guest.expect("serving")
        client.set("good", "an old value")
        client.set("bad", "an old value too")
        client.set("bad", "the value that will be hit")
        client.set("last", "followed by others")
        guest.kill()
    place = flip_bit_in(storage, b"the value that will be hit")
    for _ in range(2):  # the second time, the log has been written anew
        with boot_key_value() as guest, connect() as client:
            guest.expect("serving")
            with pytest.raises(redis.ResponseError, match="DAMAGED"):
                client.get("bad")
            assert client.get("good") == "an old value"
            assert client.get("last") == "followed by others"
            assert client.get("absent") is None
            guest.kill()
        if place >= 0:
            report = f"damaged at byte {place // 512 * 512} of the device: .*`bad` cannot be read"
            assert any(re.search(report, line) for line in guest.console), guest.console
            place = -1
    with boot_key_value() as guest, connect() as client:
        guest.expect("serving")
        client.set("bad", "written again")
        assert client.get("bad") == "written again"


def test_a_scrub_finds_damage_reports_it_and_repairs_it_from_memory(boot_key_value: Boot, storage: Path) -> None:
    with boot_key_value() as guest, connect() as client:
        guest.expect("serving")
        client.set("key", "the value that will be hit")
        client.set("other", "value")
        place = flip_bit_in(storage, b"the value that will be hit")
        assert client.get("key") == "the value that will be hit"
        reply = client.execute_command("SCRUB")
        result = dict(zip(reply[::2], reply[1::2], strict=True))
        assert (result["repaired"], result["keys"], len(result["damages"])) == (1, 2, 1)
        assert f"damaged at byte {place // 512 * 512} " in result["damages"][0]
        guest.expect("scrub: damaged at byte")
        reply = client.execute_command("SCRUB")
        assert reply[5] == 0, "a scrubbed log is whole"
        guest.kill()
    with boot_key_value() as guest, connect() as client:
        guest.expect("serving")
        assert client.get("key") == "the value that will be hit"


def test_a_device_whose_superblock_is_gone_is_refused(boot_key_value: Boot, storage: Path) -> None:
    with boot_key_value() as guest, connect() as client:
        guest.expect("serving")
        client.set("key", "value")
        guest.kill()
    content = bytearray(storage.read_bytes())
    content[100] ^= 1
    content[4096 + 100] ^= 1
    storage.write_bytes(content)
    with boot_key_value() as guest:
        assert guest.wait() == 1
    assert any("both copies of the superblock" in line for line in guest.console)


def test_it_uses_as_much_of_a_device_as_it_is_told(service_network: tuple[str, ...], storage: Path) -> None:
    with storage.open("r+b") as file:
        file.truncate(3 << 20)
    devices = (*service_network, f"--block:storage={storage}")
    address = f"--ipv4={GUEST_ADDRESS}/24"
    with Guest("kv", address, "--disk-mib=1", devices=devices) as guest, connect() as client:
        guest.expect("serving")
        # Two halves of half a MiB each, so that both are used and no other place is.
        for number in range(40):
            client.set("key", f"{number} " + "x" * 20_000)
        guest.kill()
    content = storage.read_bytes()
    assert any(content[1 << 19 : 1 << 20])
    assert not any(content[1 << 20 :])
    with Guest("kv", address, devices=devices) as guest, connect() as client:
        guest.expect("recovered 1 keys")
        guest.expect("serving")
        assert client.get("key") == "39 " + "x" * 20_000
    with Guest("kv", address, "--disk-mib=4", devices=devices) as guest:
        assert guest.wait() == 1
    assert any("less than the 4 MiB that --disk-mib asks for" in line for line in guest.console)


def test_a_full_log_goes_on_in_the_other_half_and_full_data_is_refused(boot_key_value: Boot) -> None:
    with boot_key_value() as guest, connect() as client:
        guest.expect("serving")
        for _ in range(3):
            client.mset({f"key-{number}": "x" * 1000 for number in range(200)})
        assert client.info("storage")["log_generation"] > 1
        with pytest.raises(redis.ResponseError, match="the storage is full"):
            client.mset({f"more-{number}": "x" * 1000 for number in range(200)})
        assert client.dbsize() == 200
        guest.kill()
    with boot_key_value() as guest, connect() as client:
        guest.expect("recovered 200 keys")
        guest.expect("serving")
        assert client.get("key-199") == "x" * 1000
