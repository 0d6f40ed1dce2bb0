"""How pictures are taken: cameras with their places, and the parameters of every shot.

As in `people`, all randomness is keyed by (version, domain, person, camera, shot). Sines, powers and the
like are computed here in float64 and rounded; `render` makes pixels of the parameters. All arrays have
one row an image.
"""

import functools

import numpy as np

from bnta_lib.rendered import bank as body_bank
from bnta_lib.rendered import places
from bnta_lib.rendered.domains import Domain
from bnta_lib.rendered.people import Draws, Parameters, generator

NOISE_LENGTH = 1 << 18  # of the fixed noise that pictures take slices of
LEVELS = 512  # of a tone curve
THING_COLOURS = {"black": 5, "charcoal": 4, "grey": 4, "navy": 3, "brown": 2, "burgundy": 2,
                 "light grey": 2, "red": 1}
# What a camera with true colours and a sharp, noiseless picture has, in the order of a camera's draws.
NEUTRAL = {"gain": 1.0, "exposure": 1.0, "gamma": 1.0, "contrast": 1.0, "haze": 0.0, "saturation": 1.0,
           "resolution": 1.0, "blur": 0.06, "noise": 0.0, "quality": 98.0}


@functools.cache
def cameras(domain: Domain) -> tuple[tuple[tuple[places.Plate, ...], ...], Parameters]:
    """The plates of each camera of a domain, and the cameras' parameters, a row a camera.

    azimuth, steep; light (3,), the direction to it (image right, up, towards the camera); sun; and what the
    camera does to colours and detail: see `domains.Domain`.
    """
    plates, rows = [], []
    for c in range(domain.cameras):
        rng = generator(domain, c)
        steep = bool(rng.random() < domain.steep)
        low, high = domain.camera_height
        middle = (low + high) / 2
        height = rng.uniform(middle, high) if steep else rng.uniform(low, middle)
        light = np.array((rng.uniform(-0.7, 0.7), rng.uniform(0.4, 0.8), rng.uniform(0.2, 0.6)))
        light /= np.sqrt(light[0] * light[0] + light[1] * light[1] + light[2] * light[2])
        row = {name: rng.uniform(*getattr(domain, name)) for name in ("sun", *NEUTRAL) if name != "gain"}
        plates.append(tuple(places.draw(domain.places[(c + k) % len(domain.places)], height, rng)
                            for k in range(domain.sites)))
        gain = np.array(domain.gain) * (1 + rng.uniform(-domain.cast, domain.cast, 3))
        rows.append({"azimuth": domain.azimuths[c % len(domain.azimuths)], "steep": steep, "light": light,
                     "gain": gain, "haze_colour": np.array(domain.haze_colour) / 255, **row})
    return tuple(plates), {name: np.array([row[name] for row in rows], float) for name in rows[0]}


@functools.cache
def map_frames() -> Parameters:
    """Where the body is in each of the bank's maps, a row a map in the order of `map_number`, in its pixels.

    top: first row; tall: rows from crown to soles; foot: their end; middle: column; shoulders: first row of
    the torso; torso: rows from there to the waist; hand_row, hand_col (2,): left and right, -99 if hidden.
    """
    part = body_bank.load_bank().part.numpy().reshape(-1, body_bank.HEIGHT, body_bank.WIDTH)

    def extent(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return mask.argmax(1).astype(float), mask.shape[1] - mask[:, ::-1].argmax(1).astype(float)

    top, end = extent((part > 0).any(2))
    torso = part == body_bank.PART["torso"]
    shoulders, waist = extent(torso.any(2))
    left, right = extent(torso.any(1))
    hands = []
    for side in "lr":
        hand = part == body_bank.PART[f"hand_{side}"]
        (_, low), (first, last) = extent(hand.any(2)), extent(hand.any(1))
        hands.append(np.where(hand.any((1, 2)), (low, (first + last) / 2), -99.0))
    return {"top": top, "tall": end - top, "foot": top + (end - top), "middle": (left + right) / 2,
            "shoulders": shoulders, "torso": waist - shoulders,
            **dict(zip(("hand_row", "hand_col"), np.stack(hands, 2)))}


def map_number(shape: np.ndarray, pose: np.ndarray, view: np.ndarray, elevation) -> np.ndarray:
    """Index of a map in the bank's flattened order."""
    return np.ravel_multi_index((shape, pose, view, elevation), body_bank.load_bank().part.shape[:4])


def shots(domain: Domain, ids: np.ndarray, cams: np.ndarray, numbers: np.ndarray, who: Parameters,
          stranger: Parameters, photometric: bool = True) -> Parameters:
    """Draw how each image is taken: pose, view, place in the plate, box, company, camera.

    ``ids``, ``cams`` (from 0), ``numbers`` (N,); ``who`` and ``stranger`` are rows of `people`.
    Shots of one person by one camera are a track: much the same place, light and direction.
    """
    track = Draws(domain, np.stack([ids, cams + 1, 0 * ids], 1), 16)
    draw = Draws(domain, np.stack([ids, cams + 1, numbers + 1], 1), 64)
    walk = Draws(domain, np.stack([ids, 0 * ids, 0 * ids + 1], 1), 4) if domain.same_walk else track
    plates, table = cameras(domain)
    taken = {name: value[cams] for name, value in table.items()}
    if not photometric:
        taken |= {name: np.full_like(taken[name], value) for name, value in NEUTRAL.items()}
    steep = taken.pop("steep").astype(int)
    s: Parameters = {}
    _draw_pose(domain, s, walk, track, draw, who, taken.pop("azimuth"), steep)
    _draw_place(domain, s, track, draw, cams, plates, who, stranger, steep)
    s |= taken
    s["sun"] = taken["sun"] * track.uniform(0.6, 1.2)
    jitter = 1 if photometric else 0
    s["exposure"] = taken["exposure"] * (1 + jitter * (track.normal(0.06) + draw.normal(0.02)))
    s["resolution"] = np.minimum(taken["resolution"] * (1 + jitter * draw.uniform(-0.1, 0.1)), 1.0)
    s["quality"] = taken["quality"] + jitter * draw.uniform(-8, 4)
    s["noise_at"] = np.floor(draw.uniform(0, NOISE_LENGTH - 3 * body_bank.HEIGHT * body_bank.WIDTH))
    s["curves"] = tone_curves(s)
    return s


@functools.cache
def _view_turns() -> np.ndarray:
    """Cosine and sine (2, V) of the bank's views."""
    views = np.radians(body_bank.load_bank().views_deg)
    return np.rint(1e6 * np.array([np.cos(views), np.sin(views)])) / 1e6


def _draw_pose(domain: Domain, s: Parameters, walk: Draws, track: Draws, draw: Draws, who: Parameters,
               azimuth: np.ndarray, steep: np.ndarray) -> None:
    """The body's map: which way the person goes, and in which pose."""
    bank = body_bank.load_bank()
    direction = np.where(walk.chance(0.5), 180.0, 0.0) + walk.normal(domain.wander)
    angle = direction + azimuth + track.normal(6) + draw.normal(10)
    steps = len(bank.views_deg)
    view = np.mod(np.floor(angle / 360 * steps + 0.5), steps).astype(int)
    poses = bank.part.shape[1]
    pose = np.where(track.chance(0.12), bank.walking + draw.choice(np.ones(poses - bank.walking)),
                    draw.choice(np.ones(bank.walking)))
    s["map"] = map_number(who["shape"], pose, view, steep)
    s["cos"], s["sin"] = _view_turns()[:, view]


def _draw_place(domain: Domain, s: Parameters, track: Draws, draw: Draws, cams: np.ndarray,
                plates: tuple[tuple[places.Plate, ...], ...], who: Parameters, stranger: Parameters,
                steep: np.ndarray) -> None:
    """Where the person stands, in plate rows, so that the size follows from perspective; box and company."""
    site = track.choice(np.ones(domain.sites))
    floors = [plates[c][k] for c, k in zip(cams.tolist(), site.tolist(), strict=True)]
    horizon, height, wall = np.array([(plate.horizon, plate.height, plate.wall) for plate in floors]).T
    nearest = places.ROWS - 8.0
    furthest = np.maximum(wall + 6, horizon + 0.5 * (nearest - horizon))

    def metre(row: np.ndarray) -> np.ndarray:
        """Pixels of a metre that stands on the floor at this row."""
        return (row - horizon) / height

    depth = 0.85 * track.uniform() + 0.15 * draw.uniform()
    foot = s["foot_row"] = furthest + (nearest - furthest) * depth
    s["foot_col"] = 60 + (places.COLS - 120) * (0.9 * track.uniform() + 0.1 * draw.uniform())
    tall, top, middle = (map_frames()[name][s["map"]] for name in ("tall", "top", "middle"))
    s["scale"] = metre(foot) * who["metres"] / tall  # plate pixels a map pixel
    s["plate"] = cams * domain.sites + site

    # The box, in pixels of the map.
    box = tall / 0.9 * (1 + draw.normal(domain.zoom))
    cut = np.where(draw.chance(domain.cut), draw.uniform(0.72, 0.95), 1.0)
    s["box_row"], s["box_rows"] = top - 0.05 * box + draw.normal(domain.shift) * box, box * cut
    wide = s["box_cols"] = 0.5 * box * (1 + draw.normal(domain.stretch)) / who["width"]
    s["box_col"] = middle - wide / 2 + draw.normal(domain.shift) * wide

    # Somebody else behind (1) or in front (2), or nobody (0).
    bank = body_bank.load_bank()
    view = np.floor(draw.uniform(0, len(bank.views_deg))).astype(int)
    pose = np.floor(draw.uniform(0, bank.part.shape[1])).astype(int)
    s["other_map"] = map_number(stranger["shape"], pose, view, steep)
    s["other_cos"], s["other_sin"] = _view_turns()[:, view]
    blocked = draw.chance(domain.occlusion)
    by_person = blocked & draw.chance(0.3)
    s["other"] = np.select([by_person, draw.chance(domain.passers_by)], [2, 1], 0)
    towards = np.where(draw.chance(0.5), 1.0, -1.0)
    behind = foot - (foot - furthest + 8) * draw.uniform(0.1, 0.9)
    s["other_row"] = np.where(s["other"] == 2, foot + draw.uniform(6, 22), behind)
    apart = np.where(s["other"] == 2, draw.uniform(0.32, 0.62), draw.uniform(0.25, 0.75))
    s["other_col"] = s["foot_col"] + towards * apart * metre(foot)
    tall = map_frames()["tall"][s["other_map"]]
    s["other_scale"] = metre(s["other_row"]) * stranger["metres"] / tall

    # A trolley case (0), a bench (1) or a post (2) in front, or nothing (-1).
    s["thing"] = np.where(blocked & ~by_person, draw.choice((4, 3, 2)), -1)
    half, tall = np.array([(0.24, 0.62), (0.62, 0.55), (0.13, 9.0), (0, 0)])[s["thing"]].T  # metres
    s["thing_row"] = foot + draw.uniform(2, 14)
    s["thing_metre"] = metre(s["thing_row"])
    s["thing_col"] = s["foot_col"] + draw.normal(0.2) * metre(foot)
    s["thing_half"] = half * draw.uniform(0.8, 1.25)
    s["thing_tall"] = tall * draw.uniform(0.85, 1.3)
    s["thing_colour"] = draw.colour(THING_COLOURS)


def tone_curves(s: Parameters) -> np.ndarray:
    """Tables (N, 3, LEVELS) from scene value to picture value, both 0..1 of display scale.

    Exposure and white balance act on linear light; then gamma, contrast about mid-grey, haze.
    """
    scene = (np.arange(LEVELS) / (LEVELS - 1))[None, None]
    linear = scene * scene * (s["exposure"][:, None] * s["gain"])[..., None]
    tone = np.minimum(linear, 1.0) ** (0.5 * s["gamma"])[:, None, None]
    tone = (tone - 0.45) * s["contrast"][:, None, None] + 0.45
    haze = s["haze"][:, None, None]
    tone = tone * (1 - haze) + haze * s["haze_colour"][..., None]
    return np.rint(np.clip(tone, 0, 1) * 8192) / 8192
