# SPDX-License-Identifier: BSD-3-Clause
"""The built-in test set "mini-CTC tracking": drawn objects with identities, in the MOT layout.

    STILL   the camera is fixed; 9 to 12 objects
    PAN     the camera goes to and fro by up to 2 pixels a frame; 9 to 12 objects
    CROWD   the camera is fixed; 14 to 18 smaller objects, which cover one another more often

Objects keep their looks and their identity. Some stand; the others move 1 to 3.5 pixels a frame,
beyond the frame and back: the ground that they turn at ends OUTSIDE pixels outside of what the
camera sees. There is nothing that looks like an object and is none. A frame has the box of an
object's whole outline, cut at the frame, where its centre lies in the frame and at least MIN_SHARE
of it is not covered; an object that is covered for a while comes back under its identity, too.
Pixels are exact, as those of minictc.py are; DIGESTS holds their sha256.

<folder>/<name>/img1/000001.png ...   the frames
<folder>/<name>/gt/gt.txt             frame,id,left,top,width,height,1,1,share seen; all from 1
<folder>/<name>/seqinfo.ini           [Sequence] name, frameRate, seqLength
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from vcm_plugin.errors import InputError
from vcm_plugin.testsets.minictc import (
    CLASS_NAMES,
    Grain,
    SceneObject,
    background,
    paint,
    random_object,
    to_picture,
    vignette,
)
from vcm_plugin.testsets.minictc_sequences import (
    BORDER,
    HEIGHT,
    WIDTH,
    Camera,
    Pair,
    grain_of,
    through,
    unit_vector,
    view,
    write_split,
)

GROUPS = ("STILL", "PAN", "CROWD")
FRAME_RATE = 30
# Disjoint seeds, also from those of the other drawn sets: sequence i is drawn from its seed + i.
FIRST_SEED = {"train": 7_000_000, "val": 8_000_000, "test": 9_000_000}
SEQUENCES = {"train": 1200, "val": 3, "test": 6}
FRAMES = {"train": 60, "val": 60, "test": 60}
OUTSIDE = 40.0  # pixels beyond the frame, at which objects turn back
STANDING = 0.4  # share of the objects
MIN_SHARE = 0.35  # of an outline, seen
MIN_PIXELS = 100  # of an outline, seen
SMALL = 30.0  # largest radius in a CROWD, in pixels


@dataclass
class Walker:
    """An object on its way: its identity from 1, and its velocity (y, x) in pixels a frame."""

    identity: int
    item: SceneObject
    grain: Grain
    velocity: Pair


@dataclass(frozen=True)
class SeenObject:
    """An object in a frame: box (left, top, width, height) in pixels, share of it that is seen."""

    identity: int
    box: tuple[int, int, int, int]
    share: float


def names(split: str) -> tuple[str, ...]:
    """class/name of each sequence of a split.

    >>> names("val")
    ('STILL/val_00', 'PAN/val_01', 'CROWD/val_02')
    """
    if split not in FIRST_SEED:
        raise InputError(
            f"mini-CTC tracking: expected the split train, val or test, found {split!r}"
        )
    count = SEQUENCES[split]
    return tuple(f"{GROUPS[index % len(GROUPS)]}/{split}_{index:02d}" for index in range(count))


def generate(split: str, folder: Path) -> Path:
    """Draw the sequences of a split into folder/<name>/, as testsets/tracking.py reads them.

    Returns folder/instances.json, which names the sequences and their ground truth's sha256. Raises
    InputError for an unknown split, or where val and test are not those of DIGESTS.
    """

    def write(index: int, own: Path, digest) -> str:
        return write_sequence(draw_sequence(split, index), own, digest)

    what = f"mini-CTC tracking {split}"
    return write_split(what, names(split), write, DIGESTS.get(split), folder)


def write_sequence(frames: Iterator[tuple[np.ndarray, list[SeenObject]]], folder: Path, digest):
    """Write drawn frames and their ground truth, and add them to a digest; returns gt.txt's text.

    One frame is held at a time. digest: of hashlib, or None.
    """
    (folder / "img1").mkdir(parents=True)
    (folder / "gt").mkdir()
    lines, number = [], 0
    for number, (picture, objects) in enumerate(frames, start=1):
        Image.fromarray(picture).save(folder / "img1" / f"{number:06d}.png", compress_level=1)
        if digest is not None:
            digest.update(picture.tobytes())
        for seen in objects:
            left, top, width, height = seen.box
            lines.append(
                f"{number},{seen.identity},{left + 1},{top + 1},{width},{height},1,1,"
                f"{seen.share:.3f}\n"
            )
    text = "".join(lines)
    if digest is not None:
        digest.update(text.encode())
    (folder / "gt" / "gt.txt").write_text(text)
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={folder.name}\nimDir=img1\nframeRate={FRAME_RATE}\nseqLength={number}\n"
        f"imWidth={WIDTH}\nimHeight={HEIGHT}\nimExt=.png\n"
    )
    return text


def draw_sequence(
    split: str, index: int, count: int | None = None, step: int = 1
) -> Iterator[tuple[np.ndarray, list[SeenObject]]]:
    """Draw every `step`-th frame of a sequence, `count` of them, one at a time.

    Yields the frame, uint8 (256, 320, 3) in RGB, and the objects that are seen in it. The count may
    be larger than FRAMES: what moves goes on moving.
    """
    random = np.random.Generator(np.random.PCG64(FIRST_SEED[split] + index)).random
    group = GROUPS[index % len(GROUPS)]
    ground = background(random, HEIGHT + 2 * BORDER, WIDTH + 2 * BORDER)
    crowd = group == "CROWD"
    people = 14 + int(random() * 5) if crowd else 9 + int(random() * 4)
    reach = BORDER - OUTSIDE if group == "PAN" else 0.0
    walkers = [_walker(number + 1, crowd, random, reach) for number in range(people)]
    walkers.sort(key=lambda walker: walker.item.radius, reverse=True)  # small ones stand in front
    shade = vignette(random, HEIGHT, WIDTH)
    speed = [2.0 * (2.0 * random() - 1.0) if group == "PAN" else 0.0 for _ in range(2)]
    for number in range((FRAMES[split] if count is None else count) * step):
        if number % step == 0:
            camera = _camera(speed, number, reach)
            canvas = view(ground, camera)
            objects = _paint_all(canvas, camera, walkers)
            canvas *= shade[..., None]
            yield to_picture(canvas), objects
        for walker in walkers:
            _walk(walker, reach)


def _walker(identity: int, crowd: bool, random: Callable, reach: float) -> Walker:
    """Draw an object, where it starts, and where to it goes."""
    item = random_object(random, HEIGHT, WIDTH, category=int(random() * len(CLASS_NAMES)))
    radius = min(item.radius, SMALL) if crowd else item.radius
    stands = random() < STANDING
    beyond = 0.0 if stands else OUTSIDE + reach  # one that stands is seen, at least at times
    start = tuple(BORDER - beyond + random() * (n + 2 * beyond) for n in (HEIGHT, WIDTH))
    speed, (y, x) = 0.0 if stands else 1.0 + 2.5 * random(), unit_vector(random)
    item = replace(item, centre=start, radius=radius)
    return Walker(identity, item, grain_of(item), (speed * y, speed * x))


def _camera(speed: list[float], number: int, reach: float) -> Camera:
    """Where the camera is in a frame: it goes to and fro by at most `reach` pixels."""
    centre = []
    for size, pace in zip((HEIGHT, WIDTH), speed):
        way = abs(pace) * number % (4 * reach) if reach else 0.0
        offset = way if way < reach else (2 * reach - way if way < 3 * reach else way - 4 * reach)
        centre.append(BORDER + size / 2 + (offset if pace > 0 else -offset))
    return Camera((centre[0], centre[1]), 1.0)


def _walk(walker: Walker, reach: float) -> None:
    """One frame on, in place; objects turn back where the ground of their way ends."""
    centre, velocity = [], []
    for place, pace, size in zip(walker.item.centre, walker.velocity, (HEIGHT, WIDTH)):
        low, high = BORDER - OUTSIDE - reach, BORDER + size + OUTSIDE + reach
        place += pace
        if not low <= place <= high:
            place, pace = (2 * low if place < low else 2 * high) - place, -pace
        centre.append(place)
        velocity.append(pace)
    walker.item = replace(walker.item, centre=tuple(centre))
    walker.velocity = tuple(velocity)


def _paint_all(canvas: np.ndarray, camera: Camera, walkers: list[Walker]) -> list[SeenObject]:
    """Paint all objects, a later one over the earlier ones; those that are seen, by identity."""
    outlines, masks = [], []
    for walker in walkers:
        mask = paint(canvas, through(camera, walker.item), walker.grain)
        for earlier in masks:
            earlier &= ~mask
        outlines.append(_box(mask))
        masks.append(mask)
    seen = []
    for walker, (box, pixels), mask in zip(walkers, outlines, masks):
        y, x = through(camera, walker.item).centre
        left = np.count_nonzero(mask)
        inside = 0 <= y < HEIGHT and 0 <= x < WIDTH
        if inside and left >= max(MIN_PIXELS, MIN_SHARE * pixels):
            seen.append(SeenObject(walker.identity, box, left / pixels))
    return sorted(seen, key=lambda item: item.identity)


def _box(mask: np.ndarray) -> tuple[tuple[int, int, int, int], int]:
    """(left, top, width, height) and number of the pixels of a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0, 0, 0, 0), 0
    left, top = int(columns[0]), int(rows[0])
    size = (int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top)
    return (left, top, *size), int(np.count_nonzero(mask))


# sha256 over the RGB bytes of all frames of a sequence and its gt.txt, sequence by sequence.
DIGESTS = {
    "val": "1b7741f698e84b8b0f32af47c070e943b13ae9495f1fa5568639b3f4b3c87ae2",
    "test": "f19ea07aca249ab8fca374957732026c02bc47b4280557b0edbcc6193aa5cc05",
}
