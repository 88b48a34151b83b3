"""The `etcd` arbiter: members that die, freeze, answer nothing or wrong, and keys that somebody has changed."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ftvmm.arbiters import ArbiterUnreachableError, NotSharedError, Record
from ftvmm.arbiters.etcd import EtcdArbiter
from harness.lab.waiting import wait_until
from tests.arbiters.cluster import ETCD, Cluster, free_ports
from tests.arbiters.contender import TIMEOUT_SECONDS

pytestmark = pytest.mark.skipif(ETCD is None, reason="needs Debian's etcd-server")


def arbiter_of(cluster: Cluster, vm: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> EtcdArbiter:
    return EtcdArbiter(cluster.addresses, vm, timeout_seconds=timeout_seconds)


def put(cluster: Cluster, vm: str, generation: int, value: str) -> None:
    """As somebody does with etcdctl."""
    pair = {"key": f"/ftvmm/{vm}/generation-{generation:08d}", "value": value}
    body = json.dumps({name: base64.b64encode(text.encode()).decode() for name, text in pair.items()})
    cluster.post(0, "/v3/kv/put", body.encode())


def asked_until_answered(arbiter: EtcdArbiter, **claim: int | str) -> Record:
    """A candidate asks on while the cluster has no leader."""
    answers: list[Record] = []

    def ask() -> bool:
        try:
            answers.append(arbiter.ask(**claim))  # type: ignore[arg-type]
        except ArbiterUnreachableError:
            return False
        return True

    assert wait_until(ask, timeout_seconds=30)
    return answers[0]


def test_a_cluster_goes_on_without_its_leader(three: Cluster, vm: str) -> None:
    arbiter = arbiter_of(three, vm)
    arbiter.ask(generation=1, incarnation=1, node="a")
    leader = three.leader()
    three.signal(leader, signal.SIGKILL)
    assert asked_until_answered(arbiter, generation=2, incarnation=2, node="b") == Record(2, 2, "b")
    three.start(leader)
    # It says what the others have decided meanwhile, or nothing.
    returned = EtcdArbiter([three.addresses[leader]], vm, timeout_seconds=TIMEOUT_SECONDS)
    three.await_answers(returned)
    assert returned.read() == Record(2, 2, "b")
    assert returned.ask(generation=2, incarnation=3, node="c") == Record(2, 2, "b")


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_member_without_a_majority_answers_nothing(three: Cluster, vm: str, number: signal.Signals) -> None:
    """Not even what it knows: the others may have gone on without it."""
    arbiter = arbiter_of(three, vm, timeout_seconds=1.5)
    arbiter.ask(generation=1, incarnation=1, node="a")
    leader = three.leader()
    for other in {0, 1, 2} - {leader}:
        three.signal(other, number)
    for call in (arbiter.read, lambda: arbiter.ask(generation=2, incarnation=2, node="b"), arbiter.try_out):
        begun = time.monotonic()
        with pytest.raises(ArbiterUnreachableError, match=r"127\.0\.0\.1"):
            call()
        assert time.monotonic() - begun < 10
    for other in {0, 1, 2} - {leader}:
        three.start(other) if number is signal.SIGKILL else three.signal(other, signal.SIGCONT)
    three.await_answers(arbiter)
    # The claim that got no answer may have been taken when the others came back; nobody else has it.
    assert arbiter.read() in (Record(1, 1, "a"), Record(2, 2, "b"))


def test_a_lost_answer_is_settled_by_reading(cluster: Cluster, vm: str) -> None:
    def forward(body: bytes, path: str) -> None:
        cluster.post(0, path, body)

    with answering(forward) as address:
        deaf = EtcdArbiter([address], vm, timeout_seconds=TIMEOUT_SECONDS)
        with pytest.raises(ArbiterUnreachableError):
            deaf.ask(generation=1, incarnation=7, node="a")
    assert arbiter_of(cluster, vm).read() == Record(1, 7, "a")
    assert arbiter_of(cluster, vm).ask(generation=1, incarnation=8, node="b") == Record(1, 7, "a")


def test_a_claim_that_may_have_been_taken_is_not_made_with_another_member(cluster: Cluster, vm: str) -> None:
    """The other might be of another cluster, where nobody has it: two would win."""
    with answering(lambda *_: None) as address:
        arbiter = EtcdArbiter([address, *cluster.addresses], vm, timeout_seconds=TIMEOUT_SECONDS)
        with pytest.raises(ArbiterUnreachableError):
            arbiter.ask(generation=1, incarnation=7, node="a")
        assert arbiter_of(cluster, vm).read() == Record(0, 0, "")
        assert arbiter.ask(generation=1, incarnation=7, node="a") == Record(1, 7, "a"), "it begins with the other now"


class answering:
    """A server that says what `answer` makes of a request's body and path; None: it closes the connection."""

    def __init__(self, answer: Callable[[bytes, str], bytes | None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                said = answer(self.rfile.read(int(self.headers["Content-Length"])), self.path)
                if said is not None:
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(said)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"header": 1}',
        b'{"header": {"cluster_id": "1"}, "kvs": 1}',
        b'{"header": {"cluster_id": "1"}, "kvs": [1]}',
        b'{"header": {"cluster_id": "1"}, "kvs": [{"key": "!", "value": "", "version": "1"}]}',
        b'{"header": {"cluster_id": "1"}, "kvs": [{"key": "AAAA", "value": "AAAA", "version": "1"}]}',
        b'{"header": {"cluster_id": "1"}, "succeeded": false, "responses": []}',
        b" " * ((1 << 20) + 1),
        b"[" * 100_000,
    ],
    ids=lambda said: said[:60].decode().strip() or f"{len(said)} spaces",
)
def test_what_etcd_never_says_is_no_answer(said: bytes, vm: str) -> None:
    with answering(lambda *_: said) as address:
        arbiter = EtcdArbiter([address], vm, timeout_seconds=TIMEOUT_SECONDS)
        with pytest.raises(ArbiterUnreachableError):
            arbiter.ask(generation=2, incarnation=1, node="a")
        if b"kvs" in said or b"cluster_id" not in said:
            with pytest.raises(ArbiterUnreachableError):
                arbiter.read()


def test_who_takes_a_connection_and_says_nothing_is_given_up(vm: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        arbiter = EtcdArbiter([f"http://127.0.0.1:{silent.getsockname()[1]}"], vm, timeout_seconds=0.2)
        with pytest.raises(ArbiterUnreachableError, match=r"no whole answer in 0\.2 s"):
            arbiter.read()


def test_who_says_a_little_at_a_time_is_given_up(vm: str) -> None:
    """A timeout of sockets begins anew with each byte."""
    over = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not over.wait(0.02):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as server:
        dripping = threading.Thread(target=drip, args=(server,))
        dripping.start()
        arbiter = EtcdArbiter([f"http://127.0.0.1:{server.getsockname()[1]}"], vm, timeout_seconds=0.5)
        with pytest.raises(ArbiterUnreachableError, match=r"no whole answer in 0\.5 s"):
            arbiter.read()
        over.set()
        dripping.join()


def test_a_member_that_cannot_be_reached_costs_no_answer(cluster: Cluster, vm: str) -> None:
    [port] = free_ports(1)
    arbiter = EtcdArbiter([f"http://127.0.0.1:{port}", *cluster.addresses], vm, timeout_seconds=TIMEOUT_SECONDS)
    assert arbiter.ask(generation=1, incarnation=1, node="a") == Record(1, 1, "a")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        members = [f"http://127.0.0.1:{silent.getsockname()[1]}", *cluster.addresses]
        assert EtcdArbiter(members, vm, timeout_seconds=1).read() == Record(1, 1, "a")


def test_what_is_wrong_with_a_member_is_told_by_trying_out(cluster: Cluster, tmp_path: Path, vm: str) -> None:
    [port] = free_ports(1)
    dead = f"http://127.0.0.1:{port}"
    arbiter = EtcdArbiter([*cluster.addresses, dead], vm, timeout_seconds=TIMEOUT_SECONDS)
    assert [dead in complaint for complaint in arbiter.try_out()] == [True]
    # Two that were merely started have one cluster number, if their peers have the same addresses and a token.
    other = Cluster(tmp_path / "other", 1, "--initial-cluster-token", "another")
    try:
        other.await_answers(arbiter_of(other, vm))
        with pytest.raises(ArbiterUnreachableError, match="is of another cluster"):
            EtcdArbiter([*cluster.addresses, *other.addresses], vm, timeout_seconds=TIMEOUT_SECONDS).try_out()
    finally:
        other.stop()


def test_a_cluster_that_has_not_the_generation_before_wins_nobody_anything(cluster: Cluster, vm: str) -> None:
    """It never heard of the VM, or was wiped since it was read."""
    with pytest.raises(ArbiterUnreachableError, match="the one before it is not there"):
        arbiter_of(cluster, vm).ask(generation=2, incarnation=1, node="a")
    assert arbiter_of(cluster, vm).read() == Record(0, 0, "")


@pytest.mark.parametrize("value", ["", "{", "[]", '{"generation": 9, "incarnation": 1, "node": "a"}'])
def test_a_damaged_record_is_no_answer(cluster: Cluster, vm: str, value: str) -> None:
    put(cluster, vm, 1, value)
    with pytest.raises(ArbiterUnreachableError, match="generation-00000001"):
        arbiter_of(cluster, vm).read()


def test_a_record_that_somebody_has_changed_is_no_answer(cluster: Cluster, vm: str) -> None:
    arbiter = arbiter_of(cluster, vm)
    arbiter.ask(generation=1, incarnation=1, node="a")
    put(cluster, vm, 1, '{"generation": 1, "incarnation": 2, "node": "b"}')
    with pytest.raises(ArbiterUnreachableError, match="was changed"):
        arbiter.read()
    with pytest.raises(ArbiterUnreachableError, match="was changed"):
        arbiter.ask(generation=1, incarnation=2, node="b")


def test_members_of_two_clusters_are_no_arbiter(cluster: Cluster, tmp_path: Path, vm: str) -> None:
    other = Cluster(tmp_path / "other", 1, "--initial-cluster-token", "another")
    try:
        other.await_answers(arbiter_of(other, vm))
        arbiter = EtcdArbiter([*other.addresses, *cluster.addresses], vm, timeout_seconds=TIMEOUT_SECONDS)
        arbiter.ask(generation=1, incarnation=1, node="a")
        other.signal(0, signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(ArbiterUnreachableError):
                arbiter.ask(generation=2, incarnation=1, node="a")
        with pytest.raises(ArbiterUnreachableError, match="belongs to the cluster"):
            arbiter.read()
        other.signal(0, signal.SIGCONT)
        other.await_answers(arbiter)
        assert arbiter.read().node == "a", "the wrong one does not keep the right one from being asked"
    finally:
        other.stop()


def test_a_cluster_on_loopback_is_no_other_hosts(cluster: Cluster, vm: str) -> None:
    with pytest.raises(NotSharedError, match="no other host can reach"):
        arbiter_of(cluster, vm).require_shared()
    EtcdArbiter(["http://[::1]:1"], vm, timeout_seconds=1, is_local=True).require_shared()
    EtcdArbiter(["http://127.0.0.1:1", "http://10.0.0.1:1"], vm, timeout_seconds=1).require_shared()


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A directory with a certificate authority, and with certificate and key of `server` and `client`."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", "-days", "2")
    (tmp_path / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return tmp_path


def test_who_has_no_certificate_gets_no_answer(authority: Path, tmp_path: Path, vm: str) -> None:
    options = ["--cert-file", f"{authority}/server.pem", "--key-file", f"{authority}/server.key", "--client-cert-auth"]
    cluster = Cluster(tmp_path / "etcd", 1, *options, "--trusted-ca-file", f"{authority}/ca.pem", scheme="https")
    try:
        own = (authority / "client.pem", authority / "client.key")
        known = EtcdArbiter(
            cluster.addresses,
            vm,
            timeout_seconds=TIMEOUT_SECONDS,
            ca_file=authority / "ca.pem",
            certificate_files=own,
        )
        cluster.await_answers(known)
        assert known.ask(generation=1, incarnation=1, node="a") == Record(1, 1, "a")
        stranger = EtcdArbiter(cluster.addresses, vm, timeout_seconds=TIMEOUT_SECONDS, ca_file=authority / "ca.pem")
        credulous = EtcdArbiter(cluster.addresses, vm, timeout_seconds=TIMEOUT_SECONDS, certificate_files=own)
        # TLS 1.3 tells the client of it, or only ends the connection.
        with pytest.raises(ArbiterUnreachableError):
            stranger.read()
        with pytest.raises(ArbiterUnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
            credulous.read()
    finally:
        cluster.stop()
