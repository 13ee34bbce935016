# SPDX-License-Identifier: BSD-3-Clause
"""What do human-machine codecs minimise? The three objectives of the field's survey, by name.

Equations 1 to 3 of Li, Zhang, Wang, Wang, Pan, "Human-Machine Collaborative Image and Video
Compression: A Survey":

    (1) human     D(x, x_hat) + lambda R
    (2) machine   lambda R + sum of omega_i L_i
    (3) both      omega_0 D(x, x_hat) + lambda R + sum of omega_i L_i

D, R and the task losses L_i are tensors of one shape: a value for each picture, or their means.
The terms come back by name and weighted, as the training loop adds and reports them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from vcm_plugin.errors import InputError

Terms = dict[str, torch.Tensor]


def human(distortion: torch.Tensor, rate: torch.Tensor, lmbda: float | torch.Tensor) -> Terms:
    """Equation 1: a person looks at the decoded picture.

    >>> human(torch.tensor(4.0), torch.tensor(0.5), 2.0)
    {'distortion': tensor(4.), 'rate': tensor(1.)}
    """
    return {"distortion": distortion, "rate": lmbda * rate}


def machine(
    rate: torch.Tensor,
    tasks: Mapping[str, torch.Tensor],
    weights: Mapping[str, float],
    lmbda: float | torch.Tensor,
) -> Terms:
    """Equation 2: machines read the stream. Raises InputError where a task has no weight.

    >>> machine(torch.tensor(0.5), {"p2": torch.tensor(3.0)}, {"p2": 0.1}, 2.0)
    {'rate': tensor(1.), 'p2': tensor(0.3000)}
    """
    missing = sorted(set(tasks) ^ set(weights))
    if missing:
        raise InputError(
            f"objective: expected a weight for each of the losses {', '.join(sorted(tasks))}, "
            f"found those of {', '.join(sorted(weights))}"
        )
    return {"rate": lmbda * rate} | {name: weights[name] * loss for name, loss in tasks.items()}


def both(
    distortion: torch.Tensor,
    rate: torch.Tensor,
    tasks: Mapping[str, torch.Tensor],
    weights: Mapping[str, float],
    lmbda: float | torch.Tensor,
    omega_0: float = 1.0,
) -> Terms:
    """Equation 3: people and machines. Raises InputError where a task has no weight.

    >>> terms = both(torch.tensor(4.0), torch.tensor(0.5), {}, {}, 2.0, omega_0=0.25)
    >>> sum(terms.values())
    tensor(2.)
    """
    return {"distortion": omega_0 * distortion} | machine(rate, tasks, weights, lmbda)
