"""Published targets: who is probe and gallery, and that weights and tables record it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import real_trees
import scipy.io
import torch

from bnta_lib.data import (
    data_folder,
    find_real,
    load_source_samples,
    load_sources,
    load_targets,
    mixture,
    real_root,
)
from bnta_lib.data.published import Found, found_table, protocol_note, target_splits
from bnta_lib.data.sets import ReIDSet, Sample, write_folder
from bnta_lib.settings import PAPER_SOURCES, ROOT, settings
from bnta_lib.suite import train as training
from bnta_lib.suite.runs import run_name, weights_path
from bnta_lib.training import training_key
from conftest import ends

PAPER = settings("paper")
PEOPLE = {"VIPeR": (632, 316), "iLIDS": (119, 59), "PRID": (200, 100), "GRID": (250, 125)}  # all, to train
# Probe and gallery images of a split of a whole set (the paper's Table 1; single images).
SIZES = {"VIPeR": (316, 316), "iLIDS": (60, 60), "PRID": (100, 649)}


def whole(name) -> Found:
    """A target with the counts of its publication, without pixels."""
    samples, numbers = [], {}
    for entry in real_trees.plan(name, real_trees.LAYOUTS[name][0], PEOPLE[name][0]):
        pid = 0 if name == "GRID" and entry.who == "0" else numbers.setdefault(entry.who, len(numbers) + 1)
        samples.append(Sample(Path("/data", entry.path), pid, entry.camera, entry.part))
    return Found(name, Path("/data"), tuple(samples))


def labels(found: Found) -> tuple[torch.Tensor, torch.Tensor]:
    """Persons and cameras of its samples."""
    return tuple(torch.tensor([(sample.pid, sample.camid) for sample in found.samples]).T)


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Found:
    """GRID with its owner's splits."""
    folder = tmp_path_factory.mktemp("grid")
    real_trees.write_partitions(folder / "features_and_partitions.mat", 250)
    return replace(whole("GRID"), folder=folder)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """All nine sets in little, below a folder with a space and a letter beyond ASCII."""
    root = tmp_path_factory.mktemp("real") / "dåta sets"
    for name, layouts in real_trees.LAYOUTS.items():
        real_trees.tree(name, layouts[0], root, people=10)
    return root


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny():
    return settings("smoke", height=48, width=24, other_height=64, base_width=4, local_dim=4, stripes=3,
                    epochs=1, batch=64, splits=3)


# ---- people


@pytest.mark.parametrize("name", SIZES)
def test_committed_splits_are_drawn_by_their_rule(name):
    people, train = PEOPLE[name]
    splits = json.loads((ROOT / "data" / "splits" / f"{name.lower()}.json").read_text())
    for number, split in enumerate(splits):
        random = np.random.default_rng([split["seed"], people, number])  # as `rule` has it in words
        order = random.permutation(people) + 1
        assert split["train"] == sorted(order[:train].tolist())
        assert split["test"] == sorted(order[train:].tolist())
        if name == "iLIDS":
            numbers = np.trunc(random.random((60, 2)) * 10**6) / 10**6
            assert np.array_equal(np.column_stack([split["probe"], split["gallery"]]), numbers)
    assert len({tuple(split["train"]) for split in splits}) == len(splits) == 10


# ---- images


@pytest.mark.parametrize("name", SIZES)
def test_split_has_the_papers_sizes(name):
    own = whole(name)
    splits, words = target_splits(own, PAPER)
    pids, camids = labels(own)
    everyone = sorted(pid for pid in set(pids.tolist()) if (pids == pid).sum() > 1)
    committed = json.loads((ROOT / "data" / "splits" / f"{name.lower()}.json").read_text())
    assert len(splits) == 10 and f"10 seeded splits (data/splits/{name.lower()}.json)" in words
    for split, of_people in zip(splits, committed):
        assert (len(split.probe), len(split.gallery)) == SIZES[name]
        assert pids[split.probe].tolist() == [everyone[k - 1] for k in of_people["test"]]
        same = pids[split.probe][:, None] == pids[split.gallery][None]
        assert (same.sum(1) == 1).all(), "one match each"
        assert camids[split.probe].tolist() != camids[split.gallery][same.int().argmax(1)].tolist()


def test_grid_is_split_as_its_owner_says(grid):
    splits, words = target_splits(grid, PAPER)
    cells = scipy.io.loadmat(grid.folder / "features_and_partitions.mat")["trainIdxAll"][0]
    pids, _ = labels(grid)
    assert len(splits) == 10 and "10 official splits" in words
    for split, cell in zip(splits, cells):
        train = set(cell[0][0][2][0].tolist())
        assert len(train) == 125
        assert set(pids[split.probe].tolist()) == set(range(1, 251)) - train
        assert (len(split.probe), len(split.gallery)) == (125, 900)
        assert (pids[split.gallery] == 0).sum() == 775
        assert {grid.samples[i].part for i in split.probe} == {"probe"}
        assert {grid.samples[i].part for i in split.gallery} == {"gallery"}


def test_grid_without_its_splits_is_refused(grid, tmp_path):
    empty = replace(grid, folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="features_and_partitions.mat.*owner's archive"):
        target_splits(empty, PAPER)
    mat = tmp_path / "features_and_partitions.mat"
    mat.write_bytes(b"no MATLAB")
    for content in ({"other": np.zeros(3)}, {"trainIdxAll": np.zeros((1, 10))}):
        with pytest.raises(ValueError, match="does not hold GRID's splits"):
            target_splits(empty, PAPER)
        scipy.io.savemat(mat, content)
    with pytest.raises(ValueError, match="does not hold GRID's splits"):
        target_splits(empty, PAPER)


def test_viper_is_probed_from_the_side_that_the_settings_name():
    own = whole("VIPeR")
    first, second, both = (target_splits(own, replace(PAPER, viper_probe=side))
                           for side in ("cam_a", "cam_b", "both"))
    _, camids = labels(own)
    assert len(first[0]) == len(second[0]) == 10 and len(both[0]) == 20
    for a, b, one, other in zip(first[0], second[0], both[0][::2], both[0][1::2]):
        assert (camids[a.probe] == 1).all() and (camids[b.probe] == 2).all()
        assert torch.equal(a.probe, b.gallery) and torch.equal(a.gallery, b.probe)
        assert torch.equal(one.probe, a.probe) and torch.equal(other.probe, b.probe)
    assert "by cam_a;" in first[1] and "by cam_b;" in second[1] and "by cam_a and cam_b;" in both[1]


def test_multi_image_ilids_has_the_same_probes_and_all_other_images():
    own = whole("iLIDS")
    single, several = (target_splits(own, replace(PAPER, ilids_images=kind)) for kind in ("single", "multi"))
    pids, _ = labels(own)
    for one, many in zip(single[0], several[0]):
        assert torch.equal(one.probe, many.probe)
        assert torch.isin(one.gallery, many.gallery).all()
        of_people = torch.isin(pids, pids[one.probe]).nonzero()[:, 0]
        assert sorted(torch.cat([many.probe, many.gallery]).tolist()) == of_people.tolist()
    assert "one gallery image" in single[1] and "all other images" in several[1]


def test_part_of_a_set_is_named_as_such():
    own = whole("VIPeR")
    some = replace(own, samples=own.samples[:200])
    splits, words = target_splits(some, PAPER)
    assert all(len(split.probe) == len(split.gallery) > 30 for split in splits)
    assert "of its 632 people the 100 that are here (no published number compares)" in words
    with pytest.raises(ValueError, match="at least one probe"):
        target_splits(replace(own, samples=own.samples[:4]), PAPER)
    _, words = target_splits(own, replace(PAPER, splits=2))
    assert "the first 2 of this suite's 10" in words


# ---- what `data` names


def test_published_sets_of_a_folder_are_loaded(tree, cache, tiny):
    assert real_root(tree) == tree
    sources, targets, sets = load_sources(tiny, tree), load_targets(tiny, tree), find_real(tree)
    assert len(sources) == sum(len(sets[name]) for name in PAPER_SOURCES)
    people = sum(sets[name].people for name in PAPER_SOURCES)
    assert sorted(sources.pids.unique().tolist()) == list(range(1, 1 + people))
    samples = load_source_samples(tiny, tree)
    assert list(samples) == list(PAPER_SOURCES)
    for name, own in samples.items():
        assert f"{name} ({len(sets[name])} images, {sets[name].people} people)" in sources.name
        assert set(own.pids.tolist()) <= {s.pid for s in sets[name].samples}
        assert torch.bincount(own.pids).max() <= 4 and own.people == sets[name].people
    assert list(targets) == ["VIPeR", "GRID", "iLIDS", "PRID"]
    for name, target in targets.items():
        assert len(target.data) == len(sets[name]) and len(target.splits) == 3
        assert target.data.images.shape[1:] == (3, 48, 24)
        assert target.protocol and target.protocol in protocol_note(targets)
    table = found_table(sets)
    assert not table["equal"].any() and table.loc["GRID", "images, published"] == 1275


def test_protocol_note_names_sources_and_missing_targets(dots):
    assert protocol_note({"GRID": replace(dots, protocol="ten splits.")}, "x") == (
        "Protocol. GRID: ten splits. Not there of the paper's targets: VIPeR, iLIDS. Trained on x.")
    assert protocol_note({"GRID": dots}) == "" and protocol_note({"GRID": dots}, "x") == "Trained on x."


def test_mixture_names_what_is_missing(tree, cache, tiny, tmp_path):
    part = tmp_path / "part"
    for name in ("CUHK02", "Market-1501"):
        shutil.copytree(tree / real_trees.TOP[name], part / real_trees.TOP[name])
    some, everything = load_sources(tiny, part), load_sources(tiny, tree)
    assert some.name.endswith("without CUHK03, DukeMTMC-reID, CUHK-SYSU") and "CUHK02 (" in some.name
    assert "without" not in everything.name and some.digest != everything.digest
    assert training_key(some, tiny) != training_key(everything, tiny)
    with pytest.raises(FileNotFoundError, match="none of the targets VIPeR, GRID, iLIDS, PRID.*check"):
        load_targets(tiny, part)
    with pytest.raises(FileNotFoundError, match="nothing to train on, none of the sources CUHK02"):
        load_sources(tiny, tree / real_trees.TOP["VIPeR"])


def test_real_without_a_folder_or_sets_is_refused(monkeypatch, tmp_path, tree, tiny):
    monkeypatch.delenv("BNTA_DATA", raising=False)
    for use in (lambda: load_targets(tiny, "real"), lambda: load_sources(tiny, "real"),
                lambda: run_name("smoke", "real"), lambda: training.trained_model(tiny, data="real")):
        with pytest.raises(ValueError, match="BNTA_DATA.*is not set: set it to the folder"):
            use()
    monkeypatch.setenv("BNTA_DATA", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="BNTA_DATA names .*absent"):
        load_targets(tiny, "real")
    monkeypatch.setenv("BNTA_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds no published set.*bnta_lib.data check"):
        load_targets(tiny, "real")
    monkeypatch.setenv("BNTA_DATA", str(tree))
    assert real_root("real") == tree and run_name("smoke", "real") == run_name("smoke", tree)
    assert data_folder("real") == tree.resolve(), "kernels are given the folder"


@pytest.mark.filterwarnings("ignore:.*very same picture")
def test_users_own_folder_is_not_taken_for_published_sets(tmp_path, tree, tiny):
    grey = torch.full((4, 3, 8, 4), 99, dtype=torch.uint8)
    own = ReIDSet("own", grey, torch.tensor([1, 1, 2, 2]), torch.tensor([1, 2, 1, 2]))
    crops = write_folder(own, tmp_path / "crops", "png")
    write_folder(own, tmp_path / "pair" / "query", "png")
    write_folder(own, tmp_path / "pair" / "bounding_box_test", "png")
    write_folder(own, tmp_path / "deep" / "site 1", "png")
    for folder in ("crops", "pair", "deep"):
        assert real_root(tmp_path / folder) is None
        assert list(load_targets(tiny, tmp_path / folder)) == [folder]
    assert load_targets(tiny, crops)["crops"].protocol == ""
    shutil.copytree(tree / "VIPeR", crops / "VIPeR")  # beside the crops: they were meant
    assert real_root(crops) is None


# ---- weights and what is printed


def test_weights_of_published_sets_do_not_replace_the_embedded_ones(tree, cache, tiny, tmp_path, capsys):
    root = tmp_path / "some"
    for name in ("CUHK02", "CUHK-SYSU"):
        shutil.copytree(tree / real_trees.TOP[name], root / real_trees.TOP[name])
    sources, path = mixture(find_real(root)), weights_path(tiny, "bnta", root)
    training.trained_model(tiny, progress=False, data=root)
    written = path.stat().st_mtime_ns
    model = training.trained_model(tiny, progress=False, data=root)
    assert path.stat().st_mtime_ns == written, "trained once"
    assert path.parent.name == run_name("smoke", root) != "smoke" and not weights_path(tiny, "bnta").exists()
    assert model.identities == sources.people and training.trained_on(tiny, root) == sources.note
    assert training.trained_on(tiny) == "" and len(pd.read_csv(path.with_suffix(".csv"))) == 1

    bigger = replace(tiny, profile="laptop")  # which trains on request alone
    with pytest.raises(FileNotFoundError, match="make train"):
        training.trained_model(bigger, data=root)
    training.train_and_save(bigger, progress=False, data=root)
    training.trained_model(bigger, progress=False, data=root)
    shutil.copytree(tree / real_trees.TOP["Market-1501"], root / "market")
    assert not training.is_trained(bigger, data=root)
    assert "Market-1501" not in training.trained_on(bigger, root).partition("; without")[0]


@pytest.mark.parametrize("data, why", [
    ("", "a folder; got ''"), ("ftp://x/y", "a folder; got 'ftp://x/y'"),
    (__file__, "no folder"), (str(Path(__file__).parent), "is no folder of published")])
def test_training_on_what_is_no_folder_of_published_sets_is_refused(capsys, data, why):
    assert ends(training.main, "--profile", "smoke", "--data", data) > 0
    assert why in capsys.readouterr().err
