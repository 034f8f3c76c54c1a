"""The task of true boxes: what the head sees, how it is trained, and what it leaves a detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from lambda_det.backbone.residual_branches import mean_last_norms
from lambda_det.checkpoint import load_weights
from lambda_det.configs import load_config
from lambda_det.data import configure_datasets
from lambda_det.errors import InputError
from studies.evidence.row_mates import generate
from studies.evidence.scenes import draw_scene
from studies.evidence.true_boxes import TrueBoxes, main, normalised, pretrain, train

CONFIG = "studies/evidence/row_mates_detector.yaml"
SMALL = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "MODEL.LAMBDA_RESNET.LAYER.SCOPE", "5"]


class Level(nn.Module):
    """A level of a quarter of the image: what it is made of, at the middle of each cell."""

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = nn.Identity() if layer is None else layer

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"p2": self.layer(nn.functional.avg_pool2d(images, 4))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("true_boxes") / "control"
    generate(str(root), "control", num_train=4, num_val=1)
    return root


@pytest.fixture
def make_cfg(project: Path, folder: Path):
    """KEY, VALUE, … -> the config of a small detector of the folder."""

    def make(*words: str) -> CfgNode:
        words = [*SMALL, "DATASETS.COCO_FOLDER", str(folder), *words]
        cfg = load_config(str(project / CONFIG), words)
        configure_datasets(cfg)
        return cfg

    return make


def test_the_head_sees_the_features_of_the_box():
    """Features are x and y of their place in pixels: those of a box of 7 bins are x and y of the
    middles of the bins."""
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    images = torch.stack([x, y]).expand(2, 2, 64, 96)
    net = TrueBoxes(Level(), 2, 2)
    net.head = nn.Identity()
    boxes = [torch.tensor([[10.0, 20, 31, 34]]), torch.tensor([[50.0, 8, 64, 50], [8, 8, 22, 22]])]
    seen = net(images, boxes)
    assert seen.shape == (3, 2, 7, 7)
    for features, (x0, y0, x1, y1) in zip(seen, torch.cat(boxes), strict=True):
        steps = (torch.arange(7) + 0.5) / 7
        assert torch.allclose(features[0], (x0 + (x1 - x0) * steps).expand(7, 7), atol=1e-3)
        assert torch.allclose(features[1].T, (y0 + (y1 - y0) * steps).expand(7, 7), atol=1e-3)


def colour_batches(seed: int = 0):
    """Images of 32 pixels whose left or right half is bright: the kind of the box in a half."""
    generator = torch.Generator().manual_seed(seed)
    halves = [torch.tensor([0.0, 0, 16, 32]), torch.tensor([16.0, 0, 32, 32])]
    while True:
        bright = torch.randint(2, (8,), generator=generator)
        images = torch.zeros(8, 3, 32, 32)
        for image, side in zip(images, bright.tolist(), strict=True):
            image[:, :, 16 * side : 16 * side + 16] = 1
        kinds = torch.stack([bright == 0, bright == 1], 1).long().flatten()
        yield images, [torch.stack(halves)] * 8, kinds


def solver(project: Path, **keys: object) -> CfgNode:
    cfg = load_config(str(project / CONFIG))
    for key, value in keys.items():
        cfg.SOLVER[key] = value
    return cfg


def test_hidden_units_come_to_life_again_with_a_layer_norm():
    """As after too large a step: biases so low that ReLU passes nothing, and no gradient."""
    images, boxes = torch.rand(1, 3, 64, 64), [torch.tensor([[8.0, 8, 40, 40]])]
    for layer_norm in (False, True):
        net = TrueBoxes(Level(), 3, 2, layer_norm=layer_norm)
        nn.init.constant_(net.head[4].bias, -100)
        net(images, boxes).sum().backward()
        assert net.head[4].weight.grad.any() == layer_norm


def test_a_training_learns_by_the_schedule_and_leaves_what_is_frozen(project, monkeypatch):
    rates = []
    step = torch.optim.SGD.step

    def noting(self, *arguments, **keywords):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.SGD, "step", noting)
    torch.manual_seed(0)
    net = TrueBoxes(Level(nn.Conv2d(3, 8, 1)), 8, 2)
    net.fpn.requires_grad_(False)
    before = net.fpn.layer.weight.clone()
    cfg = solver(project, BASE_LR=0.02, WARMUP_ITERS=4, MAX_ITER=7)
    curve = train(net, colour_batches(), cfg, 40)
    assert len(curve.loss) == len(curve.right) == len(rates) == 40
    assert sum(curve.right[-10:]) / 10 > 0.95 and curve.loss[-1] < 0.3 * curve.loss[0]
    assert curve.cpu_s > 0 and torch.equal(net.fpn.layer.weight, before)
    assert rates[0] == pytest.approx(0.002) and max(rates) == pytest.approx(0.02, rel=0.05)
    assert rates.index(max(rates)) == 4 and rates[-1] < 0.001, "the cosine is of 40 iterations"
    assert cfg.SOLVER.MAX_ITER == 7, "the config of the caller is as it was"


def test_a_loss_that_is_not_finite_names_the_learning_rate(project):
    net = TrueBoxes(Level(nn.Conv2d(3, 8, 1)), 8, 2)
    cfg = solver(project, BASE_LR=1e30, WARMUP_ITERS=0)
    with pytest.raises(InputError, match=r"SOLVER.BASE_LR 1e\+30: the loss of iteration \d+ is"):
        train(net, colour_batches(), cfg, 40)


def test_images_are_as_the_detector_has_them(project):
    cfg = load_config(str(project / CONFIG))
    scene = draw_scene(np.random.default_rng(0), "rows")
    x, y = scene.markers[0]
    blue, green, red = map(float, scene.image[y, x])
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    assert cfg.INPUT.FORMAT == "RGB" and mean[0] > mean[2]
    expected = [(c - m) / s for c, m, s in zip((red, green, blue), mean, std, strict=True)]
    found = normalised(scene.image[None], cfg)[0, :, y, x]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-5)


def test_a_detector_starts_from_the_weights_with_new_heads_alone(
    project, folder, make_cfg, tmp_path
):
    path = tmp_path / "new" / "w.pth"
    words = [*SMALL, "DATASETS.COCO_FOLDER", str(folder)]
    command = ["--config-file", str(project / CONFIG), "--output", str(path)]
    assert main([*command, "--iterations", "2", "--images", "2", *words]) == 0
    cfg = make_cfg()
    model = build_model(cfg)
    random = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    coverage = load_weights(model, str(path), cfg=cfg)
    assert coverage.share() == 1 and not coverage.unexpected and not coverage.wrong_shape
    assert coverage.missing
    assert all(name.startswith(("roi_heads", "proposal_generator")) for name in coverage.missing)
    saved = torch.load(path)["model"]
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue  # counts only
        assert torch.equal(tensor, saved[name] if name in saved else random[name]), name
    assert any(name.startswith("backbone.fpn_output2") for name in saved)
    assert int(saved["backbone.bottom_up.res5.1.lambda_norm.num_batches_tracked"]) == 2
    assert not list(tmp_path.rglob("*.tmp"))


def test_idle_stages_stay_closed(make_cfg):
    cfg = make_cfg("MODEL.LAMBDA_RESNET.IDLE_STAGES", "['res4', 'res5']")
    weights = pretrain(cfg, 2, 2)
    model = build_model(cfg)
    model.load_state_dict(weights, strict=False)
    norms = mean_last_norms(model)
    assert norms["res4"] == norms["res5"] == 0 and norms["res2"] > 0.5 < norms["res3"]
    open_norms = [n for n in weights if "res2" in n and n.endswith("conv3.norm.weight")]
    assert all((weights[name] != 1).any() for name in open_norms), "trained"


@pytest.mark.parametrize(
    "words, line",
    [
        (["--iterations", "0"], "error: --iterations 0: at least 1 is needed"),
        (["--images", "0"], "error: --images 0: at least 1 is needed"),
        (
            "MODEL.FPN.IN_FEATURES ['res3','res4'] MODEL.RPN.IN_FEATURES ['p3'] "
            "MODEL.ROI_HEADS.IN_FEATURES ['p3'] MODEL.ANCHOR_GENERATOR.SIZES [[16]]".split(),
            "error: true boxes: a backbone with the FPN level p2 is needed",
        ),
        (["DATASETS.COCO_FOLDER", "/nowhere"], "error: DATASETS.COCO_FOLDER /nowhere is not a"),
    ],
)
def test_a_bad_value_is_one_line(words, line, project, folder, tmp_path, capsys):
    output = tmp_path / "w.pth"
    command = ["--config-file", str(project / CONFIG), "--output", str(output)]
    settings = [*SMALL, "DATASETS.COCO_FOLDER", str(folder)]
    options, keys = (words, []) if words[0].startswith("--") else ([], words)
    assert main([*command, *options, *settings, *keys]) == 2
    assert capsys.readouterr().err.strip().startswith(line)
    assert not output.exists()
