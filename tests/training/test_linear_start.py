# SPDX-License-Identifier: BSD-3-Clause
"""Training of the built-in autoencoder begins as the Karhunen-Loeve transform of 8 x 8 blocks."""

import pytest
import torch
from hvcn_tiny import PRIOR, picture

from vcm_plugin.diff_fchm.human.pipeline import mean_latents, whole_cells
from vcm_plugin.diff_fchm.human.prior import SmallPrior, small_prior
from vcm_plugin.training.linear_start import _blocks, start_linear


@pytest.mark.parametrize("sizes", [PRIOR, SmallPrior()], ids=["tiny", "built-in"])
def test_it_is_the_best_linear_transform(sizes):
    torch.manual_seed(0)
    vae = small_prior(sizes).vae.eval()
    noise = 20 * torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(1))
    pictures = torch.cat([whole_cells(picture((64, 96), seed)) for seed in (1, 2, 3)]) + noise / 128
    start_linear(vae, pictures)
    with torch.no_grad():
        latents = mean_latents(vae, pictures)
        decoded = vae.decode(latents, return_dict=False)[0]
    inside = (slice(None), slice(None), slice(8, -8), slice(8, -8))  # convolutions pad with zeros
    error = (decoded - pictures)[inside].square().mean().item()
    variances = torch.linalg.eigvalsh(torch.cov(_blocks(pictures).T))
    lost = variances[: -sizes.latent_channels].sum().item() / 192
    assert error == pytest.approx(lost, rel=0.15)
    # an orthonormal transform: an error of the latents weighs as much in the picture
    with torch.no_grad():
        moved = vae.decode(latents + 0.1 * torch.randn_like(latents), return_dict=False)[0]
    weighed = (moved - decoded)[inside].square().mean().item() * 192 / sizes.latent_channels
    assert weighed == pytest.approx(0.01, rel=0.2)
