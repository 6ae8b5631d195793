"""A server below a prefix that it does not know of: nginx's `location /draw/ { proxy_pass http://server/; }`."""

from __future__ import annotations

import http.server
import threading
from typing import Any, Self

import requests

from tests.serve_process import WAIT, ServeProcess

PREFIX = "/draw"
_OWN = {
    "connection",
    "content-length",
    "transfer-encoding",
    "date",
    "server",
}  # headers of each connection's own


class Prefixed:
    """A context: within it `server` answers below `url`; `strays` are the paths that were asked for outside of it."""

    def __init__(self, server: ServeProcess) -> None:
        self.strays: list[str] = []
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if not self.path.startswith(f"{PREFIX}/"):
                    proxy.strays.append(self.path)
                    self.send_error(404)
                    return
                address = server.url + self.path.removeprefix(PREFIX)
                answer = requests.request(
                    self.command, address, data=content, headers=dict(self.headers), timeout=WAIT
                )
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in _OWN:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}{PREFIX}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
