"""The command lazyconfig_train_net: training, resuming and evaluating a LazyConfig."""

from __future__ import annotations

import functools
import json
import shlex
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.engine import HookBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling.meta_arch import RetinaNet
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lambda_det.commands import lazyconfig_train_net
from lambda_det.commands.lazyconfig_train_net import main
from lambda_det.configs import changed_values, find_lazy_config
from lambda_det.engine import dry_run, parts_from_lazy, run
from lambda_det.engine.interruption import INTERRUPTED_FILE, TrainingInterrupted
from lambda_det.engine.lazy import (
    evaluate_lazy,
    lazy_device,
    options_from_lazy,
    prepare_lazy,
    take_datasets,
)
from lambda_det.engine.lazy_config import load_lazy_config
from lambda_det.errors import InputError

QUICK = "quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu"
LONG = (
    "train.accumulate=2", "train.ema_decay=0.5", "train.best_metric=segm/AP",
)  # fmt: skip


def arguments(output: Path, folder: Path, *words: str) -> list[str]:
    """The arguments of a training in ``output`` on the dataset in ``folder``."""
    config = str(output.parent / "tiny.py")
    own = [f"train.output_dir={output}", f"train.coco_folder={folder}"]
    flags = [word for word in words if word.startswith("--")]
    return ["--config-file", config, *flags, *own, *(w for w in words if w not in flags)]


def config(output: Path, folder: Path, *words: str) -> DictConfig:
    _, path, *own = arguments(output, folder, *words)
    return load_lazy_config(path, own)


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
    assert main(arguments(output, shapes_folder, *LONG)) == 0
    metrics = json.loads((output / "inference" / "metrics.json").read_text())
    assert set(metrics) == {"bbox", "segm"}
    names = {path.name for path in output.iterdir()}
    assert {"model_0000001.pth", "model_final.pth", "metrics.json", "last_checkpoint"} <= names
    assert {"model_best.pth", "model_final_ema.pth"} <= names
    assert "train.log_period, train.model_ema.enabled: nothing here" in capsys.readouterr().out

    # The same run, stopped by a signal after its third iteration and resumed.
    class Stop(HookBase):
        def after_step(self) -> None:
            if self.trainer.iter == 2:
                signal.raise_signal(signal.SIGTERM)

    stopped = tmp_path / "stopped"
    words = arguments(stopped, shapes_folder, *LONG)
    with monkeypatch.context() as patch, pytest.raises(TrainingInterrupted):
        patch.setattr(lazyconfig_train_net, "run", functools.partial(run, hooks=[Stop()]))
        main(words)
    assert json.loads((stopped / INTERRUPTED_FILE).read_text())["iteration"] == 3
    flag, path, *own = words  # without the overrides it would be another run
    line = f"tools/lazyconfig_train_net.py --config-file {path} --resume {shlex.join(own)}\n"
    assert line in capsys.readouterr().out
    assert main([flag, path, "--resume", *own]) == 0
    assert json.loads((stopped / "inference" / "metrics.json").read_text()) == metrics
    for name in ("model_final.pth", "model_final_ema.pth", "model_best.pth"):
        one, other = (weights(folder / name) for folder in (output, stopped))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)

    # Evaluation of the weights alone.
    alone = tmp_path / "alone"
    word = f"train.init_checkpoint={stopped / 'model_final_ema.pth'}"
    assert main(arguments(alone, shapes_folder, "--eval-only", word)) == 0
    assert json.loads((alone / "inference" / "metrics.json").read_text()) == metrics


@pytest.mark.slow
def test_a_dry_run_takes_the_largest_images_and_leaves_nothing(
    output: Path, shapes_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    sizes: list[int] = []

    class Look(HookBase):
        def before_train(self) -> None:
            self.trainer.model.register_forward_pre_hook(self._look)

        def _look(self, model, inputs) -> None:
            if model.training:
                sizes.extend(min(image["image"].shape[-2:]) for image in inputs[0])

    monkeypatch.setattr(dry_run, "run", functools.partial(run, hooks=[Look()]))
    words = [
        "dataloader.train.mapper.augmentations.augmentations.0.short_edge_length=[32,80]",
        f"+dataloader.evaluator.output_dir={output}/own",
    ]
    assert main(arguments(output, shapes_folder, "--dry-run", *words)) == 0
    assert sizes == [80, 80, 80, 80] and not output.exists()
    assert "the dry run went well: a checkpoint takes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "word, says",
    [
        ("train.max_itr=10", "no key 'train.max_itr'; near it: max_iter"),
        ("trian.max_iter=10", "there is no 'trian'"),
        ("train.max_iter", "expected key=value"),
        ("MAX_ITER 10", "expected key=value"),
        ("train.max_iter=[", "train.max_iter=["),
        ("--eval-only", "options stand before"),
        ("tran=1", "no key 'tran'; near it: train"),
    ],
)
def test_words_that_name_nothing(word: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        load_lazy_config(QUICK, [word])
    assert says in str(error.value) and "\n" not in str(error.value)


def test_words_change_the_config() -> None:
    words = ["train.max_iter=7", "train.amp={enabled:true,precision:bfloat16}",
             "model.backbone.bottom_up.scope=7", "optimizer.nesterov=true",
             "train.wandb={enabled:true,name:'7'}"]  # fmt: skip
    lazy = load_lazy_config(QUICK, words)
    options = options_from_lazy(lazy)
    assert (options.max_iter, options.precision) == (7, "bfloat16")
    assert options.wandb_name == "7"
    assert lazy.optimizer.nesterov is True
    assert lazy.model.backbone.bottom_up.scope == 7  # an argument that the file leaves out
    lazy = load_lazy_config(QUICK, ["train.ema_decay=0", "train.amp={enabled:true}"])
    options = options_from_lazy(lazy)
    assert options.ema_decay == 0 and options.precision == "float16"
    lazy = load_lazy_config(QUICK, ["train.amp={enabled:true,precision:float32}"])
    assert options_from_lazy(lazy).precision == "float32"
    lazy.train.amp.precision = "fp16"
    with pytest.raises(InputError, match=r"^train\.amp\.precision='fp16': expected one of float32"):
        options_from_lazy(lazy)


def test_an_evaluator_that_writes_nothing(output: Path, shapes_folder: Path) -> None:
    lazy = config(output, shapes_folder)
    take_datasets(lazy)
    lazy.dataloader.evaluator = L(Counting)(first=3)
    model = instantiate(lazy.model)
    assert evaluate_lazy(lazy, model) == {"images": {"count": 6}}
    assert evaluate_lazy(lazy, model, most=2) == {"images": {"count": 5}}


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
        ("train.max_iter=0", "train.max_iter=0: expected a whole number above 0"),
        ("train.max_iter=10.5", "train.max_iter=10.5: expected a whole number above 0"),
        ("train.ema_decay=x", "train.ema_decay='x': expected a number from 0 (no average)"),
        ("train.seed={a:1}", "train.seed={'a': 1}: expected a whole number"),
        ("dataloader.train.num_workers=1.5", "num_workers=1.5: expected a whole number"),
        ("model.pixel_mean=1", "model.pixel_mean=1: expected a list"),
        ("train.amp.precision=fp16", "train.amp.precision='fp16': expected one of float32, bf"),
        ("train.device=tpu", "train.device='tpu'"),
        ("train.coco_folder=gone", "train.coco_folder"),
        ("train.val_share=2", "train.val_share=2: expected a number from 0 to below 1"),
        ("train.val_share=0.1", "has a validation split (val2017)"),
        ("train.best_metric=segm", "train.best_metric='segm'"),
        ("train.accumulate=3", "train.accumulate=3: expected a number that dataloader.train."),
        ("train.init_checkpoint=gone.pth", "train.init_checkpoint='gone.pth'"),
        ("train.partial_init.min_coverage=2", "train.partial_init.min_coverage=2"),
        ("model.backbone.bottom_up.freeze_at=2", "model.backbone.bottom_up.freeze_at freezes"),
        ("train.wandb.enabled=true", "train.wandb.enabled"),
        ("optimizer.lr=fast", "optimizer.lr='fast': expected a number"),
        ("optimizer.lr=-1", "optimizer.lr=-1.0: expected a finite number, not negative"),
        ("model.pixel_std=[0,0,0]", "model.pixel_std=[0, 0, 0]: expected a finite number above 0"),
        ("train.device=5", "train.device=5: expected text"),
        ("train.amp.enabled='false'", "train.amp.enabled='false': expected True or False"),
        ("lr_multiplier.warmup_length=abc", "lr_multiplier.warmup_length='abc': expected a finite"),
        ("lr_multiplier.warmup_length=nan", "lr_multiplier.warmup_length=nan: expected a finite"),
        ("lr_multiplier.warmup_length=inf", "lr_multiplier.warmup_length=inf: expected a finite"),
        ("lr_multiplier.warmup_length=1e308", "lr_multiplier.warmup_length=1e+308: expected a fin"),
    ],
)
def test_values_are_checked_in_the_words_of_the_file(
    word: str, says: str, output: Path, shapes_folder: Path, monkeypatch, tmp_path
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    own = [word]
    if "min_coverage" in word:
        torch.save({"model": {"stem.conv1.weight": torch.zeros(1)}}, tmp_path / "w.pth")
        own.append(f"train.init_checkpoint={tmp_path / 'w.pth'}")
    lazy = config(output, shapes_folder, *own)
    with pytest.raises(InputError) as error:
        parts, options = parts_from_lazy(lazy)
        run(parts, options)
    assert says in str(error.value)
    assert not list(output.rglob("*.pth"))


def test_more_objects_than_detections(output: Path, shapes_folder: Path, caplog) -> None:
    place = "model.roi_heads.box_predictor.test_topk_per_image"
    prepare_lazy(config(output, shapes_folder, f"{place}=1"))
    assert f"objects, and {place} is 1: the others count as not found" in caplog.text


def test_evaluation_needs_weights(output: Path, shapes_folder: Path, capsys) -> None:
    assert main(arguments(output, shapes_folder, "--eval-only")) == 2
    assert "error: train.init_checkpoint is empty" in capsys.readouterr().err


def test_a_config_without_our_parts_has_options_too() -> None:
    norm = L(nn.BatchNorm2d)(num_features=3)
    own = OmegaConf.create(
        {
            "model": L(RetinaNet)(backbone={"bottom_up": {"norm": norm}}, input_format="BGR"),
            "train": {"max_iter": 5},
        },
        flags={"allow_objects": True},
    )
    options = options_from_lazy(own)
    assert (options.max_iter, options.output_dir, options.precision) == (5, "./output", "float32")
    assert lazy_device(own) == "cuda"


def test_the_config_of_a_checkpoint_is_plain_yaml(output: Path, shapes_folder: Path) -> None:
    """A resumed run compares it, and W&B shows it."""
    parts, _ = parts_from_lazy(config(output, shapes_folder))
    text = yaml.safe_load(parts.config)
    assert text["train"]["max_iter"] == 4
    assert text["model"]["_target_"].endswith(".GeneralizedRCNN")
    assert text["dataloader"]["train"]["dataset"]["names"] == "coco_folder_train2017"
    other, _ = parts_from_lazy(config(output, shapes_folder, "optimizer.lr=0.5", "train.seed=8"))
    changes = changed_values(parts.config, other.config)
    assert changes == [
        "optimizer.lr: 0.05 -> 0.5",
        "optimizer.params.base_lr: 0.05 -> 0.5",  # refers to the former
        "train.seed: 1 -> 8",
    ]
