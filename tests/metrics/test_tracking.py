# SPDX-License-Identifier: BSD-3-Clause
"""MOTA, IDF1 and HOTA against motmetrics' own evaluation, TrackEval, and numbers worked out."""

import numpy as np
import pytest

from vcm_plugin.errors import InputError
from vcm_plugin.metrics.hota import THRESHOLDS, count, hota
from vcm_plugin.metrics.tracking import judged, tracking_accuracy
from vcm_plugin.testsets.coco import FRAMES

COUNT = 40


def item(sequence, frame, identity, box, object_class=1, confidence=1.0):
    return {
        "image_id": sequence * FRAMES + frame, "track_id": identity, "bbox": list(box),
        "object_class": object_class, "confidence": confidence, "score": 0.9, "category_id": 1,
    }  # fmt: skip


def drawn(seed=0, sequences=2, objects=7, classes=(1,)):
    """Ground truth of objects that move, and tracks that miss, shift, swap and invent."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for sequence in range(1, sequences + 1):
        start, speed = rng.uniform(0, 200, (objects, 2)), rng.uniform(-4, 4, (objects, 2))
        kinds = rng.choice(classes, objects)
        names = np.arange(1, objects + 1)
        for frame in range(1, COUNT + 1):
            if rng.random() < 0.08:
                rng.shuffle(names)
            for number in range(objects):
                place = start[number] + frame * speed[number]
                box = (*place, 30.0, 60.0)
                confidence = float(rng.random() > 0.1)
                truth.append(item(sequence, frame, number + 1, box, int(kinds[number]), confidence))
                if rng.random() < 0.8:
                    moved = (*(place + rng.normal(0, 4, 2)), *rng.normal((30, 60), 2))
                    found.append(item(sequence, frame, int(names[number]), moved))
            if rng.random() < 0.3:
                found.append(item(sequence, frame, 90, (*rng.uniform(0, 200, 2), 30, 60)))
    images = [
        {"id": sequence * FRAMES + frame}
        for sequence in range(1, sequences + 1) for frame in range(1, COUNT + 1)
    ]  # fmt: skip
    return {"images": images, "annotations": truth}, found


def tables(coco, found, sequence):
    """What motmetrics reads of gt.txt and of predictions."""
    import pandas as pd

    columns = ["X", "Y", "Width", "Height", "Confidence", "ClassId", "Visibility"]

    def table(items):
        own = [i for i in items if i["image_id"] // FRAMES == sequence]
        index = [(i["image_id"] % FRAMES, i["track_id"]) for i in own]
        rows = [(*i["bbox"], i["confidence"], i["object_class"], 1.0) for i in own]
        places = pd.MultiIndex.from_tuples(index, names=["FrameId", "Id"])
        return pd.DataFrame(rows, places, columns)

    return table(coco["annotations"]), table(found)


@pytest.mark.parametrize("rules", ["confident", "mot16"])
def test_mota_and_idf1_are_those_of_motmetrics(rules, tmp_path):
    """Its functions that the test conditions call, on its own data frames."""
    mm = pytest.importorskip("motmetrics")
    mm.lap.default_solver = "scipy"
    coco, found = drawn(classes=(1, 1, 1, 7, 3) if rules == "mot16" else (1,))
    (tmp_path / "seqinfo.ini").write_text(f"[Sequence]\nname=x\nseqLength={COUNT}\n")
    accumulators = []
    for sequence in (1, 2):
        truth, tracks = tables(coco, found, sequence)
        if rules == "mot16":
            ini = str(tmp_path / "seqinfo.ini")
            accumulators.append(mm.utils.CLEAR_MOT_M(truth, tracks, ini)[0])
        else:
            truth = truth[truth["Confidence"] >= 1]
            accumulators.append(mm.utils.compare_to_groundtruth(truth, tracks))
    host = mm.metrics.create()
    table = host.compute_many(accumulators, metrics=["mota", "idf1"], generate_overall=True)
    accuracy = tracking_accuracy(coco, found, rules)
    assert accuracy["mota"] == pytest.approx(100 * table.loc["OVERALL"]["mota"], abs=1e-9)
    assert accuracy["idf1"] == pytest.approx(100 * table.loc["OVERALL"]["idf1"], abs=1e-9)
    assert -60 < accuracy["mota"] < 90 and 20 < accuracy["idf1"] < 90  # no trivial case


def test_hota_is_that_of_trackeval():
    """The authors' code, sequence by sequence and pooled."""
    trackeval = pytest.importorskip("trackeval")
    coco, found = drawn(seed=3)
    metric, parts, counts = trackeval.metrics.HOTA(), {}, []
    for sequence in (1, 2):
        frames = []
        for frame in range(1, COUNT + 1):
            image = sequence * FRAMES + frame
            truth = [i for i in coco["annotations"] if i["image_id"] == image]
            tracks = [i for i in found if i["image_id"] == image]
            frames.append(judged(truth, tracks, "confident"))
        counts.append(count(frames))
        names = {n: i for i, n in enumerate(sorted({n for f in frames for n in f.objects}))}
        others = {n: i for i, n in enumerate(sorted({n for f in frames for n in f.tracks}))}
        data = {
            "num_gt_ids": len(names), "num_tracker_ids": len(others),
            "num_gt_dets": sum(len(f.objects) for f in frames),
            "num_tracker_dets": sum(len(f.tracks) for f in frames),
            "gt_ids": [np.array([names[n] for n in f.objects], int) for f in frames],
            "tracker_ids": [np.array([others[n] for n in f.tracks], int) for f in frames],
            "similarity_scores": [f.overlap for f in frames],
        }  # fmt: skip
        parts[str(sequence)] = metric.eval_sequence(data)
        assert hota(counts[-1:]) == pytest.approx(100 * parts[str(sequence)]["HOTA"].mean())
    pooled = metric.combine_sequences(parts)
    assert hota(counts) == pytest.approx(100 * pooled["HOTA"].mean(), abs=1e-9)
    assert len(THRESHOLDS) == 19


def test_worked_out():
    """One object over four frames, found three times, once under another identity."""
    truth = [item(1, frame, 1, (0, 0, 10, 10)) for frame in (1, 2, 3, 4)]
    found = [item(1, frame, name, (0, 0, 10, 10)) for frame, name in ((1, 5), (2, 5), (3, 6))]
    coco = {"images": [{"id": FRAMES + n} for n in (1, 2, 3, 4)], "annotations": truth}
    accuracy = tracking_accuracy(coco, found, "confident")
    assert accuracy["mota"] == pytest.approx(100 * (1 - (1 + 0 + 1) / 4))  # a miss and a switch
    assert accuracy["idf1"] == pytest.approx(100 * 2 * 2 / (4 + 3))
    shares = (2 * 2 / 4 + 1 * 1 / 4) / 3  # TPA / (TPA + FNA + FPA), over the hits
    assert accuracy["hota"] == pytest.approx(100 * np.sqrt(3 / 4 * shares))


@pytest.mark.parametrize(
    ("found", "mota"), [([], 0.0), ([(1, 1, (0, 0, 10, 10))], 50.0), ([(1, 1, (80, 0, 9, 9))], -50)]
)
def test_degenerate(found, mota):
    truth = [item(1, frame, 1, (0, 0, 10, 10)) for frame in (1, 2)]
    coco = {"images": [{"id": FRAMES + n} for n in (1, 2)], "annotations": truth}
    accuracy = tracking_accuracy(coco, [item(1, *values) for values in found], "confident")
    assert accuracy["mota"] == pytest.approx(mota)


def test_a_ground_truth_that_nothing_is_judged_of():
    truth = [item(1, 1, 1, (0, 0, 9, 9), object_class=3)]
    coco = {"images": [{"id": FRAMES + 1}], "annotations": truth}
    with pytest.raises(InputError, match="no object that the rules mot16 judge"):
        tracking_accuracy(coco, [], "mot16")
