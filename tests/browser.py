"""JupyterLab in a real browser: one server and one Chromium for all notebooks of a test run."""

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

import pytest
from playwright.sync_api import sync_playwright

SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # All cells stay in the page: a cell that is scrolled away has no widgets to look at.
    "notebook-extension/tracker": {"windowingMode": "none"},
}
ERRORS = ", ".join(['[data-mime-type="application/vnd.jupyter.error"]', ".bnta-error",
                    '.widget-output [data-mime-type="application/vnd.jupyter.stderr"]'])
PATIENCE = 300  # seconds for each thing awaited
# .ci/run and docs/quality.md install it; no package of Python brings one.
needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None,
                                    reason="no chromium on the path: apt-get install chromium")


@contextlib.contextmanager
def chromium():
    """The installed Chromium, under playwright's control."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        yield browser
        browser.close()


@contextlib.contextmanager
def jupyterlab(folder: Path, state: Path, **environment: str) -> Iterator[str]:
    """The address of JupyterLab over ``folder``; its own files go below ``state``, and not to the user's.

    Kernels inherit ``environment``. Raises RuntimeError if it does not start.
    """
    for name, values in SETTINGS.items():
        path = state / "config" / "lab" / "user-settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "IPYTHONDIR": "ipython"}
    token = secrets.token_hex(16)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root",
               "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
               f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={token}",
               "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
    log = state / "server.log"
    with open(log, "wb") as words:
        server = subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT, cwd=folder, env={
            **os.environ, **{key: str(state / name) for key, name in folders.items()}, **environment})
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(f"{address}/api/status?token={token}", server, log)
        yield f"{address}/lab/tree/{{}}?token={token}&reset"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + PATIENCE
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

    def __init__(self, browser, address: str, name: str):
        """Open ``name`` and wait until it can be run."""
        self.name = name
        self.page = browser.new_page(viewport={"width": 1500, "height": 1000})
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.goto(address.format(name))
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
        return [text.strip()[:2000] for text in self.page.locator(ERRORS).all_inner_texts() if text.strip()]

    def explorer(self):
        """The last explorer that is shown."""
        self.page.wait_for_selector(".bnta-explorer img", state="attached")
        explorer = self.page.locator(".bnta-explorer").last
        explorer.scroll_into_view_if_needed()
        return explorer

    def numbers(self) -> str:
        """The explorer's line of numbers."""
        line = self.explorer().locator(".bnta-numbers")
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
        path = f'.widget-hslider:has(.widget-label:text-is("{slider}")) [role=slider]'
        handle = self.explorer().locator(path)
        handle.focus()
        for key in keys:
            handle.press(key)

    def choose(self, dropdown: str, option: str) -> None:
        """Choose an option of a drop-down list."""
        path = f'.widget-dropdown:has(.widget-label:text-is("{dropdown}")) select'
        self.explorer().locator(path).select_option(label=option)

    def click(self, button: str) -> None:
        self.explorer().locator(f'button:has-text("{button}")').click()

    def until(self, true, what: str):
        """Wait until ``true()`` is; raises TimeoutError that says ``what`` did not happen."""
        end = time.monotonic() + PATIENCE
        while not (value := true()):
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name}: {what}; the explorer says: {self.numbers()!r}")
            self.page.wait_for_timeout(50)
        return value
