#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What do the parts of the latent human layer bring? Trained variants on one set of pictures.

    scripts/bench_human_parts.py OURS [--without DIR] [--plain DIR] [--alone DIR] [--limit N]

OURS: a folder of scripts/train_hvcn.py. --without: the same networks trained without F and F_int
(conditioned: false). --plain: trained to decode c without the denoising network (sampling_steps:
0). --alone: both, the auxiliary layer alone. First table: auxiliary bits against the latent MSE
of c, BD-rate at each machine rate. Second: the pictures of every variant, sampled and plain.
Folders hold `pipeline/`, or are one.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from vcm_plugin import environment
from vcm_plugin.ctc.codecs import load_condition, make_codec, override
from vcm_plugin.ctc.detector import load_detector
from vcm_plugin.diff_fchm.human.codec import geometry_of
from vcm_plugin.diff_fchm.human.pipeline import whole_cells
from vcm_plugin.entropy.latent_coder import LATENT_STEPS
from vcm_plugin.errors import InputError
from vcm_plugin.metrics import coco_ap
from vcm_plugin.metrics.bd_rate import METHODS, bd_rate
from vcm_plugin.metrics.pictures import averaged, embeddings, pair_metrics, set_metrics
from vcm_plugin.testsets.coco import read_entry
from vcm_plugin.testsets.open import open_test_set

STEPS = ("0.5", "1", "2", "4", "8")  # q
SHOWN = ("psnr", "ssim", "vmaf", "haarpsi", "kid_detector")


class Variant:
    """One trained human layer; plain: it is judged without the sampler alone."""

    def __init__(self, name: str, folder: Path, condition, plain: bool):
        inner = folder / "pipeline"
        chosen = str((inner if inner.is_dir() else folder).resolve())
        self.name, self.plain = name, plain
        self.codec = make_codec(
            "diff_fchm_human", override(condition, {"diff_fchm_human_weights": chosen})
        )

    @torch.no_grad()
    def code(self, picture, features, s: str, q: str):
        """-> auxiliary bits, latent MSE of c, and a function steps -> picture."""
        codec, pipeline = self.codec, self.codec.pipeline
        data = codec.encode(picture, features, s, q)
        layer = codec.decode_latents(data)
        decoded = codec._decoded(layer.machine, codec.machine.synthesise(layer.machine))
        geometry = geometry_of(layer.machine)
        y_hat = torch.from_numpy(layer.latents.y)[None].float() / LATENT_STEPS
        step = torch.tensor([layer.payload.step])
        control = pipeline.hvcn.fcn(*decoded, geometry)
        c = pipeline.hvcn.acn.synthesis(y_hat, control, step)
        error = (c - pipeline.to_latents(whole_cells(picture))).square().mean().item()
        bits = 8 * len(data) - codec.machine_bits(data)
        return bits, error, lambda steps: codec.paint(layer, steps)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ours", type=Path)
    for name in ("without", "plain", "alone"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--condition", default="minictc_human")
    parser.add_argument("--split", default="val", help="of the built-in test set (%(default)s)")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--machine", nargs="+", default=["1.4", "4"], help="scales s")
    parser.add_argument("--sampling", type=int, default=4, help="steps (%(default)s)")
    parser.add_argument("--painted-at", default="2", help="q of the second table (%(default)s)")
    options = parser.parse_args()
    environment.make_deterministic(1)
    condition = load_condition(options.condition)
    condition = override(condition, {"minictc": options.split, "limit": options.limit})
    folders = {"ours": options.ours, "without F, F_int": options.without,
               "plain decoder": options.plain, "ACN alone": options.alone}  # fmt: skip
    variants = [
        Variant(name, folder, condition, name in ("plain decoder", "ACN alone"))
        for name, folder in folders.items()
        if folder
    ]
    model, dataset = load_detector(condition, "cpu"), open_test_set(condition)
    sources = []
    for entry in dataset.pictures:
        picture = read_entry(entry)
        sources.append((entry, picture, model.nn_part1(picture)))
    rates(variants[:2] if options.without else variants[:1], sources, options.machine)
    if options.painted_at != "none":
        paintings(variants, sources, model, dataset, options)


def rates(variants: list[Variant], sources, machine_rates: list[str]) -> None:
    """Auxiliary bits per pixel against latent MSE."""
    pixels = sum(entry.height * entry.width for entry, _, _ in sources)
    print(f"{len(sources)} pictures; auxiliary bpp / latent MSE at q {', '.join(STEPS)}")
    for s in machine_rates:
        curves = []
        for variant in variants:
            points = []
            for q in STEPS:
                found = [variant.code(p, f, s, q)[:2] for _, p, f in sources]
                bits, errors = np.array(found).T
                points.append((bits.sum() / pixels, errors.mean()))
            text = "  ".join(f"{bpp:.4f} / {error:.4f}" for bpp, error in points)
            print(f"s {s:<4} {variant.name:<18} {text}", flush=True)
            curves.append([(bpp, -10 * np.log10(error)) for bpp, error in points])
        if len(curves) == 2:
            for method in METHODS:
                found = bd_rate(curves[1], curves[0], method)
                value = found.reason if found.percent is None else f"{found.percent:+.1f} %"
                print(f"s {s:<4} BD-rate of ours against without ({method}): {value}")


def paintings(variants: list[Variant], sources, model, dataset, options) -> None:
    """Measures of the pictures at one human step q, at each machine rate."""
    print(f"\npictures at q {options.painted_at}")
    print(
        f"{'s':<5}{'variant':<28}{'aux bpp':>9}" + "".join(f"{m:>14}" for m in SHOWN) + "   box AP"
    )
    pixels = sum(entry.height * entry.width for entry, _, _ in sources)
    reference = [embeddings(picture, features) for _, picture, features in sources]
    for s in options.machine:
        for variant in variants:
            coded = [variant.code(p, f, s, options.painted_at) for _, p, f in sources]
            bpp = sum(bits for bits, _, _ in coded) / pixels
            for steps in (0,) if variant.plain else (0, options.sampling):
                found, seen, predictions = [], [], []
                for (entry, picture, _), (_, _, paint) in zip(sources, coded):
                    painted = paint(steps)
                    features = model.nn_part1(painted)
                    found.append(pair_metrics(picture, painted))
                    seen.append(embeddings(painted, features))
                    detections = model.nn_part2(features)
                    predictions += coco_ap.to_coco(detections, entry.image_id, dataset.category_ids)
                values = averaged(found) | set_metrics(reference, seen)
                matches = coco_ap.match_pictures(dataset.coco, predictions, "box", 0.5)
                ap = coco_ap.accuracy(matches)["box_ap"]
                name = f"{variant.name}, {f'{steps} steps' if steps else 'c decoded'}"
                cells = "".join(f"{values[m]:14.4f}" for m in SHOWN)
                print(f"{s:<5}{name:<28}{bpp:9.4f}{cells}{ap:9.2f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"bench_human_parts: error: {error}") from None
