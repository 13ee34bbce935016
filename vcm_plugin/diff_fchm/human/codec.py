# SPDX-License-Identifier: BSD-3-Clause
"""How a picture becomes the human layer of an .fcm file and comes back: HVCN.

encode: machine layer -> features -> F; picture -> z0 -> y -> entropy coding -> human unit
decode: machine latents -> F_int -> auxiliary latents, checked -> c -> sampler -> picture
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vcm_plugin import bitstream
from vcm_plugin.bitstream import HumanPayload, Unit
from vcm_plugin.diff_fchm.human.config import MAX_STEPS
from vcm_plugin.diff_fchm.human.geometry import Geometry, geometry_of_picture
from vcm_plugin.diff_fchm.human.hvcn import Hvcn
from vcm_plugin.diff_fchm.human.integer_coder import integer_coder
from vcm_plugin.diff_fchm.human.pipeline import HVCNPipeline, whole_cells
from vcm_plugin.diff_fchm.human.prior import load_prior, settled
from vcm_plugin.diff_fchm.human.sampler import (
    DEFAULT_START,
    DEFAULT_STEPS,
    LAST,
    NOISE_STEPS,
    start_noise,
)
from vcm_plugin.diff_fchm.machine.codec import MachineCodec, MachineLayer
from vcm_plugin.entropy.latent_coder import LATENT_STEPS, Latents
from vcm_plugin.errors import BitstreamError, InputError, one_line
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.rate_points import SCALES, parse_scale


@dataclass(frozen=True)
class Sampling:
    """How the decoder paints: the encoder's choice, part of the file.

    The defaults are those of sampler.py, chosen on the val split; weights that paint from noise
    have others (HumanCodec.sampling).
    """

    steps: int = DEFAULT_STEPS
    start: int = DEFAULT_START
    seed: int = 0

    def __post_init__(self):
        if not 1 <= self.steps <= min(MAX_STEPS, self.start) or not self.start < 1000:
            raise InputError(
                f"expected 1 to {MAX_STEPS} sampling steps from a time step below 1000 that is no "
                f"smaller, found {self.steps} steps from {self.start}"
            )
        if not 0 <= self.seed < 1 << 32:
            raise InputError(f"expected a seed from 0 to {(1 << 32) - 1}, found {self.seed}")


@dataclass(frozen=True)
class AuxiliaryLayer:
    """What a human unit says once its latents are decoded and checked."""

    machine: MachineLayer
    payload: HumanPayload
    latents: Latents


class HumanCodec:
    """Human codec diff_fchm_human: a machine codec and the networks of HVCN built on it.

    weights: a folder saved by HVCNPipeline. prior: folder or hub id of the diffusion prior where
    that is not part of the folder.
    """

    name = "diff_fchm_human"
    kind = "human"

    def __init__(
        self, machine: MachineCodec, weights: Path, prior: str | None = None, device: str = "cpu"
    ):
        self.machine, self.device = machine, torch.device(device)
        hvcn = load_hvcn(weights)
        self.from_noise = hvcn.sizes.published("sampled_from")
        self.sampling = Sampling(NOISE_STEPS, LAST) if self.from_noise else Sampling()
        if not machine.carries(hvcn.machine.sha256):
            raise InputError(
                f"{weights}: this human layer was trained on the machine layer "
                f"{hvcn.machine.sha256[:12]}, found {machine.latents_sha256[:12]}; use the VFCN "
                "weights that it was trained on"
            )
        self.sha256 = hvcn.sha256()
        self.weights_id = int(self.sha256[:8], 16)
        self.coder = integer_coder(hvcn, self.device)
        if prior is None and not (Path(weights) / "unet").is_dir():
            raise InputError(
                f"{weights}: expected the diffusion prior in the folders vae, unet and scheduler, "
                "found none; name the folder or hub id of the prior that it was trained with"
            )
        parts = load_prior(prior or str(weights))
        self.pipeline = HVCNPipeline(parts.vae, parts.unet, parts.scheduler, hvcn)
        self.pipeline.to(self.device)
        networks = (parts.vae, parts.unet, hvcn)
        self.parameters = machine.parameters + sum(
            x.numel() for network in networks for x in network.parameters()
        )

    def identity(self) -> dict:
        """What affects the result; the weights of the human layer name the prior's fingerprint."""
        return self.machine.identity() | {"human_weights_sha256": self.sha256}

    def encode(
        self,
        picture: np.ndarray,
        features: FeaturePyramid,
        rate_point: str,
        human_rate_point: str,
        sampling: Sampling | None = None,
    ) -> bytes:
        """A picture and its features -> an .fcm file with a machine unit and a human unit.

        human_rate_point: q, the quantiser step of the auxiliary latents. The bytes up to the end
        of the machine unit are those that the machine codec writes alone. Raises InputError where
        the picture is not the one that the features were made of.
        """
        geometry_of_picture(picture, features)
        sampling = sampling or self.sampling
        self._require_start(sampling.start, InputError)
        data, machine = self.machine.code(features, rate_point)
        return data + self._human_unit(machine, picture, human_rate_point, sampling)

    def decode(self, data: bytes) -> tuple[FeaturePyramid, np.ndarray]:
        """An .fcm file -> features, and the picture as uint8 RGB (H, W, 3)."""
        return self.paint(self.decode_latents(data))

    def paint(
        self, layer: AuxiliaryLayer, steps: int | None = None
    ) -> tuple[FeaturePyramid, np.ndarray]:
        """Decoded latents -> features, and the picture as uint8 RGB (H, W, 3).

        steps: of the sampler, None: those of the file; 0 decodes c without it.
        """
        features = self.machine.synthesise(layer.machine)
        payload = layer.payload
        y_hat = torch.from_numpy(layer.latents.y)[None].to(self.device, torch.float32)
        picture = self.pipeline(
            *self._decoded(layer.machine, features),
            y_hat / LATENT_STEPS,
            torch.tensor([payload.step], device=self.device),
            geometry_of(layer.machine),
            payload.steps if steps is None else steps,
            payload.start,
            payload.seed,
        )
        return features, picture

    @torch.no_grad()
    def repaint(self, data: bytes, picture: np.ndarray, sampling: Sampling) -> np.ndarray:
        """A picture that the file's auxiliary picture decodes to, painted anew: its latent is c.

        data: an .fcm file. picture, and what is returned: uint8 RGB (H, W, 3).
        """
        self._require_start(sampling.start, InputError)
        machine = self.machine.decode_latents(data)
        geometry = geometry_of(machine)
        decoded = self._decoded(machine, self.machine.synthesise(machine))
        control = self.pipeline.hvcn.fcn(*decoded, geometry)
        c = self.pipeline.to_latents(whole_cells(picture).to(self.device))
        noise = start_noise(sampling.seed, tuple(c.shape)).to(c)
        z = self.pipeline.paint(c, control, noise, sampling.steps, sampling.start)
        return self.pipeline.to_picture(z, geometry)

    def machine_bits(self, data: bytes) -> int:
        """Bits of the file up to the end of its machine layer."""
        return bitstream.machine_bits(data)

    def decode_latents(self, data: bytes) -> AuxiliaryLayer:
        """An .fcm file -> its auxiliary latents. Raises BitstreamError unless all is as written."""
        stream = bitstream.read(data)
        payload = HumanPayload.from_bytes(stream.payload_of("human"))
        if payload.weights_id != self.weights_id:
            raise BitstreamError(
                f"the human layer was made with the weights {payload.weights_id:08x}, these are "
                f"{self.weights_id:08x}; decode it with the weights that it names"
            )
        self._require_start(payload.start, BitstreamError)
        machine = self.machine.decode_latents(data)
        geometry = geometry_of(machine)
        conditioning = self._conditioning(machine, _in_range("step", payload.step), geometry)
        latents = self.coder.decode(payload.data, geometry, conditioning)
        latents.require(payload.checksum, "auxiliary latents")
        return AuxiliaryLayer(machine, payload, latents)

    @torch.no_grad()
    def _human_unit(
        self, machine: MachineLayer, picture: np.ndarray, human_rate_point: str, sampling: Sampling
    ) -> bytes:
        geometry = geometry_of(machine)
        q = bitstream.round_float(parse_scale(human_rate_point))
        step = torch.tensor([q], device=self.device)
        decoded = self._decoded(machine, self.machine.synthesise(machine))
        control = self.pipeline.hvcn.fcn(*decoded, geometry)
        samples = whole_cells(picture).to(self.device)
        acn = self.pipeline.hvcn.acn
        y = acn.analysis(self.pipeline.to_latents(samples), samples, control, step)
        conditioning = self._conditioning(machine, q, geometry)
        coded, latents = self.coder.encode(acn.hyper(y)[0], y[0], conditioning)
        payload = HumanPayload(
            self.weights_id, q, sampling.seed, sampling.steps, sampling.start,
            latents.checksum(), coded,
        )  # fmt: skip
        return bitstream.write_unit(Unit("human", 0, payload.to_bytes()))

    def _require_start(self, start: int, error: type[InputError]) -> None:
        """Raise an error of this class for a time step that these weights do not paint from."""
        if self.from_noise and start != LAST:
            raise error(
                f"these weights paint from noise alone: expected a start at time step {LAST}, "
                f"found {start}; leave the sampling to the codec"
            )

    def _conditioning(self, machine: MachineLayer, q: float, geometry: Geometry) -> torch.Tensor:
        octaves = self.machine.octaves(machine.payload.value_range)
        return self.coder.conditioning(machine.latents, octaves, q, geometry)

    def _decoded(self, machine: MachineLayer, features: FeaturePyramid):
        """Layers, ranges and s as FCN takes them."""
        layers = {name: x[None].to(self.device) for name, x in features.layers.items()}
        ranges = torch.tensor([machine.payload.value_range], device=self.device)
        s = _in_range("rate_point", machine.payload.rate_point)
        return layers, ranges, torch.tensor([s], device=self.device)


def geometry_of(machine: MachineLayer) -> Geometry:
    """The grids of a decoded file; raises BitstreamError where they are beyond the human layer."""
    sizes = machine.header.source_size, machine.header.input_size
    return Geometry(*sizes).require(BitstreamError)


def load_hvcn(folder: Path) -> Hvcn:
    """The networks of a folder that HVCNPipeline saved. Raises InputError."""
    try:
        if not (Path(folder) / "hvcn").is_dir():
            raise OSError("there is no folder hvcn in it")
        hvcn, loaded = Hvcn.from_pretrained(
            str(folder), subfolder="hvcn", use_safetensors=True, output_loading_info=True
        )
        other = sorted(loaded["missing_keys"]) + sorted(loaded["unexpected_keys"])
        if other:
            raise OSError(f"weights that are not of its profile ({hvcn.sizes.profile}): {other[0]}")
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{folder}: expected the weights of a human layer as scripts/train_hvcn.py writes "
            f"them, found: {one_line(error, 200)}"
        ) from error
    return settled(hvcn)


def _in_range(name: str, value: float) -> float:
    low, high = SCALES
    if not low <= value <= high:
        raise BitstreamError(f"expected a {name} between {low:g} and {high:g}, found {value:g}")
    return value
