"""Files of detectron2's model zoo: what is known of them, and where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.utils.file_io import Detectron2Handler, PathManager
from torch import nn
from zoo_helpers import write_zoo_file

from lambda_det.checkpoint import load_weights
from lambda_det.checkpoint.addresses import MIRROR_VARIABLE
from lambda_det.checkpoint.coverage import measure
from lambda_det.checkpoint.heads import heads_that_start_anew
from lambda_det.checkpoint.image_format import MSRA
from lambda_det.checkpoint.loading import local_file
from lambda_det.checkpoint.translation import read_and_translate, translate
from lambda_det.checkpoint.zoo import AUTHOR
from lambda_det.errors import InputError

ADDRESS = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
BODY = "backbone.bottom_up."
ORDINARY = {
    f"{BODY}stem.conv1.weight": (64, 3, 7, 7),
    f"{BODY}stem.conv1.norm.running_mean": (64,),
    f"{BODY}res2.0.conv1.weight": (64, 64, 1, 1),
    f"{BODY}res2.0.conv3.weight": (256, 64, 1, 1),
    "backbone.fpn_lateral2.weight": (256, 256, 1, 1),
}
FPN_NORM = {"backbone.fpn_lateral2.norm.weight": (256,)}
SECOND_OF_RPN = {"proposal_generator.rpn_head.conv.conv1.weight": (256, 256, 3, 3)}


def without(*parts: str) -> dict:
    return {name: shape for name, shape in ORDINARY.items() if not name.endswith(parts)}


def state(shapes: dict) -> dict:
    return {name: torch.ones(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("shapes", "is_known"),
    [
        (ORDINARY, True),  # with FPN, C4 or DC5, of any head
        (ORDINARY | FPN_NORM | SECOND_OF_RPN, True),  # the new baselines
        (ORDINARY | FPN_NORM, False),  # 3x_syncbn and scratch 9x_syncbn differ in both
        (without("running_mean"), False),  # GN
        (ORDINARY | {f"{BODY}res2.0.conv2.weight": (256, 8, 3, 3)}, False),
        (ORDINARY | {f"{BODY}res3.0.conv2_offset.weight": (18, 128, 3, 3)}, False),
        (without("stem.conv1.weight") | {f"{BODY}stem.conv1.weight": (64, 3, 3, 3)}, False),
    ],
)
def test_what_names_and_shapes_tell(tmp_path: Path, shapes: dict, is_known: bool) -> None:
    found = read_and_translate(write_zoo_file(tmp_path / "model.pkl", state(shapes)))
    assert found.images == (MSRA if is_known else None)
    assert found.not_in_shapes() == ({"stride_in_1x1": True} if is_known else {})


def test_saved_again_by_pytorch(tmp_path: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in state(ORDINARY).items()}
    torch.save({"model": arrays, "__author__": AUTHOR}, tmp_path / "model.pth")
    assert read_and_translate(str(tmp_path / "model.pth")).images == MSRA


@pytest.mark.parametrize("author", ["", "somebody"])
def test_nothing_is_claimed_of_a_file_of_other_people(tmp_path: Path, author: str) -> None:
    found = read_and_translate(write_zoo_file(tmp_path / "m.pkl", state(ORDINARY), author=author))
    assert found.images is None and not found.not_in_shapes()


def test_what_a_config_has_is_no_weight() -> None:
    """detectron2's checkpoints of 2019 have these buffers."""
    more = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.cell_anchors.0")
    content = {"model": state(ORDINARY | dict.fromkeys(more, (3, 1, 1))), "__author__": AUTHOR}
    assert [*translate("m.pkl", content).others] == ["backbone.fpn_lateral2.weight"]


@pytest.mark.parametrize(
    "place", [ADDRESS, "137849600/model_final_f10217.pkl", "model_final_f10217.pkl"]
)
def test_mirror(tmp_path: Path, monkeypatch, place: str) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"weights")
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path))
    assert local_file(f"detectron2://{ADDRESS}") == str(file)
    with PathManager.open(f"detectron2://{ADDRESS}", "rb") as opened:
        assert opened.read() == b"weights"


def test_names_without_a_digest_need_their_folder(tmp_path: Path, monkeypatch) -> None:
    """There are two R-50.pkl, MSRA's and torchvision's, which take different images."""
    (tmp_path / "R-50.pkl").write_bytes(b"?")
    (tmp_path / "MSRA").mkdir()
    (tmp_path / "MSRA" / "R-50.pkl").write_bytes(b"MSRA's")
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path))
    monkeypatch.setattr(Detectron2Handler, "_get_local_path", lambda self, path, **_: "downloaded")
    base = "detectron2://ImageNetPretrained"
    found = [
        PathManager.get_local_path(f"{base}/{name}/R-50.pkl") for name in ("MSRA", "torchvision")
    ]
    assert found == [str(tmp_path / "MSRA" / "R-50.pkl"), "downloaded"]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (ADDRESS, r"model_final_f10217\.pkl"),
        ("ImageNetPretrained/MSRA/R-50.pkl", r"MSRA/R-50\.pkl"),
    ],
)
def test_no_network(monkeypatch, address: str, name: str) -> None:
    """The line tells where the mirror looks."""
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)

    def fail(self, path: str, **_: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(Detectron2Handler, "_get_local_path", fail)
    line = rf"no route to host\); without a network, put {name} into .*_MIRROR"
    with pytest.raises(InputError, match=line):
        load_weights(nn.Conv2d(1, 1, 1), f"detectron2://{address}")


BOX = "roi_heads.box_predictor"
RETINA = {"head.cls_score.weight": (9 * 80, 8, 3, 3), "head.bbox_pred.weight": (36, 8, 3, 3)}


@pytest.mark.parametrize(
    ("file", "model", "expected"),
    [
        (
            {f"{BOX}.cls_score.weight": (81, 8), f"{BOX}.bbox_pred.weight": (320, 8)},
            {f"{BOX}.cls_score.weight": (2, 8), f"{BOX}.bbox_pred.weight": (4, 8)},
            "has 80 classes, and the model has 1 class: these layers start anew: "
            f"{BOX}.cls_score.*, {BOX}.bbox_pred.*",
        ),
        (
            RETINA,
            RETINA | {"head.cls_score.weight": (9 * 2, 8, 3, 3)},
            "has 80 classes, and the model has 2 classes: these layers start anew: "
            "head.cls_score.*",
        ),
        (RETINA, RETINA, ""),
        (RETINA, {f"{BOX}.cls_score.weight": (3, 8)}, ""),  # another kind of detector
        ({"fpn.weight": (1,)}, RETINA, ""),
    ],
)
def test_which_heads_start_anew(file: dict, model: dict, expected: str) -> None:
    assert heads_that_start_anew(measure(model, file), file, model) == expected
