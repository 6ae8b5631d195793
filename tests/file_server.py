"""A web server of raw files that misbehaves as it is told, for tests of fetching."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from data_prep.sources import RawFile

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the web server has and how it misbehaves."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    cuts: list[int] = field(default_factory=list)  # bytes after which to break off, one an answer
    failures: list[int] = field(default_factory=list)  # statuses to answer first
    ranges: bool = True
    html: bool = False


def published(server: Server) -> RawFile:
    """A file that the server has, as the one raw file of a source: `mnist/file.bin`."""
    server.files["official/file.bin"] = CONTENT
    return RawFile("mnist", "file.bin", (f"{server.url}/official/file.bin",), (DIGEST,))


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port of this machine."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            state.requests.append((self.path, wanted))
            if state.failures:
                return self.send_error(state.failures.pop(0))
            if self.path.lstrip("/") not in state.files:
                return self.send_error(404)
            content = state.files[self.path.lstrip("/")]
            start = 0
            if wanted and state.ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    return self.send_error(416)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Content-Type", "text/html" if state.html else "application/octet-stream")
            self.end_headers()
            body = content[start:]
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body[: state.cuts.pop(0)] if state.cuts else body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        state.url = f"http://127.0.0.1:{httpd.server_port}"
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        httpd.shutdown()
