# SPDX-License-Identifier: BSD-3-Clause
"""A tiny real HVCN on the tiny VFCN, with a tiny prior of diffusers' classes, for tests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from vfcn_tiny import CONFIG as VFCN_CONFIG
from vfcn_tiny import tiny_weights

from vcm_plugin import bitstream
from vcm_plugin.bitstream import HumanPayload
from vcm_plugin.diff_fchm.human.codec import HumanCodec, geometry_of
from vcm_plugin.diff_fchm.human.config import CHOICES, HvcnConfig, MachineFit
from vcm_plugin.diff_fchm.human.hvcn import Hvcn
from vcm_plugin.diff_fchm.human.integer_coder import integer_coder
from vcm_plugin.diff_fchm.human.pipeline import HVCNPipeline
from vcm_plugin.diff_fchm.human.prior import Prior, SmallPrior, small_prior
from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.entropy.latent_coder import Latents

SIZES = HvcnConfig(
    width=8,
    analysis_width=8,
    latents=8,
    slices=(2, 6),
    hyper_width=8,
    hyper_latents=4,
    context_width=8,
    condition_width=4,
)
PAPER = replace(SIZES, **{name: paper for name, (_, paper) in CHOICES.items()})
PRIOR = SmallPrior(latent_channels=4, vae_blocks=(16, 64, 256), blocks=(8, 16), groups=4)
GOLDEN = Path(__file__).parent / "golden"


def golden_latents(hvcn: Hvcn, name: str) -> Latents:
    """The auxiliary latents of a golden file, without a prior: its floats have no part in them."""
    data = (GOLDEN / f"{name}.fcm").read_bytes()
    payload = HumanPayload.from_bytes(bitstream.read(data).payload_of("human"))
    assert payload.weights_id == int(hvcn.sha256()[:8], 16)
    codec = MachineCodec(GOLDEN / "tiny.vfcn")
    machine = codec.decode_latents(data)
    octaves, geometry = codec.octaves(machine.payload.value_range), geometry_of(machine)
    coder = integer_coder(hvcn, torch.device("cpu"))
    conditioning = coder.conditioning(machine.latents, octaves, payload.step, geometry)
    return coder.decode(payload.data, geometry, conditioning)


def tiny_prior(seed: int = 0) -> Prior:
    torch.manual_seed(seed)
    return small_prior(PRIOR)


def tiny_hvcn(machine: MachineCodec, prior: Prior, sizes: HvcnConfig = SIZES, seed: int = 0):
    """Random weights whose latents have several steps and whose control is not zero."""
    torch.manual_seed(seed)
    config = machine.config
    fit = MachineFit(config.channels, config.latents, machine.latents_sha256)
    hvcn = Hvcn.new(sizes, fit, prior.fit(), prior.unet)
    alone = sizes.published("auxiliary")
    for network in [hvcn.acn.latent_encoder] if alone else [hvcn.acn.g_a, hvcn.acn.h_a]:
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.data *= 1.7
    for network in (hvcn.acn.entropy.prior, *([] if alone else hvcn.acn.entropy.contexts)):
        network[-1].weight.data *= 0.2
        network[-1].bias.data[len(network[-1].bias) // 2 :] = 0.5
    for conv in zero_convolutions(hvcn):
        conv.weight.data.normal_(std=0.1)
    return hvcn.eval()


def zero_convolutions(hvcn: Hvcn) -> list[torch.nn.Conv2d]:
    """The last layers of the control: those of the encoder, of the middle and of the decoder."""
    control = hvcn.control
    if not hvcn.sizes.published("control"):
        return [*control.encoder, *control.decoder, control.centre]
    network = control.network
    last = [*network.controlnet_down_blocks, network.controlnet_mid_block]
    return [*control.encoder, *last, network.controlnet_cond_embedding.conv_out]


def tiny_folder(folder: Path, machine: MachineCodec, sizes: HvcnConfig = SIZES) -> Path:
    """A folder as HVCNPipeline saves it."""
    prior = tiny_prior()
    hvcn = tiny_hvcn(machine, prior, sizes)
    HVCNPipeline(prior.vae, prior.unet, prior.scheduler, hvcn).save_pretrained(folder)
    return folder


def tiny_codec(
    folder: Path, sizes: HvcnConfig = SIZES, machine: MachineCodec | None = None
) -> HumanCodec:
    """A codec with its weights below the folder, on the tiny VFCN or a given machine layer."""
    machine = machine or MachineCodec(tiny_weights(folder, VFCN_CONFIG))
    return HumanCodec(machine, tiny_folder(folder / "hvcn", machine, sizes))


def picture(size: tuple[int, int] = (122, 180), seed: int = 4) -> np.ndarray:
    """Smooth colours, uint8 (H, W, 3)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, 7, 9), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)
    return (smooth[0].permute(1, 2, 0).clamp(0, 1) * 255).to(torch.uint8).numpy()
