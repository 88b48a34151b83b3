"""The key-value guest, asked by redis-py, redis-cli and redis-benchmark."""

import subprocess
import threading
from collections.abc import Iterator

import pytest
import redis

from tests.guests.conftest import GUEST_ADDRESS
from tests.guests.guest import Guest

CONNECTIONS = 64


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(key_value: Guest, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    with redis.Redis(GUEST_ADDRESS, protocol=request.param, socket_timeout=10, decode_responses=True) as client:
        yield client


def cli(*words: str) -> str:
    command = ["redis-cli", "-h", GUEST_ADDRESS, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def test_commands_do_what_those_of_redis_do(client: redis.Redis) -> None:
    assert client.ping()
    assert client.echo("hello") == "hello"
    assert client.set("a", "1")
    assert client.get("a") == "1"
    assert client.get("absent") is None
    assert client.set("a", "2", nx=True) is None
    assert client.set("b", "2", xx=True) is None
    assert client.set("a", "2", xx=True, get=True) == "1"
    assert [client.incr("n"), client.incrby("n", 10), client.decr("n")] == [1, 11, 10]
    assert client.append("text", "one") == 3
    assert client.append("text", "two") == 6
    assert client.mset({"m1": "x", "m2": "y"})
    assert client.mget("m1", "absent", "m2") == ["x", None, "y"]
    assert client.exists("m1", "m2", "absent") == 2
    assert client.delete("m1", "absent") == 1
    assert sorted(client.keys("*")) == ["a", "m2", "n", "text"]
    assert client.keys("[am]*") == ["a", "m2"]
    assert client.dbsize() == 4
    assert client.flushall()
    assert client.dbsize() == 0


def test_expiry_is_by_the_wall_clock(client: redis.Redis) -> None:
    client.set("a", "1", ex=100)
    assert 98 <= client.ttl("a") <= 100
    assert client.expire("a", 200)
    assert 198_000 <= client.pttl("a") <= 200_000
    assert client.persist("a")
    assert client.ttl("a") == -1
    assert client.ttl("absent") == -2
    client.set("past", "1", pxat=1)
    assert client.get("past") is None
    assert client.dbsize() == 1


def test_errors_are_those_of_redis(client: redis.Redis) -> None:
    client.set("text", "abc")
    for words, message in (
        (("GET",), "wrong number of arguments for 'get' command"),
        (("NONSENSE", "x"), "unknown command 'NONSENSE', with args beginning with: 'x'"),
        (("INCR", "text"), "value is not an integer or out of range"),
        (("SET", "a", "1", "NX", "XX"), "syntax error"),
        (("SET", "a", "1", "EX", "0"), "invalid expire time in 'set' command"),
        (("SELECT", "1"), "DB index is out of range"),
    ):
        with pytest.raises(redis.ResponseError, match=message):
            client.execute_command(*words)
    client.set("n", str(2**63 - 1))
    with pytest.raises(redis.ResponseError, match="increment or decrement would overflow"):
        client.incr("n")


def test_a_value_that_is_too_long_ends_the_connection_with_a_reason(client: redis.Redis) -> None:
    with pytest.raises(redis.ResponseError, match="invalid bulk length"):
        client.set("a", "x" * 2_000_000)
    assert client.ping()


def test_pipelines_are_answered_in_order(client: redis.Redis) -> None:
    pipeline = client.pipeline(transaction=False)
    for number in range(500):
        pipeline.set(f"key-{number}", number)
        pipeline.get(f"key-{number}")
    replies = pipeline.execute()
    assert replies[1::2] == [str(number) for number in range(500)]


def test_many_connections_open_at_once_and_stay(key_value: Guest) -> None:
    barrier = threading.Barrier(CONNECTIONS)
    sums: list[int] = []

    def count() -> None:
        with redis.Redis(GUEST_ADDRESS, single_connection_client=False, socket_timeout=20) as client:
            barrier.wait(30)
            client.incr("sum")  # all connect here, at once
            barrier.wait(30)
            sums.append(client.incr("sum"))  # and nobody had left before

    threads = [threading.Thread(target=count) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sums) == list(range(CONNECTIONS + 1, 2 * CONNECTIONS + 1))


def test_redis_cli_and_inline_commands(key_value: Guest) -> None:
    assert cli("SET", "a", "1") == "OK"
    assert cli("GET", "a") == "1"
    assert "redis_version:7" in cli("INFO")
    assert cli("CONFIG", "GET", "save").startswith("save")
    inline = subprocess.run(
        ["redis-cli", "-h", GUEST_ADDRESS, "--pipe"], input=b"SET b 2\r\nSET c 3\r\n", capture_output=True, check=True,
        timeout=30,
    )  # fmt: skip
    assert b"errors: 0, replies: 2" in inline.stdout
    assert cli("GET", "c") == "3"


def test_redis_benchmark_with_50_clients(key_value: Guest) -> None:
    command = ["redis-benchmark", "-h", GUEST_ADDRESS, "-t", "set,get", "-n", "2000", "-c", "50", "--csv"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert '"SET"' in output
    assert '"GET"' in output


def test_shutdown_ends_the_guest(key_value: Guest) -> None:
    cli("SHUTDOWN")
    assert key_value.wait() == 0
