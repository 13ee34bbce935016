# SPDX-License-Identifier: BSD-3-Clause
"""How a frame is coded after others: which frames are intra, and the weights of the inter networks.

    intra frame   a machine unit, as of a picture; its range and s hold until the next one
    inter frame   an inter unit: z and y, given the decoded latents of the two frames before

g_a, h_a and g_s are those of the machine layer. Frames are coded in the order in which they are
shown, each from the two before it within an intra period (the first of these two times), so there
is no structural delay.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from vcm_plugin.diff_fchm.machine.inter_config import InterConfig
from vcm_plugin.entropy.integer import integer_networks, integer_weights
from vcm_plugin.entropy.latent_coder import Latents
from vcm_plugin.entropy.rans import Tables
from vcm_plugin.entropy.temporal import TemporalNetworks
from vcm_plugin.entropy.temporal_coder import TemporalCoder
from vcm_plugin.errors import InputError
from vcm_plugin.weights_file import fitting, read_weights, write_weights


@dataclass(frozen=True)
class Earlier:
    """What an inter frame is coded from: the latents of the last frame and of the one before."""

    last: Latents
    before: Latents

    @classmethod
    def intra(cls, latents: Latents) -> Earlier:
        """After an intra frame there is one frame to look back to."""
        return cls(latents, latents)

    def then(self, latents: Latents) -> Earlier:
        """After one more frame."""
        return Earlier(latents, self.last)


class InterNetworks:
    """The inter networks of a weights file, over one machine layer.

    Raises InputError for a damaged file, and for one that was trained over another machine layer.
    """

    def __init__(self, weights: Path, machine_sha256: str, tables: Tables):
        data, tensors, self.metadata = read_weights(weights, "inter")
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.weights_id = int(self.sha256[:8], 16)
        with fitting(weights, tensors):
            made_for = self.metadata["machine_sha256"]
            sizes = self.metadata["config"]
            config = InterConfig(**sizes | {"slices": tuple(sizes["slices"])})
            networks = integer_networks(TemporalNetworks(config), tensors)
        if made_for != machine_sha256:
            raise InputError(
                f"{weights}: these inter weights are for the machine layer {made_for[:8]}, found "
                f"{machine_sha256[:8]}; train them over it: vcm-plugin train inter"
            )
        self.parameters = sum(x.numel() for x in tensors.values())
        self.coder = TemporalCoder(networks, tables)

    def to(self, device: torch.device | str) -> InterNetworks:
        """Return self with its networks on another device."""
        self.coder.to(device)
        return self


def export(
    networks: TemporalNetworks, config: InterConfig, machine_sha256: str, trained: dict, path: Path
) -> Path:
    """Write the weights file of trained networks: integers only."""
    integers = integer_weights(networks)
    integer_networks(networks, integers)  # proves that no sum can overflow
    about = {"config": asdict(config), "machine_sha256": machine_sha256, "trained": trained}
    return write_weights(path, "inter", integers, about)
