"""Every row of every table, as data. Rows of Tables 2 to 5 are named as in ``data/paper_tables.csv``.

The row that is BNTA itself has no options, so that all tables share its measurements.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bnta_lib.adapters import ADAPTERS
from bnta_lib.pairing import check_sizes
from bnta_lib.settings import Settings, trainings_of

# Columns of measured rows that hold a setting, and those that hold an option of `adapt`.
SETTINGS = {"momentum": "tta_momentum", "epochs": "tta_epochs", "lr": "tta_lr", "optimizer": "tta_optimizer",
            "margin": "margin", "lambda3": "lambda3", "reduction": "matching_reduction"}
READ = {"K", "tta_batch", "normalise_features", *SETTINGS.values()}  # what a row may override
# Columns and options that came later, with the value that all rows of before have: it is in no key.
LATER: dict[str, object] = {"steps": None, "images": "gallery", "by": "place", "each": None, "exchanged": 0.0}
OPTIONS = ("layers", "quantities", "losses", "reading", "follow_bnneck")
COLUMNS = ("training", "adapter", "N", "K", *SETTINGS, *OPTIONS, "normalise", "options")
# What is adapted on: as in the paper, with the probes, or people who are in neither.
IMAGES = {"gallery": "gallery", "test": "probes and gallery", "others": "other people"}
DIVERGED = "diverged"  # the only metric of a row whose adaption diverged


@dataclass(frozen=True)
class Spec:
    """A row of a table. Raises ValueError for an unknown adapter or option of it."""

    method: str  # the row's name in its table
    training: str = "bnta"
    adapter: str = "bnta"
    N: int | None = None  # adapt on so many images, or by camera on so many of each; None: on all
    options: Mapping = field(default_factory=dict)  # keyword arguments of the adapter
    overrides: Mapping = field(default_factory=dict)  # settings that differ
    labels: Mapping = field(default_factory=dict)  # further columns of its rows
    images: str = "gallery"  # which: one of IMAGES
    by: str = "place"  # adapt once to the "place", to each "camera", or its "features" alone
    exchanged: float = 0.0  # share of the images whose camera labels are exchanged with one another

    def __post_init__(self) -> None:
        if self.adapter not in ADAPTERS:
            raise ValueError(f"{self.method}: no adapter {self.adapter!r}: there are {', '.join(ADAPTERS)}")
        if unknown := self.options.keys() - ADAPTERS[self.adapter].options.keys():
            raise ValueError(f"{self.method}: {self.adapter} has no option {min(unknown)!r}")
        if no_column := {*ADAPTERS[self.adapter].reads} - {*SETTINGS.values()}:
            raise ValueError(f"{self.adapter} reads {min(no_column)!r}, which has no column in SETTINGS")
        if unread := self.overrides.keys() - READ:
            raise ValueError(f"{self.method}: no adaption reads {min(unread)!r}: name a training that has it")
        sampled = self.by == "camera" or self.adapter == "bnta" and self.images == "gallery"
        if self.N is not None and not sampled:
            raise ValueError(f"{self.method}: only bnta adapts on a sample of N images, and of the gallery")
        if self.images not in IMAGES or self.by not in ("place", "camera", "features"):
            raise ValueError(f"{self.method}: cannot adapt by {self.by!r} on {self.images!r}")

    def columns(self, settings: Settings, gallery: int) -> dict:
        """:data:`COLUMNS` with all defaults resolved, for a gallery of so many images."""
        settings, adapter = replace(settings, **self.overrides), ADAPTERS[self.adapter]
        options = {**adapter.options, **self.options}
        each = self.N if self.by == "camera" else None
        options |= {"images": self.images, "by": self.by, "each": each, "exchanged": self.exchanged}
        papers = self.by == "place" and self.images == "gallery"
        n = 0 if self.adapter == "none" else self.N or gallery if papers else None
        k = options.pop("K", 0)
        k = min(settings.K, n // 2 if n else settings.K) if k is None else k
        values = {column: getattr(settings, name) if name in adapter.reads else None
                  for column, name in SETTINGS.items()}
        for name in OPTIONS:
            value = options.pop(name, None)
            values[name] = "+".join(value) if isinstance(value, (tuple, list)) else value
        if self.adapter != "none" and settings.tta_batch != Settings.tta_batch:
            options["tta_batch"] = settings.tta_batch
        options = {name: value for name, value in options.items() if value != LATER.get(name)}
        kind = "features" if self.by == "features" else self.adapter
        return {"training": self.training, "adapter": kind, "N": n, "K": k, **values,
                "normalise": settings.normalise_features, "options": json.dumps(options) if options else ""}


@dataclass(frozen=True)
class Table:
    """Specs, the targets that they are measured on, and how many adaption seeds on each.

    Without the paper's own target (on a user's folder) each counts as the paper's. Further trainings of a
    model are measured on the paper's own target.
    """

    rows: tuple[Spec, ...] | Callable[[int, Settings], tuple[Spec, ...]]  # or a function of a gallery's size
    target: str | None = None  # the paper's: all seeds there, one on others; None: all seeds on all
    everywhere: bool = True  # or on the paper's own target alone, as smoke does
    seeds: int | None = None  # at most so many
    experiment: str = "retrieval"  # what is measured: a key of EXPERIMENTS in runner.py
    splits: tuple[int, ...] = ()  # which; none: all
    trainings: bool = False  # on all trainings of a model, those after the first with one adaption seed

    def plan(self, galleries: Mapping[str, int], settings: Settings) -> Iterator[tuple[str, Spec, int]]:
        """(target, spec, number of seeds) of every row; ``galleries``: images in each target's smallest."""
        for name, gallery in galleries.items():
            paper = self.target in (None, name) or self.target not in galleries
            if paper or (self.everywhere and settings.profile != "smoke"):
                seeds = min(settings.tta_seeds if paper else 1, self.seeds or settings.tta_seeds)
                for spec in self.rows(gallery, settings) if callable(self.rows) else self.rows:
                    yield name, spec, 1 if spec.adapter == "none" else seeds
                    if self.trainings and paper and spec.adapter != "tent":  # Tent needs whole weights
                        for training in trainings_of(settings, spec.training)[1:]:
                            yield name, replace(spec, training=training), 1


TABLE_2 = (
    Spec("Baseline", "baseline", "none"),
    Spec("BNTA w/o TTA", adapter="none"),
    Spec("BNTA"),
    Spec("AdaBN", adapter="adabn"),
    Spec("Tent", adapter="tent"),
    *(Spec(f"alpha-BN {alpha:g}", adapter="alpha_bn", options={"alpha": alpha}) for alpha in (0.1, 0.3, 0.5)),
)

# Each training with its losses, as the paper's rows name them, and the adaptions tried on it.
_LOSSES = {"baseline": ("id",), "pos": ("pos", "pos"), "mat": ("mat", "mat"), "id_pos": ("id+pos", "pos"),
           "id_mat": ("id+mat", "mat"), "bnta": ("id+pos+mat", "pos", "mat", "pos+mat")}
TABLE_3 = tuple(
    Spec(f"train {losses}; tta {adaption}", training, "none" if adaption == "none" else "bnta",
         options={} if adaption in ("none", "pos+mat") else {"losses": (adaption,)})
    for training, (losses, *adaptions) in _LOSSES.items() for adaption in ("none", *adaptions)
)

TABLE_4 = (
    Spec("None", adapter="none"),
    *(Spec(name, options={} if name == "BN" else {"layers": tuple(name.lower().split("+"))})
      for name in ("Conv", "IN", "Conv+IN", "BN", "BN+Conv", "BN+IN", "BN+Conv+IN")),
)

# The paper does not define "update only mu". In "alone" gamma and beta learn only if they are named, in
# "restore" always. What is not named is put back.
_QUANTITIES = {"mu": ("mean",), "var": ("var",), "mu+var": ("mean", "var"), "gamma": ("gamma",),
               "beta": ("beta",), "gamma+beta": ("gamma", "beta")}
TABLE_5 = {reading: (
    Spec("None", adapter="none"),
    *(Spec(name, options={"quantities": names, "reading": reading}) for name, names in _QUANTITIES.items()),
    Spec("mu+var+gamma+beta"),
) for reading in ("alone", "restore")}


def grid_specs(gallery: int, settings: Settings) -> tuple[Spec, ...]:
    """No adaption, and the cells of Figure 4: N by sixths of the gallery (smoke: thirds), and these K.

    Powers of two, of one pair in 128 images or more and never a single pair, which has no negative; half of
    the gallery; the default. In small galleries also half way between the powers.
    """
    check_sizes(gallery, 2)
    largest, smallest = gallery // 2, max(2, -(-gallery // 128))
    counts = [2**i for i in range(1, 64) if smallest <= 2**i <= largest]
    if len(counts) < 6:
        counts += [3 * k // 2 for k in counts if 3 * k // 2 <= largest]
    counts = sorted({*counts, largest, min(settings.K, largest)})
    steps = 3 if settings.profile == "smoke" else 6
    sizes = sorted({round(gallery * i / steps) for i in range(1, steps + 1)})
    return (TABLE_2[1], *(Spec(f"N={n}, K={k}", N=n, options={"K": k})
                          for n in sizes for k in counts if 2 * k <= n))


@dataclass(frozen=True)
class Choice:
    """An open choice. Each value tried is a spec with the value's label as its ``method``."""

    name: str
    values: tuple[Spec, ...]
    default: str  # the label of the value that the suite takes
    everywhere: bool = True  # on all targets; otherwise on the paper's own target alone


def _numbers(name: str, setting: str, numbers: Sequence[float], default: str, **more) -> Choice:
    return Choice(name, tuple(Spec(f"{n:g}", overrides={setting: n}) for n in numbers), default, **more)


CHOICES = {choice.name: choice for choice in (
    _numbers("momentum", "tta_momentum", (0, 0.01, 0.05, 0.1, 0.3, 1), "0.1"),
    Choice("optimiser", tuple(
        Spec(f"{kind} {rate:g}", overrides={"tta_optimizer": kind, "tta_lr": rate})
        for kind, rates in (("adam", (5e-5, 5e-4, 5e-3)), ("sgd", (5e-4, 5e-3, 5e-2))) for rate in rates),
        "adam 0.0005"),
    _numbers("epochs", "tta_epochs", (1, 2, 4), "1"),
    Choice("bnneck", (Spec("follow"), Spec("stay", options={"follow_bnneck": False})), "follow"),
    Choice("distance", (Spec("L2-normalised"), Spec("raw", overrides={"normalise_features": False})),
           "L2-normalised"),
    Choice("stripes", (Spec("height"), Spec("other height", training="other_stripes")), "height"),
    Choice("reduction", tuple(Spec(kind, overrides={"matching_reduction": kind}) for kind in ("sum", "mean")),
           "sum", everywhere=False),
    _numbers("margin", "margin", (0.0, 0.1, 0.3, 1.0, 3.0), "0.3", everywhere=False),
    _numbers("lambda3", "lambda3", (0.1, 1.0, 10.0), "1", everywhere=False),
)}
# Can gamma and beta alone bring the gain that Table 5 reports? Adam moves a parameter by about the rate at
# a step, so that rates and epochs here take them from a thousandth to the whole of their size.
AFFINE = Choice("affine", tuple(
    Spec(f"{kind} {rate:g}, {n} epoch{'s' * (n > 1)}", options={"quantities": ("gamma", "beta")},
         overrides={"tta_optimizer": kind, "tta_lr": rate, "tta_epochs": n})
    for kind, rates in (("adam", (5e-4, 5e-3, 5e-2)), ("sgd", (5e-2, 5e-1)))
    for rate in rates for n in (1, 4)), "adam 0.0005, 1 epoch", everywhere=False)


def _choice_rows(choice: Choice) -> Iterator[Spec]:
    """Each value, and its row without adaption, of the same network and distance."""
    for value in choice.values:
        labels = {"choice": choice.name, "value_label": value.method,
                  "default": value.method == choice.default}
        spec = replace(value, method=f"{choice.name}: {value.method}", labels=labels)
        yield from (spec, replace(spec, method=f"{spec.method}; none", adapter="none", options={}))


def _by_camera(method: str, images: str, adapter: str = "adabn", by: str = "camera", **more) -> Spec:
    labels = {"adapted on": IMAGES[images], **more.pop("labels", {})}
    return Spec(f"{method}; {IMAGES[images]}", adapter=adapter, images=images, by=by, labels=labels, **more)


BY_CAMERA = (
    TABLE_2[1],
    _by_camera("BNTA", "gallery", "bnta", "place"),
    *(_by_camera(f"AdaBN{' by camera' * (by == 'camera')}", images, by=by)
      for by in ("place", "camera") for images in IMAGES),
    *(_by_camera("BNTA by camera", images, "bnta") for images in IMAGES),
    *(_by_camera(f"{name} by camera", "others", adapter, options=options) for name, adapter, options in (
        ("Tent", "tent", {}), ("alpha-BN 0.5", "alpha_bn", {"alpha": 0.5}))),
    *(_by_camera("features by camera", on, "none", "features") for on in IMAGES),
)


def few_images(images: str = "others") -> tuple[Spec, ...]:
    """AdaBN by camera on few images of each camera; 0: on all."""
    return (TABLE_2[1], *(_by_camera(f"{n or 'all'} images", images, N=n or None, labels={"x": n})
                          for n in (8, 16, 32, 64, 128, 0)))


def exchanged_cameras(images: str = "others") -> tuple[Spec, ...]:
    """AdaBN by camera with a share of the camera labels, in per cent, exchanged at random."""
    return (TABLE_2[1], *(_by_camera(f"{share} % exchanged", images, exchanged=share / 100,
                                     labels={"x": share}) for share in (0, 5, 10, 25, 50, 100)))


def steps_by_camera(settings: Settings, images: str = "others") -> tuple[Spec, ...]:
    """BNTA by camera in 1 to 16 steps (smoke: 1 and 2) for each, with both losses of Eq. (13) and without."""
    counts = (1, 2) if settings.profile == "smoke" else (1, 2, 4, 8, 16)
    return (TABLE_2[1], *(_by_camera(f"{n} step{'s' * (n > 1)}, {losses}", images, "bnta",
                                     options={"steps": n, **options}, labels={"x": n, "line": losses})
                          for losses, options in (("both losses", {}), ("no loss", {"losses": ()}))
                          for n in counts))


def misaligned_rows(settings: Settings) -> tuple[Spec, ...]:
    """Table 3's adaptions of each training on misaligned crops, all measured on such crops."""
    adaptions = {"none": {"adapter": "none"}, "pos+mat": {}}
    adaptions |= {"+".join(losses) or "no loss": {"options": {"losses": losses}}
                  for losses in (("pos",), ("mat",), ())}
    return tuple(Spec(f"tta {name}", training, **more) for training in trainings_of(settings, "misaligned")
                 for name, more in adaptions.items())


TABLES: dict[str, tuple[Table, ...]] = {
    "table_2": (Table(TABLE_2, trainings=True),),
    "table_3": (Table(TABLE_3, "VIPeR", trainings=True),),
    "table_4": (Table(TABLE_4, "GRID", trainings=True),),
    "table_5": (Table(TABLE_5["alone"], "GRID", trainings=True),),
    "table_5_restore": (Table(TABLE_5["restore"], "GRID", everywhere=False),),
    "figure_4": (Table(grid_specs, "GRID", seeds=1),),
    "open_choices": tuple(Table(tuple(_choice_rows(choice)), "GRID", choice.everywhere, seeds=1)
                          for choice in (*CHOICES.values(), AFFINE)),
    "by_camera": (Table(BY_CAMERA, trainings=True),),
    "few_images": (Table(few_images(), seeds=1),),
    "exchanged_cameras": (Table(exchanged_cameras(), seeds=1),),
    "steps_by_camera": (Table(lambda gallery, settings: steps_by_camera(settings), seeds=1),),
    "changes": (Table((Spec("BNTA"),), seeds=1, experiment="changes"),),
    "shift": (Table((Spec("BNTA"),), seeds=1, experiment="shift", splits=(0,)),),
    "camera_shift": (Table((TABLE_2[1],), experiment="camera_shift", splits=(0,)),),
}
