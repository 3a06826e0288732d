"""The page that talks, for this machine's browser alone: made in memory, served on 127.0.0.1 until Ctrl-C."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from arianna.formats import html
from model import Transformer
from tokenizer import Tokenizer

HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the rest stands in the page
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PATIENCE = 10  # seconds for a browser to send its request


def talk(models: Sequence[Transformer], paths: Sequence[str], tokenizer: Tokenizer) -> int:
    """Serve the page of one model, or of two side by side, with the weights as they are.

    Raises ValueError for a model or a tokenizer that no page can hold.
    """
    pairs = zip(paths, models, strict=True)
    voices = [html.Voice(Path(path).stem, model.cpu().float()) for path, model in pairs]
    return serve(html.page_bytes(voices, tokenizer, "F32", any_size=True))


def serve(page: bytes, started: Callable[[str], None] | None = None) -> int:
    """Give a page to this machine's browser until Ctrl-C. `started` gets the address (default: open it)."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(page)) as server:
        server.daemon_threads = True
        try:
            (started or tell_and_open)(f"http://127.0.0.1:{server.server_port}/")
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def tell_and_open(address: str) -> None:
    """Print the address, and open it where a browser has a window: one in the terminal would take it over."""
    print(f"The model talks at {address} (only on this machine). Ctrl-C ends it.", flush=True)
    if sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        # in a thread: with some browsers the call returns when they are closed
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def handler_of(page: bytes) -> type[BaseHTTPRequestHandler]:
    """The class that answers requests: with the page at /, for this origin alone."""

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE

        def do_GET(self) -> None:
            hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
            if not is_own(hosts, origins, self.server.server_port):
                self.answer(403, b"Open the address that the program has printed.")
            elif self.path != "/":
                self.answer(404, b"There is one page here, at /.")
            else:
                self.answer(200, page)

        do_HEAD = do_GET

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def version_string(self) -> str:
            return "InnerArianna"

        def log_message(self, *_: object) -> None:
            """Print nothing: the terminal shows the address and no more."""

    return Handler


def is_own(hosts: Sequence[str], origins: Sequence[str], port: int) -> bool:
    """Whether a request comes from this server's own page or address line.

    Another site's name may point to 127.0.0.1 (Host), and its page may send requests here (Origin).
    """
    own = {f"127.0.0.1:{port}", f"localhost:{port}"}
    origins_are_own = all(origin.removeprefix("http://") in own for origin in origins)
    return len(hosts) == 1 and hosts[0] in own and origins_are_own
