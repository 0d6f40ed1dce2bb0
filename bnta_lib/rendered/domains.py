"""The eight places of the embedded benchmark, in one table: what each stands for and how it looks.

Five sources and three targets differ as the real sets do: in cameras, places, viewpoints, crops,
clothing and bodies. Numbers are (low, high) ranges from which a camera, a person or a shot draws.
The table was fixed before any adaption was measured on it.
"""

from dataclasses import dataclass, field

Range = tuple[float, float]

# Albedo of cloth, sRGB 0..255: what people wear.
COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (30, 30, 33), "charcoal": (58, 58, 62), "grey": (112, 113, 116), "light grey": (165, 166, 168),
    "white": (218, 217, 212), "cream": (205, 196, 174), "beige": (172, 153, 124), "khaki": (136, 124, 92),
    "olive": (82, 84, 58), "brown": (88, 64, 48), "tan": (143, 106, 74), "navy": (36, 43, 70),
    "dark denim": (48, 58, 82), "denim": (78, 98, 132), "light denim": (128, 148, 174), "blue": (48, 82, 150),
    "sky": (138, 170, 200), "teal": (42, 102, 106), "green": (58, 108, 66), "bottle": (34, 62, 46),
    "red": (168, 42, 46), "burgundy": (92, 34, 46), "pink": (206, 146, 156), "orange": (196, 104, 52),
    "mustard": (178, 138, 56), "yellow": (206, 184, 88), "purple": (92, 66, 116)}
# Weights of cloth colours by season. A person's own shade varies around the named colour.
SUMMER_TOPS = {"white": 18, "black": 14, "grey": 8, "light grey": 7, "navy": 7, "blue": 6, "sky": 6, "red": 6,
               "pink": 5, "cream": 4, "green": 3, "teal": 2, "yellow": 3, "orange": 3, "purple": 3,
               "olive": 2, "beige": 3, "burgundy": 2, "charcoal": 4, "denim": 2, "mustard": 1}
AUTUMN_TOPS = {"black": 18, "charcoal": 11, "grey": 11, "navy": 12, "light grey": 6, "white": 7, "blue": 5,
               "brown": 5, "beige": 5, "olive": 4, "burgundy": 4, "red": 5, "green": 2, "bottle": 3,
               "purple": 2, "tan": 3, "denim": 4, "teal": 2, "mustard": 2, "cream": 3, "pink": 2, "orange": 1}
WINTER_TOPS = {"black": 32, "charcoal": 13, "navy": 13, "grey": 8, "brown": 6, "olive": 5, "beige": 5,
               "burgundy": 4, "red": 4, "bottle": 3, "tan": 3, "white": 2, "blue": 3, "light grey": 3,
               "purple": 2, "khaki": 3, "pink": 1}
JEANS = {"dark denim": 22, "denim": 17, "black": 22, "navy": 8, "charcoal": 10, "grey": 7, "khaki": 6,
         "light denim": 5, "beige": 5, "brown": 3, "olive": 2, "white": 1}
LIGHT_LOWERS = {"denim": 16, "black": 18, "dark denim": 12, "light denim": 9, "khaki": 8, "beige": 8,
                "white": 6, "grey": 8, "navy": 8, "charcoal": 4, "pink": 1, "red": 1, "olive": 2, "sky": 1}
SUITED = {"black": 28, "charcoal": 18, "navy": 16, "grey": 10, "dark denim": 10, "beige": 6,
          "khaki": 4, "denim": 6, "brown": 4}


@dataclass(frozen=True)
class Domain:
    """One set. A camera draws its own value once from each range, a shot varies little around it.

    Photometric values: ``exposure`` multiplies linear light, ``gamma`` bends the tone curve (over 1: darker
    middle), ``contrast`` scales around mid-grey, ``haze`` is the share of ``haze_colour`` mixed in,
    ``resolution`` the share of the crop's pixels that the sensor resolves, ``blur`` the weight of each
    neighbour pixel, ``noise`` a standard deviation of 0..1 values, ``quality`` that of a JPEG coder.
    """

    name: str
    stands_for: str
    code: int  # keys the random numbers, so the table's order does not matter
    cameras: int
    places: tuple[str, ...]  # kinds of `places.KINDS`, dealt to the cameras in turn
    sites: int = 2  # places in which each camera stands, one plate each
    paired: bool = False  # cameras 1-2, 3-4, ... are pairs with people of their own
    # cameras: light, colour and resolution
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of the white balance
    cast: float = 0.04  # how far a camera's white balance strays from `gain`
    exposure: Range = (1.0, 1.2)
    gamma: Range = (0.95, 1.05)
    contrast: Range = (0.95, 1.05)
    haze: Range = (0.0, 0.04)
    haze_colour: tuple[int, int, int] = (190, 195, 200)
    saturation: Range = (0.9, 1.05)
    resolution: Range = (0.8, 1.0)
    blur: Range = (0.06, 0.14)
    noise: Range = (0.008, 0.016)
    quality: Range = (70, 90)
    sun: Range = (0.1, 0.3)  # how directional the light is, and how dark cast shadows are
    # viewpoints: degrees, 0 walks towards the camera, 90 across it
    azimuths: tuple[float, ...] = (0, 30, -40, 90, 10, -70)  # of the cameras, dealt in turn
    wander: float = 25.0  # how far walks stray from the camera's main direction
    same_walk: bool = False  # a person keeps its direction of walk over all cameras
    camera_height: Range = (2.4, 4.0)  # metres
    steep: float = 0.4  # probability of a look down from 20 degrees rather than 5
    # crops
    shift: float = 0.04  # standard deviation of the box's place, share of its size
    zoom: float = 0.05  # and of its size
    stretch: float = 0.03  # and of its aspect
    cut: float = 0.04  # probability that the box ends above the feet
    occlusion: float = 0.08  # probability that something stands in front
    passers_by: float = 0.15  # probability that someone else is in the picture
    # people
    tops: dict[str, float] = field(default_factory=lambda: AUTUMN_TOPS)
    lowers: dict[str, float] = field(default_factory=lambda: JEANS)
    garments: dict[str, float] = field(default_factory=lambda: {
        "t-shirt": 20, "shirt": 18, "jumper": 22, "jacket": 20, "hoodie": 14, "coat": 3, "dress": 3})
    legs: dict[str, float] = field(default_factory=lambda: {
        "trousers": 60, "jeans": 20, "leggings": 8, "shorts": 7, "skirt": 5})
    patterns: float = 0.35  # share of tops that are not plain
    backpack: float = 0.3
    shoulder_bag: float = 0.2
    hand_bag: float = 0.1
    hat: float = 0.05
    women: float = 0.42
    old: float = 0.05
    children: float = 0.01
    heavy: float = 0.12
    tone: Range = (0.1, 0.6)  # of skin, 0 palest, 1 darkest
    fair: float = 0.15  # share of fair, red or grey hair

    def __hash__(self) -> int:  # its tables are made once, also in a process that was sent a copy
        return self.code


DOMAINS: dict[str, Domain] = {d.name: d for d in (
    Domain("CUHK02", "Five pairs of campus cameras, hand-cropped, an overcast spring day.", 1, cameras=10,
           paired=True, places=("campus path", "campus path", "campus hall"), gain=(0.98, 1.0, 1.03),
           exposure=(0.95, 1.25), contrast=(0.9, 1.05), haze=(0.0, 0.06), saturation=(0.8, 1.0),
           resolution=(0.7, 0.95), noise=(0.006, 0.014), azimuths=(0, 85, 20, -60, 170, 90, -20, 60, 10, 180),
           wander=20, steep=0.2, shift=0.015, zoom=0.025, stretch=0.015, cut=0.0, occlusion=0.03,
           passers_by=0.08,
           garments={"t-shirt": 26, "shirt": 22, "jumper": 20, "jacket": 14, "hoodie": 12, "dress": 6},
           legs={"trousers": 46, "jeans": 22, "leggings": 8, "shorts": 14, "skirt": 10}, backpack=0.4,
           shoulder_bag=0.22, old=0.02, heavy=0.07, fair=0.03, tone=(0.1, 0.45)),
    Domain("CUHK03", "Campus corridors and walks, boxes of a detector, pale and slightly bluish.", 2,
           cameras=6, places=("campus hall", "campus hall", "campus path"), gain=(0.96, 1.0, 1.06),
           exposure=(1.05, 1.4), gamma=(0.9, 1.0), contrast=(0.85, 1.0), haze=(0.02, 0.08),
           saturation=(0.75, 0.95), resolution=(0.75, 1.0), quality=(75, 92),
           azimuths=(10, 100, -15, 80, 180, -90), wander=20, camera_height=(2.6, 3.4), steep=0.5, shift=0.04,
           zoom=0.07, stretch=0.05, cut=0.08, occlusion=0.05, passers_by=0.12, tops=SUMMER_TOPS, lowers=JEANS,
           garments={"t-shirt": 40, "shirt": 20, "jumper": 14, "jacket": 8, "hoodie": 10, "dress": 8},
           legs={"trousers": 40, "jeans": 22, "leggings": 6, "shorts": 20, "skirt": 12}, backpack=0.45,
           shoulder_bag=0.2, old=0.02, heavy=0.07, fair=0.03, tone=(0.1, 0.45)),
    Domain("Market-1501", "Six cameras before a supermarket in the summer sun, detector boxes.", 3, cameras=6,
           places=("shop front", "shop front", "park road"), gain=(1.04, 1.0, 0.95), exposure=(1.1, 1.5),
           contrast=(1.0, 1.15), haze=(0.0, 0.03), saturation=(0.95, 1.15), resolution=(0.7, 0.95),
           blur=(0.08, 0.18), quality=(60, 85), sun=(0.3, 0.6), azimuths=(0, 45, -30, 90, 160, -100),
           wander=40, camera_height=(2.2, 3.2), steep=0.3, shift=0.05, zoom=0.08, stretch=0.05, cut=0.06,
           occlusion=0.08, passers_by=0.18, tops=SUMMER_TOPS, lowers=LIGHT_LOWERS,
           garments={"t-shirt": 55, "shirt": 18, "jumper": 5, "jacket": 4, "hoodie": 3, "dress": 15},
           legs={"trousers": 26, "jeans": 18, "leggings": 8, "shorts": 30, "skirt": 18}, patterns=0.42,
           backpack=0.28, shoulder_bag=0.3, hand_bag=0.2, old=0.08, children=0.03, fair=0.04,
           tone=(0.1, 0.5)),
    Domain("DukeMTMC-reID", "Eight outdoor cameras on a winter campus: coats, backpacks, low sun.", 4,
           cameras=8, places=("winter campus", "park road", "winter campus"), gain=(1.0, 1.0, 1.0), cast=0.05,
           exposure=(0.85, 1.25), gamma=(1.0, 1.12), contrast=(1.0, 1.15), saturation=(0.8, 1.0),
           resolution=(0.75, 1.0), quality=(75, 92), sun=(0.2, 0.6),
           azimuths=(0, 90, 180, -60, 40, -90, 20, 120), wander=25, camera_height=(3.0, 4.5), steep=0.6,
           shift=0.03, zoom=0.05, occlusion=0.14, passers_by=0.2, tops=WINTER_TOPS,
           garments={"t-shirt": 4, "shirt": 8, "jumper": 14, "jacket": 38, "hoodie": 18, "coat": 18},
           legs={"trousers": 56, "jeans": 28, "leggings": 12, "shorts": 2, "skirt": 2}, patterns=0.25,
           backpack=0.5, shoulder_bag=0.15, hat=0.14, old=0.03, heavy=0.14, fair=0.4, tone=(0.0, 0.8)),
    Domain("CUHK-SYSU", "Streets by hand-held camera and stills of films: most people, few images.", 5,
           cameras=12, sites=3, places=("street", "film set", "street", "film set", "park road"), cast=0.08,
           exposure=(0.85, 1.35), gamma=(0.9, 1.12), contrast=(0.9, 1.15), haze=(0.0, 0.06),
           haze_colour=(205, 195, 180), saturation=(0.7, 1.1), resolution=(0.8, 1.0), blur=(0.04, 0.16),
           quality=(60, 90), sun=(0.1, 0.5), azimuths=(0, 20, -30, 60, 150, -90, 40, 180, 0, -20), wander=45,
           camera_height=(1.6, 2.4), steep=0.05, shift=0.03, zoom=0.06, stretch=0.03, cut=0.06,
           occlusion=0.12, passers_by=0.3,
           garments={"t-shirt": 22, "shirt": 20, "jumper": 16, "jacket": 20, "hoodie": 6, "coat": 8,
                     "dress": 8},
           legs={"trousers": 48, "jeans": 18, "leggings": 10, "shorts": 10, "skirt": 14}, backpack=0.15,
           shoulder_bag=0.28, hand_bag=0.2, hat=0.07, women=0.5, old=0.08, children=0.03, fair=0.08,
           tone=(0.05, 0.6)),
    Domain("VIPeR", "Two outdoor cameras, the view often turned by 90 degrees, unlike light.", 6, cameras=2,
           sites=6, places=("park road", "street", "campus path"), gain=(1.03, 1.0, 0.95), cast=0.08,
           exposure=(0.85, 1.6), gamma=(0.9, 1.1), contrast=(1.0, 1.15), haze=(0.0, 0.05),
           saturation=(1.0, 1.2), resolution=(0.55, 0.7), blur=(0.1, 0.2), noise=(0.008, 0.02),
           quality=(50, 75), sun=(0.3, 0.7), azimuths=(0, 90), wander=50, same_walk=True,
           camera_height=(1.8, 2.6), steep=0.15, shift=0.02, zoom=0.04, stretch=0.04, cut=0.02,
           occlusion=0.04, passers_by=0.05,
           garments={"t-shirt": 34, "shirt": 18, "jumper": 14, "jacket": 18, "hoodie": 12, "coat": 1,
                     "dress": 3},
           legs={"trousers": 38, "jeans": 28, "leggings": 6, "shorts": 20, "skirt": 8}, backpack=0.32,
           shoulder_bag=0.22, hat=0.06, fair=0.4, tone=(0.0, 0.7)),
    Domain("GRID", "Eight cameras of an underground station: dim, grey, coarse, noisy, hazy.", 7, cameras=8,
           places=("underground",), gain=(1.03, 1.0, 0.9), cast=0.06, exposure=(0.6, 0.95),
           gamma=(0.95, 1.15), contrast=(0.7, 0.9), haze=(0.05, 0.14), haze_colour=(120, 118, 108),
           saturation=(0.5, 0.8), resolution=(0.42, 0.62), blur=(0.12, 0.2), noise=(0.014, 0.026),
           quality=(40, 65), sun=(0.0, 0.1), azimuths=(0, 180, 30, -30, 90, 0, 170, -60), wander=20,
           camera_height=(2.6, 3.4), steep=0.6, shift=0.04, zoom=0.07, stretch=0.04, cut=0.06, occlusion=0.1,
           passers_by=0.3, tops=WINTER_TOPS, lowers=SUITED,
           garments={"t-shirt": 6, "shirt": 16, "jumper": 14, "jacket": 32, "hoodie": 6, "coat": 22,
                     "dress": 4},
           legs={"trousers": 62, "jeans": 14, "leggings": 10, "shorts": 2, "skirt": 12}, patterns=0.22,
           backpack=0.12, shoulder_bag=0.35, hand_bag=0.25, hat=0.05, women=0.46, old=0.1, fair=0.35,
           tone=(0.0, 0.8)),
    Domain("iLIDS", "Airport hall: warm light against bright windows, luggage and people in front.", 8,
           cameras=4, places=("airport",), gain=(1.1, 1.0, 0.84), cast=0.05, exposure=(0.9, 1.3),
           gamma=(0.9, 1.1), contrast=(0.8, 1.0), haze=(0.03, 0.12), haze_colour=(205, 196, 172),
           saturation=(0.65, 0.9), resolution=(0.5, 0.8), blur=(0.1, 0.2), noise=(0.008, 0.018),
           quality=(45, 70), sun=(0.0, 0.2), azimuths=(0, 150, 60, -90), wander=50, camera_height=(2.6, 3.6),
           steep=0.5, shift=0.04, zoom=0.07, stretch=0.04, cut=0.08, occlusion=0.4, passers_by=0.4,
           garments={"t-shirt": 12, "shirt": 20, "jumper": 16, "jacket": 30, "hoodie": 6, "coat": 12,
                     "dress": 4},
           lowers=SUITED, backpack=0.15, shoulder_bag=0.35, hand_bag=0.35, hat=0.05, women=0.45, old=0.12,
           children=0.03, heavy=0.16, fair=0.35, tone=(0.0, 0.7)),
)}
