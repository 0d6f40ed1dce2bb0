"""What importing the package needs."""

import subprocess
import sys

EVERY_MODULE = """
import importlib, pkgutil, sys
# Importing these raises ImportError: what Windows lacks, and the optional packages.
absent = "fcntl resource accelerate dask distributed h5py py7zr cv2 pdoc".split()
sys.modules.update(dict.fromkeys(absent))
import bnta_lib
for module in pkgutil.walk_packages(bnta_lib.__path__, "bnta_lib."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def test_every_module_imports_on_windows_and_without_the_optional_packages():
    done = subprocess.run([sys.executable, "-c", EVERY_MODULE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
