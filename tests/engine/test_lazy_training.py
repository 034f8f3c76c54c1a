"""The command lazyconfig_train_net: training, resuming and evaluating a LazyConfig."""

from __future__ import annotations

import json
import shlex
import signal
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.engine import HookBase, default_argument_parser
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling.meta_arch import RetinaNet
from omegaconf import OmegaConf
from torch import nn

from lambda_det.commands import lazyconfig_train_net
from lambda_det.configs import find_lazy_config
from lambda_det.engine.interruption import INTERRUPTED_FILE, TrainingInterrupted
from lambda_det.engine.lazy_settings import lazy_words, load_lazy_config, settings_of
from lambda_det.engine.lazy_trainer import (
    LazyTrainer,
    build_lazy_model,
    evaluate_lazy,
    setup_lazy_config,
    train_or_evaluate,
)
from lambda_det.engine.sanity import sanity_pass
from lambda_det.errors import InputError

QUICK = "quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu"
LONG = (
    "train.accumulate=2", "train.ema_decay=0.5", "train.best_metric=segm/AP",
)  # fmt: skip


def arguments(output: Path, folder: Path, *words: str, **flags: bool) -> Namespace:
    args = default_argument_parser().parse_args(["--config-file", str(output.parent / "tiny.py")])
    args.opts = [f"train.output_dir={output}", f"train.coco_folder={folder}", *words]
    for name, value in flags.items():
        setattr(args, name, value)
    return args


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A run's folder, beside a config: the quick one with smaller parts."""
    (tmp_path / "tiny.py").write_text(
        f"""
from detectron2.config import LazyConfig
from detectron2.layers import ShapeSpec

_quick = LazyConfig.load({find_lazy_config(QUICK)!r})
dataloader, lr_multiplier, model = _quick.dataloader, _quick.lr_multiplier, _quick.model
optimizer, train = _quick.optimizer, _quick.train
model.backbone.update(out_channels=16)
model.backbone.bottom_up.depth = 26
model.proposal_generator.head.in_channels = 16
model.roi_heads.box_head.update(
    input_shape=ShapeSpec(channels=16, height=7, width=7), conv_dims=[32], fc_dims=[16]
)
model.roi_heads.box_predictor.update(input_shape=ShapeSpec(channels=16), test_score_thresh=0.0)
model.roi_heads.mask_head.update(
    input_shape=ShapeSpec(channels=16, height=14, width=14), conv_dims=[32, 32]
)
for _split in (dataloader.train, dataloader.test):
    _split.mapper.augmentations.augmentations[0].short_edge_length = 64
dataloader.train.total_batch_size = 2
train.update(max_iter=4, checkpointer=dict(period=2, max_to_keep=0))
train.update(log_period=5, model_ema=dict(enabled=True))  # detectron2's; not read here
""",
        encoding="utf-8",
    )
    return tmp_path / "run"


def weights(path: Path) -> dict:
    return torch.load(path, weights_only=True)["model"]


@pytest.mark.slow
def test_a_lazy_training_resumes_exactly_and_evaluates(
    output: Path, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    results = train_or_evaluate(arguments(output, shapes_folder, *LONG))
    assert set(results) == {"bbox", "segm"}
    names = {path.name for path in output.iterdir()}
    assert {"model_0000001.pth", "model_final.pth", "metrics.json", "last_checkpoint"} <= names
    assert {"model_best.pth", "model_final_ema.pth"} <= names and "inference" in names
    assert "train.log_period, train.model_ema.enabled: nothing here" in capsys.readouterr().out
    assert (output / "inference" / "metrics.json").is_file()

    # The same run, stopped by a signal behind its third iteration and taken up again.
    stopped = tmp_path / "stopped"
    args = arguments(stopped, shapes_folder, *LONG)
    lazy, cfg = setup_lazy_config(args)
    trainer = LazyTrainer(lazy, cfg, "tiny.py", args.opts)

    class Stop(HookBase):
        def after_step(self) -> None:
            if self.trainer.iter == 2:
                signal.raise_signal(signal.SIGTERM)

    trainer._hooks.insert(0, Stop())
    Stop.trainer = trainer
    trainer.resume_or_load(resume=False)
    with pytest.raises(TrainingInterrupted):
        trainer.train()
    assert json.loads((stopped / INTERRUPTED_FILE).read_text())["iteration"] == 3
    words = shlex.join(args.opts)  # without them it would be another run
    line = f"tools/lazyconfig_train_net.py --config-file tiny.py --resume {words}\n"
    assert line in capsys.readouterr().out
    again = train_or_evaluate(arguments(stopped, shapes_folder, *LONG, resume=True))
    assert again == results
    for name in ("model_final.pth", "model_final_ema.pth", "model_best.pth"):
        one, other = (weights(folder / name) for folder in (output, stopped))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)

    # Evaluation of the weights alone, by the command.
    alone = tmp_path / "alone"
    words = [f"train.init_checkpoint={stopped / 'model_final_ema.pth'}"]
    given = arguments(alone, shapes_folder, *words, eval_only=True)
    flags = ["--config-file", given.config_file, "--eval-only", *given.opts]
    assert lazyconfig_train_net.main(flags) == 0
    text = (alone / "inference" / "metrics.json").read_text()
    assert text == (output / "inference" / "metrics.json").read_text()


@pytest.mark.parametrize(
    "word, says",
    [
        ("train.max_itr=10", "no key 'train.max_itr'; near it: max_iter"),
        ("trian.max_iter=10", "there is no 'trian'"),
        ("train.max_iter", "expected key=value"),
        ("MAX_ITER 10", "expected key=value"),
        ("train.max_iter=[", "train.max_iter=["),
        ("--eval-only", "flags stand before"),
        ("tran=1", "no key 'tran'; near it: train"),
    ],
)
def test_words_that_name_nothing(word: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        load_lazy_config(QUICK, [word])
    assert says in str(error.value) and "\n" not in str(error.value)


def test_words_change_the_config() -> None:
    words = ["train.max_iter=7", "train.amp={enabled:true,precision:bfloat16}", "optimizer.lr=0.3",
             "model.backbone.bottom_up.scope=7", "optimizer.nesterov=true"]  # fmt: skip
    lazy = load_lazy_config(QUICK, words)
    cfg = settings_of(lazy)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SOLVER.AMP.ENABLED) == (7, 0.3, True)
    assert cfg.SOLVER.AMP.PRECISION == "bfloat16" and lazy.optimizer.nesterov is True
    assert lazy.model.backbone.bottom_up.scope == 7  # an argument that the file leaves out
    lazy = load_lazy_config(QUICK, ["optimizer.weight_decay=0", "train.ema_decay=0"])
    solver = settings_of(lazy).SOLVER
    assert (solver.WEIGHT_DECAY, solver.EMA_DECAY) == (0, 0)


def test_the_sanity_pass_has_the_images_of_the_config(output: Path, shapes_folder: Path) -> None:
    words = ("dataloader.train.mapper.augmentations.augmentations.0.short_edge_length=[32,80]",)
    args = arguments(output, shapes_folder, *words, "train.sanity_images=1")
    trainer = LazyTrainer(*setup_lazy_config(args))
    batches, forward = [], trainer.model.forward
    trainer.model.forward = lambda images: batches.append(images) or forward(images)
    sanity_pass(trainer)
    assert [min(image["image"].shape[-2:]) for image in batches[0]] == [80, 80]
    assert not (output / "inference").exists()


def test_an_evaluator_that_writes_nothing(output: Path, shapes_folder: Path) -> None:
    lazy, cfg = setup_lazy_config(arguments(output, shapes_folder))
    lazy.dataloader.evaluator = L(Counting)(first=3)
    cfg.defrost()
    cfg.DATASETS.TEST = ()  # as of a loader without dataset.names
    model = build_lazy_model(lazy, cfg)
    assert evaluate_lazy(lazy, cfg, model) == {"images": {"count": 6}}


class Counting(DatasetEvaluator):
    def __init__(self, first: int) -> None:
        self._count = first

    def process(self, inputs, outputs) -> None:
        self._count += len(outputs)

    def evaluate(self) -> dict:
        return {"images": {"count": self._count}}


@pytest.mark.parametrize(
    "text, says",
    [
        ("model = dict(a=1)", "dataloader.train is missing"),
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("def f(:", "syntax"),
    ],
)
def test_files_that_are_no_training(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "c.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_lazy_config(str(path))
    assert says in str(error.value) and str(error.value).startswith(f"--config-file {path}: ")


def test_other_files_are_refused(tmp_path: Path, project: Path) -> None:
    yaml = str(project / "configs" / f"{QUICK}.yaml")
    with pytest.raises(InputError, match="train_net takes YAML"):
        load_lazy_config(yaml)
    for gone in ("gone.py", str(tmp_path), ""):
        with pytest.raises(InputError, match="no such file"):
            load_lazy_config(gone)


@pytest.mark.parametrize(
    "word, says",
    [
        ("train.max_iter=0", "train.max_iter"),
        ("train.device=tpu", "train.device='tpu'"),
        ("train.coco_folder=gone", "train.coco_folder"),
        ("train.max_iter=many", "train.max_iter='many'"),
    ],
)
def test_values_are_checked_in_the_words_of_the_file(
    word: str, says: str, output: Path, shapes_folder: Path
) -> None:
    with pytest.raises(InputError) as error:
        setup_lazy_config(arguments(output, shapes_folder, word))
    assert says in str(error.value)
    assert not output.exists()


def test_keys_are_translated() -> None:
    line = r"^train\.max_iter=3, optimizer\.lr and MODEL\.OTHER$"
    with pytest.raises(InputError, match=line), lazy_words():
        raise InputError("SOLVER.MAX_ITER=3, SOLVER.BASE_LR and MODEL.OTHER")


def test_evaluation_needs_weights(output: Path, shapes_folder: Path) -> None:
    with pytest.raises(InputError, match=r"train\.init_checkpoint is empty"):
        train_or_evaluate(arguments(output, shapes_folder, eval_only=True))


def test_a_config_without_our_parts_has_settings_too() -> None:
    norm = L(nn.BatchNorm2d)(num_features=3)  # what a config of ours has a name for
    own = OmegaConf.create(
        {
            "model": L(RetinaNet)(backbone={"bottom_up": {"norm": norm}}, input_format="BGR"),
            "train": {"max_iter": 5},
        },
        flags={"allow_objects": True},
    )
    cfg = settings_of(own)
    assert (cfg.SOLVER.MAX_ITER, cfg.INPUT.FORMAT, cfg.MODEL.MASK_ON) == (5, "BGR", False)
    assert cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    assert cfg.MODEL.LAMBDA_RESNET.NORM == "BN"  # the default
