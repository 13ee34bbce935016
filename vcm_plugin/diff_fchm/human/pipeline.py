# SPDX-License-Identifier: BSD-3-Clause
"""From decoded features and auxiliary latents to the picture, as a pipeline of diffusers.

p2..p5 -> FCN -> F -+-> g_s -> c -> + noise -> UNet with control, few steps -> z -> VAE -> picture
auxiliary latents --+

As published: p2, p3 -> F; auxiliary latents -> LD -> c; both -> FCN -> control; z_T is noise alone.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch.nn import functional as F

from vcm_plugin.diff_fchm.human.geometry import STRIDE, Geometry
from vcm_plugin.diff_fchm.human.hvcn import Hvcn
from vcm_plugin.diff_fchm.human.prior import Prior, check_fit
from vcm_plugin.diff_fchm.human.sampler import (
    DEFAULT_START,
    DEFAULT_STEPS,
    sample,
    start_noise,
    time_steps,
)


class HVCNPipeline(DiffusionPipeline):
    """vae, unet, scheduler: the prior, frozen. hvcn: the networks of the human layer.

    L in the shapes below is the number of latent channels of the prior: 16 of the built-in one, 4
    of Stable Diffusion 2.1-base.
    """

    model_cpu_offload_seq = "hvcn->unet->vae"

    def __init__(self, vae, unet, scheduler, hvcn: Hvcn):
        super().__init__()
        self.register_modules(vae=vae, unet=unet, scheduler=scheduler, hvcn=hvcn)
        check_fit(Prior(vae, unet, scheduler), hvcn.prior)

    @torch.no_grad()
    def __call__(
        self,
        layers: dict[str, torch.Tensor],
        ranges: torch.Tensor,
        s: torch.Tensor,
        y_hat: torch.Tensor,
        q: torch.Tensor,
        geometry: Geometry,
        steps: int = DEFAULT_STEPS,
        start: int = DEFAULT_START,
        seed: int = 0,
    ) -> np.ndarray:
        """The picture, uint8 RGB (H, W, 3).

        layers: decoded p2..p5, (1, C, h, w) each; ranges (1, 2): m', M'; s (1,): the scale in
        them. y_hat (1, C, h16, w16): auxiliary latents in steps of q (1,). steps: 1 to 50 of the
        sampler, 0 decodes c without the denoising network; start: time step that c is noised to.
        """
        control = self.hvcn.fcn(layers, ranges, s, geometry)
        c = self.hvcn.acn.synthesis(y_hat, control, q)
        noise = start_noise(seed, tuple(c.shape)).to(c)
        return self.to_picture(self.paint(c, control, noise, steps, start), geometry)

    def paint(self, c, control, noise, steps: int, start: int) -> torch.Tensor:
        """c, F and noise -> latents (N, L, h8, w8); differentiable, for training."""
        if steps == 0:
            return c
        text, control = self.hvcn.prompt(len(c)), self.hvcn.fcn.join(control, c)

        def denoise(z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.denoise(z_t, t, c, control, text)

        begin = None if self.hvcn.sizes.published("sampled_from") else c
        return sample(denoise, self.scheduler, begin, noise, time_steps(start, steps))

    def denoise(self, z_t, t, c, control, text=None) -> torch.Tensor:
        """The output of the controlled denoising network at time steps t (N,).

        control: what fcn.join makes of F and c.
        """
        added = self.hvcn.control(z_t, c, control, t, text)
        return self.unet(z_t, t, encoder_hidden_states=text, **added, return_dict=False)[0]

    def to_latents(self, picture: torch.Tensor) -> torch.Tensor:
        """Whole cells of a picture (N, 3, 8 h8, 8 w8) in -1 .. 1 -> z0 (N, L, h8, w8)."""
        return mean_latents(self.vae, picture) * self.vae.config.scaling_factor

    def to_samples(self, z: torch.Tensor) -> torch.Tensor:
        """Latents -> samples in -1 .. 1 (N, 3, 8 h8, 8 w8); differentiable."""
        return self.vae.decode(z / self.vae.config.scaling_factor, return_dict=False)[0]

    def to_picture(self, z: torch.Tensor, geometry: Geometry) -> np.ndarray:
        """Latents (1, L, h8, w8) -> uint8 RGB (H, W, 3)."""
        height, width = geometry.source_size
        samples = self.to_samples(z)[0, :, :height, :width].float()
        levels = (samples.clamp(-1.0, 1.0) * 127.5 + 127.5).round()
        return levels.to(torch.uint8).permute(1, 2, 0).cpu().contiguous().numpy()


def mean_latents(vae, picture: torch.Tensor) -> torch.Tensor:
    """Picture (N, 3, 8 h8, 8 w8) in -1 .. 1 -> latents before scaling: those that an autoencoder
    gives, or the mean of the distribution that it gives."""
    encoded = vae.encode(picture, return_dict=False)[0]
    return encoded.mode() if hasattr(encoded, "mode") and not torch.is_tensor(encoded) else encoded


def whole_cells(picture: np.ndarray) -> torch.Tensor:
    """uint8 RGB (H, W, 3) -> float32 (1, 3, 8 h8, 8 w8) in -1 .. 1, the last samples repeated."""
    samples = torch.tensor(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    below, right = (-n % STRIDE for n in picture.shape[:2])
    return F.pad(samples.float() / 127.5 - 1.0, (0, right, 0, below), mode="replicate")
