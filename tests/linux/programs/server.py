"""A web server with a thread for each connection, and what of Python's library is written in C behind a few pages."""

import hashlib
import json
import sqlite3
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_lock = threading.Lock()
_database = sqlite3.connect(":memory:", check_same_thread=False)


def _table(_: bytes) -> object:
    """Rows that are written and read again."""
    with _lock, _database:
        _database.execute("create table if not exists numbers (number integer primary key, square integer)")
        _database.executemany(
            "insert or replace into numbers values (?, ?)", ((number, number**2) for number in range(1000))
        )
        return _database.execute("select count(*), sum(square) from numbers").fetchone()


def _threads(_: bytes) -> object:
    """A number that many threads count up."""
    count = 0

    def add() -> None:
        nonlocal count
        for _ in range(1000):
            with lock:
                count += 1

    lock = threading.Lock()
    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count


_PAGES = {
    "/digest": lambda body: hashlib.sha256(body).hexdigest(),
    "/round-trip": lambda body: zlib.decompress(zlib.compress(body)) == body,
    "/table": _table,
    "/threads": _threads,
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answers with a page in JSON."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        page = _PAGES.get(urlsplit(self.path).path)
        answer = json.dumps(page(body) if page else None).encode()
        self.send_response(200 if page else 404)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("0.0.0.0", 8080), _Handler) as server:
        print("serving", flush=True)
        server.serve_forever()
