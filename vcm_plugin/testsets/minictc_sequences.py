# SPDX-License-Identifier: BSD-3-Clause
"""The built-in test set "mini-CTC sequences": drawn scenes in which camera and objects move.

    STATIC   the camera is fixed, objects move 0 to 4 pixels a frame
    SLOW     a pan of 1 to 3 pixels a frame, objects as before
    FAST     objects move 6 to 16 pixels a frame, turn, and change their size by up to 2 % a frame
    SHAKE    the camera jitters (sigma 2 pixels) and zooms by up to 1 % a frame, objects as STATIC

Every second sequence has sensor noise (sigma 2/255), every one a change of light of up to 10 %.
Objects turn back at the edge of what the camera sees. Pixels are exact as those of minictc.py are:
no sine, exponential or reduction whose result depends on the machine; DIGESTS holds their sha256.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from vcm_plugin.errors import InputError
from vcm_plugin.testsets.minictc import (
    CLASS_NAMES,
    SURFACE_CELLS,
    Grain,
    SceneObject,
    annotation,
    background,
    fractal_noise,
    paint,
    paint_in_order,
    random_object,
    to_picture,
    vignette,
)

GROUPS = ("STATIC", "SLOW", "FAST", "SHAKE")
HEIGHT, WIDTH, FRAMES, FRAME_RATE = 256, 320, 33, 30
# Disjoint seeds, also from those of minictc.py: sequence i of a split is drawn from its seed + i.
FIRST_SEED = {"train": 4_000_000, "val": 5_000_000, "test": 6_000_000}
SEQUENCES = {"train": 400, "val": 6, "test": 12}
BORDER = 80  # pixels of the drawn ground around the frame, for the camera to move over
NOISE = 2.0 / 255.0  # sigma of the sensor's noise
LIGHT = 0.1  # largest change over a sequence
JITTER = 2.0  # sigma of the camera's position, in pixels
RADII = (11.0, 58.0)  # smallest and largest of an object, in pixels

Pair = tuple[float, float]


@dataclass(frozen=True)
class Camera:
    """Where the camera looks in a frame: centre (y, x) in pixels of the ground, and its zoom."""

    centre: Pair
    zoom: float


@dataclass
class Moving:
    """An object on its way: velocity in pixels a frame, turn (cos, sin) and growth a frame."""

    item: SceneObject
    grain: Grain
    velocity: Pair
    turn: Pair
    growth: float


def group_of(index: int) -> str:
    """The class of sequence number `index` of a split.

    >>> [group_of(index) for index in range(5)]
    ['STATIC', 'SLOW', 'FAST', 'SHAKE', 'STATIC']
    """
    return GROUPS[index % len(GROUPS)]


def is_noisy(index: int) -> bool:
    """Whether sequence number `index` has sensor noise: every second one of each class.

    >>> [is_noisy(index) for index in range(8)]
    [True, False, True, False, False, True, False, True]
    """
    return (index + index // len(GROUPS)) % 2 == 0


def names(split: str) -> tuple[str, ...]:
    """class/name of each sequence of a split; _n marks those with sensor noise.

    >>> names("val")[:2]
    ('STATIC/val_00_n', 'SLOW/val_01')
    """
    if split not in FIRST_SEED:
        raise InputError(
            f"mini-CTC sequences: expected the split train, val or test, found {split!r}"
        )
    return tuple(
        f"{group_of(index)}/{split}_{index:02d}{'_n' if is_noisy(index) else ''}"
        for index in range(SEQUENCES[split])
    )


def generate(split: str, folder: Path) -> Path:
    """Draw the sequences of a split into folder/<name>/, each as testsets/sequences.py reads it.

    Returns folder/instances.json, which names the sequences and their annotations' sha256. Raises
    InputError for an unknown split, or where the pixels and annotations of val and test are not
    those of DIGESTS.
    """

    def write(index: int, own: Path, digest) -> str:
        return _write_sequence(index, split, own, digest)

    what = f"mini-CTC sequences {split}"
    return write_split(what, names(split), write, DIGESTS.get(split), folder)


def write_split(
    what: str, names: Sequence[str], write: Callable, expected: str | None, folder: Path
) -> Path:
    """Write all sequences of a split, with `instances.json` that names them; returns its path.

    names: CLASS/NAME of each. write: number, folder and a digest to add to -> text of the ground
    truth, whose sha256 is kept. Raises InputError where the digest is not the expected one.
    """
    digest, truths = hashlib.sha256(), {}
    for index, name in enumerate(names):
        text = write(index, folder / name.rpartition("/")[2], digest)
        truths[name] = hashlib.sha256(text.encode()).hexdigest()
    if expected is not None and digest.hexdigest() != expected:
        raise InputError(
            f"{what}: expected sha256 {expected}, drew {digest.hexdigest()}; numpy "
            f"{np.__version__} draws other pictures here: please report it with this line"
        )
    path = folder / "instances.json"
    path.write_text(json.dumps(truths, indent=1))
    return path


def draw_sequence(
    split: str, index: int, count: int = FRAMES
) -> Iterator[tuple[np.ndarray, list[tuple[int, np.ndarray]]]]:
    """Draw the first frames of a sequence, one at a time.

    Yields the frame, uint8 (256, 320, 3) in RGB, and for every object that is visible enough its
    class (index into CLASS_NAMES) and its visible mask, bool (256, 320).
    """
    random = np.random.Generator(np.random.PCG64(FIRST_SEED[split] + index)).random
    group = group_of(index)
    ground = background(random, HEIGHT + 2 * BORDER, WIDTH + 2 * BORDER)
    for _ in range(5 + int(random() * 8)):
        paint(ground, random_object(random, *ground.shape[:2], category=-1))
    cameras = _cameras(group, random)
    seen = _seen(cameras)
    objects = [_moving(group, random, seen) for _ in range(4 + int(random() * 7))]
    objects.sort(key=lambda moving: moving.item.centre[0] + moving.item.radius)
    shade = vignette(random, HEIGHT, WIDTH)
    light = LIGHT * (2.0 * random() - 1.0)
    for number, camera in enumerate(cameras[:count]):
        canvas = view(ground, camera)
        shown = [(through(camera, moving.item), moving.grain) for moving in objects]
        visible = paint_in_order(canvas, shown)
        canvas *= (shade * (1.0 + light * (number / (FRAMES - 1))))[..., None]
        if is_noisy(index):
            canvas += NOISE * normal(random, canvas.shape)
        yield to_picture(canvas), visible
        for moving in objects:
            _move(moving, seen)


def _write_sequence(index: int, split: str, folder: Path, digest) -> str:
    """Write a sequence and add it to the digest; returns its annotations."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for number, (picture, objects) in enumerate(draw_sequence(split, index)):
        name = f"{number:03d}.png"
        Image.fromarray(picture).save(folder / "images" / name, compress_level=1)
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for category, mask in objects:
            annotations.append(annotation(len(annotations) + 1, number, category, mask))
        digest.update(picture.tobytes())
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASS_NAMES)]
    layout = {"images": images, "annotations": annotations, "categories": categories}
    text = json.dumps(layout, separators=(",", ":"), sort_keys=True)
    digest.update(text.encode())
    (folder / "annotations" / f"{folder.name}.json").write_text(text)
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={folder.name}\nframeRate={FRAME_RATE}\nseqLength={FRAMES}\n"
    )
    return text


def _cameras(group: str, random: Callable) -> list[Camera]:
    """The camera of each frame; its path is centred on the ground."""
    middle = (BORDER + HEIGHT / 2, BORDER + WIDTH / 2)
    still = [Camera(middle, 1.0)] * FRAMES
    if group == "SLOW":
        speed = 1.0 + 2.0 * random()
        direction = unit_vector(random)
        steps = [speed * (number - (FRAMES - 1) / 2) for number in range(FRAMES)]
        paths = [(middle[0] + n * direction[0], middle[1] + n * direction[1]) for n in steps]
        return [Camera(centre, 1.0) for centre in paths]
    if group == "SHAKE":
        rate, zoom, cameras = 0.01 * (2.0 * random() - 1.0), 1.0, []
        for y, x in normal(random, (FRAMES, 2)).tolist():
            cameras.append(Camera((middle[0] + JITTER * y, middle[1] + JITTER * x), zoom))
            zoom *= 1.0 + rate
        return cameras
    return still


def _seen(cameras: list[Camera]) -> tuple[Pair, Pair]:
    """(lowest, highest) y and (lowest, highest) x of the ground that the cameras see."""
    ranges = []
    for axis, size in enumerate((HEIGHT, WIDTH)):
        lows = [camera.centre[axis] - size / 2 / camera.zoom for camera in cameras]
        highs = [camera.centre[axis] + size / 2 / camera.zoom for camera in cameras]
        ranges.append((min(lows), max(highs)))
    return ranges[0], ranges[1]


def _moving(group: str, random: Callable, seen: tuple[Pair, Pair]) -> Moving:
    """Draw an object of a class of objects, and how it moves."""
    category = int(random() * len(CLASS_NAMES))
    spans = [high - low for low, high in seen]
    item = random_object(random, *spans, category=category)
    centre = (item.centre[0] + seen[0][0], item.centre[1] + seen[1][0])
    fast = group == "FAST"
    speed = 6.0 + 10.0 * random() if fast else 4.0 * random()
    direction = unit_vector(random)
    t = 0.05 * (2.0 * random() - 1.0)  # turns by 2 atan(t) a frame, up to 5.7 degrees
    turn = ((1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t))
    growth = 1.0 + 0.02 * (2.0 * random() - 1.0)
    return Moving(
        replace(item, centre=centre),
        grain_of(item),
        (speed * direction[0], speed * direction[1]),
        turn if fast else (1.0, 0.0),
        growth if fast else 1.0,
    )


def grain_of(item: SceneObject) -> Grain:
    """Noise that sticks to an object: drawn once, read between its samples."""
    reach = math.ceil(1.5 * item.radius) + 1
    random = np.random.Generator(np.random.PCG64(item.noise_seed)).random
    field = fractal_noise(random, 2 * reach + 2, 2 * reach + 2, cells=SURFACE_CELLS)

    def at(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        rows, row = _between(np.clip(v * item.radius + reach, 0.0, 2.0 * reach))
        columns, column = _between(np.clip(u * item.radius + reach, 0.0, 2.0 * reach))
        upper = field[rows, columns]
        upper = upper + column * (field[rows, columns + 1] - upper)
        lower = field[rows + 1, columns]
        lower = lower + column * (field[rows + 1, columns + 1] - lower)
        return upper + row * (lower - upper)

    return at


def _between(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    index = np.floor(position).astype(np.int64)
    return index, position - index


def _move(moving: Moving, seen: tuple[Pair, Pair]) -> None:
    """One frame on, in place."""
    item, centre, velocity = moving.item, [], []
    for place, speed, (low, high) in zip(item.centre, moving.velocity, seen):
        place += speed
        if not low <= place <= high:
            place, speed = (2 * low if place < low else 2 * high) - place, -speed
        centre.append(place)
        velocity.append(speed)
    a, b, c, d = item.axes
    cosine, sine = moving.turn
    axes = (a * cosine - b * sine, a * sine + b * cosine, c * cosine - d * sine,
            c * sine + d * cosine)  # fmt: skip
    if not RADII[0] <= item.radius * moving.growth <= RADII[1]:
        moving.growth = 1.0 / moving.growth
    radius = item.radius * moving.growth
    moving.item = replace(item, centre=tuple(centre), axes=axes, radius=radius)
    moving.velocity = tuple(velocity)


def through(camera: Camera, item: SceneObject) -> SceneObject:
    """An object of the ground in pixels of the frame."""
    y, x = ((place - middle) * camera.zoom for place, middle in zip(item.centre, camera.centre))
    centre = (y + HEIGHT / 2, x + WIDTH / 2)
    return replace(item, centre=centre, radius=item.radius * camera.zoom)


def view(ground: np.ndarray, camera: Camera) -> np.ndarray:
    """The part of the ground that a camera sees, (256, 320, 3), by Catmull-Rom splines."""
    rows, columns = (
        _taps((np.arange(size) + 0.5 - size / 2) / camera.zoom + middle - 0.5, limit)
        for size, middle, limit in zip((HEIGHT, WIDTH), camera.centre, ground.shape)
    )
    lines = sum(weight[:, None, None] * ground[index] for index, weight in rows)
    return sum(weight[None, :, None] * lines[:, index] for index, weight in columns)


def _taps(position: np.ndarray, limit: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Samples and weights that are added for values between samples."""
    index = np.floor(position).astype(np.int64)
    t = position - index
    weights = (
        0.5 * (-t + 2.0 * t * t - t * t * t),
        0.5 * (2.0 - 5.0 * t * t + 3.0 * t * t * t),
        0.5 * (t + 4.0 * t * t - 3.0 * t * t * t),
        0.5 * (t * t * t - t * t),
    )
    near = [np.clip(index + k - 1, 0, limit - 1) for k in range(4)]
    return list(zip(near, weights))


def unit_vector(random: Callable) -> Pair:
    """A point of the unit circle, rational in what is drawn."""
    t = 2.0 * random() - 1.0
    y, x = (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)
    return (-y, -x) if random() < 0.5 else (y, x)


def normal(random: Callable, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of a nearly normal distribution of sigma 1: sums of twelve uniform ones."""
    total = np.full(shape, -6.0)
    for _ in range(12):
        total += random(shape)
    return total


# sha256 over the RGB bytes of all frames of a sequence and its annotations, sequence by sequence.
DIGESTS = {
    "val": "074480ccf201358884a7a046028faf0219585bcbcaef68e7013b58240d8d1c2f",
    "test": "985113b31965b4c4c70cd2a0bb139ffca3d7cf903a23b3f2ca044f065d5baea0",
}
