"""Runs: what one is called, and where its figures and weights lie."""

import hashlib
import os
import re
from pathlib import Path

from bnta_lib.settings import ROOT, Settings, cache_dir, data_folder, model_settings


def run_name(profile: str, data: str | Path = "embedded") -> str:
    """Name of a run's files: the profile, and for other images than the embedded ones also their folder.

    A few digits of the whole path tell folders of the same name apart.
    """
    path = data_folder(data)
    if path is None:
        return profile
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:6]
    # The name becomes a part of file names, whose length is limited.
    return f"{profile}_{os.fsencode(path.name)[:100].decode('utf-8', 'ignore')}-{digest}"


def caution(run: str) -> str:
    """A warning for runs at the profiles that only try the code; otherwise empty."""
    if re.split("[_+]", run)[0] not in ("smoke", "rehearsal"):
        return ""
    return ("A small network that saw few people: this run shows that everything works, and nothing of the "
            "method.")


def figures_dir(run: str) -> Path:
    """Folder of the figures and tables of a run (:func:`run_name`): in ``$BNTA_FIGURES``, else figures."""
    return Path(os.environ.get("BNTA_FIGURES") or ROOT / "figures").absolute() / run


def weights_path(settings: Settings, name: str, root: str | Path | None = None) -> Path:
    """Path of a training's weights: in the repository for laptop, otherwise in the cache, and apart for those
    trained on the published sets of the folder ``root``. Raises ValueError for an unknown name."""
    model_settings(settings, name)
    folder = (ROOT / "data" if settings.profile == "laptop" and root is None else cache_dir()) / "weights"
    run = settings.profile if root is None else run_name(settings.profile, root)
    return folder / run / f"{name}.safetensors"
