# SPDX-License-Identifier: BSD-3-Clause
"""Which detections of a frame belong to which object of the frames before it: JDE's tracker.

A frame's detections are given to tracks three times, each time those that are left:

    1. to tracks that are followed or lost, by embeddings and by where they should be
    2. to tracks that are followed, by overlap
    3. to new tracks, which have one detection so far, by overlap

A detection that is left starts a new track; it is reported from its second detection on. A new
track without a second detection ends at once, a lost one after `track_buffer` frames. Of two tracks
in one place, one followed and one lost, the longer one stays.

The order of all steps, and which track is where in which list, are those of the code that the test
conditions use, so that tracks are the same; the assignment is solved by SciPy in place of lap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from vcm_plugin.split.detections import Detections
from vcm_plugin.split.jde_config import JdeConfig
from vcm_plugin.split.kalman import KalmanFilter

TRACKED, LOST, REMOVED = "tracked", "lost", "removed"
_NEVER = 1e9  # a cost that no assignment takes


@dataclass(frozen=True)
class Tracks:
    """The objects that are reported of a frame.

    boxes: float64 (n, 4), left, top, width, height in pixels of the source picture. identities:
    int64 (n,), from 1. scores: float64 (n,), of their last detections.
    """

    boxes: np.ndarray
    identities: np.ndarray
    scores: np.ndarray


class Track:
    """An object: where it should be, what it looks like, and when it was seen last."""

    def __init__(self, identity: int, frame: int, seen: _Seen, motion: KalmanFilter):
        self.identity, self.first, self.last, self.state = identity, frame, frame, TRACKED
        self.reported = False  # before its second detection
        self.embedding, self.score = seen.embedding, seen.score
        self.mean, self.covariance = motion.start(_centred(seen.box))

    @property
    def box(self) -> np.ndarray:
        """left, top, width, height."""
        x, y, aspect, height = self.mean[:4]
        width = aspect * height
        return np.array((x - width / 2, y - height / 2, width, height))

    def update(self, frame: int, seen: _Seen, motion: KalmanFilter, momentum: float) -> None:
        """It was seen in a frame."""
        found = motion.update(self.mean, self.covariance, _centred(seen.box))
        self.mean, self.covariance = found
        mixed = momentum * self.embedding + (1.0 - momentum) * seen.embedding
        self.embedding = mixed / np.linalg.norm(mixed)
        if self.state == TRACKED:  # a lost track that comes back keeps its score
            self.score = seen.score
        self.state, self.reported, self.last = TRACKED, True, frame


class Tracker:
    """The tracks of one sequence; `update` takes its frames in order."""

    def __init__(self, config: JdeConfig):
        self.config = config
        self.motion = KalmanFilter(config.position_deviation, config.velocity_deviation)
        self.frame, self.next_identity = 0, 1
        self.followed: list[Track] = []
        self.lost: list[Track] = []
        self.ended: set[int] = set()  # identities

    def update(self, detections: Detections) -> Tracks:
        """The detections of the next frame, with embeddings -> the tracks that are reported."""
        new = [track for track in self.followed if not track.reported]
        pool = _joined([t for t in self.followed if t.reported], self.lost)
        self._predict(pool)
        left = _seen_in(detections)
        found, rest, left = self._match(pool, left, self._by_appearance, "appearance_distance")
        rest = [track for track in rest if track.state == TRACKED]
        by_overlap, rest, left = self._match(rest, left, _by_overlap, "overlap_distance")
        for track in rest:
            track.state = LOST
        second, unseen, left = self._match(new, left, _by_overlap, "new_track_distance")
        for track in unseen:
            track.state = REMOVED
        active = [t for t, back in found if not back] + [t for t, _ in by_overlap + second]
        active += [self._start(seen) for seen in left]
        back = [track for track, came_back in found if came_back]
        self._settle(active, back, rest, unseen)
        self.frame += 1
        return self._reported()

    def _match(self, tracks: list[Track], left: list[_Seen], cost_of, limit: str):
        """Give detections to tracks, and update those: ((track, whether it was lost) of each pair,
        the other tracks, the other detections)."""
        pairs = _assign(cost_of(tracks, left), getattr(self.config, limit))
        matched = []
        for row, column in pairs:
            track = tracks[row]
            matched.append((track, track.state != TRACKED))
            track.update(self.frame, left[column], self.motion, self.config.appearance_momentum)
        rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
        return (
            matched,
            [track for row, track in enumerate(tracks) if row not in rows],
            [seen for column, seen in enumerate(left) if column not in columns],
        )

    def _predict(self, tracks: list[Track]) -> None:
        """One frame on; a track that is not followed keeps its height."""
        if not tracks:
            return
        means = np.array([track.mean for track in tracks], np.float64)
        means[[track.state != TRACKED for track in tracks], 7] = 0.0
        found = self.motion.predict(means, np.array([track.covariance for track in tracks]))
        for track, mean, covariance in zip(tracks, *found, strict=True):
            track.mean, track.covariance = mean, covariance

    def _by_appearance(self, tracks: list[Track], seen: list[_Seen]) -> np.ndarray:
        """Distances of embeddings, with a share of how far a detection is from where it should be,
        and infinite where that is too far."""
        if not tracks or not seen:
            return np.zeros((len(tracks), len(seen)))
        cost = cdist([t.embedding for t in tracks], [s.embedding for s in seen])
        boxes = np.array([_centred(s.box) for s in seen])
        weight = self.config.motion_weight
        for row, track in enumerate(tracks):
            far = self.motion.distances(track.mean, track.covariance, boxes)
            cost[row] = (1.0 - weight) * cost[row] + weight * far
            cost[row, far > self.config.motion_gate] = np.inf
        return cost

    def _start(self, seen: _Seen) -> Track:
        track = Track(self.next_identity, self.frame, seen, self.motion)
        self.next_identity += 1
        return track

    def _settle(
        self, active: list[Track], back: list[Track], now_lost: list[Track], ended: list[Track]
    ) -> None:
        """Put every track into its list."""
        over = [t for t in self.lost if self.frame - t.last > self.config.track_buffer]
        for track in over:
            track.state = REMOVED
        still = [track for track in self.followed if track.state == TRACKED]
        self.followed = _joined(_joined(still, active), back)
        lost = _without(self.lost, {track.identity for track in self.followed}) + now_lost
        self.lost = _without(lost, self.ended)
        self.ended |= {track.identity for track in (*ended, *over)}
        self._drop_doubles()

    def _drop_doubles(self) -> None:
        """Of a followed and a lost track in one place, the one that was there for longer stays."""
        distances = _by_overlap(self.followed, self.lost)
        double_followed, double_lost = set(), set()
        for row, column in zip(*np.where(distances < self.config.duplicate_distance)):
            one, other = self.followed[row], self.lost[column]
            if one.last - one.first > other.last - other.first:
                double_lost.add(column)
            else:
                double_followed.add(row)
        self.followed = [t for i, t in enumerate(self.followed) if i not in double_followed]
        self.lost = [t for i, t in enumerate(self.lost) if i not in double_lost]

    def _reported(self) -> Tracks:
        """Of the followed tracks, those that are large and not too wide."""
        kept = []
        for track in self.followed:
            _, _, width, height = track.box
            upright = width / height <= self.config.max_aspect
            if track.reported and width * height > self.config.min_box_area and upright:
                kept.append(track)
        return Tracks(
            np.array([track.box for track in kept]).reshape(-1, 4),
            np.array([track.identity for track in kept], np.int64),
            np.array([track.score for track in kept], np.float64),
        )


@dataclass(frozen=True)
class _Seen:
    """A detection: box (left, top, width, height), score, and embedding of length one."""

    box: np.ndarray
    score: float
    embedding: np.ndarray


def _seen_in(detections: Detections) -> list[_Seen]:
    found = []
    for box, score, embedding in zip(
        detections.boxes.astype(np.float64), detections.scores, detections.embeddings, strict=True
    ):
        size = box[2:] - box[:2]
        if size[1] > 0:
            unit = embedding.astype(np.float64) / np.linalg.norm(embedding)
            found.append(_Seen(np.concatenate((box[:2], size)), float(score), unit))
    return found


def _centred(box: np.ndarray) -> np.ndarray:
    """left, top, width, height -> centre x, centre y, aspect, height."""
    left, top, width, height = box
    return np.array((left + width / 2, top + height / 2, width / height, height))


def _assign(cost: np.ndarray, limit: float) -> list[tuple[int, int]]:
    """(row, column) of the pairs of the cheapest assignment, in which a row and a column that are
    left cost `limit` together.

    >>> _assign(np.array([[0.1, 0.9], [0.2, 0.3]]), 0.7)
    [(0, 0), (1, 1)]
    >>> _assign(np.array([[0.1], [0.2]]), 0.7)
    [(0, 0)]
    """
    rows, columns = cost.shape
    if not rows or not columns:
        return []
    whole = np.full((rows + columns, rows + columns), limit / 2.0)
    whole[:rows, :columns] = np.where(np.isfinite(cost), cost, _NEVER)
    whole[rows:, columns:] = 0.0
    found = zip(*linear_sum_assignment(whole))
    return [(int(i), int(j)) for i, j in found if i < rows and j < columns]


def _by_overlap(tracks: list[Track], others: Iterable[Track | _Seen]) -> np.ndarray:
    """1 - IoU, with boxes that are a pixel wider and higher than their coordinates say."""
    others = list(others)
    if not tracks or not others:
        return np.ones((len(tracks), len(others)))
    a, b = (np.array([item.box for item in items])[..., None] for items in (tracks, others))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    shared = np.maximum(high - low + 1.0, 0.0).prod(axis=2)[..., 0]
    areas = [(x[:, 2:, 0] + 1.0).prod(axis=1) for x in (a, b)]
    return 1.0 - shared / (areas[0][:, None] + areas[1][None] - shared)


def _joined(first: list[Track], second: list[Track]) -> list[Track]:
    """The tracks of both lists, each identity once."""
    return _each_once((*first, *second))


def _each_once(tracks: Iterable[Track]) -> list[Track]:
    found: dict[int, Track] = {}
    for track in tracks:
        found.setdefault(track.identity, track)
    return list(found.values())


def _without(tracks: list[Track], identities: set[int]) -> list[Track]:
    return [track for track in _each_once(tracks) if track.identity not in identities]
