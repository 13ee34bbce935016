# SPDX-License-Identifier: BSD-3-Clause
"""Which diffusion prior paints: the built-in small one, or Stable Diffusion 2.1-base's layout.

A prior is an autoencoder of stride 8, a UNet2DConditionModel and the noise schedule it was trained
with, all of them diffusers' own classes. Sampling is deterministic, see sampler.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    AutoModel,
    DDIMScheduler,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file

from vcm_plugin.diff_fchm.human.config import PriorFit
from vcm_plugin.diff_fchm.human.geometry import STRIDE
from vcm_plugin.errors import InputError

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULE_KEYS = (*SCHEDULE, "num_train_timesteps", "prediction_type")  # decide about sampling
EMPTY_PROMPT = "empty_prompt.safetensors"


@dataclass(frozen=True)
class SmallPrior:
    """Sizes of the built-in prior. vae_blocks: channels at strides 2, 4 and 8; blocks: of the
    denoising network, from stride 8 down; groups: of its normalisations."""

    latent_channels: int = 16
    vae_blocks: tuple[int, ...] = (32, 64, 256)
    blocks: tuple[int, ...] = (64, 128, 192)
    layers: int = 1
    groups: int = 16


@dataclass
class Prior:
    """Autoencoder, denoising network and noise schedule."""

    vae: AutoencoderKL | AutoencoderTiny | AutoencoderDC
    unet: UNet2DConditionModel
    scheduler: DDIMScheduler

    def __post_init__(self):
        stride = 2 ** (len(_blocks(self.vae)) - 1)
        latents = (self.vae.config.latent_channels, self.unet.config.in_channels)
        if stride != STRIDE or len(set(latents)) > 1:
            raise InputError(
                f"prior: expected an autoencoder of stride {STRIDE} and a denoising network of the "
                f"same latent channels, found stride {stride}, {latents[0]} and {latents[1]} "
                "channels; choose a prior of Stable Diffusion's layout"
            )

    def fit(self) -> PriorFit:
        """What HVCN must know of it."""
        unet = self.unet.config
        layers = unet.layers_per_block
        if not isinstance(layers, int):
            if len(set(layers)) > 1:
                raise InputError(f"prior: expected as many layers in every block, found {layers}")
            layers = layers[0]
        attends = tuple("CrossAttn" in kind for kind in unet.down_block_types)
        return PriorFit(
            latent_channels=unet.in_channels,
            latent_scale=self.vae.config.scaling_factor,
            blocks=tuple(unet.block_out_channels),
            layers=layers,
            attends=attends,
            text_width=unet.cross_attention_dim if any(attends) else 0,
            fingerprint=self._fingerprint(),
        )

    def _fingerprint(self) -> str:
        """Of the noise schedule, and of the first and the last weights of both networks in 16-bit
        floats: quick, and the same for either precision that a prior is kept in."""
        settings = {name: self.scheduler.config.get(name) for name in SCHEDULE_KEYS}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for model in (self.vae, self.unet):
            first, *_, last = model.parameters()
            for weights in (first, last):
                digest.update(weights.detach().cpu().half().numpy().tobytes())
        return digest.hexdigest()[:16]


def small_prior(sizes: SmallPrior) -> Prior:
    """The built-in prior, untrained: convolutions only, so that any picture size will do."""
    levels = len(sizes.blocks)
    # The level of full resolution has no blocks: pictures are unshuffled into the next one.
    widths, no_attention = (sizes.vae_blocks[0], *sizes.vae_blocks), ((),) * 4
    vae = AutoencoderDC(
        latent_channels=sizes.latent_channels,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(0, 1, 1, 1),
        decoder_layers_per_block=(0, 1, 2, 2),
        encoder_qkv_multiscales=no_attention,
        decoder_qkv_multiscales=no_attention,
    )
    unet = UNet2DConditionModel(
        in_channels=sizes.latent_channels,
        out_channels=sizes.latent_channels,
        block_out_channels=sizes.blocks,
        layers_per_block=sizes.layers,
        down_block_types=("DownBlock2D",) * levels,
        mid_block_type="UNetMidBlock2D",
        up_block_types=("UpBlock2D",) * levels,
        norm_num_groups=sizes.groups,
        sample_size=32,
    )
    return Prior(vae, unet, _scheduler())


def stable_diffusion_layout() -> Prior:
    """Stable Diffusion 2.1-base's architecture with random weights (3.5 GB), to prove shapes."""
    levels = 4
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )
    unet = UNet2DConditionModel(
        sample_size=64,
        attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024,
        use_linear_projection=True,
    )
    return Prior(vae, unet, _scheduler())


def load_prior(source: str) -> Prior:
    """A frozen prior from a local folder or a hub id, with the folders vae, unet and scheduler.

    Raises InputError where it cannot be read or is no prior for HVCN.
    """
    if not Path(source).is_dir() and not re.fullmatch(r"[\w-]+/[\w.-]+", source):
        raise InputError(
            f"{source}: expected a prior with the folders vae, unet and scheduler, found neither a "
            "folder nor a hub id (owner/name); name one of them"
        )
    try:
        vae = AutoModel.from_pretrained(source, subfolder="vae", use_safetensors=True)
        unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet", use_safetensors=True)
        scheduler = DDIMScheduler.from_config(
            DDIMScheduler.load_config(source, subfolder="scheduler"), clip_sample=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{source}: expected a prior with the folders vae, unet and scheduler, in a local "
            "folder or on the hub; save it there with diffusers' save_pretrained, or name another "
            f"({' '.join(str(error).split())[:200]})"
        ) from error
    return Prior(settled(vae), settled(unet), scheduler)


def settled(model: torch.nn.Module) -> torch.nn.Module:
    """A loaded model, frozen, in 32-bit floats, in memory that torch has aligned.

    Tensors that lie where the file was mapped can have any alignment, and matrix products differ in
    their last bits with it: the same file would not always paint the same picture.
    """
    model = model.float().eval().requires_grad_(False)
    model.register_to_config(_name_or_path="")  # where it lay is nobody's business once it is saved
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def empty_prompt(source: str) -> torch.Tensor:
    """The embedding of the empty prompt, (1, tokens, C), which training keeps with HVCN's weights.

    Read from empty_prompt.safetensors of the folder; where it is missing, the text encoder beside
    it makes it once (needs transformers) and it is kept there. Raises InputError.
    """
    path = Path(source) / EMPTY_PROMPT
    if path.is_file():
        return load_file(path)["empty_prompt"]
    try:
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer")
        encoder = CLIPTextModel.from_pretrained(source, subfolder="text_encoder")
    except (ImportError, OSError, ValueError) as error:
        raise InputError(
            f"{source}: expected {EMPTY_PROMPT}, or a tokenizer and text encoder to make it with "
            "the package transformers; install transformers once, or copy the file there "
            f"({' '.join(str(error).split())[:200]})"
        ) from error
    tokens = tokenizer(
        "", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    with torch.no_grad():
        embedding = encoder(tokens.input_ids)[0].float().contiguous()
    if path.parent.is_dir():
        save_file({"empty_prompt": embedding}, path)
    return embedding


def check_fit(prior: Prior, expected: PriorFit) -> None:
    """Raise InputError where HVCN was trained for a prior of another kind."""
    found = prior.fit()
    for name, wanted in vars(expected).items():
        if getattr(found, name) != wanted:
            raise InputError(
                f"the human layer was trained for a prior with {name.replace('_', ' ')} {wanted}, "
                f"this one has {getattr(found, name)}; name the prior that it was trained with"
            )


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=True)


def _blocks(vae) -> tuple[int, ...]:
    """Channels of the autoencoder's levels, finest first."""
    config = vae.config
    return tuple(config.get("block_out_channels") or config["encoder_block_out_channels"])
