"""A real browser for tests: headless Chromium, driven over the WebDriver protocol (W3C).

The protocol is JSON over HTTP on this machine, so that no package is needed. The browser gets an
empty profile and asks nobody for anything; what pages may load is the pages' own business.
"""

import base64
import json
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--no-first-run", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--window-size=1440,1000",
)  # fmt: skip


class Browser:
    """One window."""

    def __init__(self, session):
        self._session = session

    def open(self, url):
        """Opens a page and returns when its load event is over."""
        _call("POST", f"{self._session}/url", {"url": url})

    def run(self, script, *arguments):
        """The value that a JavaScript function body returns."""
        body = {"script": script, "args": list(arguments)}
        return _call("POST", f"{self._session}/execute/sync", body)

    def wait(self, script, *arguments):
        """The value with which a function body calls its last argument."""
        body = {"script": script, "args": list(arguments)}
        return _call("POST", f"{self._session}/execute/async", body)

    def complaints(self):
        """What the browser logged since the last call: errors and forbidden addresses."""
        found = _call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in found]

    def picture(self, path):
        """Writes what the window shows as PNG."""
        shown = _call("GET", f"{self._session}/screenshot")
        Path(path).write_bytes(base64.b64decode(shown))

    def resize(self, width, height):
        """Sets the size of the window."""
        _call("POST", f"{self._session}/window/rect", {"width": width, "height": height})


@contextmanager
def browser():
    """A browser that is closed at the end; fails where Chromium is not installed."""
    driver = shutil.which("chromedriver")
    assert driver, "chromedriver is missing: apt-get install chromium chromium-driver"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            address = f"http://127.0.0.1:{_port(process)}/session"
            options = {"args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
            logging = {"browser": "ALL"}
            wanted = {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": logging}}
            session = _call("POST", address, {"capabilities": wanted})["sessionId"]
            try:
                yield Browser(f"{address}/{session}")
            finally:
                _call("DELETE", f"{address}/{session}")
        finally:
            process.terminate()
            process.communicate()


def _port(process):
    """Chromedriver's own choice of a free port, which it prints."""
    for line in process.stdout:
        if "started successfully on port" in line:
            return int(line.rstrip().rstrip(".").rpartition(" ")[2])
    raise AssertionError("chromedriver ended without a port")


def _call(method, url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data=data, method=method, headers={"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=120) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        told = json.load(error)["value"]
        raise AssertionError(f"{told['error']}: {told['message']}") from error
