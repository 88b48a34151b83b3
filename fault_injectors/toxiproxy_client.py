"""Driving one host's Toxiproxy: toxiproxy-python, made safe to use with several servers.

toxiproxy-python 0.1.1 keeps the server's address in class attributes, sets no timeouts, takes an HTTP 500 for success,
and cannot update a toxic. So its address and timeout are set under a lock for each call, its HTTP functions are
replaced by ones with a timeout that raise on errors, and updating is done here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import requests
import toxiproxy
import toxiproxy.api
from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists

from harness.lab.interface import Host, LabError, Pace
from harness.lab.topology import LOG_PROXY, TOXIPROXY_API_PORT

T = TypeVar("T")

# A toxic that is removed hands on what it held, and the server tries 5 s for each piece, though the connection may have
# closed and nobody be there to take it.
_TIMEOUT_SECONDS = 30.0
_THIS_MACHINE = Pace()
_lock = threading.Lock()


class ToxiproxyError(LabError):
    """The server refused or did not answer."""


class _CheckedRequests:
    """What toxiproxy-python uses of `requests`, with a timeout and with server errors raised."""

    def __init__(self) -> None:
        self.timeout_seconds = _TIMEOUT_SECONDS

    @staticmethod
    def _checked(response: requests.Response) -> requests.Response:
        if response.status_code >= 500:
            raise ToxiproxyError(f"{response.url} answered {response.status_code}: {response.text.strip()}")
        return response

    def get(self, url: str, **options: Any) -> requests.Response:
        return self._checked(requests.get(url, timeout=self.timeout_seconds, **options))

    def post(self, url: str, **options: Any) -> requests.Response:
        return self._checked(requests.post(url, timeout=self.timeout_seconds, **options))

    def delete(self, url: str, **options: Any) -> requests.Response:
        return self._checked(requests.delete(url, timeout=self.timeout_seconds, **options))


_requests = _CheckedRequests()
toxiproxy.api.requests = _requests


@dataclass(frozen=True)
class Toxic:
    """A toxic as the server reports it. `stream` is `upstream` (log entries) or `downstream` (acknowledgements)."""

    name: str
    type: str
    stream: str
    toxicity: float
    attributes: Mapping[str, Any]


class LogProxy:
    """The proxy in front of the log's listener on one host, reached over SSH."""

    def __init__(self, host: Host, pace: Pace = _THIS_MACHINE) -> None:
        self._host = host
        self._timeout_seconds = pace.stretch(_TIMEOUT_SECONDS)
        self._address: tuple[str, int] | None = None
        self._server = toxiproxy.Toxiproxy()

    def _call(self, action: Callable[[Any], T]) -> T:
        """Run an action on toxiproxy-python's proxy object, against this host's server."""
        with _lock:
            try:
                try:
                    return self._act(action)
                except requests.ConnectionError:
                    # The host may have been off meanwhile, and the way to it with it: lay it anew, once.
                    self._address = None
                    return self._act(action)
            except (requests.RequestException, NotFound) as error:
                raise ToxiproxyError(f"Toxiproxy on {self._host.name}: {error}") from error
            except (InvalidToxic, ProxyExists) as error:
                raise ToxiproxyError(f"Toxiproxy on {self._host.name} refused: {error}") from error

    def _act(self, action: Callable[[Any], T]) -> T:
        if self._address is None:
            self._address = self._host.forward(TOXIPROXY_API_PORT)
        toxiproxy.api.APIConsumer.host, toxiproxy.api.APIConsumer.port = self._address
        _requests.timeout_seconds = self._timeout_seconds
        proxy = self._server.get_proxy(LOG_PROXY)
        if proxy is None:
            raise ToxiproxyError(f"Toxiproxy on {self._host.name} has no proxy `{LOG_PROXY}`")
        return action(proxy)

    def toxics(self) -> dict[str, Toxic]:
        """All toxics by name, as the server has them."""
        found = self._call(lambda proxy: proxy.toxics())
        return {
            name: Toxic(name, toxic.type, toxic.stream, toxic.toxicity, toxic.attributes)
            for name, toxic in found.items()
        }

    def add(self, toxic: Toxic) -> None:
        """Add a toxic; connections that are open get it too."""
        self._call(
            lambda proxy: proxy.add_toxic(
                name=toxic.name,
                type=toxic.type,
                stream=toxic.stream,
                toxicity=toxic.toxicity,
                attributes=dict(toxic.attributes),
            )
        )

    def update(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Change a toxic's attributes while it is in force."""
        path = f"/proxies/{LOG_PROXY}/toxics/{name}"
        self._call(lambda proxy: toxiproxy.api.APIConsumer.post(path, json={"attributes": dict(attributes)}))

    def remove(self, name: str) -> None:
        """Remove a toxic."""
        self._call(lambda proxy: proxy.destroy_toxic(name))

    @property
    def is_enabled(self) -> bool:
        """Whether the proxy listens."""
        return self._call(lambda proxy: bool(proxy.enabled))

    def disable(self) -> None:
        """Close all connections and stop listening."""
        self._call(lambda proxy: proxy.disable())

    def enable(self) -> None:
        """Listen again."""
        self._call(lambda proxy: proxy.enable())
