"""The page served to this machine's own browser."""

import contextlib
import http.client
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from helpers import ROOT, TINY, build

from arianna import web
from arianna.formats import html

PAGE = b"<!doctype html><title>a page</title>"


@contextlib.contextmanager
def served(page: bytes = PAGE) -> Iterator[int]:
    """The port of a server in a thread."""
    started: queue.Queue = queue.Queue()
    server = web.ThreadingHTTPServer(("127.0.0.1", 0), web.handler_of(page))
    thread = threading.Thread(target=lambda: (started.put(server.server_port), server.serve_forever(0.01)))
    thread.start()
    try:
        yield started.get()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asked(
    port: int, path: str = "/", method: str = "GET", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.putrequest(method, path, skip_host=True)
    for name, value in ({"Host": f"127.0.0.1:{port}"} | headers).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


def test_the_page_is_given_to_its_own_origin_alone():
    with served() as port:
        for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
            status, body, headers = asked(port, Host=host)
            assert (status, body) == (200, PAGE)
            assert (
                headers["Content-Security-Policy"] == "frame-ancestors 'none'"
                and headers["Cache-Control"] == "no-store"
            )
        assert asked(port, Origin=f"http://127.0.0.1:{port}")[0] == 200
        for host in (f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
            assert asked(port, Host=host)[:2] == (403, b"Open the address that the program has printed."), (
                host
            )
        for origin in (
            "http://evil.example",
            "null",
            f"https://127.0.0.1:{port}",
            f"http://127.0.0.1:{port + 1}",
        ):
            status, body, headers = asked(port, Origin=origin)
            assert status == 403 and PAGE not in body and "Access-Control-Allow-Origin" not in headers, origin


def test_there_is_one_page_and_nothing_else():
    with served() as port:
        assert asked(port, method="HEAD")[:2] == (200, b"")
        for path in ("/x", "/../etc/passwd", "/?a", "http://evil.example/"):
            assert asked(port, path)[0] == 404, path
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert asked(port, method=method)[0] == 501


def test_only_this_machine_can_reach_it(monkeypatch):
    def ends(server, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(web.ThreadingHTTPServer, "serve_forever", ends)
    addresses = []
    assert web.serve(PAGE, addresses.append) == 0
    assert addresses[0].startswith("http://127.0.0.1:") and addresses[0].endswith("/")


def test_a_browser_is_opened_where_it_has_a_window(monkeypatch, capsys):
    opened = queue.Queue()
    monkeypatch.setattr(web.webbrowser, "open", opened.put)
    monkeypatch.setattr(web.sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    web.tell_and_open("http://127.0.0.1:5/")
    assert (
        "The model talks at http://127.0.0.1:5/ (only on this machine). Ctrl-C ends it."
        in capsys.readouterr().out
    )
    assert opened.empty()
    monkeypatch.setenv("DISPLAY", ":0")
    web.tell_and_open("http://127.0.0.1:6/")
    assert opened.get(timeout=60) == "http://127.0.0.1:6/"


def test_models_talk_with_their_own_weights(monkeypatch, tmp_path, tokenizer):
    pages = []
    monkeypatch.setattr(web, "serve", lambda page: pages.append(page) or 0)
    assert web.talk([build(), build(seed=8)], ["out/tuned.pt", "base.bin"], tokenizer) == 0
    (tmp_path / "a.html").write_bytes(pages[0])
    voices = html.read_all(tmp_path / "a.html")
    assert [voice.name for voice in voices] == ["tuned", "base"] and voices[0].model.args == TINY
    expected = build(seed=8).state_dict()
    assert all((tensor == expected[name]).all() for name, tensor in voices[1].model.state_dict().items())


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_it_without_a_word_on_stderr():
    code = (  # what a shell starts in the background ignores SIGINT
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from arianna import web; raise SystemExit(web.serve(b'x'))"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "talks at http://127.0.0.1:" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert (process.communicate(timeout=120)[1], process.returncode) == ("", 0)
