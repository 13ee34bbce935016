# SPDX-License-Identifier: BSD-3-Clause
"""Tiny real inter networks over the tiny VFCN, and frames that move, for the tests of sequences."""

from pathlib import Path

import torch
from vfcn_tiny import CONFIG, pyramid, tiny_model

from vcm_plugin.diff_fchm.machine.inter import export
from vcm_plugin.diff_fchm.machine.inter_config import InterConfig
from vcm_plugin.entropy.temporal import TemporalNetworks
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.files import sha256_of_file

INTER = InterConfig(temporal_width=8, temporal_features=6, prior_width=8).over(CONFIG)


def tiny_networks(seed: int = 0) -> TemporalNetworks:
    """Networks that start from those of tiny_model, with everything that is new in use."""
    torch.manual_seed(seed)
    networks = TemporalNetworks(INTER)
    fresh = {name: x.clone() for name, x in networks.state_dict().items()}
    networks.start_from(tiny_model().entropy)
    with torch.no_grad():
        for name, x in networks.named_parameters():
            if name.startswith(("extrapolation.weight", "gates", "prior.2.weight")):
                x.add_(0.2 * fresh[name])
        networks.prior[-1].bias[INTER.hyper_latents : 2 * INTER.hyper_latents] = 1.1
    return networks


def tiny_inter(folder: Path, machine: Path, seed: int = 0) -> Path:
    """Their weights file, for the VFCN weights `machine`."""
    networks = tiny_networks(seed)
    return export(networks, INTER, sha256_of_file(machine), {}, folder / "tiny.inter")


def moving(count: int, step: int = 1) -> list[FeaturePyramid]:
    """Features that move by some cells of p5 from frame to frame, round the edge."""
    features = pyramid((96, 128))
    cells = {"p2": 8, "p3": 4, "p4": 2, "p5": 1}
    return [
        FeaturePyramid(
            {k: torch.roll(x, n * step * cells[k], dims=2) for k, x in features.layers.items()},
            features.source_size,
            features.input_size,
        )
        for n in range(count)
    ]
