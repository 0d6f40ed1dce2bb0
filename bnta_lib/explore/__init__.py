"""Explorers: the suite's measurements and figures under sliders, in JupyterLab."""
