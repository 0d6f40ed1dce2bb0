"""Every test, and every notebook run as a test, uses the smoke profile.

It is set here, not by the caller: at another profile the notebooks would overwrite the committed
figures and tables. Notebook kernels inherit the variable.
"""

import os

os.environ["BNTA_PROFILE"] = "smoke"
# Tests and notebooks run side by side on all cores, and the smoke network is too small for several threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
