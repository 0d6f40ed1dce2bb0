"""The places cameras look at: a still picture ("plate") of floor, wall and things for each camera.

A plate is drawn once with numpy in float64 by + - * / and comparisons only, in metres on a ground
plane seen by a pinhole camera, and rounded to uint8, so that it is the same on every machine.
`render` cuts the background of an image out of it, where the person stands.
"""

from dataclasses import dataclass

import numpy as np

ROWS, COLS = 192, 512  # pixels of a plate
FOCAL = 420.0  # pixels

# Floors, walls and things that stand around in each kind of place; a camera takes one floor and one wall.
KINDS = {
    "campus path": ("paving asphalt grass", "brick trees panels", "bike lamp bin bench bollard"),
    "campus hall": ("lino tiles", "panels doors glass", "bench bin pillar board"),
    "shop front": ("paving bricks", "shop shop glass", "bike stall bin board bollard"),
    "winter campus": ("asphalt paving snow", "trees brick glass", "lamp car bin bollard"),
    "street": ("kerb paving asphalt", "shop brick road", "car lamp board bike bollard stall"),
    "film set": ("lino paving tiles", "doors shop panels", "pillar plant board bench"),
    "park road": ("asphalt grass kerb", "trees brick road", "car lamp bench plant"),
    "underground": ("platform tiles", "station station panels", "pillar bench board bin"),
    "airport": ("glossy glossy tiles", "windows desks panels", "pillar seats board bin plant")}


@dataclass(frozen=True)
class Plate:
    """A camera's view without people."""

    pixels: np.ndarray  # uint8 (3, ROWS, COLS)
    horizon: float  # row at which the ground plane vanishes
    height: float  # of the camera over the ground, metres
    wall: float  # row at which the wall meets the floor


def draw(kind: str, camera_height: float, rng: np.random.Generator) -> Plate:
    """The plate of one camera in a place of this ``kind`` (a key of `KINDS`)."""
    floors, walls, things = map(str.split, KINDS[kind])
    near = 1.7 * rng.uniform(1.05, 1.2)  # a person at the lower edge fills most of the rows
    horizon = ROWS - 4 - camera_height / near * 150 * rng.uniform(0.9, 1.1)
    distance = rng.uniform(5.5, 9) + camera_height
    wall = float(np.clip(horizon + FOCAL * camera_height / distance, 36, 124))
    scene = _Scene(rng, horizon, camera_height, wall)
    scene.paint_wall(str(rng.choice(walls)))
    scene.paint_floor(str(rng.choice(floors)))
    for row in np.sort(rng.uniform(wall + 2, ROWS - 30, rng.integers(5, 9))):
        scene.put(str(rng.choice(things)), rng.uniform(0, COLS), float(row))
    pixels = (scene.lit() * 255 + 0.5).astype(np.uint8).transpose(2, 0, 1).copy()
    return Plate(pixels, horizon, camera_height, wall)


def value_noise(rng: np.random.Generator, rows: int, cols: int, cell: int) -> np.ndarray:
    """Smooth noise in -1..1 (rows, cols): random values every ``cell`` pixels, bilinear between."""
    grid = rng.uniform(-1, 1, (rows // cell + 2, cols // cell + 2))
    y, x = np.arange(rows) / cell, np.arange(cols) / cell
    i, j = y.astype(int), x.astype(int)
    u, v = (y - i)[:, None], (x - j)[None]
    top = grid[i][:, j] * (1 - v) + grid[i][:, j + 1] * v
    low = grid[i + 1][:, j] * (1 - v) + grid[i + 1][:, j + 1] * v
    return top * (1 - u) + low * u


class _Scene:
    """A picture being painted, with the geometry that turns pixels into metres."""

    def __init__(self, rng: np.random.Generator, horizon: float, height: float, wall: float):
        self.rng, self.horizon, self.height, self.wall = rng, horizon, height, wall
        self.rgb = np.zeros((ROWS, COLS, 3))
        self.row, self.col = np.mgrid[0:ROWS, 0:COLS].astype(float)
        below = np.maximum(self.row - horizon, 1.0)
        self.x = (self.col - COLS / 2) * height / below  # floor, metres to the right
        self.z = FOCAL * height / below  # floor, metres away
        self.wall_scale = (wall - horizon) / height  # pixels a metre, on the wall
        self.wx = self.col / self.wall_scale  # wall, metres to the right
        self.wy = (wall - self.row) / self.wall_scale  # wall, metres up
        self.rough = value_noise(rng, ROWS, COLS, 24) + 0.5 * value_noise(rng, ROWS, COLS, 7)
        self.grain = value_noise(rng, ROWS, COLS, 2)

    def grey(self, low: float, high: float, tint: float = 0.03) -> np.ndarray:
        """A nearly grey colour of random lightness, warmer or cooler, hardly ever greener."""
        warm, rest = self.rng.uniform(-tint, tint), self.rng.uniform(-tint, tint, 3)
        shade = self.rng.uniform(low, high)
        return shade + np.array((warm, 0.1 * warm, -warm)) + 0.25 * rest

    def fill(self, mask: np.ndarray, colour: np.ndarray, texture: np.ndarray | float = 0.0) -> None:
        shade = np.broadcast_to(1.0 + np.asarray(texture), mask.shape)[mask]
        self.rgb[mask] = np.asarray(colour) * shade[:, None]

    def paint_floor(self, kind: str) -> None:
        rng, floor = self.rng, self.row >= self.wall
        if kind == "grass":
            self.fill(floor, (0.30, 0.35, 0.20), 0.25 * self.rough + 0.3 * self.grain)
            path = floor & (np.abs(self.x - rng.uniform(-2, 2) - 0.1 * self.z) < rng.uniform(1, 3))
            self.fill(path, self.grey(0.48, 0.6), 0.06 * self.rough + 0.06 * self.grain)
        elif kind == "snow":
            self.fill(floor, (0.78, 0.80, 0.84), 0.10 * self.rough)
            path = floor & (np.abs(self.x - rng.uniform(-1, 1)) < rng.uniform(1.5, 3))
            self.fill(path, self.grey(0.40, 0.5), 0.15 * self.rough + 0.08 * self.grain)
        elif kind in ("asphalt", "kerb"):
            self.fill(floor, self.grey(0.34, 0.46), 0.10 * self.rough + 0.10 * self.grain)
            line = rng.uniform(-3, 3)
            self.fill(floor & (np.abs(self.x - line) < 0.07), (0.72, 0.72, 0.68), 0.1 * self.grain)
            if kind == "kerb":
                kerb = rng.uniform(5, 7) + 0.3 * self.x * rng.uniform(-1, 1)
                walk = floor & (self.z < kerb)
                self.tile(walk, self.grey(0.5, 0.62), 0.6, 0.6, 0.12)
                self.fill(floor & (np.abs(self.z - kerb) < 0.12), self.grey(0.62, 0.7))
        elif kind == "platform":
            self.tile(floor, self.grey(0.45, 0.58), 0.4, 0.4, 0.2)
            edge = rng.uniform(-2.6, 2.6)
            self.fill(floor & (np.abs(self.x - edge) < 0.25), (0.66, 0.55, 0.18), 0.1 * self.grain)
            side = (self.x > edge + 0.5) if edge > 0 else (self.x < edge - 0.5)
            self.fill(floor & side, (0.12, 0.12, 0.13), 0.3 * self.rough)
        else:
            size, joint, low, high, tint = {
                "paving": (0.5, 0.14, 0.46, 0.64, 0.03), "bricks": (0.25, 0.16, 0.42, 0.52, 0.05),
                "tiles": (0.6, 0.12, 0.52, 0.68, 0.03), "lino": (1.2, 0.05, 0.42, 0.58, 0.05),
                "glossy": (0.9, 0.07, 0.60, 0.72, 0.02)}[kind]
            self.tile(floor, self.grey(low, high, tint), size, size * rng.uniform(1, 2), joint)
            if kind in ("glossy", "lino", "tiles"):  # the floor mirrors the wall, fading downwards
                mirror = np.clip(2 * self.wall - self.row, 0, self.wall - 1).astype(int)
                seen = self.rgb[mirror, self.col.astype(int)]
                fade = (0.55 if kind == "glossy" else 0.25) * np.clip(
                    1 - (self.row - self.wall) / 90, 0, 1) * (1 + 0.2 * self.rough)
                mixed = self.rgb * (1 - fade[..., None]) + seen * fade[..., None]
                self.rgb = np.where(floor[..., None], mixed, self.rgb)

    def tile(self, mask, colour, width: float, depth: float, joint: float) -> None:
        """Slabs of ``width`` by ``depth`` metres; far joints blur away as they do in a lens."""
        i, j = np.floor(self.x / width), np.floor(self.z / depth)
        u, v = self.x / width - i, self.z / depth - j
        pixel = self.height / np.maximum(self.row - self.horizon, 1.0)  # metres a column
        gap = np.maximum(0.02, 0.6 * pixel)
        lines = (u * width < gap) | (v * depth < gap * 2.0 * self.z / FOCAL / pixel * 0.5)
        slab = np.mod(i * 0.37 + j * 0.61 + np.mod(i * j, 7) * 0.13, 1.0) - 0.5
        texture = 0.08 * slab + 0.06 * self.rough + 0.04 * self.grain - joint * lines
        self.fill(mask, colour, texture)

    def paint_wall(self, kind: str) -> None:
        if kind in ("trees", "road"):
            return self._paint_trees(kind == "road")
        rng, wall, x, y = self.rng, self.row < self.wall, self.wx, self.wy
        base = {
            "brick": np.array((0.43, 0.32, 0.26)) * rng.uniform(0.8, 1.25),
            "panels": self.grey(0.5, 0.75), "doors": self.grey(0.55, 0.72, 0.06),
            "glass": self.grey(0.35, 0.5), "shop": self.grey(0.4, 0.65, 0.06),
            "station": self.grey(0.62, 0.76, 0.04), "windows": self.grey(0.55, 0.65),
            "desks": self.grey(0.6, 0.75)}[kind]
        self.fill(wall, base, 0.05 * self.rough + 0.03 * self.grain)
        if kind in ("brick", "glass", "windows"):
            self._paint_panes(wall, base, kind)
        elif kind == "shop":
            for left in np.arange(0, x.max(), rng.uniform(3.4, 5)):
                sign, u = self.grey(0.2, 0.6, 0.18), x - left
                front = wall & (u > 0.15) & (u < 3.4)
                self.fill(front & (y > 0.45) & (y < 2.4), self.grey(0.12, 0.5), 0.5 * self.rough)
                for _ in range(8):  # what lies in the window
                    a, b = rng.uniform(0.2, 3.0), rng.uniform(0.5, 1.8)
                    goods = front & (np.abs(u - a) < 0.2) & (np.abs(y - b) < 0.28)
                    self.fill(goods, self.grey(0.15, 0.75, 0.12))
                self.fill(front & (y > 2.4) & (y < 3.1), sign)
                self.fill(front & (np.abs(u - rng.uniform(0.8, 2.6)) < 0.03) & (y < 2.4), base)
        elif kind == "station":
            lines = (np.mod(x, 0.3) < 0.03) | (np.mod(y, 0.2) < 0.025)
            self.fill(wall & lines, base * 0.85)
            self.fill(wall & (y > 2.2) & (y < 2.6), self.grey(0.2, 0.4, 0.12))
            for left in np.arange(rng.uniform(0, 2), x.max(), rng.uniform(2.5, 4)):
                poster = wall & (x > left) & (x < left + 1.4) & (y > 0.5) & (y < 2.1)
                self.fill(poster, self.grey(0.25, 0.7, 0.12), 0.5 * self.rough)
        elif kind == "panels":
            seams = (np.mod(x, rng.uniform(1, 2)) < 0.04) | (np.mod(y, 1.3) < 0.03)
            self.fill(wall & seams, base * 0.8)
            self.fill(wall & (y < rng.uniform(0.1, 1.0)), self.grey(0.3, 0.55, 0.06))
        elif kind == "doors":
            u = np.mod(x, rng.uniform(2.2, 3.4))
            self.fill(wall & (u < 1.0) & (y < 2.1), self.grey(0.25, 0.5, 0.08), 0.05 * self.rough)
            self.fill(wall & (np.abs(u - 0.5) < 0.5) & (np.abs(y - 2.1) < 0.04), base * 0.7)
            self.fill(wall & (y < 0.12), base * 0.5)
        else:  # desks
            self.fill(wall & (y < 1.1), self.grey(0.25, 0.5, 0.06))
            self.fill(wall & (np.abs(y - 1.1) < 0.05), (0.8, 0.8, 0.8))
            self.fill(wall & (y > 2.3) & (y < 3.0), self.grey(0.1, 0.35, 0.1), 0.2 * self.grain)

    def _paint_trees(self, road: bool) -> None:
        rng, wall, x, y = self.rng, self.row < self.wall, self.wx, self.wy
        self.fill(wall, (0.62, 0.66, 0.70), 0.08 * self.rough)
        leaves = wall & (self.rough + 0.5 * self.grain > -0.55 + 0.12 * np.maximum(y - 3, 0))
        green = np.array((0.22, 0.27, 0.16)) * rng.uniform(0.7, 1.5)
        self.fill(leaves, green, 0.45 * self.rough + 0.45 * self.grain)
        for trunk in rng.uniform(0, x.max(), 7):
            near = np.abs(x - trunk) < rng.uniform(0.08, 0.2)
            self.fill(wall & near, (0.22, 0.18, 0.14), 0.3 * self.grain)
        if road:
            self.fill(wall & (y < 0.8), self.grey(0.36, 0.45), 0.1 * self.grain)
            for car in rng.uniform(0, x.max(), 3):
                self.car(car, 0.1, self.grey(0.12, 0.75, 0.08))

    def _paint_panes(self, wall: np.ndarray, base: np.ndarray, kind: str) -> None:
        rng, x, y = self.rng, self.wx, self.wy
        if kind == "brick":
            course = np.floor(y / 0.16)
            lines = (np.mod(y, 0.16) < 0.035) | (np.mod(x + 0.2 * np.mod(course, 2), 0.4) < 0.04)
            self.fill(wall & lines, base * 1.25, 0.05 * self.rough)
        low, high, wide = {
            "brick": (0.9, 2.4, 3.2), "glass": (0.1, 3.2, 1.3), "windows": (0.5, 5.0, 1.9)}[kind]
        u = np.mod(x + rng.uniform(0, 3), wide)
        pane = wall & (y > low) & (y < high) & (u > (0.35 * wide if kind == "brick" else 0.1))
        light = {"brick": 0.22, "glass": rng.uniform(0.2, 0.5), "windows": 0.92}[kind]
        shade = (0.06 if kind == "windows" else 0.3) * self.rough
        self.fill(pane, light * np.array((0.95, 1.0, 1.05)), shade)
        self.fill(pane & (np.abs(u - 0.68 * wide) < 0.04), base)

    def put(self, thing: str, col: float, row: float) -> None:
        """A thing whose foot stands on the floor at (row, col)."""
        rng, scale = self.rng, (row - self.horizon) / self.height
        x, y = (self.col - col) / scale, (row - self.row) / scale
        size = {"lamp": (0.06, 5.0), "bollard": (0.07, 0.9), "bin": (0.25, 0.95),
                "pillar": (rng.uniform(0.2, 0.4), 6.0), "board": (0.5, 1.9), "stall": (0.9, 1.0),
                "plant": (0.4, 1.3), "bench": (0.9, 0.45), "seats": (1.3, 0.45)}.get(thing)
        if thing == "car":
            left, low = col / self.wall_scale, (self.wall - row) / self.wall_scale
            return self.car(left, low, self.grey(0.12, 0.75, 0.1))
        if thing == "bike":
            for wheel in (-0.5, 0.5):
                r = (x - wheel) * (x - wheel) + (y - 0.33) * (y - 0.33)
                self.fill((r < 0.11) & (r > 0.07), (0.1, 0.1, 0.1))
            frame = (np.abs(y - 0.55 - 0.2 * x) < 0.04) & (np.abs(x) < 0.55)
            return self.fill(frame, self.grey(0.15, 0.5, 0.15))
        half, height = size
        shade = np.clip(1 - 0.45 * np.abs(x) / half - 0.1 * (x / half), 0.3, 1) - 1
        self.fill((np.abs(x) < half * 1.3) & (np.abs(y) < 0.06), (0.16, 0.16, 0.17))  # its shadow
        body = (np.abs(x) < half) & (y >= 0) & (y < height)
        if thing == "board":  # a flat picture in a frame
            self.fill(body, (0.25, 0.25, 0.26))
            body &= (np.abs(x) < half - 0.05) & (y > 0.25) & (y < height - 0.05)
            shade = 0.6 * self.rough
        colour = {"plant": np.array((0.2, 0.3, 0.15)), "stall": self.grey(0.3, 0.6, 0.1),
                  "pillar": self.grey(0.45, 0.75), "board": self.grey(0.35, 0.75, 0.12)}.get(
                      thing, self.grey(0.15, 0.45, 0.06))
        if thing == "plant":
            body &= self.grain + self.rough > -0.5 + x * x
        self.fill(body, colour, shade if thing != "stall" else 0.3 * self.grain + 0.3 * self.rough)
        if thing in ("bench", "seats"):
            back = (np.abs(x) < half) & (y > height) & (y < 0.9) & (np.mod(x, 0.55) > 0.06)
            self.fill(back, colour * 1.3)
            under = body & (y < 0.38) & (np.mod(x, 0.8) > 0.08)
            self.fill(under, (0.3, 0.3, 0.3), 0.2 * self.rough)

    def car(self, x0: float, y0: float, colour: np.ndarray) -> None:
        x, y = self.wx - x0, self.wy - y0
        self.fill((np.abs(x) < 2.0) & (np.abs(y - 0.1) < 0.14), (0.14, 0.14, 0.15))  # its shadow
        self.fill((np.abs(x) < 2.1) & (y > 0.22) & (y < 0.85), colour, 0.25 * (y - 0.5))
        self.fill((np.abs(x + 0.2) + 0.8 * (y - 0.85) < 1.45) & (y >= 0.85) & (y < 1.42), colour)
        self.fill((np.abs(x + 0.2) + 0.8 * (y - 0.85) < 1.3) & (y >= 0.88) & (y < 1.34)
                  & (np.abs(x + 0.2) > 0.05), (0.2, 0.23, 0.26), 0.3 * self.rough)
        for wheel in (-1.3, 1.3):
            r = (x - wheel) * (x - wheel) + (y - 0.28) * (y - 0.28)
            self.fill(r < 0.08, (0.12, 0.12, 0.12))
            self.fill(r < 0.03, (0.45, 0.45, 0.46))

    def lit(self) -> np.ndarray:
        """The picture under uneven light: a gradient, and soft patches of shade."""
        slope = self.rng.uniform(-0.15, 0.15)
        patches = 0.10 * np.clip(value_noise(self.rng, ROWS, COLS, 60) * 3, -1, 1)
        light = 1 + slope * (self.col / COLS - 0.5) + patches
        rgb = self.rgb * light[..., None]
        for axis in (0, 1):  # a lens softens edges
            rgb = 0.5 * rgb + 0.25 * (np.roll(rgb, 1, axis) + np.roll(rgb, -1, axis))
        return np.clip(rgb, 0, 1)
