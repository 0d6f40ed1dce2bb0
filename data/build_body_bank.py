"""Build ``data/body_bank.bin``, the bank of rendered bodies behind the embedded benchmark.

The bodies come from `anny`, a parametric body on MakeHuman's assets (code Apache-2.0, assets
CC0, default topology only). This is the one place that needs `anny` and `numba`; the library
reads the finished bank and depends on neither::

    pip install --no-deps anny==0.6.2
    pip install numba roma trimesh safetensors pyyaml pillow requests
    python data/build_body_bank.py

Axes of a body: x to its left, y to its back, z up, in metres. The arithmetic is this script's
own from the rest mesh on: joint rotations, linear blend skinning, a pinhole camera, a z-buffer.
Building 12 shapes x 5 poses x 12 views x 2 elevations takes a minute on one core.
"""

import hashlib
import json
import lzma
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bnta_lib.rendered import bank as layout  # noqa: E402

HEIGHT, WIDTH = layout.HEIGHT, layout.WIDTH
SUPERSAMPLE = 4
DISTANCE = 6.0  # camera to the middle of the body, metres
DRAPE = 14  # rounds of smoothing of the trunk
FILL_HEIGHT, FILL_WIDTH = 0.92, 0.94  # of the map, whichever binds first

# name, gender (0 man, 1 woman), age (2/3 young adult, 1 old, 1/3 child), muscle, weight, height,
# proportions: anny's phenotype; then stride and arm swing relative to an average walker, and how
# much the hair adds to the head, metres.
SHAPES = (
    ("average man", 0, 0.67, 0.55, 0.50, 0.37, 0.5, 1.00, 1.0, 0.012),
    ("tall slim man", 0, 0.62, 0.40, 0.00, 0.46, 0.6, 1.05, 0.8, 0.018),
    ("broad man", 0, 0.70, 1.00, 0.70, 0.40, 0.6, 1.00, 1.1, 0.008),
    ("heavy man", 0, 0.80, 0.40, 1.35, 0.36, 0.2, 0.85, 0.8, 0.010),
    ("old man", 0, 0.97, 0.30, 0.65, 0.34, 0.3, 0.70, 0.6, 0.006),
    ("short man", 0, 0.68, 0.60, 0.40, 0.30, 0.4, 1.00, 1.2, 0.014),
    ("average woman", 1, 0.67, 0.45, 0.45, 0.41, 0.5, 0.95, 1.0, 0.022),
    ("slim woman", 1, 0.60, 0.35, 0.00, 0.43, 0.7, 1.00, 1.1, 0.026),
    ("heavy woman", 1, 0.76, 0.30, 1.30, 0.40, 0.2, 0.80, 0.7, 0.020),
    ("short old woman", 1, 0.97, 0.25, 0.75, 0.32, 0.2, 0.65, 0.6, 0.024),
    ("tall woman", 1, 0.66, 0.70, 0.45, 0.49, 0.7, 1.05, 0.9, 0.018),
    ("child", 0.5, 0.31, 0.45, 0.40, 0.42, 0.5, 0.95, 1.1, 0.016),
)
# Poses drawn: half a walking cycle, from the left heel's strike, and standing. The other half, and
# the other way to stand, are their mirror images; the library makes those when it loads the bank.
PHASES = (0.0, 0.125, 0.25, 0.375, None)
ELEVATIONS = (5.0, 20.0)

# A normal walking cycle, in degrees, at these fractions of it (0 = the heel strikes).
CYCLE = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
HIP = np.array([26, 23, 15, 6, -3, -10, -4, 12, 23, 27, 26])  # flexion
KNEE = np.array([4, 15, 14, 8, 5, 10, 36, 60, 48, 18, 4])  # flexion
ANKLE = np.array([0, -4, 3, 7, 9, 4, -14, -6, 1, 2, 0])  # toes up
TOES = np.array([8, 0, 0, 0, 6, 22, 24, 4, 0, 5, 8])  # bent up against the foot
CURL = 22  # of each joint of the fingers


@dataclass(frozen=True)
class Body:
    """A shape at rest: mesh, skeleton, and what every vertex is."""

    vertices: np.ndarray  # (V, 3) metres, soles at z = 0
    faces: np.ndarray  # (F, 3)
    weights: np.ndarray  # (V, B) skinning weights
    heads: np.ndarray  # (B, 3) joint of each bone
    parents: list[int]
    index: dict[str, int]
    part: np.ndarray  # (F,) uint8
    coordinates: np.ndarray  # (V, 7): x, y, z of the body, of the nearer arm, above the hair line
    height: float
    girth: float  # half width of the waist and hips, of the shoulder joints'


def rotation(axis: int, degrees: float) -> np.ndarray:
    """Right-handed rotation (3, 3) about the axis 0, 1 or 2."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def unit(vector: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) of length 1."""
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)


def bone_part(bone: str) -> str:
    """Part of the body that a bone of the rig moves, without the side of trunk and head."""
    name, _, side = bone.partition(".")
    side = f"_{side.lower()}" if side else ""
    for prefix, part in (
        ("upperleg", "thigh"),
        ("lowerleg", "shin"),
        ("foot", "foot"),
        ("toe", "foot"),
        ("upperarm", "upper_arm"),
        ("lowerarm", "forearm"),
        ("wrist", "hand"),
        ("finger", "hand"),
        ("metacarpal", "hand"),
    ):
        if name.startswith(prefix):
            return part + side
    if name.startswith("neck"):
        return "neck"
    if name in ("head", "eye"):
        return "face"
    return "pelvis" if name in ("root", "pelvis", "spine05") else "torso"


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted outward normals (V, 3)."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    total = np.zeros_like(vertices)
    for k in range(3):
        for axis in range(3):
            total[:, axis] += np.bincount(faces[:, k], face[:, axis], len(vertices))
    return unit(total)


def drape(vertices: np.ndarray, faces: np.ndarray, loose: np.ndarray) -> np.ndarray:
    """Smooth the mesh where `loose` (V,) is 1: cloth spans what the skin below it follows."""
    ends = np.concatenate([faces[:, [i, j]] for i in range(3) for j in range(3) if i != j])
    count = np.bincount(ends[:, 0], minlength=len(vertices))[:, None]
    for _ in range(DRAPE):
        total = np.stack(
            [np.bincount(ends[:, 0], vertices[ends[:, 1], k], len(vertices)) for k in range(3)], 1
        )
        vertices = vertices + 0.6 * loose[:, None] * (total / np.maximum(count, 1) - vertices)
    return vertices


def hair_line(front: np.ndarray) -> np.ndarray:
    """Height above which hair grows (0 chin, 1 crown) by depth (0 back of the head, 1 face)."""
    return np.interp(
        front, [0.0, 0.40, 0.50, 0.62, 0.68, 1.0], [0.12, 0.16, 0.30, 0.55, 0.72, 0.80]
    )


def rest_body(model, shape: tuple) -> Body:
    """The rest mesh of one shape, dressed in a few millimetres of cloth and hair."""
    keys = ("gender", "age", "muscle", "weight", "height", "proportions")
    phenotype = {key: float(value) for key, value in zip(keys, shape[1:7], strict=True)}
    identity = torch.eye(4).repeat(1, model.bone_count, 1, 1)
    with torch.no_grad():
        out = model(pose_parameters=identity, phenotype_kwargs=phenotype)
    vertices = out["rest_vertices"][0].double().numpy()
    heads = out["rest_bone_heads"][0].double().numpy()
    floor = vertices[:, 2].min()
    vertices, heads = vertices - [0, 0, floor], heads - [0, 0, floor]
    faces = np.asarray(model.faces, dtype=np.int64)
    weights = np.zeros((len(vertices), model.bone_count))
    rows = np.arange(len(vertices))[:, None]
    np.add.at(weights, (rows, model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy())
    weights /= weights.sum(1, keepdims=True)
    index = {name: k for k, name in enumerate(model.bone_labels)}

    names = layout.PARTS
    groups = np.zeros((model.bone_count, len(names)))
    for bone, k in index.items():
        groups[k, names.index(bone_part(bone))] = 1
    share = weights @ groups  # (V, parts)
    owner = share.argmax(1)
    height = vertices[:, 2].max()

    # Hair: by place on the head, which the rig does not tell.
    on_head = owner == names.index("face")
    head = vertices[on_head]
    low, high = head[:, 2].min(), head[:, 2].max()
    back, front = head[:, 1].max(), np.quantile(head[:, 1], 0.03)
    depth = (back - vertices[:, 1]) / (back - front)
    level = (vertices[:, 2] - low) / (high - low)
    above = level - hair_line(depth)
    hair = np.clip(above / 0.12, 0, 1) * on_head

    # Cloth, shoes and hair make the outline fuller than the naked body.
    trunk = share[:, [names.index("torso"), names.index("pelvis")]].sum(1)
    vertices = drape(vertices, faces, np.clip(2 * trunk - 1, 0, 1))
    cloth = {
        "torso": 0.012,
        "pelvis": 0.012,
        "thigh": 0.010,
        "shin": 0.009,
        "upper_arm": 0.006,
        "forearm": 0.004,
        "foot": 0.007,
        "neck": 0.002,
    }
    sideless = [name.removesuffix("_l").removesuffix("_r") for name in names]
    thickness = np.array([cloth.get(name, 0) for name in sideless])
    offset = (share @ thickness) * height / 1.7 + hair * shape[9]
    vertices = vertices + offset[:, None] * vertex_normals(vertices, faces)
    vertices[:, 2] -= vertices[:, 2].min()
    height = vertices[:, 2].max()

    waist = np.isin(owner, [names.index("torso"), names.index("pelvis")])
    waist &= np.abs(vertices[:, 2] / height - 0.6) < 0.08
    girth = np.abs(vertices[waist, 0]).max() / heads[index["upperarm01.L"], 0]
    face_owner = share[faces].sum(1).argmax(1)
    trunk = np.isin(face_owner, [names.index("torso"), names.index("pelvis")])
    face_owner[trunk] = names.index("torso")  # `draw` parts the pelvis from it, and hair from face

    # Coordinates for garments.
    shoulder = abs(heads[index["upperarm01.L"], 0]) * 1.15
    middle_y = heads[index["spine02"], 1]
    forward = (middle_y - vertices[:, 1]) / shoulder
    coordinates = np.stack([vertices[:, 0] / shoulder, vertices[:, 2] / height, forward], 1)
    arm = np.zeros_like(coordinates)
    for side, sign in (("L", 1.0), ("R", -1.0)):
        joints = heads[[index[f"{b}.{side}"] for b in ("upperarm01", "lowerarm01", "wrist")]]
        along, across = limb_coordinates(vertices, joints)
        mine = vertices[:, 0] * sign >= 0
        place = np.stack([sign * (1 + across[:, 0] / shoulder), along, across[:, 1] / shoulder], 1)
        arm[mine] = place[mine]
    coordinates = np.concatenate([coordinates, arm, above[:, None]], 1)
    return Body(
        vertices,
        faces,
        weights,
        heads,
        list(model.bone_parents),
        index,
        face_owner.astype(np.uint8),
        coordinates,
        float(height),
        float(girth),
    )


def limb_coordinates(points: np.ndarray, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place along a limb (0 first joint, 1 last) and across it (outwards, forwards), metres."""
    lengths = np.linalg.norm(np.diff(joints, axis=0), axis=1)
    outwards = np.sign(joints[0, 0])
    best = np.full(len(points), np.inf)
    along, across = np.zeros(len(points)), np.zeros((len(points), 2))
    for k in range(2):
        axis = unit(joints[k + 1] - joints[k])
        place = (points - joints[k]) @ axis
        clamped = np.clip(place, -np.inf if k == 0 else 0, np.inf if k == 1 else lengths[k])
        rest = points - joints[k] - clamped[:, None] * axis
        distance = np.linalg.norm(rest, axis=1)
        out = unit(np.array([outwards, 0, 0]) - outwards * axis[0] * axis)
        ahead = unit(np.array([0, -1, 0]) + axis[1] * axis)
        nearer = distance < best
        best[nearer] = distance[nearer]
        along[nearer] = ((lengths[:k].sum() + clamped) / lengths.sum())[nearer]
        across[nearer] = np.stack([rest @ out, rest @ ahead], 1)[nearer]
    return along, across


def frame(direction: np.ndarray, hinge: np.ndarray) -> np.ndarray:
    """Orthonormal columns: a bone's direction, the hinge at its end, and their product."""
    d = unit(direction)
    h = unit(hinge - (hinge @ d) * d)
    return np.stack([d, h, np.cross(d, h)], 1)


def pose(body: Body, phase: float | None, stride: float, swing: float) -> np.ndarray:
    """Posed vertices (V, 3) at a phase of the walking cycle, or standing if None."""
    turn = {name: np.eye(3) for name in body.index}
    at = {name: body.heads[k] for name, k in body.index.items()}
    walking = phase is not None
    wave = np.cos(2 * np.pi * phase) * stride if walking else 0.0  # left leg in front: 1
    # The pelvis turns with the leading leg, the shoulders against it.
    turn["root"] = rotation(2, -5 * wave) @ rotation(0, 1.0)
    for bone in ("spine03", "spine02", "spine01"):
        turn[bone] = rotation(2, 4 * wave) @ rotation(0, 1.0 if walking else 0.3)
    turn["neck01"] = rotation(2, -4 * wave) @ rotation(0, -2.0)
    for side, sign in (("L", 1.0), ("R", -1.0)):

        def bone(name: str, side: str = side) -> str:
            return f"{name}.{side}"

        # Legs: close the stance of the rest pose, then flex.
        own = (phase + (0.0 if side == "L" else 0.5)) % 1.0 if walking else 0.0
        if walking:
            hip, knee, ankle, toes = (np.interp(own, CYCLE, t) for t in (HIP, KNEE, ANKLE, TOES))
            hip = hip * stride
        else:
            hip, knee, ankle, toes = (2, 5, 1, 0) if side == "L" else (6, 12, 6, 0)
        leg = at[bone("foot")] - at[bone("upperleg01")]
        wanted = at[bone("upperleg01")][0] * (0.72 if walking else 0.98)
        inwards = np.degrees(np.arctan2(sign * (at[bone("foot")][0] - wanted), -leg[2]))
        turn[bone("upperleg01")] = rotation(0, -hip) @ rotation(1, sign * inwards)
        turn[bone("lowerleg01")] = rotation(0, knee)
        turn[bone("foot")] = rotation(0, -ankle) @ rotation(1, -sign * inwards)
        for k in range(1, 6):
            turn[bone(f"toe{k}-1")] = rotation(0, -toes)
        # Arms: from the rest pose's slant down to the body, swinging against the leg.
        forward = np.cos(2 * np.pi * (own + 0.5)) if walking else 0.0  # 1: this arm is in front
        lift = (16 * swing * forward + 1) if walking else -2.0
        bend = (17 + 13 * swing * (forward + 1) / 2) if walking else 14.0
        hang = 4.0 + 25 * max(0.0, body.girth - 0.95)  # arms rest on a wide trunk
        upper = at[bone("lowerarm01")] - at[bone("upperarm01")]
        lower = at[bone("wrist")] - at[bone("lowerarm01")]
        hinge = np.cross(upper, lower)
        down = np.array([sign * np.sin(np.radians(hang)), 0, -np.cos(np.radians(hang))])
        down = rotation(0, -lift) @ down
        # The forearm flexes forwards and slightly across the body.
        across = rotation(2, -sign * 4) @ np.array([-1.0, 0, 0])
        target = frame(down, across)
        turn[bone("upperarm01")] = target @ frame(upper, hinge).T
        now = np.degrees(np.arccos(np.clip(unit(upper) @ unit(lower), -1, 1)))
        turn[bone("lowerarm01")] = about(unit(hinge), bend - now)
        # Relaxed fingers: bent a little about the line of the knuckles.
        knuckles = unit(at[bone("finger5-1")] - at[bone("finger2-1")])
        for k in range(2, 6):
            for joint in (1, 2, 3):
                turn[bone(f"finger{k}-{joint}")] = about(knuckles, sign * CURL)
    count = len(body.heads)
    world, origin = np.zeros((count, 3, 3)), np.zeros((count, 3))
    names = list(body.index)
    for k in range(count):  # parents come before children
        parent = body.parents[k]
        if parent < 0:
            world[k], origin[k] = turn[names[k]], body.heads[k]
        else:
            world[k] = world[parent] @ turn[names[k]]
            origin[k] = origin[parent] + world[parent] @ (body.heads[k] - body.heads[parent])
    shift = origin - np.einsum("bij,bj->bi", world, body.heads)
    blend = body.weights @ np.concatenate([world.reshape(count, 9), shift], 1)
    rotated = np.einsum("vij,vj->vi", blend[:, :9].reshape(-1, 3, 3), body.vertices)
    return rotated + blend[:, 9:]


def about(axis: np.ndarray, degrees: float) -> np.ndarray:
    """Rotation (3, 3) about a unit vector (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@numba.njit(cache=True)
def rasterise(uv, depth, faces, part, attributes, height, width, factor):
    """Draw triangles with a z-buffer, `factor` samples a pixel side, and resolve to pixels.

    uv (V, 2) in pixels, depth (V,), attributes (V, C). Returns part (H, W), coverage (H, W) in
    0..1 and, of the part that most samples of a pixel show, the mean attributes (H, W, C).
    """
    rows, cols, channels = height * factor, width * factor, attributes.shape[1]
    nearest = np.full((rows, cols), np.inf)
    shown = np.zeros((rows, cols), np.uint8)
    values = np.zeros((rows, cols, channels))
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay = uv[a, 0] * factor, uv[a, 1] * factor
        bx, by = uv[b, 0] * factor, uv[b, 1] * factor
        cx, cy = uv[c, 0] * factor, uv[c, 1] * factor
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if abs(area) < 1e-12:
            continue
        left = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
        right = min(cols - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        top = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
        bottom = min(rows - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        for r in range(top, bottom + 1):
            y = r + 0.5
            for q in range(left, right + 1):
                x = q + 0.5
                wb = ((x - ax) * (cy - ay) - (cx - ax) * (y - ay)) / area
                wc = ((bx - ax) * (y - ay) - (x - ax) * (by - ay)) / area
                wa = 1 - wb - wc
                if wa < -1e-9 or wb < -1e-9 or wc < -1e-9:
                    continue
                z = wa * depth[a] + wb * depth[b] + wc * depth[c]
                if z < nearest[r, q]:
                    nearest[r, q] = z
                    shown[r, q] = part[f]
                    for k in range(channels):
                        values[r, q, k] = (
                            wa * attributes[a, k] + wb * attributes[b, k] + wc * attributes[c, k]
                        )
    out_part = np.zeros((height, width), np.uint8)
    coverage = np.zeros((height, width))
    out = np.zeros((height, width, channels))
    votes = np.zeros(256, np.int64)
    for i in range(height):
        for j in range(width):
            votes[:] = 0
            covered = 0
            for r in range(i * factor, (i + 1) * factor):
                for q in range(j * factor, (j + 1) * factor):
                    if shown[r, q]:
                        covered += 1
                        votes[shown[r, q]] += 1
            if covered == 0:
                continue
            winner = np.argmax(votes)
            for r in range(i * factor, (i + 1) * factor):
                for q in range(j * factor, (j + 1) * factor):
                    if shown[r, q] == winner:
                        for k in range(channels):
                            out[i, j, k] += values[r, q, k] / votes[winner]
            out_part[i, j] = winner
            coverage[i, j] = covered / (factor * factor)
    return out_part, coverage, out


def draw(
    body: Body, posed: np.ndarray, turn: float, elevation: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One map of a posed body turned by `turn` degrees and seen from `elevation` degrees above.

    Returns part (128, 64), coverage 0..1 (128, 64), rest coordinates (128, 64, 3) and the
    normal to the image's right and up (128, 64, 2).
    """
    spun = posed @ rotation(2, turn).T
    normals = vertex_normals(spun, body.faces)
    centre = np.array([0, 0, (posed[:, 2].min() + posed[:, 2].max()) / 2])
    e = np.radians(elevation)
    camera = np.array([[1, 0, 0], [0, np.sin(e), np.cos(e)], [0, np.cos(e), -np.sin(e)]])
    seen = (spun - centre) @ camera.T  # right, up, away
    depth = DISTANCE + seen[:, 2]
    plane = seen[:, :2] / depth[:, None]
    low, high = plane.min(0), plane.max(0)
    scale = min(FILL_HEIGHT * HEIGHT / (high[1] - low[1]), FILL_WIDTH * WIDTH / (high[0] - low[0]))
    middle = (low + high) / 2
    uv = np.stack(
        [
            WIDTH / 2 + (plane[:, 0] - middle[0]) * scale,
            HEIGHT / 2 - (plane[:, 1] - middle[1]) * scale,
        ],
        1,
    )
    attributes = np.concatenate([body.coordinates, normals @ camera.T], 1)
    part, coverage, values = rasterise(
        uv, depth, body.faces, body.part, attributes, HEIGHT, WIDTH, SUPERSAMPLE
    )
    normal = values[..., 7:].copy()
    normal[..., 2] = np.minimum(normal[..., 2], 0)  # a visible surface faces the camera
    trunk = part == layout.PART["torso"]
    part[trunk & (values[..., 1] < layout.WAIST)] = layout.PART["pelvis"]
    part[(part == layout.PART["face"]) & (values[..., 6] > 0)] = layout.PART["scalp"]
    arms = [layout.PART[f"{p}_{s}"] for p in ("upper_arm", "forearm", "hand") for s in "lr"]
    arm = np.isin(part, arms)[..., None]
    return part, coverage, np.where(arm, values[..., 3:6], values[..., :3]), unit(normal)[..., :2]


def words(shape: tuple, height: float) -> dict:
    """The row of the shape table that the library shows."""
    name, gender, age, _, weight = shape[:5]
    ages = ("child", 0.5), ("young", 0.72), ("middle", 0.9), ("old", np.inf)
    age = next(word for word, limit in ages if age < limit)
    return {
        "name": name,
        "gender": "child" if age == "child" else ("man" if gender < 0.5 else "woman"),
        "age": age,
        "build": "slim" if weight < 0.35 else ("heavy" if weight > 0.7 else "average"),
        "height_m": round(height, 2),
    }


def main() -> None:
    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    import anny

    started = time.time()
    model = anny.Anny(extrapolate_phenotypes=True).to(dtype=torch.float32)
    views = [30.0 * k for k in range(12)]
    grid = (len(SHAPES), len(PHASES), len(views), len(ELEVATIONS))
    part = np.zeros((*grid, HEIGHT, WIDTH), np.uint8)
    cover = np.zeros_like(part)
    rest = np.zeros((*part.shape, 3), np.uint8)
    normal = np.zeros((*part.shape, 2), np.uint8)
    table = []
    for s, shape in enumerate(SHAPES):
        body = rest_body(model, shape)
        table.append(words(shape, body.height))
        for g, phase in enumerate(PHASES):
            posed = pose(body, phase, shape[7], shape[8])
            for v, turn in enumerate(views):
                for e, elevation in enumerate(ELEVATIONS):
                    p, c, r, n = draw(body, posed, turn, elevation)
                    at = (s, g, v, e)
                    part[at] = p
                    cover[at] = np.ceil(c * layout.COVER_LEVELS)
                    for k, (low, high) in enumerate(layout.REST_RANGES):
                        steps = 2 ** layout.REST_BITS[k] - 1
                        share = (r[..., k] - low) / (high - low)
                        rest[at][..., k] = np.rint(np.clip(share, 0, 1) * steps)
                    half = 2 ** (layout.NORMAL_BITS - 1) - 1
                    normal[at] = np.rint(n * half) + half
        print(
            f"{shape[0]:16} {table[-1]['height_m']:.2f} m  {time.time() - started:.0f} s",
            flush=True,
        )
    path = ROOT / "data" / layout.FILE_NAME
    path.write_bytes(encode(part, cover, rest, normal, table, views))
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, {part[..., 0, 0].size} maps")


def encode(
    part: np.ndarray,
    cover: np.ndarray,
    rest: np.ndarray,
    normal: np.ndarray,
    table: list[dict],
    views: list[float],
) -> bytes:
    """The bank as one file: magic, length of the header, JSON header, compressed streams."""
    # Down the columns, where neighbours differ least.
    part, cover = part.swapaxes(-1, -2), cover.swapaxes(-1, -2)
    rest, normal = rest.swapaxes(-2, -3), normal.swapaxes(-2, -3)
    mask = part > 0
    streams = {"part": part, "cover": cover[mask]}
    for k in range(3):
        streams[f"rest{k}"] = np.diff(rest[..., k][mask], prepend=np.uint8(0))
    for k in range(2):
        streams[f"normal{k}"] = np.diff(normal[..., k][mask], prepend=np.uint8(0))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 4, "lp": 0, "pb": 0}]
    payload, sizes = b"", {}
    for name, stream in streams.items():
        packed = lzma.compress(stream.tobytes(), format=lzma.FORMAT_XZ, filters=filters)
        sizes[name] = len(packed)
        payload += packed
    header = json.dumps(
        {
            "grid": list(part.shape[:4]),
            "streams": sizes,
            "shapes": table,
            "phases": list(PHASES),
            "views_deg": views,
            "elevations_deg": list(ELEVATIONS),
            "sha256": hashlib.sha256(payload).hexdigest(),
        }
    ).encode()
    return layout.MAGIC + len(header).to_bytes(4, "little") + header + payload


if __name__ == "__main__":
    main()
