# SPDX-License-Identifier: BSD-3-Clause
"""HVCN's own networks as one model that diffusers saves and loads: FCN, ACN and the control."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from vcm_plugin.diff_fchm.human.acn import AuxiliaryCoder, UnconditionalCoder
from vcm_plugin.diff_fchm.human.config import CHOICES, HvcnConfig, MachineFit, PriorFit
from vcm_plugin.diff_fchm.human.control import ControlEncoder, PriorControl, layout_of
from vcm_plugin.diff_fchm.human.fcn import FineToCoarse, FusionControl
from vcm_plugin.entropy.latent_coder import gaussian_tables


class Hvcn(ModelMixin, ConfigMixin):
    """fcn, acn and control, with the entropy tables and the embedding of the empty prompt.

    The arguments are the fields of HvcnConfig, MachineFit and PriorFit; `new` takes these classes.
    unet: for a control of the prior's own layers their configuration (control.layout_of), else
    None. Weights are 32-bit floats wherever they decide about entropy coding.
    """

    @register_to_config
    def __init__(self, sizes: dict, machine: dict, prior: dict, unet: dict | None = None):
        super().__init__()
        self.sizes = HvcnConfig(**_tuples(sizes))
        self.machine = MachineFit(**machine)
        self.prior = PriorFit(**_tuples(prior))
        published, fits = self.sizes.published, (self.machine, self.prior)
        self.fcn = (FineToCoarse if published("fusion") else FusionControl)(self.sizes, *fits)
        self.acn = (UnconditionalCoder if published("auxiliary") else AuxiliaryCoder)(
            self.sizes, *fits
        )
        if published("control"):
            self.control = PriorControl(self.sizes, self.prior, unet)
        else:
            self.control = ControlEncoder(self.sizes, self.prior)
        self.register_buffer("tables", torch.from_numpy(gaussian_tables().to_array()))
        self.register_buffer("empty_prompt", torch.zeros(1, 77, self.prior.text_width))

    @classmethod
    def new(cls, sizes: HvcnConfig, machine: MachineFit, prior: PriorFit, unet=None) -> Hvcn:
        """An untrained model.

        unet: the prior's denoising network, needed where the control is of its layers, which begin
        with its weights.
        """
        described = asdict(sizes), asdict(machine), asdict(prior)
        if not sizes.published("control"):
            return cls(*described)
        model = cls(*described, layout_of(unet))
        model.control.begin(unet)
        return model

    def prompt(self, count: int) -> torch.Tensor | None:
        """The embedding of the empty prompt for `count` pictures, None without cross-attention."""
        return self.empty_prompt.expand(count, -1, -1) if self.prior.text_width else None

    def sha256(self) -> str:
        """Of all sizes and weights; bitstreams carry its first 32 bits."""
        sizes = {"sizes": self.sizes, "machine": self.machine, "prior": self.prior}
        described = {name: asdict(value) for name, value in sizes.items()}
        for name, (ours, _) in CHOICES.items():  # which older weights do not name
            if described["sizes"][name] == ours:
                del described["sizes"][name]
        if self.config["unet"] is not None:
            described["unet"] = self.config["unet"]
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        for name, x in sorted(self.state_dict().items()):
            digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
            digest.update(x.detach().cpu().numpy().tobytes())
        return digest.hexdigest()


def _tuples(values: dict) -> dict:
    """Lists, as JSON brings them back, as tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
