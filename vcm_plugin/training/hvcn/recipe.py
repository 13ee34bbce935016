# SPDX-License-Identifier: BSD-3-Clause
"""Train the human layer, stage by stage; each stage starts from what the one before left.

    vae       the autoencoder of the built-in prior: L1 + MSE + LPIPS
    prior     its denoising network: noise prediction
    control   FCN, ACN and the control, the prior and the machine layer frozen:
              noise prediction + latent_weight MSE(c, z0) / q + rate_weight q bpp
    sampling  the same networks through the unrolled sampler:
              picture_weight MSE + lpips_weight LPIPS + the latent and rate terms
    joint     also the machine layer: the terms of `sampling` + machine bpp + machine_weight times
              the error of the features (omega_0 D + lambda R + sum of omega_i L_i)

The scale s of the machine layer and the step q are drawn for every sample, so that one model serves
every machine rate and every human rate; the two weights move apart by q^2, as in vfcn.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vcm_plugin.diff_fchm.human.acn import scaled_back
from vcm_plugin.diff_fchm.human.hvcn import Hvcn
from vcm_plugin.diff_fchm.human.pipeline import HVCNPipeline, mean_latents
from vcm_plugin.diff_fchm.human.prior import Prior
from vcm_plugin.diff_fchm.machine import ivn
from vcm_plugin.diff_fchm.machine.vfcn import Vfcn, log2_linear
from vcm_plugin.entropy.estimate import estimate, estimate_factorised
from vcm_plugin.files import sha256_of, sha256_of_file
from vcm_plugin.training.hvcn.samples import MachineBatch, Samples, log_uniform, same_zoom
from vcm_plugin.training.loop import Terms, fit, start
from vcm_plugin.training.schedules import HvcnTraining


@dataclass(frozen=True)
class StageConfig:
    """What a checkpoint must agree with: the stage and the sizes of its networks."""

    stage: str
    networks: dict


def train(
    stage: nn.Module,
    samples: Samples,
    schedule: HvcnTraining,
    folder: Path,
    report=lambda line: None,
    vfcn_state: Path | None = None,
) -> nn.Module:
    """Train a stage and return it with averaged weights.

    A checkpoint in `folder` is resumed at the last multiple of schedule.checkpoint_every with the
    same crops, scales and noise as without the interruption. vfcn_state: where the stage "joint"
    has its machine layer from.
    """
    folder = folder / f"train_{schedule.stage}"
    accelerator = start(schedule, folder, report)
    prior = samples.prior
    for module in (prior.vae, prior.unet):
        module.to(accelerator.device)
    stage.to(accelerator.device).train()
    made_from = {
        "pictures": sha256_of([path.name for path in samples.paths]),
        "machine": samples.machine and samples.machine.sha256,
        "vfcn_state": sha256_of_file(vfcn_state) if vfcn_state else None,
    }
    path = folder / "state.pth"
    return fit(accelerator, stage, samples, schedule, path, loss_terms, report, made_from).eval()


def loss_terms(stage, samples: Samples, schedule: HvcnTraining, draw: int, _: bool) -> Terms:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    rng = np.random.default_rng((schedule.seed, draw))
    torch.manual_seed(int(rng.integers(1 << 62)))
    device = samples.prior.unet.device
    if schedule.stage in ("vae", "prior"):
        pictures = samples.tensor(samples.draw(schedule.batch_size, rng)).to(device)
        return stage(pictures, samples.prior, schedule)
    crops = same_zoom(samples, schedule.batch_size, rng)
    scales = log_uniform(schedule.scales, len(crops), rng)
    steps = log_uniform(schedule.quantiser_steps, len(crops), rng)
    batch = samples.machine_batch(crops, scales).to(device)
    pictures = samples.tensor(crops).to(device)
    q = torch.from_numpy(steps).float().to(device)
    return stage(pictures, batch, q, samples.prior, schedule)


class Autoencoding(nn.Module):
    """Stage "vae"."""

    def __init__(self, prior: Prior, perceptual: nn.Module | None):
        super().__init__()
        self.config = StageConfig("vae", dict(prior.vae.config))
        self.vae = prior.vae.requires_grad_(True)
        self.perceptual = perceptual

    def forward(self, pictures: torch.Tensor, _: Prior, schedule: HvcnTraining) -> Terms:
        decoded = self.vae.decode(mean_latents(self.vae, pictures), return_dict=False)[0]
        terms = {"l1": F.l1_loss(decoded, pictures), "mse": F.mse_loss(decoded, pictures)}
        return terms | _perceptual(self.perceptual, decoded, pictures, schedule)


class Denoising(nn.Module):
    """Stage "prior"."""

    def __init__(self, prior: Prior):
        super().__init__()
        self.config = StageConfig("prior", dict(prior.unet.config))
        self.unet = prior.unet.requires_grad_(True)

    def forward(self, pictures: torch.Tensor, prior: Prior, _: HvcnTraining) -> Terms:
        with torch.no_grad():
            z0 = mean_latents(prior.vae, pictures) * prior.vae.config.scaling_factor
        z_t, t, target = noised(z0, prior.scheduler)
        found = self.unet(z_t, t, encoder_hidden_states=None, return_dict=False)[0]
        return {"noise": F.mse_loss(found, target)}


class Human(nn.Module):
    """Stages "control" and "sampling", and with a float VFCN stage "joint"."""

    def __init__(self, stage: str, hvcn: Hvcn, perceptual: nn.Module | None = None, vfcn=None):
        super().__init__()
        networks = {"sizes": asdict(hvcn.sizes), "prior": asdict(hvcn.prior)}
        self.config = StageConfig(stage, networks)
        self.hvcn = hvcn.requires_grad_(True)
        self.vfcn: Vfcn | None = None if vfcn is None else vfcn.requires_grad_(True)
        self.perceptual = perceptual

    def forward(
        self,
        pictures: torch.Tensor,
        batch: MachineBatch,
        q: torch.Tensor,
        prior: Prior,
        schedule: HvcnTraining,
    ) -> Terms:
        """Pictures (N, 3, h, w) in -1 .. 1, the machine layer's batch, q (N,) -> terms."""
        terms: Terms = {}
        if self.vfcn is not None:
            batch, terms = self._machine(batch, schedule)
        pipeline = HVCNPipeline(prior.vae, prior.unet, prior.scheduler, self.hvcn)
        with torch.no_grad():
            z0 = pipeline.to_latents(pictures)
        control = self.hvcn.fcn(batch.layers, batch.ranges, batch.s, batch.geometry)
        c, bits = self.code(z0, pictures, control, batch, q)
        errors = (c - z0).square().mean(dim=(1, 2, 3))
        pixels = pictures.shape[-2] * pictures.shape[-1]
        terms["latent"] = schedule.latent_weight * (errors / q).mean()
        terms["rate"] = schedule.rate_weight * (bits / pixels * q).mean()
        if schedule.stage == "control":
            z_t, t, target = noised(z0, prior.scheduler)
            control = self.hvcn.fcn.join(control, c)
            found = pipeline.denoise(z_t, t, c, control, self.hvcn.prompt(len(c)))
            return terms | {"noise": F.mse_loss(found.float(), target)}
        noise = torch.randn_like(z0)
        z = pipeline.paint(c, control, noise, schedule.sampling_steps, schedule.start)
        decoded = pipeline.to_samples(z).float()
        terms["picture"] = schedule.picture_weight * F.mse_loss(decoded, pictures)
        return terms | _perceptual(self.perceptual, decoded, pictures, schedule)

    def code(self, z0, pictures, control, batch: MachineBatch, q):
        """z0 -> (c, bits (N,)) as the codec would code it, differentiable."""
        acn = self.hvcn.acn
        y = acn.analysis(z0, pictures, control, q).float()
        with torch.autocast(y.device.type, enabled=False):
            machine = scaled_back(batch.y_hat.float(), batch.octaves)
            q_octaves = log2_linear(q).view(-1, 1, 1, 1)
            conditioning = acn.conditioning(machine, batch.octaves, q_octaves, batch.geometry)
            if self.hvcn.sizes.published("auxiliary"):
                y_hat, bits = estimate_factorised(acn.entropy, self.training, y, conditioning)
            else:
                z = acn.hyper(y)
                y_hat, bits = estimate(acn.entropy, self.training, z, y, conditioning)
        return acn.synthesis(y_hat, control, q), bits

    def _machine(self, batch: MachineBatch, schedule: HvcnTraining):
        """The machine layer with gradients in place of the frozen one, and its terms."""
        low, high = batch.ranges.T.view(2, -1, 1, 1, 1)
        normal = ivn.normalise(batch.raw, (low, high))
        y = self.vfcn.analysis(normal, batch.ranges).float()
        octaves = self.vfcn.octaves(batch.ranges)
        y_hat, bits = estimate(self.vfcn.entropy, self.training, self.vfcn.h_a(y), y, octaves)
        decoded = self.vfcn.synthesis(y_hat, batch.ranges)
        error = sum(F.mse_loss(decoded[name], normal[name]) for name in normal)
        height, width = batch.geometry.input_size
        terms = {
            "machine_bpp": bits.mean() / (height * width),
            "machine": schedule.machine_weight * 255**2 * error,
        }
        changed = vars(batch) | {
            "layers": ivn.invert(decoded, (low, high)),
            "y_hat": y_hat,
            "octaves": octaves,
        }
        return MachineBatch(**changed), terms


def noised(z0: torch.Tensor, scheduler):
    """z0 -> (z_t, t (N,), what the denoising network should say), at random time steps."""
    t = torch.randint(0, scheduler.config.num_train_timesteps, (len(z0),), device=z0.device)
    noise = torch.randn_like(z0)
    z_t = scheduler.add_noise(z0, noise, t)
    if scheduler.config.prediction_type == "v_prediction":
        return z_t, t, scheduler.get_velocity(z0, noise, t)
    return z_t, t, noise


@torch.no_grad()
def set_latent_scale(prior: Prior, samples: Samples, schedule: HvcnTraining) -> None:
    """Make the latents of a trained autoencoder of unit variance, over 16 batches."""
    device, variances = prior.vae.device, []
    for draw in range(16):
        rng = np.random.default_rng((schedule.seed, 1 << 40, draw))
        pictures = samples.tensor(samples.draw(schedule.batch_size, rng)).to(device)
        variances.append(mean_latents(prior.vae, pictures).var().item())
    prior.vae.register_to_config(scaling_factor=1.0 / float(np.mean(variances)) ** 0.5)


def lpips_network() -> nn.Module | None:
    """LPIPS (AlexNet), frozen, where the package lpips and its weights are; else None."""
    try:
        import lpips

        return lpips.LPIPS(net="alex", verbose=False).requires_grad_(False)
    except (ImportError, OSError):
        return None


def _perceptual(network, decoded, pictures, schedule: HvcnTraining) -> Terms:
    if network is None or not schedule.lpips_weight:
        return {}
    return {"lpips": schedule.lpips_weight * network(decoded, pictures).mean()}
