#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What does each difference between the paper's human layer and ours bring? An ablation table.

    scripts/bench_paper_profile.py FOLDER... [--split val] [--limit 8] [--machine 1.4]

FOLDER: of scripts/train_hvcn.py (recipes hvcn_paper_control and hvcn_minictc_control, with one of
their four choices overridden on the command line), all of one training. What they are is read from
their weights. Real files are written, read and decoded: a row for each folder as its weights
sample, one of c decoded without a sampler, and for ours and the paper's one with the other start of
the sampler, whose training is the same. With four steps q or more, BD-rates of total bits against
"ours"; else the measures at equal bits.
"""

import argparse
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from vcm_plugin import bitstream, environment
from vcm_plugin.conditions import bundled_weights
from vcm_plugin.ctc.codecs import load_condition, make_codec, override
from vcm_plugin.ctc.detector import load_detector
from vcm_plugin.diff_fchm.human.codec import HumanCodec, load_hvcn
from vcm_plugin.diff_fchm.human.config import CHOICES
from vcm_plugin.diff_fchm.human.hvcn import Hvcn
from vcm_plugin.errors import InputError
from vcm_plugin.metrics import coco_ap
from vcm_plugin.metrics.bd_rate import bd_rate
from vcm_plugin.metrics.pictures import averaged, pair_metrics
from vcm_plugin.testsets.coco import read_entry
from vcm_plugin.testsets.open import open_test_set

SHOWN = ("psnr", "ms_ssim", "haarpsi")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--prior", default="minictc_hvcn", help="folder or bundled (%(default)s)")
    parser.add_argument("--condition", default="minictc_human")
    parser.add_argument("--split", default="val", help="of the built-in test set (%(default)s)")
    parser.add_argument("--limit", type=int, default=8, help="pictures (%(default)s)")
    parser.add_argument("--machine", default="1.4", help="scale s (%(default)s)")
    parser.add_argument("--steps", nargs="+", default=["0.5", "1", "2"], help="q (0.5 1 2)")
    parser.add_argument("--sampling", type=int, help="steps where it is from noise")
    options = parser.parse_args()
    environment.make_deterministic(1)
    condition = load_condition(options.condition)
    condition = override(condition, {"minictc": options.split, "limit": options.limit})
    bench = Bench(condition, options)
    rows: dict[str, list[dict]] = {}
    for folder in options.folders:
        with tempfile.TemporaryDirectory(prefix="vcm-profile-") as other:
            rows |= bench.measure(folder)
            if load_hvcn(inner(folder)).sizes.profile in ("ours", "paper"):
                rows |= bench.measure(other_start(folder, Path(other)), plain=False)
    show(rows, options)


def other_start(folder: Path, output: Path) -> Path:
    """The same weights with the sampler's other start, which the stage control does not know of."""
    hvcn = load_hvcn(inner(folder))
    start = next(x for x in CHOICES["sampled_from"] if x != hvcn.sizes.sampled_from)
    sizes = asdict(replace(hvcn.sizes, sampled_from=start))
    changed = Hvcn.from_config({**hvcn.config, "sizes": sizes})
    changed.load_state_dict(hvcn.state_dict())
    changed.save_pretrained(output / "hvcn")
    return output


def inner(folder: Path) -> Path:
    """Where the pipeline of a training lies."""
    return folder / "pipeline" if (folder / "pipeline").is_dir() else folder


class Bench:
    """Pictures with their features, and the detector."""

    def __init__(self, condition, options: argparse.Namespace):
        self.condition, self.options = condition, options
        self.model, self.dataset = load_detector(condition, "cpu"), open_test_set(condition)
        self.machine = make_codec("diff_fchm", condition)
        self.prior = bundled_weights(options.prior)
        self.sources = []
        for entry in self.dataset.pictures:
            picture = read_entry(entry)
            self.sources.append((entry, picture, self.model.nn_part1(picture)))

    def measure(self, folder: Path, plain: bool = True) -> dict[str, list[dict]]:
        """Name -> points of a curve: as these weights paint; plain: also as they decode c."""
        codec = HumanCodec(self.machine, inner(folder), self.prior)
        if codec.from_noise and self.options.sampling:
            codec.sampling = replace(codec.sampling, steps=self.options.sampling)
        name = codec.pipeline.hvcn.sizes.profile
        rows: dict[str, list[dict]] = {}
        for q in self.options.steps:
            files = [codec.encode(p, f, self.options.machine, q) for _, p, f in self.sources]
            pictures = {name: [codec.decode(data)[1] for data in files]}
            if plain:
                layers = map(codec.decode_latents, files)
                pictures[f"{name}: c decoded"] = [codec.paint(x, steps=0)[1] for x in layers]
            for row, decoded in pictures.items():
                rows.setdefault(row, []).append(self._point(files, decoded))
                print(f"{row}, q {q}: {rows[row][-1]}", flush=True)
        return rows

    def _point(self, files: list[bytes], pictures: list[np.ndarray]) -> dict:
        pixels = sum(entry.height * entry.width for entry, _, _ in self.sources)
        bits = 8 * sum(map(len, files))
        machine = 8 * sum(bitstream.read(data).machine_bytes for data in files)
        looks = averaged([pair_metrics(p, x) for (_, p, _), x in zip(self.sources, pictures)])
        point = {"bpp": bits / pixels, "human_bpp": (bits - machine) / pixels}
        point |= {measure: looks[measure] for measure in SHOWN}
        return point | {"painted_box_ap": self._box_ap(pictures)}

    def _box_ap(self, pictures: list[np.ndarray]) -> float:
        predictions = []
        for (entry, _, _), picture in zip(self.sources, pictures):
            detections = self.model.nn_part2(self.model.nn_part1(picture))
            predictions += coco_ap.to_coco(detections, entry.image_id, self.dataset.category_ids)
        matches = coco_ap.match_pictures(self.dataset.coco, predictions, "box", 0.5)
        return coco_ap.accuracy(matches)["box_ap"]


def show(rows: dict[str, list[dict]], options: argparse.Namespace) -> None:
    """A line for each row and q, then what each row is worth against ours."""
    count = f"{options.limit} pictures of {options.split}, s {options.machine}"
    print(f"\n{count}\n| row | q | total bpp | human bpp | " + " | ".join(SHOWN) + " | box AP |")
    print("| --- |" + " --- |" * (len(SHOWN) + 4))
    for name, points in rows.items():
        for q, point in zip(options.steps, points):
            bits = f"{point['bpp']:.4f} | {point['human_bpp']:.4f}"
            cells = " | ".join(f"{point[m]:.4g}" for m in (*SHOWN, "painted_box_ap"))
            print(f"| {name} | {q} | {bits} | {cells} |")
    if "ours" not in rows:
        return
    worth = _percent if len(options.steps) >= 4 else _difference
    print(f"\n{worth.__doc__}\n| row | " + " | ".join(SHOWN) + " |")
    print("| --- |" + " --- |" * len(SHOWN))
    for name, points in rows.items():
        print(f"| {name} | " + " | ".join(worth(rows["ours"], points, m) for m in SHOWN) + " |")


def _percent(anchor: list[dict], test: list[dict], measure: str) -> str:
    """BD-rate of total bits against ours."""
    found = bd_rate(*([(x["bpp"], x[measure]) for x in points] for points in (anchor, test)))
    return found.reason if found.percent is None else f"{found.percent:+.1f} %"


def _difference(anchor: list[dict], test: list[dict], measure: str) -> str:
    """Mean difference to ours at equal total bits, linear in their logarithm, where both are."""
    rates, values = (
        [np.array([x[key] for x in reversed(points)]) for points in (anchor, test)]
        for key in ("bpp", measure)
    )
    logs = [np.log(x) for x in rates]
    low, high = max(x[0] for x in logs), min(x[-1] for x in logs)
    if not low < high:
        return "no bits in common"
    at = np.linspace(low, high, 50)
    ours, other = (np.interp(at, x, y).mean() for x, y in zip(logs, values))
    return f"{other - ours:+.3f}"


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"bench_paper_profile: error: {error}") from None
