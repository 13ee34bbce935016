# SPDX-License-Identifier: BSD-3-Clause
"""Where is a box in the next frame, and how surprising is a detection there? A Kalman filter.

State: centre x, centre y, aspect (width / height) and height of a box, and their velocities, in
pixels a frame. The velocity is constant but for noise whose deviations are shares of the height;
those of the aspect are absolute. N. Wojke, A. Bewley, D. Paulus, "Simple Online and Realtime
Tracking with a Deep Association Metric", ICIP 2017, whose numbers JDE takes over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

ASPECT_STATE, ASPECT_VELOCITY, ASPECT_MEASURED = 1e-2, 1e-5, 1e-1  # deviations of the aspect
START_POSITION, START_VELOCITY = 2.0, 10.0  # times the deviations of a step
_STEP = np.eye(8) + np.eye(8, k=4)


@dataclass(frozen=True)
class KalmanFilter:
    """position, velocity: deviations of a step, in shares of a box's height."""

    position: float
    velocity: float

    def start(self, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean (8,) and covariance (8, 8) of a track that begins with a box (4,)."""
        deviations = self._deviations(box[3:4])[0]
        factors = np.repeat((START_POSITION, START_VELOCITY), 4)
        factors[[2, 6]] = 1.0
        return np.concatenate((box, np.zeros(4))), np.diag(np.square(factors * deviations))

    def predict(self, means: np.ndarray, covariances: np.ndarray):
        """Means (n, 8) and covariances (n, 8, 8), one frame on."""
        noise = np.square(self._deviations(means[:, 3]))
        moved = _STEP @ covariances @ _STEP.T
        return means @ _STEP.T, moved + noise[:, :, None] * np.eye(8)

    def update(self, mean: np.ndarray, covariance: np.ndarray, box: np.ndarray):
        """Mean and covariance after a box (4,) was measured."""
        expected, spread = self._measured(mean, covariance)
        gain = linalg.cho_solve((linalg.cholesky(spread, lower=True), True), covariance[:4]).T
        return mean + gain @ (box - expected), covariance - gain @ spread @ gain.T

    def distances(self, mean: np.ndarray, covariance: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distances (n,) of boxes (n, 4) from where a track should be."""
        expected, spread = self._measured(mean, covariance)
        whitened = linalg.solve_triangular(
            linalg.cholesky(spread, lower=True), (boxes - expected).T, lower=True
        )
        return np.square(whitened).sum(axis=0)

    def _measured(self, mean: np.ndarray, covariance: np.ndarray):
        deviations = np.full(4, self.position * mean[3])
        deviations[2] = ASPECT_MEASURED
        return mean[:4], covariance[:4, :4] + np.diag(np.square(deviations))

    def _deviations(self, heights: np.ndarray) -> np.ndarray:
        """Deviations (n, 8) of a step of boxes of these heights (n,)."""
        shares = np.repeat((self.position, self.velocity), 4)
        deviations = np.asarray(heights, np.float64)[:, None] * shares
        deviations[:, 2], deviations[:, 6] = ASPECT_STATE, ASPECT_VELOCITY
        return deviations
