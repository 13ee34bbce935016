# SPDX-License-Identifier: BSD-3-Clause
"""Training a detector: the loss falls, a killed training resumes exactly, the export loads."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vcm_plugin.environment import cfg_folder
from vcm_plugin.split import load_split_model
from vcm_plugin.split.config import load_config
from vcm_plugin.testsets import minictc
from vcm_plugin.testsets.coco import load_coco
from vcm_plugin.training.crops import TrainingCrops
from vcm_plugin.training.detector import train
from vcm_plugin.training.schedules import DetectorTraining


class Killed(Exception):
    """At module level, so that the loader's process can hand it on."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    annotations = minictc.generate("train", folder, count=6)
    return load_coco(folder / "images", annotations)


@pytest.fixture(scope="module")
def config():
    whole = load_config(cfg_folder() / "models/minictc_mask_rcnn.yaml")
    return replace(
        whole, stem_out_channels=16, res2_out_channels=16, fpn_channels=16, box_fc_dim=16
    )


def test_resumed_training_equals_an_undisturbed_one(drawn, config, tmp_path):
    schedule = DetectorTraining(iterations=4, batch_size=2, warmup=2, checkpoint_every=2)
    whole = train(config, drawn, schedule, tmp_path / "whole")

    samples = TrainingCrops.__getitem__

    def die_at_the_third(self, index):
        if index == 2:
            raise Killed
        return samples(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingCrops, "__getitem__", die_at_the_third)
        with pytest.raises(Killed):
            train(config, drawn, schedule, tmp_path / "killed")
    resumed = train(config, drawn, schedule, tmp_path / "killed")
    first, second = whole["model"], resumed["model"]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_loss_falls_and_the_export_is_a_detectron2_checkpoint(drawn, config, tmp_path):
    losses = []
    schedule = DetectorTraining(
        iterations=40, batch_size=2, warmup=5, checkpoint_every=40, crop=(160, 192)
    )
    exported = train(config, drawn, schedule, tmp_path, report=losses.append)
    first, last = (
        float(line.split("classifier ")[1].split()[0]) for line in losses[:: len(losses) - 1]
    )
    assert last < first
    path = tmp_path / "model.pth"
    torch.save(exported, path)
    model = load_split_model(config, path, runtime="torchvision")
    picture, _ = minictc.draw_picture(1)
    assert model.nn_part1(picture).layers["p2"].shape == (16, 64, 80)


def test_crops_keep_masks_and_boxes_together(drawn, config):
    samples = TrainingCrops(drawn, config, DetectorTraining(iterations=5, batch_size=2))
    for index in range(5):
        images, targets = samples[index]
        assert images.shape[2:] in ((256, 320), (320, 256))
        for target in targets:
            assert len(target["boxes"]) == len(target["masks"]) == len(target["labels"])
            for box, mask in zip(target["boxes"].numpy(), target["masks"].numpy()):
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
