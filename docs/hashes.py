"""Write requirements.hashed.txt, the pins with the SHA-256 of their files: ``python docs/hashes.py``.

For each pin, each of SYSTEMS and each of PYTHONS, pip names the file that it would install. It installs none,
and downloads none if its index serves metadata separately.
"""

import collections
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINS, HASHED = ROOT / "requirements.txt", ROOT / "requirements.hashed.txt"
PYTHONS = ("3.11.9", "3.12.9", "3.13.9")
# pip's names of a platform, newest first, and what markers see there.
SYSTEMS = {
    "Linux, x86": ([f"manylinux_2_{k}_x86_64" for k in (28, 27, 26, 24, 17, 12, 5)]
                   + [f"manylinux{year}_x86_64" for year in (2014, 2010, 1)],
                   {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}),
    "Linux, ARM": ([f"manylinux_2_{k}_aarch64" for k in (28, 27, 26, 24, 17)] + ["manylinux2014_aarch64"],
                   {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}),
    "macOS, ARM": ([f"macosx_{k}_0_{kind}" for k in (14, 13, 12, 11) for kind in ("arm64", "universal2")]
                   + ["macosx_10_9_universal2"],
                   {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"}),
    "Windows": (["win_amd64"], {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"}),
}


def chosen(pins: list[str], python: str, tags: list[str]) -> dict[str, str]:
    """The digest of the file that pip would install for each pin; pins without a wheel are left out."""
    pins = list(pins)
    while True:
        with tempfile.TemporaryDirectory() as folder:
            names, report = Path(folder) / "pins.txt", Path(folder) / "report.json"
            names.write_text("\n".join(pins))
            words = [word for tag in tags for word in ("--platform", tag)]
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
                       "--no-deps", "--only-binary", ":all:", "--python-version", python, *words,
                       "--target", folder, "--report", str(report), "-r", str(names)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                files = json.loads(report.read_text())["install"]
                break
        lacking = re.search(r"No matching distribution found for (\S+)", done.stderr)
        if lacking is None:
            raise SystemExit(done.stderr)
        print(f"Python {python}, {tags[0]}: no wheel of {lacking[1]}", file=sys.stderr)
        pins = [pin for pin in pins if not pin.startswith(lacking[1])]
    digests = [file["download_info"]["archive_info"]["hashes"]["sha256"] for file in files]
    return dict(zip([canonicalize_name(file["metadata"]["name"]) for file in files], digests))


def main() -> None:
    pins = {line: Requirement(line) for line in PINS.read_text(encoding="utf-8").splitlines()
            if line and not line.startswith("#")}
    found: dict[str, set[str]] = collections.defaultdict(set)
    for system, (tags, about) in SYSTEMS.items():
        for python in PYTHONS:
            there = default_environment() | about | {"python_version": python.rpartition(".")[0],
                                                     "python_full_version": python}
            lines = [line for line, pin in pins.items() if pin.marker is None or pin.marker.evaluate(there)]
            # pip would judge the markers by the machine that it runs on.
            digests = chosen([line.partition(";")[0] for line in lines], python, tags)
            for line in lines:
                if (digest := digests.get(canonicalize_name(pins[line].name))) is not None:
                    found[line].add(digest)
            print(f"{system}, Python {python}: {len(digests)} of {len(lines)}", flush=True)
    texts = ["# requirements.txt with the SHA-256 of each package's files for Linux, macOS and Windows, "
             f"Python {PYTHONS[0]} to {PYTHONS[-1]}.",
             "# `python docs/hashes.py` writes this; make env HASHED=1 installs by it."]
    for line in pins:
        if not found[line]:
            raise SystemExit(f"{line} has a file on none of the systems")
        texts.append(" \\\n    ".join([line, *(f"--hash=sha256:{digest}" for digest in sorted(found[line]))]))
    HASHED.write_text("\n".join(texts) + "\n", encoding="utf-8")
    print(f"{len(pins)} pins, {sum(map(len, found.values()))} files, in {re.sub('.*/', '', str(HASHED))}")


if __name__ == "__main__":
    main()
