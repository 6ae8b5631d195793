"""A stand-in for Omniglot that needs no download: alphabets of random pen strokes. It is NOT Omniglot.

Each alphabet has a few strokes of its own (bars, angles, arcs, loops, hooks, waves) of which its characters
are composed; each character is drawn by 20 drawers with their own slant, scale, jitter and stroke width. The
two zips have Omniglot's own layout, so the same reader, splits and shards serve. Byte-identical on every run.
"""

from __future__ import annotations

import io
import itertools
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data_prep.omniglot import DRAWERS, SIDE
from data_prep.parallel import parallel_map
from seqgen.core.files import write_bytes

ARCHIVES = {"images_background": 30, "images_evaluation": 20}  # alphabets, as in Omniglot
CHARACTERS = 10
NOTICE = b"Pen strokes drawn by seqgen, a stand-in. NOT Omniglot."
_SEED = 20160529
_POINTS = 120  # of one stroke, dense enough that the pen leaves no gaps
_KNOTS = 5
_HOLD = np.stack(
    [np.interp(np.linspace(0, 1, _POINTS), np.linspace(0, 1, _KNOTS), row) for row in np.eye(_KNOTS)], axis=1
)  # [_POINTS, _KNOTS]: linear interpolation between knots
_NEAR = np.arange(-2, 3)  # pixels the pen can reach from its nearest
_TOO_ALIKE = 0.45  # intersection over union of two thick rasters of characters of one alphabet
_LEAST_INK = 105  # of a thick raster of 24 x 24: refuses what collapsed to a single bar

Stroke = np.ndarray  # [_POINTS, 2]: x to the right, y down


def write_archives(folder: Path, processes: int | None = None) -> tuple[Path, ...]:
    """Draw both archives, `images_background.zip` and `images_evaluation.zip`, into `folder`."""
    drawn = parallel_map(_draw_alphabet, range(1, sum(ARCHIVES.values()) + 1), processes)
    paths = []
    for archive, alphabets in ARCHIVES.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as zip_file:
            zip_file.comment = NOTICE
            for drawings in itertools.islice(drawn, alphabets):
                for name, png in drawings.items():
                    zip_file.writestr(_member(f"{archive}/{name}"), png)
        paths.append(folder / f"{archive}.zip")
        write_bytes(paths[-1], buffer.getvalue())
    return tuple(paths)


def _draw_alphabet(alphabet: int) -> dict[str, bytes]:
    """The PNGs of alphabet number `alphabet` (from 1) by their names below the archive's top folder."""
    random = np.random.default_rng([_SEED, alphabet])
    drawings = {}
    for number, strokes in enumerate(_alphabet(random), 1):
        prefix = f"Strokes_{alphabet:02d}/character{number:02d}/{(alphabet - 1) * CHARACTERS + number:04d}"
        for drawer, png in enumerate(_drawings(strokes, random), 1):
            drawings[f"{prefix}_{drawer:02d}.png"] = png
    return drawings


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3
    info.external_attr = 0o644 << 16
    return info


def _alphabet(random: np.random.Generator) -> list[list[Stroke]]:
    """The characters of one alphabet, each a list of strokes in [-1, 1]."""
    round_fraction = random.choice([0.15, 0.5, 0.85])
    repertoire = [_stroke(random, random.random() < round_fraction) for _ in range(random.integers(5, 8))]
    characters: list[list[Stroke]] = []
    looks: list[np.ndarray] = []
    while len(characters) < CHARACTERS:
        strokes = _compose(repertoire, random)
        look = _look(strokes)
        if look.sum() >= _LEAST_INK and all(
            (look & other).sum() < _TOO_ALIKE * (look | other).sum() for other in looks
        ):
            characters.append(strokes)
            looks.append(look)
    return characters


def _stroke(random: np.random.Generator, is_round: bool) -> Stroke:
    """One movement of the pen, about 2 units wide."""
    t = np.linspace(0, 1, _POINTS)
    if not is_round:
        # bar, angle or zigzag: straight pieces between corners on a coarse grid
        corners = random.choice([2, 2, 3, 3, 4])
        x = np.linspace(-1, 1, corners) * random.choice([1.0, 0.6, 0.0 if corners == 2 else 0.8])
        y = np.where(np.arange(corners) % 2, 1.0, -1.0) * random.choice([1.0, 0.5])
        knots = np.linspace(0, 1, corners)
        return np.stack([np.interp(t, knots, x), np.interp(t, knots, y)], axis=1)
    kind = random.integers(4)
    if kind == 0:  # arc
        angle = 2 * np.pi * (random.random() + t * random.uniform(0.35, 0.8))
        return np.stack([np.cos(angle), random.uniform(0.6, 1) * np.sin(angle)], axis=1)
    if kind == 1:  # loop
        angle = 2 * np.pi * (random.random() + t)
        return 0.7 * np.stack([np.cos(angle), random.uniform(0.6, 1) * np.sin(angle)], axis=1)
    if kind == 2:  # hook: a stem that curls at its end
        bend = 0.6 + 0.4 * random.random()
        angle = np.pi * bend * np.clip(2 * t - 1, 0, 1)
        return np.stack(
            [0.45 * (1 - np.cos(angle)), np.minimum(4 * t, 2) - 1.4 + 0.45 * np.sin(angle)], axis=1
        )
    height = random.uniform(0.35, 0.6)  # wave
    return np.stack([2 * t - 1, height * np.sin(2 * np.pi * t * random.choice([0.75, 1.0, 1.5]))], axis=1)


def _compose(repertoire: list[Stroke], random: np.random.Generator) -> list[Stroke]:
    """A character: two to four strokes, turned or mirrored, most of them touching an earlier one."""
    strokes: list[Stroke] = []
    for _ in range(random.choice([2, 3, 3, 4])):
        turn = random.integers(4) * np.pi / 2
        turned = repertoire[random.integers(len(repertoire))] * [random.choice([-1, 1]), 1]
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        stroke = turned @ rotation.T * random.choice([0.6, 1.0])
        if strokes and random.random() < 0.8:
            anchor = strokes[random.integers(len(strokes))]
            meet = anchor[random.choice([0, _POINTS // 2, -1])]
            stroke = stroke + meet - stroke[random.choice([0, _POINTS // 2])]
        else:
            stroke = stroke + random.uniform(-0.8, 0.8, 2)
        strokes.append(stroke)
    points = np.concatenate(strokes)
    low, high = points.min(0), points.max(0)
    return [(stroke - (low + high) / 2) / max(*(high - low) / 2, 0.5) for stroke in strokes]


def _look(strokes: list[Stroke]) -> np.ndarray:
    """A character's thick raster, to tell whether two are alike."""
    picture = Image.new("1", (24, 24))
    draw = ImageDraw.Draw(picture)
    for stroke in strokes:
        draw.line([tuple(point) for point in stroke * 9 + 12], fill=1, width=4)
    return np.asarray(picture)


def _drawings(strokes: list[Stroke], random: np.random.Generator) -> list[bytes]:
    """The character as each drawer draws it: 1-bit PNG, 105 x 105, ink = 0."""
    shape = (DRAWERS, len(strokes))
    tilt, slant = random.normal(0, 0.06, DRAWERS), random.normal(0, 0.12, DRAWERS)
    reach = SIDE * random.uniform(0.29, 0.4, (DRAWERS, 1)) * random.uniform(0.9, 1.1, (DRAWERS, 2))
    centre = SIDE / 2 + random.normal(0, 3, (DRAWERS, 2))
    radius = random.uniform(1.5, 2.2, DRAWERS)  # of the pen, pixels

    wobble = _HOLD @ random.normal(0, 0.05, (*shape, _KNOTS, 2))  # slow drift of the hand along a stroke
    stretch, shift = random.normal(1, 0.05, (*shape, 1, 2)), random.normal(0, 0.04, (*shape, 1, 2))
    points = (np.stack(strokes) * stretch + shift + wobble).reshape(DRAWERS, -1, 2)
    x, y = points[..., 0], points[..., 1]
    cos, sin = np.cos(tilt)[:, None], np.sin(tilt)[:, None]
    x = x + slant[:, None] * y
    points = np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) * reach[:, None] + centre[:, None]
    return [_png(ink) for ink in _ink(np.clip(points, 3, SIDE - 4), radius)]


def _ink(points: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """bool [n, SIDE, SIDE]: pixels whose centre lies within `radius` [n] of one of `points` [n, m, 2]."""
    nearest = np.rint(points)
    x, y = np.moveaxis(((nearest - points)[..., None] + _NEAR) ** 2, 2, 0)  # [n, m, near] each
    drawer, point, down, right = np.nonzero(
        y[..., :, None] + x[..., None, :] <= (radius**2)[:, None, None, None]
    )
    column, row = nearest[drawer, point].astype(np.intp).T
    ink = np.zeros((len(points), SIDE, SIDE), bool)
    ink[drawer, row + _NEAR[down], column + _NEAR[right]] = True
    return ink


def _png(ink: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(~ink).save(buffer, "PNG")
    return buffer.getvalue()
