"""Every test, and every notebook run as a test, uses the smoke profile.

Set here and not by the caller: at another profile the notebooks would write over the committed
figures and tables. Notebook kernels inherit the variable.
"""

import os

os.environ["BNTA_PROFILE"] = "smoke"
# Tests run on all cores beside each other, notebooks among them: the smoke network is too small to share.
os.environ.setdefault("OMP_NUM_THREADS", "1")
