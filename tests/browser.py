"""JupyterLab in a real browser: one server and one Chromium for all notebooks of a test run.

Notebooks are copied to a folder of their own, so that nothing is written over the sources; settings,
workspaces and runtime files of the user's own Jupyter are neither read nor written.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from bnta_lib.settings import cache_dir

FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --disable-dev-shm-usage").split()
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # All cells stay in the page: a cell that is scrolled away has no widgets to look at.
    "notebook-extension/tracker": {"windowingMode": "none"},
}
CELL_ERROR = '[data-mime-type="application/vnd.jupyter.error"]'
CALLBACK_ERROR = ('.bnta-error, .widget-output [data-mime-type="application/vnd.jupyter.stderr"], '
                  '.widget-output [data-mime-type="application/vnd.jupyter.error"]')


def missing() -> str:
    """Why there can be no browser test here, with what to do; empty where there can."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed: make env, or pip install playwright"
    if shutil.which("chromium") is None:
        return "no chromium on the path: apt-get install chromium"
    return ""


@contextlib.contextmanager
def jupyterlab(folder: Path, state: Path, **environment: str) -> Iterator[tuple[str, str]]:
    """JupyterLab over ``folder`` as (address, token); its own files go below ``state``.

    Kernels inherit ``environment``. Raises RuntimeError, with the server's last words, where it does
    not start.
    """
    for name, values in SETTINGS.items():
        path = state / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTERLAB_SETTINGS_DIR": "settings",
              "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "JUPYTER_DATA_DIR": "data",
              "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
    own = {key: str(state / name) for key, name in places.items()}
    token, port = secrets.token_hex(16), _free_port()
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root",
               "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
               f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={token}",
               "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
    log = state / "server.log"
    with open(log, "wb") as words:
        server = subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT, cwd=folder,
                                  env={**os.environ, **own, **environment})
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(f"{address}/api/status?token={token}", server, log)
        yield address, token
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait_for(address: str, server: subprocess.Popen, log: Path, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    # The server is on this machine: a proxy of the environment would be asked for it in vain.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < end and server.poll() is None:
        try:
            with direct.open(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text(errors='replace')[-2000:]}")


class Notebook:
    """A notebook open in JupyterLab, in a page of its own."""

    def __init__(self, browser, address: str, token: str, name: str, patience: float = 300):
        """Open ``name`` and wait until it can be run. ``patience``: seconds for each thing awaited."""
        self.name, self.patience = name, patience
        self.page = browser.new_page(viewport={"width": 1500, "height": 1000})
        self.page.set_default_timeout(1000 * patience)
        self.page.goto(f"{address}/lab/tree/{name}?token={token}&reset")
        self.page.wait_for_selector("#jupyterlab-splash", state="detached")
        self.page.wait_for_function("() => window.jupyterapp !== undefined")
        self.page.evaluate("async () => { await jupyterapp.restored }")
        # Earlier clicks and commands are lost.
        self.page.wait_for_function(
            """(name) => {
                const panel = jupyterapp.shell.currentWidget;
                if (!panel || !panel.context || panel.context.path !== name) return false;
                const kernel = panel.sessionContext.session?.kernel;
                return panel.context.isReady && kernel?.connectionStatus === 'connected'
                    && panel.content.widgets.length === panel.content.model.cells.length;
            }""", arg=name)

    def run_all(self) -> None:
        """Run every cell; returns when the last has run."""
        self.page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")
        self.page.wait_for_function(
            "() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'")

    def errors(self) -> list[str]:
        """The texts of errors in cells and in callbacks."""
        return [text.strip()[:2000] for place in (CELL_ERROR, CALLBACK_ERROR)
                for text in self.page.locator(place).all_inner_texts() if text.strip()]

    def explorer(self):
        """The last explorer that is shown."""
        self.page.wait_for_selector(".bnta-explorer img", state="attached")
        explorer = self.page.locator(".bnta-explorer").last
        explorer.scroll_into_view_if_needed()
        return explorer

    def numbers(self) -> str:
        """The explorer's line of numbers."""
        line = self.explorer().locator(".bnta-numbers, [data-mime-type='application/vnd.jupyter.stdout']")
        return line.first.inner_text() if line.count() else ""

    def pictures(self) -> list[str]:
        """What the explorer's pictures hold, digested; each must be a picture that loaded."""
        return self.explorer().locator("img").evaluate_all(
            """async (images) => Promise.all(images.map(async (image) => {
                for (let left = 40; ; left--) {
                    try {  // a picture that is just being replaced cannot be read
                        await image.decode();
                        const bytes = await (await fetch(image.src)).arrayBuffer();
                        const sum = await crypto.subtle.digest('SHA-256', bytes);
                        return [...new Uint8Array(sum)].map(b => b.toString(16)).join('');
                    } catch (error) {
                        if (!left) throw new Error('a picture is empty: ' + error);
                        await new Promise(resolve => setTimeout(resolve, 100));
                    }
                }
            }))""")

    def press(self, slider: str, *keys: str) -> None:
        """Move a slider by keys, as a reader without a mouse does."""
        place = f'.widget-hslider:has(.widget-label:text-is("{slider}")) [role=slider]'
        handle = self.explorer().locator(place)
        handle.focus()
        for key in keys:
            handle.press(key)

    def choose(self, dropdown: str, option: str) -> None:
        """Choose an option of a drop-down list."""
        place = f'.widget-dropdown:has(.widget-label:text-is("{dropdown}")) select'
        self.explorer().locator(place).select_option(label=option)

    def click(self, button: str) -> None:
        self.explorer().locator(f'button:has-text("{button}")').click()

    def until(self, true, what: str, seconds: float = 0):
        """Wait until ``true()`` is; raises TimeoutError that says ``what`` did not happen."""
        end = time.monotonic() + (seconds or self.patience)
        while not (value := true()):
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name}: {what} within {seconds or self.patience:.0f} s; "
                                   f"the explorer says: {self.numbers()!r}")
            self.page.wait_for_timeout(50)
        return value

    def screenshot(self, name: str) -> Path:
        """The whole of the explorer, in .cache/browser/ (or below $BNTA_CACHE)."""
        folder = cache_dir() / "browser"
        folder.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=folder / f"{name}.png")
        return folder / f"{name}.png"
