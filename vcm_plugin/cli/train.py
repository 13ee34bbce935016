# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin train` do? One network by a recipe, resumed where its folder holds one.

scripts/train_*.py call it, for `accelerate launch` on several GPUs or machines.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from anchors.fctm_config import FctmConfig
from anchors.msfc_config import MsfcConfig
from anchors.picture_config import HEADS, PictureConfig, TransformConfig
from vcm_plugin.cli.options import command
from vcm_plugin.conditions import bundled_weights, model_path
from vcm_plugin.diff_fchm.human.config import HvcnConfig, RestorerConfig
from vcm_plugin.diff_fchm.machine.config import VfcnConfig
from vcm_plugin.diff_fchm.machine.inter_config import InterConfig
from vcm_plugin.errors import InputError
from vcm_plugin.files import sha256_of_file
from vcm_plugin.training.options import (
    DetectorInputs,
    FeatureInputs,
    HeadsInputs,
    HvcnInputs,
    ImportanceInputs,
    Inputs,
    InterInputs,
    PictureInputs,
    RestorerInputs,
    TrackerInputs,
    TransformInputs,
    VfcnInputs,
    add_options,
    read_recipe,
)
from vcm_plugin.training.schedules import (
    DetectorTraining,
    FctmTraining,
    HeadsTraining,
    HvcnTraining,
    ImportanceTraining,
    InterTraining,
    MsfcTraining,
    PictureTraining,
    RestorerTraining,
    Schedule,
    TrackerTraining,
    TransformTraining,
    VfcnTraining,
)

# torch, and all that needs it, is imported where it is used: --help and wrong options do without.


def add(commands) -> None:
    """The parser of the command, with one below it for each network."""
    parser = command(
        commands, "train", "a network by a recipe of cfg/training",
        "Trains a network. The same command goes on where its output folder holds a checkpoint, "
        "and ends in the same weights. Every key of a recipe is also an option that overrides it.",
    )  # fmt: skip
    networks = parser.add_subparsers(title="networks", metavar="NETWORK", dest="network")
    networks.required = True
    for name, summary, body, kinds in (
        ("vfcn", "the machine layer of Diff-FCHM, for a frozen detector",
         train_vfcn, (VfcnInputs, VfcnConfig, VfcnTraining)),
        ("msfc", "the reduction anchor, for a frozen detector",
         train_msfc, (FeatureInputs, MsfcConfig, MsfcTraining)),
        ("fctm_like", "the anchor fctm_like, for a frozen detector",
         train_fctm_like, (FeatureInputs, FctmConfig, FctmTraining)),
        ("detector", "a small Faster or Mask R-CNN", train_detector,
         (DetectorInputs, DetectorTraining)),
        ("tracker", "a JDE network, on drawn sequences", train_tracker,
         (TrackerInputs, TrackerTraining)),
        ("hvcn", "one stage of the human layer of Diff-FCHM, over a frozen machine layer",
         train_hvcn, (HvcnInputs, HvcnConfig, HvcnTraining)),
        ("restorer", "the restorer of auxiliary pictures, over a frozen machine layer",
         train_restorer, (RestorerInputs, RestorerConfig, RestorerTraining)),
        ("inter", "the networks that code a frame after others, over a frozen machine layer",
         train_inter, (InterInputs, InterConfig, InterTraining)),
        ("importance", "what an encoder of the machine layer knows of importance",
         train_importance, (ImportanceInputs, ImportanceTraining)),
        ("picture", "a learned picture codec",
         train_picture, (PictureInputs, PictureConfig, PictureTraining)),
        ("transform", "a learned picture codec with the latent-space transforms of latent_scalable "
         "and multi_head",
         train_transform, (TransformInputs, TransformConfig, TransformTraining)),
        ("heads", "these transforms with the losses of a detector, over a frozen learned picture "
         "codec",
         train_heads, (HeadsInputs, HeadsTraining)),
    ):  # fmt: skip
        one = networks.add_parser(name, help=summary, description=f"Trains {summary}.")
        add_options(one, *kinds)
        one.set_defaults(body=body)


def train_vfcn(options: Namespace) -> None:
    """Train VFCN and export it: OUT/vfcn.safetensors."""
    inputs, config, schedule = read_recipe(options, VfcnInputs, VfcnConfig, VfcnTraining)
    from vcm_plugin.rate_points import parse_scale

    for rate_point in inputs.rate_points:
        parse_scale(rate_point)
    from vcm_plugin.diff_fchm.machine.codec import export
    from vcm_plugin.training.vfcn import train

    schedule = _settled(schedule, inputs)
    store = _pyramid_store(inputs, config, options.output)
    if not config.layer_channels and config.split_point != "fpn":
        config = replace(config, layer_channels=tuple(store.layer_channels))
    init = _beginning(inputs)
    model = train(config, store, schedule, options.output, init, _say)
    if _is_first_process():
        path = options.output / "vfcn.safetensors"
        trained = asdict(schedule) | {"init": init and init.name}
        export(model, store.detector.weights_sha256, list(inputs.rate_points), trained, path)
        print(f"VFCN weights: {path}")


def train_msfc(options: Namespace) -> None:
    """Train MSFC and export it: OUT/msfc.safetensors."""
    typed = read_recipe(options, FeatureInputs, MsfcConfig, MsfcTraining)
    from anchors.msfc_networks import export
    from vcm_plugin.training.msfc import train

    _train_reduction(options, typed, train, export, "MSFC")


def train_fctm_like(options: Namespace) -> None:
    """Train fctm_like and export it: OUT/fctm_like.safetensors."""
    typed = read_recipe(options, FeatureInputs, FctmConfig, FctmTraining)
    from anchors.fctm_networks import export
    from vcm_plugin.training.fctm_like import train

    _train_reduction(options, typed, train, export, "fctm_like")


def _train_reduction(
    options: Namespace, typed: tuple, train: Callable, export: Callable, name: str
) -> None:
    """Train a network that reduces features on those of the frozen detector, and export it."""
    inputs, config, schedule = typed
    schedule = _settled(schedule, inputs)
    store = _feature_store(inputs)
    model = train(config, store, schedule, options.output, _say)
    if _is_first_process():
        path = options.output / f"{name.lower()}.safetensors"
        export(model, store.detector.weights_sha256, asdict(schedule), path)
        print(f"{name} weights: {path}")


def train_detector(options: Namespace) -> None:
    """Train a detector and export it as Detectron2 does: OUT/model.pth."""
    inputs, schedule = read_recipe(options, DetectorInputs, DetectorTraining)
    from vcm_plugin.split.config import load_config

    config = load_config(model_path(inputs.model))
    import torch

    from vcm_plugin.files import writing
    from vcm_plugin.training.detector import train

    schedule = _settled(schedule, inputs)
    dataset = _dataset(inputs)
    exported = train(config, dataset, schedule, options.output, inputs.init, _say)
    if _is_first_process():
        path = options.output / "model.pth"
        with writing(path) as file:
            torch.save(exported, file)
        print(f"Detectron2-format checkpoint: {path}")


def train_tracker(options: Namespace) -> None:
    """Draw training sequences, train a JDE network and export it: OUT/model.pth."""
    inputs, schedule = read_recipe(options, TrackerInputs, TrackerTraining)
    from vcm_plugin.split.jde_config import load_jde_config

    config = load_jde_config(model_path(inputs.model))
    import torch

    from vcm_plugin.files import writing
    from vcm_plugin.split.jde_checkpoint import to_jde_state_dict
    from vcm_plugin.training.tracker import TrackingStore, train

    schedule = _settled(schedule, inputs)
    folder = inputs.cache or options.output / "frames"
    store = TrackingStore(folder, inputs.sequences, inputs.sequence_frames)
    for done in store.prepare():
        if done % 20 == 0:
            _say(f"drew {done} of {inputs.sequences} sequences")
    store.open()
    network = train(config, store, schedule, options.output, inputs.init, _say)
    if _is_first_process():
        path = options.output / "model.pth"
        with writing(path) as file:
            torch.save({"model": to_jde_state_dict(network)}, file)
        print(f"checkpoint of the tracker: {path}")


def train_hvcn(options: Namespace) -> None:
    """Train one stage of HVCN; it takes what earlier ones left in OUT."""
    inputs, config, schedule = read_recipe(options, HvcnInputs, HvcnConfig, HvcnTraining)
    on_features = schedule.stage not in ("vae", "prior")
    if on_features:
        _require(inputs, "vfcn", "machine layer")
    import torch

    from vcm_plugin.diff_fchm.human.prior import SmallPrior
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec
    from vcm_plugin.training.hvcn.samples import Samples
    from vcm_plugin.training.hvcn.stages import open_prior, run_stage

    schedule = _settled(schedule, inputs)
    torch.manual_seed(schedule.seed)
    source = inputs.prior and bundled_weights(inputs.prior)
    prior = open_prior(source, options.output, SmallPrior(), schedule.stage)
    samples = Samples(_pictures(inputs), schedule.crop, prior)
    if on_features:
        samples.detector = _detector(inputs)
        samples.machine = MachineCodec(Path(bundled_weights(inputs.vfcn)))
    saved = run_stage(config, samples, schedule, options.output, source, inputs.vfcn_state, _say)
    print(f"{schedule.stage}: {saved}")


def train_restorer(options: Namespace) -> None:
    """Code the training pictures, train the restorer and export it: OUT/restorer.safetensors."""
    inputs, config, schedule = read_recipe(
        options, RestorerInputs, RestorerConfig, RestorerTraining
    )
    _require(inputs, "vfcn", "machine layer")
    from anchors.picture_learned import PictureLearnedCodec
    from vcm_plugin.diff_fchm.human.restoration import export
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec
    from vcm_plugin.training.restorer import train
    from vcm_plugin.training.restorer_samples import RestorerStore, prepare

    schedule = _settled(schedule, inputs)
    detector, machine = _detector(inputs), MachineCodec(Path(bundled_weights(inputs.vfcn)))
    codec = inputs.picture_codec
    learned = PictureLearnedCodec(Path(bundled_weights(codec))) if codec else None
    folder = inputs.cache or options.output / "pictures"
    pictures = _drawn_and_found(inputs)
    for done in prepare(pictures, folder, detector, machine, inputs.codings, inputs.coded_scales,
                        schedule.seed, inputs.part, learned):  # fmt: skip
        _say(f"prepared {done} of {len(pictures)} pictures")
    if inputs.prepare_only:
        return
    store = RestorerStore(folder, detector)
    init = _beginning(inputs)
    model = train(config, store, schedule, options.output, init, _say)
    if _is_first_process():
        trained = {"pictures": len(store.paths), "machine_sha256": machine.latents_sha256}
        if init:
            trained["init"] = init.name
        if learned:
            trained["picture_sha256"] = learned.sha256
        path = options.output / "restorer.safetensors"
        export(model, asdict(schedule) | trained, path)
        print(f"restorer weights: {path}")


def train_inter(options: Namespace) -> None:
    """Analyse training sequences, train the inter networks, export: OUT/inter.safetensors."""
    inputs, config, schedule = read_recipe(options, InterInputs, InterConfig, InterTraining)
    _require(inputs, "vfcn", "machine layer")
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec
    from vcm_plugin.diff_fchm.machine.inter import export
    from vcm_plugin.training.inter import train
    from vcm_plugin.training.inter_samples import InterStore, prepare

    schedule = _settled(schedule, inputs)
    machine = MachineCodec(Path(bundled_weights(inputs.vfcn)))
    detector = _detector(inputs, machine.config.split_point)
    folder = inputs.cache or options.output / "latents"
    for done in prepare(folder, machine, detector, inputs.sequences, inputs.sequence_frames):
        if done % 20 == 0:
            _say(f"analysed {done} of {inputs.sequences} sequences")
    store = InterStore(folder, detector, inputs.sequences)
    networks = train(config.over(machine.config), machine, store, schedule, options.output, _say)
    if _is_first_process():
        path = options.output / "inter.safetensors"
        export(networks, config.over(machine.config), machine.sha256, asdict(schedule), path)
        print(f"inter weights: {path}")


def train_importance(options: Namespace) -> None:
    """Train what an encoder knows of importance and export it: OUT/importance.safetensors."""
    inputs, schedule = read_recipe(options, ImportanceInputs, ImportanceTraining)
    _require(inputs, "vfcn", "machine layer")
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec
    from vcm_plugin.diff_fchm.machine.importance import export
    from vcm_plugin.training.importance import train

    schedule = _settled(schedule, inputs)
    machine = MachineCodec(Path(bundled_weights(inputs.vfcn)))
    store = _feature_store(inputs)
    network = train(inputs.width, machine, store, schedule, options.output, _say)
    if _is_first_process():
        path = options.output / "importance.safetensors"
        export(network, machine.latents_sha256, asdict(schedule), path)
        print(f"importance weights: {path}")


def train_picture(options: Namespace) -> None:
    """Draw training pictures, train a learned picture codec, export: OUT/picture.safetensors."""
    inputs, config, schedule = read_recipe(options, PictureInputs, PictureConfig, PictureTraining)
    from anchors.picture_networks import export
    from vcm_plugin.training.picture import train
    from vcm_plugin.training.picture_samples import PictureStore

    schedule = _settled(schedule, inputs)
    detector = _detector(inputs) if schedule.feature_weight else None
    drawn = _drawn(inputs, options.output)
    store = PictureStore(drawn, _folders(inputs), inputs.found_share, detector)
    init = _beginning(inputs)
    model = train(config, store, schedule, options.output, init, _say)
    if _is_first_process():
        path = options.output / "picture.safetensors"
        used = {"drawn": inputs.drawn, "pictures": list(inputs.pictures)}
        export(model, detector and detector.weights_sha256, asdict(schedule) | used, path)
        print(f"picture weights: {path}")


def train_transform(options: Namespace) -> None:
    """Draw training pictures, train a picture codec with both transforms and export all three:
    OUT/picture.safetensors, OUT/CODEC.safetensors."""
    inputs, config, schedule = read_recipe(
        options, TransformInputs, TransformConfig, TransformTraining
    )
    _require(inputs, "picture", "picture codec")
    _require(inputs, "vfcn", "machine layer")
    from anchors import latent_transform, picture_networks
    from anchors.picture_learned import PictureLearnedCodec
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec
    from vcm_plugin.training.picture_samples import PictureStore
    from vcm_plugin.training.transform import HeadsConfig, Targets, train

    schedule = _settled(schedule, inputs)
    detector = _detector(inputs)
    begin = Path(bundled_weights(inputs.picture))
    sizes = replace(PictureLearnedCodec(begin).config, qps=config.qps)
    machine = MachineCodec(Path(bundled_weights(inputs.vfcn)))
    config = replace(config, machine_latents=machine.config.latents)
    pictures = PictureStore(_drawn(inputs, options.output), detector=detector)
    store = Targets(pictures, machine)
    both = HeadsConfig(sizes, config)
    model = train(both, store, schedule, options.output, begin, _say)
    if not _is_first_process():
        return
    trained = asdict(schedule) | {"drawn": inputs.drawn, "init": begin.name}
    digest = detector.weights_sha256
    picture = options.output / "picture.safetensors"
    picture_networks.export(model.picture, digest, trained, picture)
    print(f"picture weights: {picture}")
    bound = (sha256_of_file(picture), machine.latents_sha256, digest)
    for name, transform in model.each.items():
        path = options.output / f"{name}.safetensors"
        latent_transform.export(transform, *bound, trained, path)
        print(f"weights of {name}: {path}")


def train_heads(options: Namespace) -> None:
    """Train the transforms of both codecs and export them: OUT/CODEC.safetensors."""
    inputs, schedule = read_recipe(options, HeadsInputs, HeadsTraining)
    _require(inputs, "picture", "picture codec")
    _require(inputs, "vfcn", "machine layer")
    for name in HEADS:
        _require(inputs, name, f"transform of {name}")
    from anchors import latent_transform
    from anchors.feature_head import FeatureHead
    from anchors.picture_learned import PictureLearnedCodec
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec
    from vcm_plugin.training.feature_store import FeatureStore
    from vcm_plugin.training.heads import CodedPictures, own_sized, train

    schedule = _settled(schedule, inputs)
    picture = PictureLearnedCodec(Path(bundled_weights(inputs.picture)))
    machine = MachineCodec(Path(bundled_weights(inputs.vfcn)))
    begin = {name: Path(bundled_weights(getattr(inputs, name))) for name in HEADS}
    heads = {name: FeatureHead(path, picture, machine) for name, path in begin.items()}
    detector = _detector(inputs)
    dataset = own_sized(_dataset(inputs), detector.config)
    store = CodedPictures(FeatureStore(detector, dataset, inputs.cache), picture, machine)
    model = train(heads, store, schedule, options.output, _say)
    if not _is_first_process():
        return
    bound = (picture.sha256, machine.latents_sha256, store.detector.weights_sha256)
    for name, transform in model.each.items():
        path = options.output / f"{name}.safetensors"
        trained = asdict(schedule) | {"init": begin[name].name}
        latent_transform.export(transform, *bound, trained, path)
        print(f"weights of {name}: {path}")


def _require(inputs: Inputs, key: str, what: str) -> None:
    """Raise InputError where the weights that a training builds on are not named."""
    if not getattr(inputs, key):
        raise InputError(
            f"--{key.replace('_', '-')}: expected the weights of the {what}, found none; name a "
            "file, or bundled ones"
        )


def _drawn(inputs: PictureInputs | TransformInputs, output: Path) -> list[Path]:
    """Pictures of the mini-CTC's train split, drawn where the folder lacks them."""
    from vcm_plugin.training.picture_samples import prepare

    drawn: list[Path] = []
    for drawn in prepare(inputs.cache or output / "pictures", inputs.drawn):
        if len(drawn) % 200 == 0:
            _say(f"{len(drawn)} of {inputs.drawn} pictures")
    return drawn


def _beginning(inputs: VfcnInputs | RestorerInputs | PictureInputs) -> Path | None:
    """The checkpoint or weights file that a training starts from, where one is named."""
    return Path(bundled_weights(inputs.init)) if inputs.init else None


def _settled(schedule: Schedule, inputs: Inputs) -> Schedule:
    """The schedule in the precision of this machine, with torch's threads set."""
    import torch

    from vcm_plugin.training.precision import settled

    if inputs.threads:
        torch.set_num_threads(inputs.threads)
    return settled(schedule, _say)


def _dataset(inputs: Inputs):
    from vcm_plugin.ctc.codecs import load_condition, override
    from vcm_plugin.testsets.coco import load_coco
    from vcm_plugin.testsets.open import open_test_set

    if inputs.images:
        return load_coco(inputs.images, inputs.annotations)
    return open_test_set(override(load_condition("minictc"), {"minictc": "train"}))


def _detector(inputs: FeatureInputs, split_point: str = "fpn"):
    from vcm_plugin.split import load_split_model

    weights = inputs.weights and bundled_weights(inputs.weights)
    return load_split_model(model_path(inputs.model), weights, split_point, runtime="torchvision")


def _feature_store(inputs: FeatureInputs):
    """The frozen detector's features of the training pictures."""
    from vcm_plugin.training.feature_store import FeatureStore

    detector = _detector(inputs)
    return FeatureStore(detector, _dataset(inputs), inputs.cache)


def _pyramid_store(inputs: VfcnInputs, config: VfcnConfig, output: Path):
    """The frozen detector's layers, at the split point that the networks are for."""
    from vcm_plugin.split.jde_config import is_jde
    from vcm_plugin.training.feature_store import FeatureStore

    detector = _detector(inputs, config.split_point)
    if not is_jde(model_path(inputs.model)):
        dataset = _dataset(inputs)
        if inputs.turned:
            from vcm_plugin.training.turned import turned

            dataset = turned(dataset, output / "turned")
        return FeatureStore(detector, dataset, inputs.cache)
    from vcm_plugin.training.frame_features import FrameFeatures, drawn_frames, pictures_of
    from vcm_plugin.training.tracker import TrackingStore

    if inputs.images:
        return FrameFeatures(detector, *pictures_of(_dataset(inputs)), inputs.cache)
    folder = inputs.frames or output / "frames"
    drawn = TrackingStore(folder, inputs.sequences, inputs.sequence_frames)
    for done in drawn.prepare():
        if done % 20 == 0:
            _say(f"drew {done} of {inputs.sequences} sequences")
    drawn.open()
    return FrameFeatures(detector, drawn_frames(drawn), drawn.digest, inputs.cache)


def _pictures(inputs: HvcnInputs) -> list[Path]:
    return _folders(inputs) or [entry.path for entry in _dataset(inputs).pictures]


def _drawn_and_found(inputs: RestorerInputs) -> list:
    """Calls that give the pictures: drawn ones, then those of folders."""
    from functools import partial

    from vcm_plugin.testsets.minictc import FIRST_SEED, draw_picture
    from vcm_plugin.testsets.pictures import read_picture

    drawn = [
        lambda seed=FIRST_SEED["train"] + index: draw_picture(seed)[0]
        for index in range(inputs.drawn)
    ]
    return drawn + [partial(read_picture, path) for path in _folders(inputs)]


def _folders(inputs) -> list[Path]:
    """Pictures of the folders that are named, from $VCM_DATA on."""
    from vcm_plugin.training.hvcn.samples import picture_paths

    root = Path(os.environ.get("VCM_DATA", "."))
    return picture_paths([root / folder for folder in inputs.pictures]) if inputs.pictures else []


def _is_first_process() -> bool:
    from vcm_plugin.training.loop import is_first_process

    return is_first_process()


def _say(line: str) -> None:
    if int(os.environ.get("RANK", 0)) == 0:  # of several processes, one speaks
        print(line, flush=True)
