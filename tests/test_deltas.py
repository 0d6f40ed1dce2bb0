"""Deltas and banks of them: what fits goes in and comes out bit by bit, what does not is named."""

import copy
import json
import pickle
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

import bnta_lib
from bnta_lib import adaption, deltas
from bnta_lib.suite import experiments
from bnta_lib.adaption import adapt
from bnta_lib.deltas import KIND, Delta, DeltaBank, bn_digest, model_digest
from bnta_lib.model import BNTANet, bn_layers
from bnta_lib.weights import load_model, save_model
from test_adaption import NAMES, moved, same, state


@pytest.fixture
def settings(small):
    return replace(small, tta_batch=2, tta_lr=0.01)


def site(model, seed=0):
    """A copy whose BN tensors have moved, and its delta: as an adaption gives, without its time."""
    random = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(model)
    for layer in bn_layers(other).values():
        for kind in NAMES.values():
            tensor = getattr(layer, kind).data
            tensor.mul_(1 + 0.1 * torch.rand(tensor.shape, generator=random))
    return SimpleNamespace(model=other, delta=Delta.between(model, other, {"seed": seed}))


@pytest.fixture
def delta(model):
    return site(model).delta


def rewrite(path, change):
    """A file whose metadata and tensors ``change(about, tensors)`` has edited, its digest kept."""
    with safetensors.safe_open(path, "pt") as file:
        about = json.loads(file.metadata()[KIND])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    change(about, tensors)
    safetensors.torch.save_file(tensors, path, {KIND: json.dumps(about)})


def signed(change):
    """As ``change``, and the digest made to fit: what a careless program would write."""
    def both(about, tensors):
        change(about, tensors)
        about.pop("digest")
        about["digest"] = deltas._file_digest(about, tensors)
    return both


def test_a_saved_delta_does_not_give_the_adapted_model_or_the_old_one_back(
    model, images, settings, tmp_path
):
    before = state(model)
    result = adapt(model, images, settings)
    result.delta.save(tmp_path / "a.safetensors")
    delta = Delta.load(str(tmp_path / "a.safetensors"))
    assert (delta.base, delta.meta) == (bn_digest(model), result.delta.meta)
    assert delta.tensors.keys() == {f"{n}.{k}" for n in bn_layers(model) for k in NAMES.values()}

    undo = delta.apply(model)
    assert not moved(result.model, model)
    undo.apply(model)
    assert same(state(model), before)


def test_a_model_stays_adapted_after_the_block(model, images, settings):
    before = state(model)
    delta = adapt(model, images, settings).delta
    with delta.applied(model) as inside:
        assert inside is model and not same(state(model), before)
    assert same(state(model), before)
    with pytest.raises(RuntimeError, match="stop"), delta.applied(model):
        model.backbone.bn1.running_mean.zero_()  # not even this stands in the way
        raise RuntimeError("stop")
    assert same(state(model), before)


def test_a_delta_fits_a_model_it_was_not_made_for(model, images, settings):
    delta = adapt(model, images, settings).delta
    wider = BNTANet(5, replace(settings, base_width=8))
    less = BNTANet(5, replace(settings, stripes=2))
    other = BNTANet(5, settings)
    adapted = adapt(model, images, settings).model
    for target, sentence in ((wider, "model of another width: backbone.bn1"),
                             (less, r"other BN layers \(for one, parts.2.1"),
                             (other, "made for other weights"),
                             (adapted, "made for other weights")):
        before = state(target)
        with pytest.raises(ValueError, match=sentence):
            delta.apply(target)
        with pytest.raises(ValueError, match=sentence), delta.applied(target):
            pass
        assert same(state(target), before)


def test_a_delta_without_the_other_changed_layers_is_given_out(model, images, settings, tmp_path):
    with pytest.raises(ValueError, match="changed more than batch-norm layers"):
        adapt(model, images, settings, layers=("bn", "in")).delta.save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_broken_delta_file_is_read(delta, tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError, match="no delta at .*a.safetensors: make one with"):
        Delta.load(path)
    delta.save(path)
    whole = path.read_bytes()
    for length in [*range(12), *range(12, len(whole), len(whole) // 20), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            Delta.load(path)
    safetensors.torch.save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="is no delta of batch-norm tensors"):
        Delta.load(path)


def test_a_delta_does_not_say_what_it_belongs_to(model, images, settings, tmp_path):
    model.backbone.bn1.momentum = 0.37
    result = adapt(model, images, settings, K=4, seed=3, quantities=("var", "beta"))
    result.delta.save(tmp_path / "a", note="entrance, 3 May")
    found = Delta.load(tmp_path / "a")
    assert list(found.layers) == list(bn_layers(model))
    assert found.layers["backbone.bn1"] == (1e-5, 0.37) and found.layers["bnneck"] == (1e-5, 0.1)
    meta = found.meta
    assert (meta["N"], meta["K"], meta["seed"], meta["note"]) == (10, 4, 3, "entrance, 3 May")
    assert (meta["quantities"], meta["size"], meta["reading"]) == (["var", "beta"], [48, 24], "alone")
    assert meta["settings"]["tta_lr"] == 0.01 and meta["settings"]["margin"] == settings.margin
    assert meta["versions"] == {"bnta_lib": bnta_lib.__version__, "torch": torch.__version__}
    other = images.clone()
    other[9, 2, 47, 23] ^= 1
    assert meta["data"] != adapt(model, other, settings).delta.meta["data"]
    assert meta["data"] == adapt(model, images, settings, seed=8).delta.meta["data"]
    assert found.model == model_digest(model) == experiments.model_digest(model)
    model.backbone.bn1.num_batches_tracked += 1  # of no consequence, and not in the digest
    assert found.model == model_digest(model)


def test_numbers_of_numpy_keep_a_delta_from_its_file(model, images, settings, tmp_path):
    result = adapt(model, images, settings, K=np.int64(3), seed=np.int32(4))
    result.delta.save(tmp_path / "a")
    assert Delta.load(tmp_path / "a").meta["seed"] == 4


def test_the_same_delta_gives_other_bytes(delta, tmp_path):
    files = set()
    for n in range(6):
        delta.save(tmp_path / "ä b" / "a")
        files.add((tmp_path / "ä b" / "a").read_bytes())
    Delta.load(tmp_path / "ä b" / "a").save(tmp_path / "again")
    assert files == {(tmp_path / "again").read_bytes()}


def test_a_file_holds_more_than_the_bn_tensors(delta, model, tmp_path):
    delta.save(tmp_path / "a")
    numbers = 4 * sum(layer.num_features for layer in bn_layers(model).values())
    assert 4 * numbers < (tmp_path / "a").stat().st_size < 4 * numbers + 40_000
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads((tmp_path / "a").read_bytes())


def test_a_changed_byte_is_not_found(delta, model, tmp_path):
    path = tmp_path / "a"
    delta.save(path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in [*range(0, header, 397), *range(header, len(whole), len(whole) // 30), len(whole) - 1]:
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError) as caught:
            Delta.load(path)
        assert str(path) in str(caught.value)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        Delta.load(path)
    pickle_like = tmp_path / "model.pth"
    torch.save(model.state_dict(), pickle_like)
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        Delta.load(pickle_like)


@pytest.mark.parametrize("change, sentence", [
    (lambda a, t: t["bnneck.weight"].add_(1), "is damaged: its content is not what was saved"),
    (lambda a, t: a["meta"].update(K=99), "is damaged: its content is not what was saved"),
    (lambda a, t: a.pop("digest"), "is damaged: its content is not what was saved"),
    (signed(lambda a, t: a.update(format=3)), "is of format 3, this version of bnta_lib reads format 2"),
    (signed(lambda a, t: a.update(format="x")), "is damaged: its metadata cannot be read"),
    (signed(lambda a, t: a.pop("model")), "lacks what a delta says about itself .*model"),
    (signed(lambda a, t: t["bnneck.weight"].fill_(torch.nan)), "NaN or infinite values .*bnneck.weight"),
    (signed(lambda a, t: t["bnneck.bias"].fill_(torch.inf)), "NaN or infinite values .*bnneck.bias"),
    (signed(lambda a, t: t["bnneck.running_var"].fill_(-1)), "variance below zero in bnneck.running_var"),
])  # fmt: skip
def test_a_file_that_was_edited_is_read(delta, tmp_path, change, sentence):
    delta.save(tmp_path / "a")
    rewrite(tmp_path / "a", change)
    with pytest.raises(ValueError, match=sentence):
        Delta.load(tmp_path / "a")


def test_another_kind_of_file_is_not_named(model, tmp_path):
    save_model(model, tmp_path / "w", {})
    with pytest.raises(ValueError, match="holds the weights of a model .*load_model"):
        Delta.load(tmp_path / "w")
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "old",
                                {"kind": "bnta-delta", "base": "", "meta": "{}"})
    with pytest.raises(ValueError, match="is a delta of format 1"):
        Delta.load(tmp_path / "old")


def edit(model, change):
    other = copy.deepcopy(model)
    with torch.no_grad():
        change(other)
    return other


@pytest.mark.parametrize("change, sentence", [
    (lambda m: setattr(m.backbone.bn1, "eps", 1e-3), "another eps: 1e-05 in backbone.bn1, .* 0.001"),
    (lambda m: setattr(m.bnneck, "momentum", 0.2), "another momentum: 0.1 in bnneck, the model's is 0.2"),
    (lambda m: m.bnneck.bias.add_(1), "made for other weights: its base is"),
    (lambda m: m.backbone.conv1.weight.mul_(1.01), "other weights outside the BN layers, which are equal"),
    (lambda m: m.fc_g.weight.add_(1), "other weights outside the BN layers, which are equal"),
    (lambda m: m.double(), "another precision: backbone.bn1.running_mean is torch.float32"),
    (lambda m: setattr(m, "parts", torch.nn.ModuleList(reversed(m.parts))), "made for other weights"),
])  # fmt: skip
def test_a_delta_goes_into_a_model_that_differs_in_one_point(delta, model, change, sentence):
    other = edit(model, change)
    before = state(other)
    for use in (delta.apply, lambda m: DeltaBank(m).add("a", delta)):
        with pytest.raises(ValueError, match=sentence):
            use(other)
    assert same(state(other), before)


def test_a_broken_delta_in_memory_goes_into_the_model_or_a_file(delta, model, tmp_path):
    before = state(model)
    delta.tensors["bnneck.running_mean"][3] = torch.nan
    for use in (lambda: delta.apply(model), lambda: delta.save(tmp_path / "a"),
                lambda: DeltaBank(model).add("a", delta)):
        with pytest.raises(ValueError, match="NaN or infinite values .for one, in bnneck.running_mean"):
            use()
    assert same(state(model), before) and not list(tmp_path.iterdir())


def test_layers_in_another_order_are_not_named(delta, model):
    shuffled = replace(delta, layers=dict(reversed(delta.layers.items())))
    with pytest.raises(ValueError, match="in another order: number 1 is parts.2.1 there, backbone.bn1 here"):
        shuffled.apply(model)


# ---- banks


@pytest.fixture
def sites(model):
    """Two adapted models and their deltas."""
    return {name: site(model, seed) for seed, name in enumerate(("entrance", "car park"))}


@pytest.fixture
def bank(model, sites):
    bank = DeltaBank(model)
    for name, site in sites.items():
        bank.add(name, site.delta)
    return bank


def is_at(model, source, sites, name):
    """Whether the model is, bit by bit, the one of a name; None for the source."""
    return not moved(source if name is None else sites[name].model, model)


def test_a_switch_gives_another_model_than_the_adaption_did(model, sites, tmp_path):
    source, before = copy.deepcopy(model), state(model)
    sites["car park"].delta.save(tmp_path / "c")
    bank = DeltaBank(model)
    bank.add("entrance", sites["entrance"].delta)
    bank.use("entrance")
    bank.add("car park", tmp_path / "c")  # verified against the source, whatever is in use
    assert bank.current == "entrance" and bank.names == ["entrance", "car park"] and len(bank) == 2
    for name in ("car park", "entrance", None, "car park", "car park", None):
        found = bank.source() if name is None else bank.use(name)
        assert found is model and bank.current == name and is_at(model, source, sites, name)
    assert same(state(model), before)
    assert "entrance" in bank and bank["entrance"] is sites["entrance"].delta


def test_a_block_leaves_another_delta_than_was_in_use(model, sites, bank):
    source = copy.deepcopy(model)
    with bank.using("entrance") as inside:
        assert inside is model and is_at(model, source, sites, "entrance")
        with pytest.raises(RuntimeError, match="stop"), bank.using("car park"):
            assert is_at(model, source, sites, "car park")
            model.backbone.bn1.running_mean.zero_()  # not even this stands in the way
            raise RuntimeError("stop")
        assert bank.current == "entrance" and is_at(model, source, sites, "entrance")
        bank.source()
    assert bank.current is None and is_at(model, source, sites, None)
    bank.use("car park")
    with bank.using("entrance"):
        bank.use("entrance")
        bank.remove("car park")  # forgotten, and yet put back
    assert bank.names == ["entrance"] and is_at(model, source, sites, "car park")


@pytest.mark.parametrize("change", [
    lambda m: m.backbone.bn1.running_mean.add_(1e-3),
    lambda m: m.parts[2][1].bias.data.mul_(1.5),  # goes past the counters of changes
    lambda m: m.load_state_dict({k: v * 1.5 for k, v in m.state_dict().items()}),
    lambda m: m.train()(torch.zeros(4, 3, 48, 24, dtype=torch.uint8)),
    lambda m: setattr(m.bnneck, "running_var", torch.ones(128)),
])  # fmt: skip
def test_a_model_that_changed_meanwhile_is_switched(model, sites, bank, change):
    source = copy.deepcopy(model)
    bank.use("entrance")
    with torch.no_grad():
        change(model)
    for use in (lambda: bank.use("car park"), lambda: bank.source(), lambda: bank.use("entrance"),
                lambda: bank.using("car park").__enter__()):
        with pytest.raises(ValueError, match="BN tensors are not those of entrance any more"):
            use()
    bank.use("car park", check=False)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in sites["car park"].delta.tensors.items())
    bank.source()
    assert all(torch.equal(model.state_dict()[k], v) for k, v in deltas.bn_tensors(source).items())


def test_weights_that_changed_meanwhile_take_a_delta(model, sites, bank):
    with torch.no_grad():
        model.backbone.conv1.weight.mul_(2)
    with pytest.raises(ValueError, match="other weights outside the BN layers"):
        bank.add("late", sites["entrance"].delta)
    assert bank.names == ["entrance", "car park"]


def test_a_bank_from_its_folder_is_another(model, sites, bank, tmp_path):
    source = copy.deepcopy(model)
    bank.add("вход №1 (ночь)", sites["entrance"].delta)
    bank.save(tmp_path / "of a site")
    bank.save(tmp_path / "of a site")  # over itself
    again = DeltaBank.load(tmp_path / "of a site", model)
    assert again.names == sorted(bank.names)
    again.use("вход №1 (ночь)")
    assert is_at(model, source, sites, "entrance")
    again.source()
    bank.remove("car park")
    with pytest.raises(ValueError, match=r"holds what is not in this bank \(for one, car park.safetensors\)"):
        bank.save(tmp_path / "of a site")
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match="no deltas in"):
            DeltaBank.load(folder, model)
    path = tmp_path / "of a site" / "car park.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="car park.safetensors is not a readable"):
        DeltaBank.load(tmp_path / "of a site", model)


@pytest.mark.parametrize("name", [
    "", "a/b", "..", "../a", "a\\b", "/a", ".a", "a.", "a ", " a", "a\n", "a\0", "a:b", "con", "NUL.x",
    "x" * 201, "ä" * 101, 5, None,
])  # fmt: skip
def test_a_name_that_is_no_file_name_is_taken(bank, sites, name):
    with pytest.raises(ValueError, match="delta's name"):
        bank.add(name, sites["entrance"].delta)


def test_a_name_is_taken_twice_or_not_known(bank, sites, model):
    for name in ("entrance", "Entrance", "CAR PARK"):
        with pytest.raises(ValueError, match="the bank holds '.*' already"):
            bank.add(name, sites["entrance"].delta)
    for use in (bank.use, bank.remove, bank.__getitem__, lambda n: bank.using(n).__enter__()):
        with pytest.raises(ValueError, match="no delta 'exit' in this bank; it holds entrance, car park"):
            use("exit")
    with pytest.raises(ValueError, match="it is empty"):
        DeltaBank(model).use("exit")
    bank.use("entrance")
    with pytest.raises(ValueError, match="entrance is in use"):
        bank.remove("entrance")
    with pytest.raises(ValueError, match="made for other weights"):
        DeltaBank(model).add("late", sites["car park"].delta)  # of a model that is adapted already
    with pytest.raises(ValueError, match="no batch-norm layers"):
        DeltaBank(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="changed more than batch-norm"):
        bank.add("conv", replace(sites["entrance"].delta, complete=False))


def test_threads_with_a_lock_see_a_mixture_of_sites(model, images, sites, bank):
    with torch.no_grad():
        expected = {name: site.model(images).features for name, site in sites.items()}
    lock, wrong = threading.Lock(), []

    def work(name):
        for _ in range(4):
            with lock, torch.no_grad(), bank.using(name) as switched:
                if not torch.equal(switched(images).features, expected[name]):
                    wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in sites for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and bank.current is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_bank_stays_behind_when_the_model_moves(model, sites, bank):
    source = copy.deepcopy(model)
    bank.use("entrance")
    model.cuda()
    for name in ("car park", "entrance", None):
        bank.source() if name is None else bank.use(name)
        assert all(p.is_cuda and p.dtype == torch.float32 for p in model.parameters())
        assert is_at(copy.deepcopy(model).cpu(), source, sites, name)
    on_gpu = DeltaBank(model)
    on_gpu.add("entrance", sites["entrance"].delta)  # made on the CPU
    with on_gpu.using("entrance"):
        assert is_at(copy.deepcopy(model).cpu(), source, sites, "entrance")
    model.cpu()
    bank.use("entrance")
    assert is_at(model, source, sites, "entrance")


def test_a_delta_does_not_fit_the_weights_read_from_a_file(model, settings, tmp_path):
    save_model(model, tmp_path / "w.safetensors", {})
    read = load_model(tmp_path / "w.safetensors", settings)
    result = site(read)
    again = load_model(tmp_path / "w.safetensors", settings)
    result.delta.apply(again)
    assert not moved(result.model, again)
    with pytest.raises(ValueError, match="other weights outside the BN layers"):
        result.delta.apply(model)  # whose weights were not rounded to a byte


def test_a_network_of_the_full_width_takes_more_than_half_a_megabyte(tmp_path):
    from bnta_lib.settings import settings as profile

    model = BNTANet(2, profile("paper"))
    assert len(bn_layers(model)) == 60
    Delta.between(model, model, {}).save(tmp_path / "a")
    size = (tmp_path / "a").stat().st_size
    assert 450_000 < size < 600_000


@pytest.mark.parametrize("change, words", [
    (lambda about, _: about["layers"].pop(), "another order: number [0-9]+ is none there"),
    (lambda about, _: about["layers"].clear(), "another order: number 1 is none there"),
    (lambda about, _: about["layers"].append(["more", 0.1, 0.1]), "is more there, none here"),
    (lambda about, _: about["layers"].append(about["layers"][0]), "lacks what a delta says"),
    (lambda about, _: about.update(base=5), "lacks what a delta says"),
    (lambda about, _: about.update(format=float("inf")), "metadata cannot be read"),
    (lambda about, _: about.update(format=True), "metadata cannot be read"),
    (lambda about, _: about.update(meta=[]), "metadata cannot be read"),
    (lambda _, tensors: tensors.update({k: v.to(torch.float8_e4m3fn) for k, v in tensors.items()}), "float8"),
])
def test_a_forged_delta_is_taken_or_not_said_to_be_wrong(delta, model, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        delta.save(tmp_path / "a")
        rewrite(tmp_path / "a", signed(change))
        Delta.load(tmp_path / "a").apply(model)


def test_a_delta_of_endless_brackets_is_read(delta, tmp_path):
    delta.save(tmp_path / "d.safetensors")
    safetensors.torch.save_file(delta.tensors, tmp_path / "d.safetensors", {KIND: "[" * 100_000})
    with pytest.raises(ValueError, match="metadata cannot be read"):
        Delta.load(tmp_path / "d.safetensors")
