"""What is known of each published set: counts, the rule that gives them, licence, where it is from.

The counts of the sources are those whose sum is the paper's 121,765 images and 18,530 people. The
counts of the parts are the owners' own; they tell which part of a copy is short.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bnta_lib.settings import PAPER_SOURCES


@dataclass(frozen=True)
class Description:
    """A published set, as its owners describe it."""

    name: str
    role: str  # "source" or "target"
    images: int  # after the rule
    people: int  # after the rule, distractors not counted
    rule: str  # which images count
    licence: str
    ask: str  # where its owner gives it out
    url: str = ""  # of the owner's archive, where that needs no agreement
    note: str = ""
    parts: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)  # images, people
    left_out: dict[str, int] = field(default_factory=dict)  # what the rule drops of a whole copy
    labeled: int | None = None  # images with boxes drawn by hand, where the paper's are detected


def _source(name: str, **more) -> Description:
    images, people = PAPER_SOURCES[name]
    return Description(name, "source", images, people, **more)


_CUHK02_PEOPLE = {"P1": 971, "P2": 306, "P3": 107, "P4": 193, "P5": 239}
_CUHK03_PEOPLE = {"P1": 843, "P2": 440, "P3": 77, "P4": 58, "P5": 49}
JUNK = "junk (person -1)"
DISTRACTORS = "distractors (person 0000)"

CATALOGUE = {
    described.name: described
    for described in (
        _source(
            "CUHK02",
            rule="all five pairs of cameras P1-P5, four images of each person",
            licence="academic research; agreement with CUHK",
            ask="http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html",
            parts={pair: (4 * n, n) for pair, n in _CUHK02_PEOPLE.items()},
        ),
        _source(
            "CUHK03",
            rule="the detected boxes of all five pairs of cameras; the labeled ones are one fewer",
            licence="academic research; agreement with CUHK",
            ask="http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html",
            parts={pair: (None, n) for pair, n in _CUHK03_PEOPLE.items()},
            labeled=14_096,
        ),
        _source(
            "Market-1501",
            rule="train, query and gallery without junk (-1) and distractors (0000)",
            licence="research; see its page",
            ask="https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
            parts={"train": (12_936, 751), "query": (3_368, 750), "gallery": (13_115, 750)},
            left_out={JUNK: 3_819, DISTRACTORS: 2_798},
        ),
        _source(
            "DukeMTMC-reID",
            rule="train, query and gallery",
            licence="was CC BY-NC-SA 4.0",
            ask="nowhere: its authors withdrew it",
            note="taken off its site in April 2019: it was recorded outdoors and put on an open site, as its "
            "review board had not approved; it is read where you hold it lawfully, and never fetched",
            parts={"train": (16_522, 702), "query": (2_228, 702), "gallery": (17_661, 1_110)},
        ),
        _source(
            "CUHK-SYSU",
            rule="every appearance in annotation/Person.mat, cut from Image/SSM",
            licence="academic research; agreement with CUHK",
            ask="https://github.com/ShuangLI59/person_search (from a university's e-mail address)",
        ),
        Description(
            "VIPeR", "target", 1_264, 632,
            rule="one image of each person from each of two cameras",
            licence="research; no agreement",
            ask="https://vision.soe.ucsc.edu/node/178",
            url="http://users.soe.ucsc.edu/~manduchi/VIPeR.v1.0.zip",
            parts={"cam_a": (632, 632), "cam_b": (632, 632)},
        ),
        Description(
            "GRID", "target", 1_275, 250,
            rule="250 people seen twice, and 775 distractors (person 0) in the gallery",
            licence="research; no agreement",
            ask="http://personal.ie.cuhk.edu.hk/~ccloy/downloads_qmul_underground_reid.html",
            url="http://personal.ie.cuhk.edu.hk/~ccloy/files/datasets/underground_reid.zip",
            parts={"probe": (250, 250), "gallery": (1_025, 250)},
        ),
        Description(
            "iLIDS", "target", 476, 119,
            rule="all images, two to eight of each person; the set does not name its cameras",
            licence="research; no agreement for the crops (the videos are the UK Home Office's)",
            ask="http://www.eecs.qmul.ac.uk/~jason/",
            url="http://www.eecs.qmul.ac.uk/~jason/data/i-LIDS_Pedestrian.tgz",
        ),
        Description(
            "PRID", "target", 1_134, 934,
            rule="PRID 2011, single shot: people 1-200 are seen by both cameras, the others by one",
            licence="research; see its page",
            ask="https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/PRID11/",
            note="not among the paper's targets; later papers use it",
            parts={"cam_a": (385, 385), "cam_b": (749, 749)},
        ),
    )
}  # fmt: skip
