"""A host that dies at the worst moment costs its caller no more time than was given."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import paramiko
import pytest

from harness.lab.interface import HostUnreachableError
from harness.lab.ssh import SshConnection


class DiesBeforeItAnswers(paramiko.ServerInterface):
    """Opens every channel, and never answers what is asked on it."""

    def __init__(self) -> None:
        self.asked, self.over = threading.Event(), threading.Event()

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.asked.set()
        self.over.wait(60)
        return False


@pytest.fixture
def server() -> DiesBeforeItAnswers:
    return DiesBeforeItAnswers()


@pytest.fixture
def dying(server: DiesBeforeItAnswers) -> Iterator[SshConnection]:
    own, key = paramiko.RSAKey.generate(2048), paramiko.RSAKey.generate(2048)
    near, far = socket.socketpair()
    transport = paramiko.Transport(far)
    transport.add_server_key(own)
    transport.start_server(event=threading.Event(), server=server)
    connection = SshConnection("dying", lambda: near, key, own)
    connection.connect()
    yield connection
    server.over.set()
    connection.close()
    transport.close()


def test_a_command_that_is_never_begun_ends_in_time(dying: SshConnection) -> None:
    with pytest.raises(HostUnreachableError, match="dying"):
        dying.run("true", timeout_seconds=0.2)


def test_a_conversation_that_is_never_begun_ends_in_time(dying: SshConnection) -> None:
    with pytest.raises(HostUnreachableError, match="dying"), dying.converse("cat", timeout_seconds=0.2):
        pass


def test_a_connection_that_breaks_meanwhile_ends_the_command_too(
    dying: SshConnection, server: DiesBeforeItAnswers
) -> None:
    connection = dying.client.get_transport()
    assert connection is not None

    def break_off() -> None:
        server.asked.wait(10)
        connection.sock.shutdown(socket.SHUT_WR)  # what the end of the command has to say does not go out

    breaking = threading.Thread(target=break_off)
    breaking.start()
    with pytest.raises(HostUnreachableError, match="dying"):
        dying.run("true", timeout_seconds=0.5)
    breaking.join()
