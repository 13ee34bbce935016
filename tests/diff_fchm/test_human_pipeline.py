# SPDX-License-Identifier: BSD-3-Clause
"""The diffusion prior: diffusers' classes in and out, zero control, deterministic sampling."""

import inspect
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    UNet2DConditionModel,
)
from hvcn_tiny import PRIOR, SIZES, tiny_prior
from safetensors.torch import save_file

from vcm_plugin.diff_fchm.human.codec import Sampling, load_hvcn
from vcm_plugin.diff_fchm.human.config import MachineFit
from vcm_plugin.diff_fchm.human.geometry import Geometry
from vcm_plugin.diff_fchm.human.hvcn import Hvcn
from vcm_plugin.diff_fchm.human.pipeline import HVCNPipeline, whole_cells
from vcm_plugin.diff_fchm.human.prior import (
    Prior,
    check_fit,
    empty_prompt,
    load_prior,
    settled,
    small_prior,
    stable_diffusion_layout,
)
from vcm_plugin.diff_fchm.human.sampler import sample, start_noise, time_steps
from vcm_plugin.errors import InputError
from vcm_plugin.training.hvcn.recipe import Human
from vcm_plugin.training.hvcn.samples import MachineBatch
from vcm_plugin.training.schedules import HvcnTraining

MACHINE = MachineFit(channels=8, latents=8, sha256="0" * 64)


def attending_prior() -> Prior:
    """Stable Diffusion's kinds of blocks at a tiny size, with a text width of 8."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        attention_head_dim=4,
        cross_attention_dim=8,
        norm_num_groups=4,
    )
    return Prior(kl_autoencoder(), unet, small_prior(PRIOR).scheduler)


def kl_autoencoder(widths: tuple[int, ...] = (8, 8, 8, 8)) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        norm_num_groups=4,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def tiny_vae_prior() -> Prior:
    torch.manual_seed(0)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    return Prior(vae, tiny_prior().unet, tiny_prior().scheduler)


PRIORS = {"small": tiny_prior, "attending": attending_prior, "tiny": tiny_vae_prior}
AUTOENCODERS = {"small": AutoencoderDC, "attending": AutoencoderKL, "tiny": AutoencoderTiny}


def pipeline_of(prior: Prior, control: float = 0.0) -> HVCNPipeline:
    torch.manual_seed(1)
    hvcn = Hvcn.new(SIZES, MACHINE, prior.fit()).eval()
    hvcn.empty_prompt.normal_()
    for conv in (*hvcn.control.encoder, *hvcn.control.decoder, hvcn.control.centre):
        conv.weight.data.normal_(std=control)
    return HVCNPipeline(prior.vae, prior.unet, prior.scheduler, hvcn)


def machine_batch(geometry: Geometry, count: int = 1) -> MachineBatch:
    """Random features as a machine layer decodes them."""
    generator = torch.Generator().manual_seed(2)
    cells = [-(-n // 32) * 32 for n in geometry.input_size]
    layers = {
        name: torch.randn(count, 8, *(n // stride for n in cells), generator=generator)
        for name, stride in {"p2": 4, "p3": 8, "p4": 16, "p5": 32}.items()
    }
    y_hat = torch.randn(layers["p4"].shape, generator=generator).round()
    ranges, s = torch.tensor([[-4.0, 5.0]]).repeat(count, 1), torch.ones(count)
    return MachineBatch(layers, layers, ranges, s, y_hat, torch.zeros(count, 1, 1, 1), geometry)


def painted(pipeline: HVCNPipeline, geometry: Geometry, **options) -> np.ndarray:
    batch = machine_batch(geometry)
    generator = torch.Generator().manual_seed(3)
    y_hat = torch.randn(1, SIZES.latents, *geometry.grid16, generator=generator).round()
    return pipeline(batch.layers, batch.ranges, batch.s, y_hat, torch.ones(1), geometry, **options)


@pytest.mark.parametrize("kind", PRIORS)
@pytest.mark.parametrize("size", [(64, 64), (61, 93), (120, 40)])
def test_every_size_is_painted(kind, size):
    picture = painted(pipeline_of(PRIORS[kind](), 0.1), Geometry(size, (48, 80)), steps=2)
    assert picture.shape == (*size, 3) and picture.dtype == np.uint8 and picture.std() > 0


@pytest.mark.parametrize("kind", PRIORS)
def test_save_and_load(kind, tmp_path):
    pipeline, geometry = pipeline_of(PRIORS[kind](), 0.1), Geometry((61, 93), (48, 80))
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    loaded = HVCNPipeline.from_pretrained(tmp_path)
    for part in (loaded.vae, loaded.unet, loaded.hvcn):
        settled(part)  # else the last bits depend on where the file was mapped
    assert type(loaded.vae) is AUTOENCODERS[kind]
    assert loaded.hvcn.sha256() == pipeline.hvcn.sha256() == load_hvcn(tmp_path).sha256()
    assert np.array_equal(painted(loaded, geometry), painted(pipeline, geometry))
    check_fit(load_prior(str(tmp_path)), loaded.hvcn.prior)


@pytest.mark.parametrize("kind", PRIORS)
def test_training_starts_from_the_prior_as_it_is(kind):
    pipeline = pipeline_of(PRIORS[kind](), control=0.0)
    z, c, control = (torch.randn(2, n, 9, 7) for n in (4, 4, SIZES.width))
    t, text = torch.tensor([3, 700]), pipeline.hvcn.prompt(2)
    with torch.no_grad():
        found = pipeline.denoise(z, t, c, control, text)
        alone = pipeline.unet(z, t, encoder_hidden_states=text).sample
    assert torch.equal(found, alone)


@pytest.mark.parametrize("kind", ["small", "attending"])
@pytest.mark.parametrize("place", ["encoder", "centre", "decoder"])
def test_control_reaches_encoder_middle_and_decoder(kind, place):
    pipeline = pipeline_of(PRIORS[kind](), control=0.0)
    z, c, control = (torch.randn(1, n, 9, 7) for n in (4, 4, SIZES.width))
    t, text = torch.tensor([300]), pipeline.hvcn.prompt(1)
    convs = getattr(pipeline.hvcn.control, place)
    for conv in convs if place != "centre" else [convs]:
        with torch.no_grad():
            before = pipeline.denoise(z, t, c, control, text)
            conv.weight.normal_()
            assert not torch.equal(pipeline.denoise(z, t, c, control, text), before)


# --- the sampler ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_a_network_that_knows_the_picture_gives_it_back(kind, steps):
    scheduler = DDIMScheduler(prediction_type=kind)
    z0, c, noise = (torch.randn(1, 4, 5, 6, dtype=torch.float64) for _ in range(3))

    def knows(z_t, t):
        alpha = float(scheduler.alphas_cumprod[int(t[0])])
        found = (z_t - alpha**0.5 * z0) / (1.0 - alpha) ** 0.5
        return found if kind == "epsilon" else alpha**0.5 * found - (1.0 - alpha) ** 0.5 * z0

    painted = sample(knows, scheduler, c, noise, time_steps(300, steps))
    torch.testing.assert_close(painted, z0, atol=1e-9, rtol=0)


def test_a_step_is_that_of_diffusers():
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(4)
    c, noise, found = (torch.randn(1, 4, 5, 6) for _ in range(3))
    seen = []
    sample(lambda z, t: seen.append(z) or found, scheduler, c, noise, [750, 500])
    started = scheduler.add_noise(c, noise, torch.tensor([750]))
    torch.testing.assert_close(seen[0], started)
    torch.testing.assert_close(seen[1], scheduler.step(found, 750, started).prev_sample)


def test_noise_is_of_its_own_generator():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = start_noise(7, (1, 4, 3, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, start_noise(7, (1, 4, 3, 3)))
    assert not torch.equal(first, start_noise(8, (1, 4, 3, 3)))


def test_time_steps_fall_evenly():
    for steps in range(1, 51):
        times = time_steps(300, steps)
        assert len(set(times)) == steps and times[0] == 300 and min(times) > 0
        assert times == sorted(times, reverse=True)


def test_pictures_become_whole_cells_and_come_back():
    picture = np.random.default_rng(0).integers(0, 256, (13, 18, 3), dtype=np.uint8)
    samples = whole_cells(picture)
    assert samples.shape == (1, 3, 16, 24) and torch.equal(samples[..., 13:, :18][..., 2, :],
                                                           samples[..., 12, :18])  # fmt: skip
    levels = (samples[0, :, :13, :18] * 127.5 + 127.5).round().permute(1, 2, 0)
    assert np.array_equal(levels.numpy().astype(np.uint8), picture)


# --- bad input ------------------------------------------------------------------------------


def test_priors_that_do_not_fit(tmp_path):
    prior = tiny_prior()
    wide = small_prior(replace(PRIOR, latent_channels=8))
    with pytest.raises(InputError, match="stride 8, 4 and 8 channels"):
        Prior(prior.vae, wide.unet, prior.scheduler)
    with pytest.raises(InputError, match="stride 4"):
        Prior(kl_autoencoder((8, 8, 8)), prior.unet, prior.scheduler)
    with pytest.raises(InputError, match="latent channels 4, this one has 8; name the prior"):
        check_fit(wide, prior.fit())
    prior.vae.register_to_config(scaling_factor=0.5)
    with pytest.raises(InputError, match="latent scale 1.0, this one has 0.5"):
        check_fit(prior, tiny_prior().fit())
    with pytest.raises(InputError, match="with fingerprint .*; name the prior that it was trained"):
        check_fit(tiny_prior(seed=1), tiny_prior().fit())
    with pytest.raises(InputError, match="folders vae, unet and scheduler"):
        load_prior(str(tmp_path / "missing"))
    with pytest.raises(InputError, match="there is no folder hvcn in it"):
        load_hvcn(tmp_path)


def test_the_empty_prompt_is_read_from_its_file(tmp_path):
    with pytest.raises(InputError, match="install transformers once, or copy the file"):
        empty_prompt(str(tmp_path))
    embedding = torch.randn(1, 77, 8)
    save_file({"empty_prompt": embedding}, tmp_path / "empty_prompt.safetensors")
    assert torch.equal(empty_prompt(str(tmp_path)), embedding)


@pytest.mark.slow
def test_stable_diffusion_21_base_takes_a_training_step_and_decodes():
    """The real architecture with random weights: 866 million of them, about 8 GB of memory."""
    prior = stable_diffusion_layout()
    for module in (prior.vae, prior.unet):
        module.requires_grad_(False).eval()
    assert sum(p.numel() for p in prior.unet.parameters()) == 865_910_724
    fit = prior.fit()
    assert (fit.blocks, fit.layers, fit.text_width) == ((320, 640, 1280, 1280), 2, 1024)
    hvcn = Hvcn.new(SIZES, MACHINE, fit)
    human, schedule = Human("control", hvcn), HvcnTraining(stage="control")
    optimizer = torch.optim.SGD(human.parameters(), 0.1)
    batch = machine_batch(Geometry((64, 72), (64, 72)))
    pictures = torch.rand(1, 3, 64, 72) * 2 - 1
    terms = human.train()(pictures, batch, torch.ones(1), prior, schedule)
    before = hvcn.control.centre.weight.clone()
    sum(terms.values()).backward()
    optimizer.step()
    assert not torch.equal(before, hvcn.control.centre.weight)
    assert all(torch.isfinite(term) for term in terms.values())
    pipeline = HVCNPipeline(prior.vae, prior.unet, prior.scheduler, hvcn.eval())
    assert painted(pipeline, Geometry((61, 70), (64, 72)), steps=1).shape == (61, 70, 3)


def test_pipeline_and_codec_start_alike():
    """What a pipeline paints by default is what a decoder paints of a file by default."""
    parameters = inspect.signature(HVCNPipeline.__call__).parameters
    assert (parameters["steps"].default, parameters["start"].default) == (
        Sampling().steps, Sampling().start,
    )  # fmt: skip
