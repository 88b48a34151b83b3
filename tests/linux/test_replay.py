"""A run of a Linux program that was recorded comes out the same when it is replayed."""

from pathlib import Path

from tests.command_line.command import ftvmm
from tests.linux.clients import end_redis, redis_client
from tests.linux.linux_guest import boot

REQUESTS = 400
DRAW = "return redis.call('RPUSH', KEYS[1], redis.call('SRANDMEMBER', 'numbers'), unpack(redis.call('TIME')))"


def test_redis_is_replayed_to_the_same_state(
    redis_image: Path, service_network: tuple[str, ...], tmp_path: Path
) -> None:
    log = tmp_path / "run.log"
    with boot(redis_image, f"--record={log}", "--verbose", *service_network) as guest:
        guest.expect("Ready to accept connections")
        with redis_client() as client:
            for number in range(REQUESTS // 4):
                client.set(f"key {number}", "x" * number)
                client.incr("counter")
                client.sadd("numbers", number)
                # What is drawn at random, and what time it is, are inputs too.
                client.eval(DRAW, 1, "drawn")
        end_redis()
        assert guest.wait() == 0
    ending = [line for line in guest.console if line.startswith("ftvmm: ") and "fingerprint" in line]
    written = [line for line in guest.console if line not in ending]
    assert len(ending) == 1
    replayed = ftvmm("replay", "--verbose", log)
    assert (replayed.returncode, replayed.stderr.splitlines()) == (0, ending)
    assert replayed.stdout.splitlines() == written
