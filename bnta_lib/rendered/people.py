"""People: bodies, hair, clothes and bags, drawn at random and fixed by a person's number.

Everything comes from numpy's Philox generator keyed by (version, domain, person, camera, shot). A person
is therefore the same whatever else is rendered, and on every machine. The order of the draws is part of
the pixels: a new draw goes to the end of its table.
"""

import numpy as np

from bnta_lib.rendered.bank import load_bank
from bnta_lib.rendered.domains import COLOURS, Domain

VERSION = 1  # of the pixels: raise it if they change

# Kinds of pixel, an index into a person's palette.
(SKIN, HAIR, TOP, PRINT, INNER, LOWER, SHOE, SOLE, BAG, STRAP, HAT, STOCKING, BAND) = range(13)

# garment: sleeve (0 shoulder, 1 wrist), hem (rest height), chance to be open in front
TOPS = {
    "t-shirt": ((0.26, 0.42), (0.485, 0.53), 0.0), "shirt": ((0.30, 0.99), (0.48, 0.53), 0.15),
    "jumper": ((0.93, 1.0), (0.49, 0.54), 0.0), "jacket": ((0.96, 1.0), (0.46, 0.52), 0.5),
    "hoodie": ((0.95, 1.0), (0.47, 0.51), 0.3), "coat": ((0.97, 1.0), (0.22, 0.40), 0.35),
    "dress": ((0.0, 0.35), (0.20, 0.40), 0.0)}
# hem (rest height)
LOWERS = {"trousers": (0.03, 0.05), "jeans": (0.03, 0.05), "leggings": (0.05, 0.08), "shorts": (0.27, 0.37),
          "skirt": (0.14, 0.42)}
PATTERNS = ("stripes", "fine stripes", "plaid", "yoke", "sleeves", "logo", "band", "pinstripes")
# Weights of colours.
BAGS = {"black": 14, "charcoal": 6, "navy": 5, "brown": 5, "tan": 3, "red": 2, "grey": 4, "blue": 2,
        "beige": 2, "olive": 2, "burgundy": 2, "white": 1}
SHOES = {"black": 12, "brown": 5, "white": 5, "grey": 4, "navy": 2, "tan": 2, "red": 1, "blue": 1}
INNERS = {"white": 8, "light grey": 3, "black": 3, "grey": 3, "sky": 3, "red": 1, "navy": 1, "cream": 2}
PRINTS = {"white": 6, "black": 4, "light grey": 3, "charcoal": 2}
DENIMS = {"dark denim": 5, "denim": 5, "light denim": 2, "black": 2}
TIGHTS = {"black": 5, "charcoal": 2, "tan": 1}

Parameters = dict[str, np.ndarray]  # one row a person or an image


def generator(domain: Domain, number: int = 0) -> np.random.Generator:
    """Random numbers of what ``number`` (below 2**64) stands for in a domain."""
    return np.random.Generator(np.random.Philox(key=(VERSION << 72) | (domain.code << 64) | number))


class Draws:
    """Columns of uniform numbers (N, k), handed out one after the other."""

    def __init__(self, domain: Domain, keys: np.ndarray, columns: int):
        """``keys`` (N, 3): person, camera (0: none), shot (0: none)."""
        self.values = np.empty((len(keys), columns))
        for row, (person, camera, shot) in zip(self.values, keys.tolist(), strict=True):
            generator(domain, (person << 32) | (camera << 16) | shot).random(out=row)
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


def people(domain: Domain, ids: np.ndarray) -> Parameters:
    """Draw what the people with these numbers look like: one row a person, in every shot the same."""
    draw, p = Draws(domain, np.stack([ids, 0 * ids, 0 * ids], 1), 240), {}
    woman, skin, hair = _draw_bodies(domain, draw, p)
    top, lower = _draw_garments(domain, draw, p, woman)
    _draw_details(domain, draw, p, woman, is_coat=top == "coat")
    p["palette"] = _draw_palette(domain, draw, skin, hair, woman, in_jeans=lower == "jeans")
    return p


def _draw_bodies(domain: Domain, draw: Draws, p: Parameters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shape, width, height and length of hair; returns women, and colours (N, 3) of skin and hair."""
    shapes = load_bank().shapes
    kinds = [(s.gender, s.age == "old", s.build == "heavy") for s in shapes]
    weights = []
    for gender, old, heavy in kinds:
        weight = domain.children if gender == "child" else (1 - domain.children) * (
            domain.women if gender == "woman" else 1 - domain.women) * (
            domain.old if old else (1 - domain.old) * (domain.heavy if heavy else 1 - domain.heavy))
        weights.append(weight / kinds.count((gender, old, heavy)))
    shape = draw.choice(weights)
    p["shape"], p["width"] = shape, 1 + draw.normal(0.04)
    p["metres"] = np.array([s.height_m for s in shapes])[shape]
    woman = np.array([s.gender == "woman" for s in shapes])[shape]
    old = np.array([s.age == "old" for s in shapes])[shape]
    tone = draw.uniform(*domain.tone)[:, None]
    skin = (1 - tone) * np.array((0.86, 0.68, 0.58)) + tone * np.array((0.30, 0.19, 0.14))
    dark = np.array((0.07, 0.06, 0.06)) + draw.uniform(0, 0.09)[:, None] * np.array((1, 0.75, 0.5))
    fair = np.array(((0.60, 0.48, 0.30), (0.40, 0.26, 0.16), (0.55, 0.54, 0.53)))
    fair = fair[draw.choice((3, 4, 2))] * draw.uniform(0.8, 1.1)[:, None]
    hair = np.where((draw.chance(domain.fair) | (old & draw.chance(0.7)))[:, None], fair, dark)
    bald = ~woman & draw.chance(0.06)
    long_hair = draw.chance(np.where(woman, 0.62, 0.04)) & ~bald
    p["hair_end"] = np.where(long_hair, draw.uniform(0.70, 0.83), 2.0)  # rest height it falls to
    return woman, skin, np.where(bald[:, None], skin, hair)


def _draw_garments(domain: Domain, draw: Draws, p: Parameters, woman: np.ndarray) -> tuple:
    """Where garments begin and end; returns the names (N,) of tops and lowers."""
    names = np.array(list(TOPS))
    top = names[draw.choice([domain.garments.get(name, 0) for name in TOPS])]
    top = np.where((top == "dress") & ~woman, "shirt", top)
    is_coat, is_dress = top == "coat", top == "dress"
    row = np.array([(*TOPS[name][0], *TOPS[name][1], TOPS[name][2]) for name in top.tolist()])
    sleeved = (top != "shirt") | draw.chance(0.4)
    p["sleeve"] = np.where(sleeved, draw.uniform(*row[:, :2].T), 0.99)
    p["hem"] = draw.uniform(*row[:, 2:4].T)
    p["open"] = np.where(draw.chance(row[:, 4]), draw.uniform(0.14, 0.36), 0.0)
    collared = np.isin(top, ("shirt", "jacket", "coat"))
    p["neckline"] = np.where(collared, draw.uniform(0.75, 0.82), draw.uniform(0.79, 0.87))
    p["scarf"] = draw.chance(np.where(is_coat | (top == "hoodie"), 0.7, 0.05)) * 1.0
    lower = np.array(list(LOWERS))[draw.choice([domain.legs.get(name, 0) for name in LOWERS])]
    lower = np.where((lower == "skirt") & ~woman, "trousers", lower)
    leg_end = draw.uniform(*np.array([LOWERS[name] for name in lower.tolist()]).T)
    is_skirt = (lower == "skirt") & ~is_dress
    p["cloth_end"] = np.select([is_coat | is_dress, is_skirt], [p["hem"], leg_end], 2.0)
    p["cloth_is_top"] = (is_coat | is_dress) * 1.0
    p["leg_end"] = np.where(is_dress | is_skirt, 2.0, leg_end)
    return top, lower


def _draw_details(domain: Domain, draw: Draws, p: Parameters, woman: np.ndarray, is_coat: np.ndarray) -> None:
    """Prints of the top, folds of the cloth, bags, hats and boots."""
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


def _draw_palette(domain: Domain, draw: Draws, skin: np.ndarray, hair: np.ndarray, woman: np.ndarray,
                  in_jeans: np.ndarray) -> np.ndarray:
    """Colours (N, 13, 3) of the kinds of pixel."""
    main, second = draw.colour(domain.tops), draw.colour(domain.tops)
    plainer = draw.colour(PRINTS, 0.08)
    second = np.where(draw.chance(0.6)[:, None], plainer, second)
    near = np.abs(second - main) @ np.ones(3) < 0.35  # a print must be seen
    shifted = main + np.where(main.sum(1) > 1.3, -0.4, 0.4)[:, None]
    second = np.where(near[:, None], np.clip(shifted, 0.05, 0.9), second)
    inner = draw.colour(INNERS)
    cloth, bag, shoe = draw.colour(domain.lowers), draw.colour(BAGS), draw.colour(SHOES)
    cloth = np.where(in_jeans[:, None], draw.colour(DENIMS), cloth)
    tights = (woman & draw.chance(0.4))[:, None]
    stocking = np.where(tights, draw.colour(TIGHTS), skin)
    cap, sole = draw.colour(domain.tops), np.clip(shoe * 0.5 + 0.2 * draw.uniform()[:, None], 0, 1)
    scarf = np.where(draw.chance(0.5)[:, None], main, second)
    colours = {SKIN: skin, HAIR: hair, TOP: main, PRINT: second, INNER: inner, LOWER: cloth, SHOE: shoe,
               SOLE: sole, BAG: bag, STRAP: bag * 0.8, HAT: cap, STOCKING: stocking, BAND: scarf}
    return np.stack([colours[kind] for kind in range(13)], 1)
