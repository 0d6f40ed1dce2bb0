"""Every test, and every notebook run as a test, uses the smoke profile.

Set here and not by the caller: at another profile the notebooks would write over the committed
figures and tables. Notebook kernels inherit the variable.
"""

import os

os.environ["BNTA_PROFILE"] = "smoke"
