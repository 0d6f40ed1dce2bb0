"""Write licences.md, the licence that every pinned package states: ``python docs/licences.py``."""

import re
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
PINS = HERE.parent / "requirements.txt"
# Of packages for other systems, or for Python 3.12 alone, which are not installed where the list is made.
ELSEWHERE = {
    "appnope": "BSD License", "colorama": "BSD License",
    "aiohappyeyeballs": "Python Software Foundation License",
    "aiohttp": "Apache-2.0 AND MIT", "aiosignal": "Apache Software License", "frozenlist": "Apache-2.0",
    "multidict": "Apache-2.0", "propcache": "Apache-2.0", "yarl": "Apache-2.0",
}


def licence(name: str) -> str:
    """In the package's own words: SPDX where it has them, else its classifiers, else its licence's name."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ELSEWHERE[name]
    classes = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier", [])
               if line.startswith("License :: ") and line != "License :: OSI Approved"]
    return about.get("License-Expression") or "; ".join(classes) or about["License"].strip().splitlines()[0]


PAGE = """# Licences of the packages

The licence that each package pinned in `requirements.txt` states (`python docs/licences.py` writes this).
None of the packages is part of this repository. Those under the LGPL (py7zr and what it needs) unpack 7z
archives. They and those under the MPL are used unchanged.

NVIDIA's CUDA libraries (NVIDIA's licences) and triton (MIT) are not listed: PyTorch pins them on Linux.

| package | version | licence |
|---|---|---|
"""


def main() -> None:
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", PINS.read_text(encoding="utf-8"), re.MULTILINE)
    rows = [f"| {name} | {version} | {licence(name)} |" for name, version in pins]
    (HERE / "licences.md").write_text(PAGE + "\n".join(sorted(rows, key=str.lower)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
