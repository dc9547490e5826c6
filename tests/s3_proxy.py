"""A proxy in front of an S3 server that counts what is asked of it, and fails as it is told to."""

import http.client
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

_CODES = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}
_NOT_PASSED_ON = {"expect", "connection", "keep-alive", "transfer-encoding"}


@dataclass
class Fault:
    """What befalls the requests of a method whose path and query match.

    Attributes:
        what: a status to answer; ``drop``: the connection is closed unanswered; ``cut``: in the middle of the answer;
            ``slow``: it takes ``seconds``.
        method, path: which, as regular expressions; ``path`` is searched for in ``/bucket/key?query``.
        times: how many requests; the others pass.
        until: when it is over, by ``time.monotonic``.
        hits: how many it has befallen.
    """

    what: int | str
    method: str = ".*"
    path: str = ""
    times: float = float("inf")
    until: float = float("inf")
    seconds: float = 0.0
    hits: int = 0

    def befalls(self, method: str, path: str) -> bool:
        over = self.hits >= self.times or time.monotonic() > self.until
        return not over and bool(re.fullmatch(self.method, method) and re.search(self.path, path))


@dataclass
class Proxy:
    """Listens on its port, a free one by default, as long as ``serving`` lasts.

    ``asked`` are the requests so far; ``unanswered`` is how many the server left so: their connections are closed.
    """

    upstream: str
    port: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    url: str = ""
    unanswered: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, what: int | str, method: str = ".*", path: str = "", **options: float) -> Fault:
        """Let requests fail from here on; ``seconds_from_now`` and the attributes of ``Fault`` say for how long."""
        if "seconds_from_now" in options:
            options["until"] = time.monotonic() + options.pop("seconds_from_now")
        self.faults.append(Fault(what, method, path, **options))
        return self.faults[-1]

    def heal(self) -> None:
        self.faults.clear()

    def count(self, path: str = "") -> Counter[str]:
        """How often each method was asked of paths in which this is found."""
        return Counter(method for method, asked in self.asked if re.search(path, asked))

    def fault_of(self, method: str, path: str) -> Fault | None:
        """Counts the request, and the hit."""
        with self.lock:
            self.asked.append((method, path))
            for fault in self.faults:
                if fault.befalls(method, path):
                    fault.hits += 1
                    return fault
        return None

    @contextmanager
    def serving(self):
        handler = type("Handler", (_Handler,), {"proxy": self})
        with ThreadingHTTPServer(("127.0.0.1", self.port), handler) as server:
            server.daemon_threads = True
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield self
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.fault_of(self.command, unquote(self.path))
        what = fault.what if fault else None
        if isinstance(what, int):
            self.refuse(what)
        elif what == "drop":
            self.close_connection = True
        else:
            if fault and what == "slow":
                time.sleep(fault.seconds)
            self.pass_on(body, cut=what == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do

    def refuse(self, status: int) -> None:
        body = f"<Error><Code>{_CODES[status]}</Code><Message>by the proxy</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body) * (self.command != "HEAD")))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def pass_on(self, body: bytes, cut: bool) -> None:
        """``Host`` stays as it came: it is signed."""
        upstream = http.client.HTTPConnection(urlsplit(self.proxy.upstream).netloc, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _NOT_PASSED_ON:
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            self.proxy.unanswered += 1
            self.close_connection = True
            return
        finally:
            upstream.close()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in {*_NOT_PASSED_ON, "content-length"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection |= cut

    def log_message(self, *_: object) -> None:
        """Says nothing."""
