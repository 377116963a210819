"""A headless Chromium driven through its DevTools pipe: no port, no driver, no library.

Commands and events are JSON texts that end in a zero byte; the browser reads them from its file
descriptor 3 and writes to 4.
"""

import fcntl
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, _NAMES)), "")
_WAIT = 60  # seconds: a loaded machine is slow, a hung browser is slower
_KEYS = {"Enter": (13, "\r"), " ": (32, " "), "Tab": (9, "")}
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)


class Chromium:
    """A browser with a profile of its own; a context manager that ends it."""

    def __init__(self, profile: Path) -> None:
        theirs, self._send = _high(os.pipe())
        self._receive, answers = _high(os.pipe())
        self._buffer, self._id, self.events = b"", 0, []
        files = [(os.POSIX_SPAWN_DUP2, theirs, 3), (os.POSIX_SPAWN_DUP2, answers, 4)]
        files += [(os.POSIX_SPAWN_OPEN, out, os.devnull, os.O_WRONLY, 0) for out in (1, 2)]
        command = [PROGRAM, *_FLAGS, f"--user-data-dir={profile}", "--no-first-run", "about:blank"]
        # in a group of its own, so that its processes can be ended together
        self._pid = os.posix_spawn(PROGRAM, command, os.environ, file_actions=files, setpgroup=0)
        os.close(theirs)
        os.close(answers)
        # one tab for all: a new one costs a process
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", self.session)

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_) -> None:
        try:
            self.call("Browser.close")
        finally:
            os.close(self._send)
            os.close(self._receive)
            deadline = time.monotonic() + 10
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    os.killpg(self._pid, signal.SIGKILL)
                time.sleep(0.05)

    def call(self, method: str, session: str = "", **params) -> dict:
        """The answer to a command; events that come before it are kept in ``events``."""
        self._id += 1
        message = {"id": self._id, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._id:
                assert "error" not in found, f"{method}: {found['error']['message']}"
                return found["result"]
            self.events.append(found)

    def wait(self, method: str) -> None:
        """Until this event has come."""
        while all(event["method"] != method for event in self.events):
            self.events.append(self._next())

    def _next(self) -> dict:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], _WAIT)
            part = os.read(self._receive, 1 << 20) if ready else b""
            assert part, "Chromium does not answer"
            self._buffer += part
        text, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(text)


class Page:
    """The browser's one tab with a file in it, and what the browser has to say about that."""

    def __init__(self, browser: Chromium, file: Path, width=1280, scripts=True) -> None:
        self.browser, self.session = browser, browser.session
        self.show()
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        browser.events.clear()
        self.call("Page.navigate", url=file.as_uri())
        browser.wait("Page.loadEventFired")

    def show(self, media: str = "", scheme: str = "light") -> None:
        """As ``print`` or on the screen, to a reader who likes it ``light`` or ``dark``."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def call(self, method: str, **params) -> dict:
        return self.browser.call(method, self.session, **params)

    def __call__(self, expression: str):
        """The value of a JavaScript expression, awaited if it is a promise."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """A key of the keyboard, where the focus is."""
        code, text = _KEYS[key]
        given = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **given)
        self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def type(self, text: str) -> None:
        """Text, where the focus is."""
        self.call("Input.insertText", text=text)

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings of the console, scripts that failed, violations of the policy."""
        self("0")  # what is on its way comes before the answer
        found = []
        for event in self.browser.events:
            what, given = event["method"], event["params"]
            if what == "Log.entryAdded" and given["entry"]["level"] in ("warning", "error"):
                found.append(given["entry"]["text"])
            elif what == "Runtime.exceptionThrown":
                found.append(given["exceptionDetails"]["text"])
            elif what == "Runtime.consoleAPICalled" and given["type"] in ("warning", "error"):
                found.append(str(given["args"]))
        return found

    @property
    def requests(self) -> list[str]:
        """The addresses of all that was asked for."""
        asked = (e for e in self.browser.events if e["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in asked]


def _high(ends: tuple[int, int]) -> list[int]:
    """The same ends of a pipe, out of the way of the descriptors 3 and 4."""
    found = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return found
