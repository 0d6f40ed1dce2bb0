"""What importing the package needs."""

import subprocess
import sys

EVERY_MODULE = """
import importlib, pkgutil, sys
sys.modules.update(fcntl=None, resource=None)  # importing them raises ImportError, as on Windows
import bnta_lib
for module in pkgutil.walk_packages(bnta_lib.__path__, "bnta_lib."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def test_every_module_imports_without_the_modules_that_windows_lacks():
    done = subprocess.run([sys.executable, "-c", EVERY_MODULE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
