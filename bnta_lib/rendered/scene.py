"""Who is in a picture and how it is taken: all random parameters of people, cameras and shots.

Everything comes from numpy's Philox generator keyed by (version, domain, person, camera, shot), so
that a person or a shot is the same whatever else is rendered, and on every machine. Sines, powers
and the like are computed here in float64 and rounded; `render` makes pixels of the parameters.

All arrays have one row a person or an image.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
from bnta_lib.rendered import bank as body_bank
from bnta_lib.rendered import places
from bnta_lib.rendered.domains import COLOURS, Domain

VERSION = 1  # of the pixels: a change to them needs a new number here
NOISE_LENGTH = 1 << 18  # of the fixed noise that pictures take slices of

# Kinds of pixel, an index into a person's palette.
(SKIN, HAIR, TOP, PRINT, INNER, LOWER, SHOE, SOLE, BAG, STRAP, HAT, STOCKING, BAND) = range(13)

# garment: sleeve (0 shoulder, 1 wrist), hem (rest height), chance to be open in front
TOPS = {
    "t-shirt": ((0.26, 0.42), (0.485, 0.53), 0.0), "shirt": ((0.30, 0.99), (0.48, 0.53), 0.15),
    "jumper": ((0.93, 1.0), (0.49, 0.54), 0.0), "jacket": ((0.96, 1.0), (0.46, 0.52), 0.5),
    "hoodie": ((0.95, 1.0), (0.47, 0.51), 0.3), "coat": ((0.97, 1.0), (0.22, 0.40), 0.35),
    "dress": ((0.0, 0.35), (0.20, 0.40), 0.0),
}  # fmt: skip
LOWERS = {  # hem (rest height)
    "trousers": (0.03, 0.05), "jeans": (0.03, 0.05), "leggings": (0.05, 0.08),
    "shorts": (0.27, 0.37), "skirt": (0.14, 0.42),
}
PATTERNS = ("stripes", "fine stripes", "plaid", "yoke", "sleeves", "logo", "band", "pinstripes")


# ---------------------------------------------------------------- random parameters


class Draws:
    """Columns of uniform numbers (N, k), handed out one after the other."""

    def __init__(self, domain: Domain, keys: np.ndarray, columns: int):
        """``keys`` (N, 3): person, camera (0: none), shot (0: none)."""
        self.values = np.empty((len(keys), columns))
        for row, (person, camera, shot) in zip(self.values, keys.tolist(), strict=True):
            key = (VERSION << 72) | (domain.code << 64) | (person << 32) | (camera << 16) | shot
            np.random.Generator(np.random.Philox(key=key)).random(out=row)
        self.next = 0

    def uniform(self, low=0.0, high=1.0) -> np.ndarray:
        self.next += 1
        return low + (high - low) * self.values[:, self.next - 1]

    def normal(self, deviation: float = 1.0) -> np.ndarray:
        """Bell-shaped within 3 deviations: the sum of three uniform numbers."""
        return (self.uniform() + self.uniform() + self.uniform() - 1.5) * (2 * deviation)

    def chance(self, probability) -> np.ndarray:
        return self.uniform() < probability

    def choice(self, weights) -> np.ndarray:
        """Index drawn by weight."""
        steps = np.cumsum(np.asarray(weights, float))
        return np.searchsorted(steps, self.uniform() * steps[-1], side="right")

    def colour(self, weights: dict[str, float], spread: float = 0.14) -> np.ndarray:
        """Cloth (N, 3) in 0..1: a named colour in a person's own shade."""
        named = np.array([COLOURS[name] for name in weights], float) / 255
        rgb = named[self.choice(list(weights.values()))]
        shade = 1 + self.normal(spread)
        tint = np.stack([self.normal(0.025) for _ in range(3)], 1)
        return np.clip(rgb * shade[:, None] + tint * (0.3 + rgb), 0.05, 0.92)


def people(domain: Domain, ids: np.ndarray) -> dict[str, np.ndarray]:
    """What the people with these numbers look like: one row a person, in every shot the same."""
    bank = body_bank.load_bank()
    draw = Draws(domain, np.stack([ids, 0 * ids, 0 * ids], 1), 240)
    kinds = [(s.gender, s.age == "old", s.build == "heavy") for s in bank.shapes]
    weights = [
        (domain.children if gender == "child" else (1 - domain.children) * (
            domain.women if gender == "woman" else 1 - domain.women)
         * (domain.old if old else (1 - domain.old) * (
             domain.heavy if heavy else 1 - domain.heavy)))
        / kinds.count((gender, old, heavy)) for gender, old, heavy in kinds]  # fmt: skip
    shape = draw.choice(weights)
    woman = np.array([s.gender == "woman" for s in bank.shapes])[shape]
    old = np.array([s.age == "old" for s in bank.shapes])[shape]
    p: dict[str, np.ndarray] = {"shape": shape, "width": 1 + draw.normal(0.04)}

    tone = draw.uniform(*domain.tone)[:, None]
    skin = (1 - tone) * np.array((0.86, 0.68, 0.58)) + tone * np.array((0.30, 0.19, 0.14))
    dark = np.array((0.07, 0.06, 0.06)) + draw.uniform(0, 0.09)[:, None] * np.array((1, 0.75, 0.5))
    fair = np.array(((0.60, 0.48, 0.30), (0.40, 0.26, 0.16), (0.55, 0.54, 0.53)))
    fair = fair[draw.choice((3, 4, 2))] * draw.uniform(0.8, 1.1)[:, None]
    hair = np.where((draw.chance(domain.fair) | (old & draw.chance(0.7)))[:, None], fair, dark)
    bald = ~woman & draw.chance(0.06)
    hair = np.where(bald[:, None], skin, hair)
    long_hair = draw.chance(np.where(woman, 0.62, 0.04)) & ~bald
    p["hair_end"] = np.where(long_hair, draw.uniform(0.70, 0.83), 2.0)  # rest height it falls to

    names, table = list(TOPS), np.array([(*s, *h, o) for s, h, o in TOPS.values()])
    top = draw.choice([domain.garments.get(name, 0) for name in names])
    top = np.where((top == names.index("dress")) & ~woman, names.index("shirt"), top)
    row, is_coat, is_dress = table[top], top == names.index("coat"), top == names.index("dress")
    short = (top != names.index("shirt")) | draw.chance(0.4)
    p["sleeve"] = np.where(short, row[:, 0] + draw.uniform() * (row[:, 1] - row[:, 0]), 0.99)
    p["hem"] = row[:, 2] + draw.uniform() * (row[:, 3] - row[:, 2])
    p["open"] = np.where(draw.chance(row[:, 4]), draw.uniform(0.14, 0.36), 0.0)
    collared = np.isin(top, [names.index(k) for k in ("shirt", "jacket", "coat")])
    p["neckline"] = np.where(collared, draw.uniform(0.75, 0.82), draw.uniform(0.79, 0.87))
    p["scarf"] = draw.chance(np.where(is_coat | (top == names.index("hoodie")), 0.7, 0.05)) * 1.0
    lowers = list(LOWERS)
    lower = draw.choice([domain.legs.get(name, 0) for name in lowers])
    lower = np.where((lower == lowers.index("skirt")) & ~woman, 0, lower)
    span = np.array(list(LOWERS.values()))[lower]
    p["leg_end"] = span[:, 0] + draw.uniform() * (span[:, 1] - span[:, 0])
    is_skirt = (lower == lowers.index("skirt")) & ~is_dress
    p["cloth_end"] = np.select([is_coat | is_dress, is_skirt], [p["hem"], p["leg_end"]], 2.0)
    p["cloth_is_top"] = (is_coat | is_dress) * 1.0
    p["leg_end"] = np.where(is_dress | is_skirt, 2.0, p["leg_end"])

    pattern = np.where(draw.chance(domain.patterns), draw.choice((4, 3, 3, 3, 3, 5, 3, 1)), -1)
    pattern = np.where(is_coat & (pattern > 1), -1, pattern)
    is_ = {name: pattern == k for k, name in enumerate(PATTERNS)}
    rows = is_["stripes"] | is_["fine stripes"] | is_["plaid"]
    columns = is_["plaid"] | is_["pinstripes"]
    p["rows_per_height"] = np.where(is_["fine stripes"], draw.uniform(36, 48), draw.uniform(12, 26))
    p["columns_per_side"] = draw.uniform(2, 4) * np.where(is_["pinstripes"], 1.6, 1.0)
    p["row_share"] = np.where(rows, draw.uniform(0.3, 0.6), 0.0)
    p["column_share"] = np.where(columns, draw.uniform(0.3, 0.55), 0.0)
    p["print"] = np.where(is_["plaid"], 0.55, draw.uniform(0.7, 1.0))
    p["yoke"] = np.where(is_["yoke"], draw.uniform(0.68, 0.76), 9.0)
    p["sleeve_print"] = is_["sleeves"] * 1.0
    p["band_top"] = np.where(is_["band"], draw.uniform(0.68, 0.75), 0.0)
    p["band_low"] = p["band_top"] - draw.uniform(0.04, 0.09)
    p["logo_x"] = np.where(is_["logo"], draw.uniform(0.18, 0.5), 0.0)
    p["logo_y"] = draw.uniform(0.02, 0.05)
    p["fold"] = draw.uniform(0.05, 0.14)
    p["seed"] = np.floor(draw.uniform(0, 4096))

    backpack = draw.chance(domain.backpack)
    side = np.where(draw.chance(0.5), 1.0, -1.0)
    shoulder = draw.chance(domain.shoulder_bag) & ~backpack
    p["backpack"] = np.where(backpack, draw.uniform(0.75, 1.15), 0.0)  # size
    p["straps"] = backpack * 1.0
    p["sling"] = np.where(shoulder, side, 0.0)  # hip it hangs at: +1 left, -1 right
    p["sling_cross"] = draw.chance(0.6) * 1.0
    p["sling_size"] = draw.uniform(0.7, 1.25)
    p["carried"] = np.where(draw.chance(domain.hand_bag), -side, 0.0)
    p["carried_size"] = draw.uniform(0.7, 1.3)
    hat = draw.chance(domain.hat)
    p["hat_end"] = np.where(hat, draw.uniform(0.94, 0.96), 2.0)
    p["boot_end"] = np.where(draw.chance(np.where(woman, 0.3, 0.02)), draw.uniform(0.1, 0.24), 0.0)

    bags = {"black": 14, "charcoal": 6, "navy": 5, "brown": 5, "tan": 3, "red": 2, "grey": 4,
            "blue": 2, "beige": 2, "olive": 2, "burgundy": 2, "white": 1}
    shoes = {"black": 12, "brown": 5, "white": 5, "grey": 4, "navy": 2, "tan": 2, "red": 1,
             "blue": 1}
    main, second = draw.colour(domain.tops), draw.colour(domain.tops)
    plainer = draw.colour({"white": 6, "black": 4, "light grey": 3, "charcoal": 2}, 0.08)
    second = np.where(draw.chance(0.6)[:, None], plainer, second)
    near = np.abs(second - main) @ np.ones(3) < 0.35  # a print must be seen
    second = np.where(near[:, None], np.clip(main + np.where(main.sum(1) > 1.3, -0.4, 0.4)[:, None],
                                              0.05, 0.9), second)
    inner = draw.colour({"white": 8, "light grey": 3, "black": 3, "grey": 3, "sky": 3, "red": 1,
                         "navy": 1, "cream": 2})
    cloth, bag, shoe = draw.colour(domain.lowers), draw.colour(bags), draw.colour(shoes)
    denim = draw.colour({"dark denim": 5, "denim": 5, "light denim": 2, "black": 2})
    cloth = np.where((lower == lowers.index("jeans"))[:, None], denim, cloth)
    tights = (woman & draw.chance(0.4))[:, None]
    stocking = np.where(tights, draw.colour({"black": 5, "charcoal": 2, "tan": 1}), skin)
    cap, sole = draw.colour(domain.tops), np.clip(shoe * 0.5 + 0.2 * draw.uniform()[:, None], 0, 1)
    scarf = np.where(draw.chance(0.5)[:, None], main, second)
    palette = [None] * 13
    for kind, colour in ((SKIN, skin), (HAIR, hair), (TOP, main), (PRINT, second), (INNER, inner),
                         (LOWER, cloth), (SHOE, shoe), (SOLE, sole), (BAG, bag), (STRAP, bag * 0.8),
                         (HAT, cap), (STOCKING, stocking), (BAND, scarf)):
        palette[kind] = colour
    p["palette"] = np.stack(palette, 1)
    return p


@dataclass(frozen=True)
class CameraSetting:
    """One camera of a domain: its plates, where it looks, and what it does to colours."""

    plates: tuple[places.Plate, ...]
    azimuth: float
    steep: bool
    light: np.ndarray  # (3,) direction to the light: image right, up, towards the camera
    sun: float
    gain: np.ndarray  # (3,)
    exposure: float
    gamma: float
    contrast: float
    haze: float
    haze_colour: np.ndarray
    saturation: float
    resolution: float
    blur: float
    noise: float
    quality: float


@functools.cache
def cameras(domain: Domain) -> tuple[CameraSetting, ...]:
    """The cameras of a domain, in order."""
    settings = []
    for c in range(domain.cameras):
        rng = np.random.Generator(np.random.Philox(key=(VERSION << 72) | (domain.code << 64) | c))
        steep = bool(rng.random() < domain.steep)
        low, high = domain.camera_height
        middle = (low + high) / 2
        height = rng.uniform(middle, high) if steep else rng.uniform(low, middle)
        light = np.array((rng.uniform(-0.7, 0.7), rng.uniform(0.4, 0.8), rng.uniform(0.2, 0.6)))
        light /= np.sqrt(light[0] * light[0] + light[1] * light[1] + light[2] * light[2])
        value = {name: rng.uniform(*getattr(domain, name)) for name in (
            "sun", "exposure", "gamma", "contrast", "haze", "saturation", "resolution", "blur",
            "noise", "quality")}
        settings.append(CameraSetting(
            plates=tuple(places.draw(domain.places[(c + k) % len(domain.places)], height, rng)
                         for k in range(domain.sites)),
            azimuth=domain.azimuths[c % len(domain.azimuths)], steep=steep, light=light,
            gain=np.array(domain.gain) * (1 + rng.uniform(-domain.cast, domain.cast, 3)),
            haze_colour=np.array(domain.haze_colour) / 255, **value))  # fmt: skip
    return tuple(settings)


def neutral(camera: CameraSetting) -> CameraSetting:
    """The same camera in the same place with true colours and a sharp, noiseless picture."""
    return replace(camera, gain=np.ones(3), exposure=1.0, gamma=1.0, contrast=1.0, haze=0.0,
                   saturation=1.0, resolution=1.0, blur=0.06, noise=0.0, quality=98.0)


@dataclass(frozen=True)
class MapFrames:
    """Where the body is in each of the bank's maps (M,), in pixels of the map."""

    top: np.ndarray  # first row
    tall: np.ndarray  # rows from crown to soles
    middle: np.ndarray  # column
    shoulders: np.ndarray  # first row of the torso
    torso: np.ndarray  # rows from there to the waist
    hand_row: np.ndarray  # (M, 2), left and right; -99 where hidden
    hand_col: np.ndarray


@functools.cache
def map_frames() -> MapFrames:
    """The frames of all maps of the bank, in the order of `map_number`."""
    part = body_bank.load_bank().part.numpy().reshape(-1, body_bank.HEIGHT, body_bank.WIDTH)

    def extent(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return mask.argmax(1).astype(float), mask.shape[1] - mask[:, ::-1].argmax(1).astype(float)

    top, end = extent((part > 0).any(2))
    torso = part == body_bank.PART["torso"]
    shoulders, waist = extent(torso.any(2))
    left, right = extent(torso.any(1))
    rows, cols = [], []
    for side in "lr":
        hand = part == body_bank.PART[f"hand_{side}"]
        (_, low), (first, last) = extent(hand.any(2)), extent(hand.any(1))
        seen = hand.any((1, 2))
        rows.append(np.where(seen, low, -99.0))
        cols.append(np.where(seen, (first + last) / 2, -99.0))
    return MapFrames(top, end - top, (left + right) / 2, shoulders, waist - shoulders,
                     np.stack(rows, 1), np.stack(cols, 1))


def map_number(shape: np.ndarray, pose: np.ndarray, view: np.ndarray, elevation) -> np.ndarray:
    """Place of a map in the bank's flattened order."""
    _, poses, views, elevations = body_bank.load_bank().part.shape[:4]
    return ((shape * poses + pose) * views + view) * elevations + elevation


def shots(domain: Domain, ids: np.ndarray, cams: np.ndarray, numbers: np.ndarray,
          who: dict[str, np.ndarray], stranger: dict[str, np.ndarray], photometric: bool = True,
          ) -> dict[str, np.ndarray]:  # fmt: skip
    """How each image is taken: pose, view, place in the plate, box, company, camera.

    ``ids``, ``cams`` (from 0), ``numbers`` (N,); ``who`` and ``stranger`` are rows of `people`.
    Shots of one person by one camera are a track: much the same place, light and direction.
    """
    bank, frames = body_bank.load_bank(), map_frames()
    track = Draws(domain, np.stack([ids, cams + 1, 0 * ids], 1), 16)
    draw = Draws(domain, np.stack([ids, cams + 1, numbers + 1], 1), 64)
    walk = Draws(domain, np.stack([ids, 0 * ids, 0 * ids + 1], 1), 4) if domain.same_walk else track
    settings = cameras(domain) if photometric else tuple(map(neutral, cameras(domain)))

    def of(name: str) -> np.ndarray:
        return np.array([getattr(settings[c], name) for c in cams.tolist()], float)

    direction = np.where(walk.chance(0.5), 180.0, 0.0) + walk.normal(domain.wander)
    angle = direction + of("azimuth") + track.normal(6) + draw.normal(10)
    steps = len(bank.views_deg)
    view = np.mod(np.floor(angle / 360 * steps + 0.5), steps).astype(int)
    walking = np.array([k for k, phase in enumerate(bank.phases) if phase is not None])
    standing = np.array([k for k, phase in enumerate(bank.phases) if phase is None])
    pose = np.where(track.chance(0.12), standing[draw.choice(np.ones(len(standing)))],
                    walking[draw.choice(np.ones(len(walking)))])
    steep = of("steep").astype(int)
    turns = np.rint(1e6 * np.array([f(np.radians(bank.views_deg)) for f in (np.cos, np.sin)])) / 1e6
    s = {"map": map_number(who["shape"], pose, view, steep),
         "cos": turns[0, view], "sin": turns[1, view]}

    # Where the person stands: plate rows, so that size follows from perspective.
    site = track.choice(np.ones(domain.sites))
    plates = [settings[c].plates[k] for c, k in zip(cams.tolist(), site.tolist(), strict=True)]
    horizon, height = np.array([(p.horizon, p.height) for p in plates]).T
    nearest, wall = places.ROWS - 8.0, np.array([p.wall for p in plates])
    furthest = np.maximum(wall + 6, horizon + 0.5 * (nearest - horizon))
    foot = furthest + (nearest - furthest) * (0.85 * track.uniform() + 0.15 * draw.uniform())
    side = 60 + (places.COLS - 120) * (0.9 * track.uniform() + 0.1 * draw.uniform())
    metre = (foot - horizon) / height  # plate pixels
    tall = np.array([shape.height_m for shape in bank.shapes])
    s["foot_row"], s["foot_col"] = foot, side
    s["scale"] = metre * tall[who["shape"]] / frames.tall[s["map"]]  # plate pixels a map pixel
    s["plate"] = cams * domain.sites + site

    # The box around the person, in pixels of its map.
    box = frames.tall[s["map"]] / 0.9 * (1 + draw.normal(domain.zoom))
    cut = np.where(draw.chance(domain.cut), draw.uniform(0.72, 0.95), 1.0)
    top = frames.top[s["map"]] - 0.05 * box + draw.normal(domain.shift) * box
    wide = 0.5 * box * (1 + draw.normal(domain.stretch)) / who["width"]
    s["box_row"], s["box_rows"] = top, box * cut
    s["box_col"] = frames.middle[s["map"]] - wide / 2 + draw.normal(domain.shift) * wide
    s["box_cols"] = wide

    # Others: behind (further away) or in front (nearer).
    other_view = np.floor(draw.uniform(0, steps)).astype(int)
    other_pose = np.floor(draw.uniform(0, len(bank.phases))).astype(int)
    s["other_map"] = map_number(stranger["shape"], other_pose, other_view, steep)
    s["other_cos"], s["other_sin"] = turns[0, other_view], turns[1, other_view]
    blocked = draw.chance(domain.occlusion)
    by_person = blocked & draw.chance(0.3)
    s["other"] = np.select([by_person, draw.chance(domain.passers_by)], [2, 1], 0)
    towards = np.where(draw.chance(0.5), 1.0, -1.0)
    behind = foot - (foot - furthest + 8) * draw.uniform(0.1, 0.9)
    s["other_row"] = np.where(s["other"] == 2, foot + draw.uniform(6, 22), behind)
    apart = np.where(s["other"] == 2, draw.uniform(0.32, 0.62), draw.uniform(0.25, 0.75))
    s["other_col"] = side + towards * apart * metre
    other_metre = (s["other_row"] - horizon) / height
    s["other_scale"] = other_metre * tall[stranger["shape"]] / frames.tall[s["other_map"]]

    # Things in front: a trolley case, a bench or a post; half width and height in metres.
    thing = np.where(blocked & ~by_person, draw.choice((4, 3, 2)), -1)
    s["thing"] = thing
    half, tall_m = np.array([(0.24, 0.62), (0.62, 0.55), (0.13, 9.0), (0, 0)])[thing].T
    s["thing_row"] = foot + draw.uniform(2, 14)
    s["thing_metre"] = (s["thing_row"] - horizon) / height
    s["thing_col"] = side + draw.normal(0.2) * metre
    s["thing_half"] = half * draw.uniform(0.8, 1.25)
    s["thing_tall"] = tall_m * draw.uniform(0.85, 1.3)
    s["thing_colour"] = draw.colour({"black": 5, "charcoal": 4, "grey": 4, "navy": 3, "brown": 2,
                                     "burgundy": 2, "light grey": 2, "red": 1})

    # The camera.
    s["sun"] = of("sun") * track.uniform(0.6, 1.2)
    jitter = 1 if photometric else 0
    s["exposure"] = of("exposure") * (1 + jitter * (track.normal(0.06) + draw.normal(0.02)))
    for name in ("light", "gain", "gamma", "contrast", "haze", "haze_colour", "saturation", "blur",
                 "noise"):
        s[name] = of(name)
    s["resolution"] = np.minimum(of("resolution") * (1 + jitter * draw.uniform(-0.1, 0.1)), 1.0)
    s["quality"] = of("quality") + jitter * draw.uniform(-8, 4)
    s["noise_at"] = np.floor(draw.uniform(0, NOISE_LENGTH - 3 * body_bank.HEIGHT * body_bank.WIDTH))
    return s


def tone_curves(s: dict[str, np.ndarray], levels: int = 512) -> np.ndarray:
    """Tables (N, 3, levels) from scene value to picture value, both 0..1 of display scale.

    Exposure and white balance act on linear light; then gamma, contrast about mid-grey, haze.
    """
    scene = (np.arange(levels) / (levels - 1))[None, None]
    linear = scene * scene * (s["exposure"][:, None] * s["gain"])[..., None]
    tone = np.minimum(linear, 1.0) ** (0.5 * s["gamma"])[:, None, None]
    tone = (tone - 0.45) * s["contrast"][:, None, None] + 0.45
    haze = s["haze"][:, None, None]
    tone = tone * (1 - haze) + haze * s["haze_colour"][..., None]
    return np.rint(np.clip(tone, 0, 1) * 8192) / 8192
