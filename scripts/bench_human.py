#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Does the human layer earn its bits? Against simulcast, one VVC picture for both, its twin.

    scripts/bench_human.py KEEP [--auto] [--latent] [--twin FILE] [--split test] [--limit N]

Every picture is coded once by VVC at every QP and size, and its features once at every machine
rate; simulcast, one picture for both and the restored pictures share them. What was measured lies
in KEEP, a JSON file for each picture; a repeated call measures what is missing and prints the
tables of docs/human_layer.md (what the latent layer's parts bring: bench_human_parts.py). --auto:
size and QP chosen picture by picture, by simulcast, too. --latent: the latent layer beside the
auxiliary picture. --twin: weights trained without features. --only vvc: nothing restored.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anchors.vvc_remote import VvcRemoteCodec
from vcm_plugin import environment
from vcm_plugin.ctc.codecs import load_condition, make_codec, override
from vcm_plugin.ctc.detector import load_detector
from vcm_plugin.diff_fchm.human.auxiliary import AuxiliaryPictureCodec, auxiliary_picture
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json, write_json
from vcm_plugin.metrics import coco_ap
from vcm_plugin.metrics.bd_rate import BdRate, bits_at
from vcm_plugin.metrics.pictures import averaged, embeddings, pair_metrics, set_metrics
from vcm_plugin.report.human_vision import COMPARED, HumanCurve, human_vision
from vcm_plugin.testsets.coco import read_entry
from vcm_plugin.testsets.open import open_test_set

FULL_SIZE = ("17", "22", "27", "32", "37", "42", "47")
SMALLER = ("32@75", "37@75", "42@75", "27@50", "32@50", "37@50")
PERCEPTUAL = ("22", "27", "32", "37", "42", "47")  # with VVenC's perceptual bit allocation
AUTO = ("auto:27", "auto:32", "auto:37", "auto:42", "auto:47")
LATENT = ("0.5", "1", "2", "4")  # steps of the latent layer's quantiser
COMPARED_AT = ("27", "32", "37", "42", "47")  # QPs of simulcast and of the restored pictures
SHOWN = ("psnr", "psnr_yuv", "ms_ssim", "vmaf", "vmaf_neg", "haarpsi", "kid_detector",
         "painted_box_ap")  # fmt: skip
TESTED = ("ours", "ours_auto", "latent")  # the others are anchors
BOTH = ("vvc_remote", "perceptual")  # one picture for the person and the detector
SAMPLES = 400  # of a measure's range, for the mean over it
RESAMPLES = 100  # of the pictures, for the intervals


class Bench:
    """The codecs, and what was measured of one picture so far."""

    def __init__(self, options: argparse.Namespace):
        condition = load_condition(options.condition)
        changes = {"limit": options.limit, "diff_fchm_restorer_weights": options.restorer}
        if condition.minictc is not None:
            changes["minictc"] = options.split
        self.condition = override(condition, changes)
        self.machines, self.folder = options.machine, options.keep
        self.qps = tuple(options.qps or COMPARED_AT)
        self.full_size = self.qps if options.brief else FULL_SIZE
        self.smaller = () if options.brief else SMALLER
        self.perceptual_qps = () if options.brief else PERCEPTUAL
        self.model = load_detector(self.condition)
        self.dataset = open_test_set(self.condition, options.data_root)
        self.vvc = make_codec("vvc_remote", self.condition)
        self.perceptual = replace(self.vvc, perceptual=True)
        self.machine = make_codec("diff_fchm", self.condition)
        self.only_pairs = False  # no measures of whole sets: KID, AP
        self.restored: dict[str, AuxiliaryPictureCodec] = {}
        self.auto = AUTO if options.auto and options.only != "vvc" else ()
        self.latent = None
        if options.only != "vvc":
            self._open_layers(options)

    def _open_layers(self, options: argparse.Namespace) -> None:
        """What is compared with VVC: the auxiliary picture, its twin, the latent layer."""
        self.restored["ours"] = make_codec("diff_fchm_picture", self.condition)
        if options.twin:
            preset = self.condition.require("diff_fchm_picture_preset")
            self.restored["twin"] = AuxiliaryPictureCodec(self.machine, options.twin, preset)
        if options.latent:
            self.latent = make_codec("diff_fchm_human", self.condition)

    def measure(self, entry) -> dict:
        """Everything of one picture, measured or kept from an earlier call."""
        path = self.folder / f"{entry.image_id}.json"
        known = read_json(path) if path.is_file() else {}
        before = len(known)
        source = read_entry(entry)
        features = self.model.nn_part1(source)
        known.setdefault("source", {"embeddings": embeddings(source, features)})
        for key, work in self._wanted(source, features):
            if key not in known:
                known[key] = work()
        if len(known) > before:
            write_json(path, known)
        return known

    def _wanted(self, source, features) -> Iterator:
        for s in self.machines:
            yield f"machine {s}", lambda s=s: self._machine(features, s)
        for point in (*self.full_size, *self.smaller, *self.auto):
            yield f"vvc {point}", lambda p=point: self._vvc(self.vvc, source, p)
        for point in self.perceptual_qps:
            yield f"qpa {point}", lambda p=point: self._vvc(self.perceptual, source, p)
        for name, codec in self.restored.items():
            digest = codec.restorer.sha256[:8]
            for s in self.machines:
                for point in self.points_of(name):
                    yield (
                        f"{name} {digest} {s}+{point}",
                        lambda c=codec, s=s, p=point: self._restored(c, source, features, s, p),
                    )
        for s in self.machines if self.latent else ():
            for q in LATENT:
                yield (
                    f"{self.latent_kept_as} {s}+{q}",
                    lambda s=s, q=q: self._painted(source, features, s, q),
                )

    @property
    def latent_kept_as(self) -> str:
        """What the latent layer's measurements begin with: its weights belong to them."""
        return f"latent {self.latent.sha256[:8]}"

    @property
    def sizes(self) -> tuple[str, ...]:
        """Human rate points of simulcast on its hull; QP 17 is for one picture for both."""
        return (*(qp for qp in self.full_size if int(qp) > 17), *self.smaller)

    def points_of(self, name: str) -> tuple[str, ...]:
        """The human rate points of a restored curve; the twin's are at full size alone."""
        return self.qps + (self.smaller + self.auto if name == "ours" else ())

    def _machine(self, features, s: str) -> dict:
        data = self.machine.encode(features, s)
        detections = self.model.nn_part2(self.machine.decode(data))
        return {"bits": 8 * len(data), "detections": self._boxes(detections)}

    def _vvc(self, codec: VvcRemoteCodec, source: np.ndarray, point: str) -> dict:
        data = codec.encode(source, point)
        return {"bits": 8 * len(data)} | self._looks(source, codec.decode(data))

    def _restored(self, codec, source, features, s: str, point: str) -> dict:
        data = codec.encode(source, features, s, point)
        _, picture = codec.decode(data)
        payload = auxiliary_picture(data)
        strength = {"strength": payload.strength, "mapped": payload.block_map is not None}
        machine = codec.machine_bits(data)
        bits = {"bits": 8 * len(data), "machine_bits": machine, "vvc_bits": 8 * len(payload.data)}
        return bits | strength | self._looks(source, picture)

    def _painted(self, source, features, s: str, q: str) -> dict:
        data = self.latent.encode(source, features, s, q)
        _, picture = self.latent.decode(data)
        bits = {"bits": 8 * len(data), "machine_bits": self.latent.machine_bits(data)}
        return bits | self._looks(source, picture)

    def _looks(self, source: np.ndarray, picture: np.ndarray) -> dict:
        features = self.model.nn_part1(picture)
        return {
            "measures": pair_metrics(source, picture),
            "embeddings": embeddings(picture, features),
            "detections": self._boxes(self.model.nn_part2(features)),
        }

    def _boxes(self, detections) -> list[dict]:
        if not self.condition.tasks:
            return []
        found = coco_ap.to_coco(detections, 0, self.dataset.category_ids)
        return [{k: v for k, v in item.items() if k != "segmentation"} for item in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keep", type=Path)
    parser.add_argument("--condition", default="minictc_human", help="(%(default)s)")
    parser.add_argument("--split", default="test", help="of the built-in test set (%(default)s)")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("VCM_DATA"))
    parser.add_argument("--restorer", help="weights, instead of the condition's")
    parser.add_argument("--twin", type=Path, help="weights of the twin without features")
    parser.add_argument("--machine", nargs="+", default=["1.4", "4"], help="scales s")
    parser.add_argument("--qps", nargs="+", metavar="QP", help="of simulcast and of ours")
    parser.add_argument("--brief", action="store_true", help="full size, no perceptual allocation")
    parser.add_argument("--auto", action="store_true", help="also auto:Q, on both sides")
    parser.add_argument("--latent", action="store_true", help="also the latent layer")
    parser.add_argument("--only", choices=["vvc", "all"], default="all")
    options = parser.parse_args()
    environment.make_deterministic(1)
    bench = Bench(options)
    options.keep.mkdir(parents=True, exist_ok=True)
    found = {}
    for entry in bench.dataset.pictures:
        found[entry.image_id] = bench.measure(entry)
        print(f"{len(found)} of {len(bench.dataset.pictures)} pictures", end="\r", flush=True)
    print(f"{len(found)} pictures" + " " * 20)
    tables(bench, found)


@dataclass(frozen=True)
class Point:
    """What human_vision reads of a rate point of a run."""

    rate_point: str
    bits: int
    pixels: int
    accuracy: dict[str, float]
    human_vision: dict[str, float | str]


@dataclass(frozen=True)
class Points:
    """What human_vision reads of a run."""

    points: tuple[Point, ...]


def typed(results: dict[str, dict]) -> dict[str, Points]:
    return {n: Points(tuple(Point(**p) for p in r["points"])) for n, r in results.items()}


def tables(bench: Bench, found: dict[int, dict]) -> None:
    """Points, then every comparison."""
    results = {"vvc_remote": vvc_points(bench, found, "vvc", bench.full_size)}
    if bench.perceptual_qps:
        results["perceptual"] = vvc_points(bench, found, "qpa", bench.perceptual_qps)
    results["simulcast"] = simulcast_points(bench, found, bench.sizes)
    for name, codec in bench.restored.items():
        digest = codec.restorer.sha256[:8]
        print_units(bench, found, name, digest)
        points = [p for p in bench.points_of(name) if p not in bench.auto]
        results[name] = layer_points(bench, found, f"{name} {digest}", points)
    if bench.auto:
        digest = bench.restored["ours"].restorer.sha256[:8]
        results["simulcast_auto"] = simulcast_points(bench, found, bench.auto)
        results["ours_auto"] = layer_points(bench, found, f"ours {digest}", bench.auto)
    if bench.latent:
        results["latent"] = layer_points(bench, found, bench.latent_kept_as, LATENT)
    print("curve, rate point, total bpp, box AP for the machine, " + ", ".join(SHOWN))
    for name, result in results.items():
        for point in result["points"]:
            bpp = point["bits"] / point["pixels"]
            values = (point["human_vision"][metric] for metric in SHOWN)
            ap = point["accuracy"].get("box_ap")
            cells = " ".join(f"{v:9.4f}" if isinstance(v, float) else f"{v:>9}" for v in values)
            shown = "" if ap is None else f"{ap:.2f}"
            print(f"{name:<11}{point['rate_point']:<8}{bpp:8.4f} {shown:>6} {cells}")
    vision = human_vision(typed(results), [n for n in results if n not in TESTED])
    columns = totals(vision)
    curves = {curve.name: curve for curve in vision.curves}
    for curve in vision.curves:
        if curve.run == "ours":
            columns |= auxiliary(results, curve)
            for anchor in filter(curves.__contains__, BOTH):
                one_for_both(curve, curves[anchor], vision)
    print_columns(columns)
    if "ours" in bench.restored:
        print_intervals(bench, found)


def totals(vision) -> dict[str, dict[str, BdRate]]:
    """Total bits against each anchor that has the same machine layer, by measure."""
    columns: dict[str, dict[str, BdRate]] = {}
    for comparison in vision.comparisons:
        if comparison.anchor not in BOTH:
            (test, s), anchor = comparison.test.split(), comparison.anchor.split()[0]
            column = columns.setdefault(f"total of {test} against {anchor}, s = {s}", {})
            column[comparison.metric] = comparison.result
    return columns


def print_intervals(bench: Bench, found: dict[int, dict]) -> None:
    """Total bits against simulcast over resamples of the pictures: 95 % of them lie between these.

    Measures of pairs of pictures only; those of whole sets are not drawn again.
    """
    digest, rng = bench.restored["ours"].restorer.sha256[:8], np.random.default_rng(0)
    bench.only_pairs, known = True, list(found.values())
    drawn: dict[tuple[str, str], list[float]] = {}
    for _ in range(RESAMPLES):
        some = dict(enumerate(known[n] for n in rng.integers(len(known), size=len(known))))
        results = {"simulcast": simulcast_points(bench, some, bench.sizes)}
        points = [p for p in bench.points_of("ours") if p not in bench.auto]
        results["ours"] = layer_points(bench, some, f"ours {digest}", points)
        for column, cells in totals(human_vision(typed(results), ["simulcast"])).items():
            for metric, cell in cells.items():
                if cell.percent is not None:
                    drawn.setdefault((column, metric), []).append(cell.percent)
    print(f"95 % of {RESAMPLES} resamples of {len(known)} pictures:")
    for (column, metric), values in drawn.items():
        low, high = np.percentile(values, (2.5, 97.5))
        print(f"{column}: {metric} {low:+.1f} .. {high:+.1f} % ({len(values)} with a BD-rate)")
    bench.only_pairs = False


def one_for_both(test: HumanCurve, anchor: HumanCurve, vision) -> None:
    """Against one VVC picture of the same value and the same box AP for the machine."""
    accuracy = test.points[0].accuracy
    if accuracy is None:
        return
    for equal in vision.equal:
        if (equal.test, equal.anchor, equal.metric) == (test.name, anchor.name, "psnr"):
            if equal.percent is None:
                print(f"{equal.rate_point} against {anchor.name}: {equal.reason}")
                continue
            print(
                f"| {equal.rate_point} | {equal.value:.2f} dB | {equal.bpp:.4f} | {anchor.name} "
                f"{equal.anchor_bpp:.4f}, of which for box AP {equal.accuracy_bpp:.4f} | "
                f"{equal.percent:+.1f} % | {equal.break_even_share:.2f} |"
            )
    least = bits_at(anchor.accuracies(), accuracy, "monotone").bits
    if least is None:
        return
    for metric in ("psnr", "haarpsi", "ms_ssim", "vmaf_neg"):
        mean = mean_difference(anchor.rates(metric), test.rates(metric), least)
        print(f"{test.name} against {anchor.name} for both: {metric} {mean:+.1f} % on average")


def mean_difference(anchor, test, least: float) -> float:
    """The BD-rate against an anchor that never costs less than `least`, in percent."""
    low = max(min(v for _, v in curve) for curve in (anchor, test))
    high = min(max(v for _, v in curve) for curve in (anchor, test))
    logs = []
    for value in np.linspace(low, high, SAMPLES):
        bits = bits_at(anchor, value).bits, bits_at(test, value).bits
        if None not in bits:
            logs.append(np.log(bits[1] / max(bits[0], least)))
    return 100 * (np.exp(np.mean(logs)) - 1)


def auxiliary(results: dict, curve: HumanCurve) -> dict[str, dict[str, BdRate]]:
    """Bits of the layer for the person alone, against the picture codec alone and the twin."""
    own = _without_machine(results["ours"], curve.machine)
    anchors = {"vvc_remote": {"points": results["vvc_remote"]["points"]}}
    if "twin" in results:
        anchors["twin"] = _without_machine(results["twin"], curve.machine)
    columns = {}
    for name, result in anchors.items():
        vision = human_vision(typed({"ours": own, name: result}), [name])
        column = f"layer alone against {name}, s = {curve.machine}"
        columns[column] = {c.metric: c.result for c in vision.comparisons}
    return columns


def print_columns(columns: dict[str, dict[str, BdRate]]) -> None:
    """BD-rates as the table of docs/human_layer.md has them."""
    print("| measure | " + " | ".join(columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    for metric in SHOWN:
        cells = [
            _percent(column[metric]) if metric in column else "" for column in columns.values()
        ]
        print(f"| {metric} | {' | '.join(cells)} |")


def _without_machine(result: dict, machine: str) -> dict:
    points = []
    for point in result["points"]:
        if point["rate_point"].startswith(f"{machine}+"):
            bits = point["bits"] - point["human_vision"]["machine_bits"]
            alone = point["human_vision"] | {"machine_bits": 0}
            points.append(point | {"bits": bits, "human_vision": alone})
    return {"points": points}


def vvc_points(bench: Bench, found, kind: str, names) -> dict:
    """One VVC picture for both: the detector sees what the person sees."""
    points = []
    for name in names:
        looks = [known[f"{kind} {name}"] for known in found.values()]
        point = _point(bench, found, name, looks, [x["bits"] for x in looks])
        if bench.condition.tasks:
            point["accuracy"] = {"box_ap": point["human_vision"]["painted_box_ap"]}
        points.append(point)
    return {"points": points}


def simulcast_points(bench: Bench, found, names) -> dict:
    """Machine bitstream and a VVC picture at each of the human rate points `names`."""
    points = []
    for s in bench.machines:
        machine = [known[f"machine {s}"] for known in found.values()]
        for name in names:
            looks = [known[f"vvc {name}"] for known in found.values()]
            bits = [m["bits"] + x["bits"] for m, x in zip(machine, looks)]
            points.append(_layered(bench, found, f"{s}+{name}", looks, bits, machine))
    return {"points": points}


def layer_points(bench: Bench, found, kept_as: str, names) -> dict:
    """A human layer at each of its rate points; kept_as: what its measurements begin with."""
    points = []
    for s in bench.machines:
        machine = [known[f"machine {s}"] for known in found.values()]
        for name in names:
            looks = [known[f"{kept_as} {s}+{name}"] for known in found.values()]
            bits = [x["bits"] for x in looks]
            points.append(_layered(bench, found, f"{s}+{name}", looks, bits, machine))
    return {"points": points}


def print_units(bench: Bench, found, name: str, digest: str) -> None:
    """Strengths, bytes beside the VVC stream, and pictures that are worse than VVC's."""
    for s in bench.machines:
        for qp in bench.points_of(name):
            looks = [known[f"{name} {digest} {s}+{qp}"] for known in found.values()]
            worse = sum(
                x["measures"]["psnr"] < known[f"vvc {qp}"]["measures"]["psnr"] - 0.005
                for x, known in zip(looks, found.values())
            )
            beside = max(x["bits"] - x["machine_bits"] - x["vvc_bits"] for x in looks) // 8
            mean = np.mean([x["strength"] for x in looks])
            print(f"{name} {s}+{qp}: mean strength {mean:.1f}, worse than VVC {worse}, at most "
                  f"{beside} bytes beside VVC, maps {sum(x['mapped'] for x in looks)}")  # fmt: skip


def _layered(bench, found, rate_point: str, looks, bits, machine) -> dict:
    point = _point(bench, found, rate_point, looks, bits)
    point["human_vision"]["machine_bits"] = sum(m["bits"] for m in machine)
    if bench.condition.tasks and not bench.only_pairs:
        point["accuracy"] = {"box_ap": _box_ap(bench, found, machine)}
    return point


def _point(bench: Bench, found, rate_point: str, looks: list[dict], bits: list[int]) -> dict:
    values = averaged([x["measures"] for x in looks])
    if not bench.only_pairs:
        reference = [known["source"]["embeddings"] for known in found.values()]
        values |= set_metrics(reference, [x["embeddings"] for x in looks])
        values["painted_box_ap"] = "n/a: no ground truth"
        if bench.condition.tasks:
            values["painted_box_ap"] = _box_ap(bench, found, looks)
    pixels = sum(entry.height * entry.width for entry in bench.dataset.pictures)
    vision = {k: v for k, v in values.items() if k in COMPARED}
    return {"rate_point": rate_point, "bits": sum(bits), "pixels": pixels, "accuracy": {},
            "human_vision": vision}  # fmt: skip


def _box_ap(bench: Bench, found, looks: list[dict]) -> float:
    predictions = [
        item | {"image_id": image_id}
        for image_id, x in zip(found, looks) for item in x["detections"]
    ]  # fmt: skip
    matches = coco_ap.match_pictures(bench.dataset.coco, predictions, "box", 0.5)
    return coco_ap.accuracy(matches)["box_ap"]


def _percent(result: BdRate) -> str:
    if result.percent is None:
        return f"none: {result.reason}"
    return f"{result.percent:+.1f} %"


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"bench_human: error: {error}") from None
