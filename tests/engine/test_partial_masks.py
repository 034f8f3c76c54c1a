"""Masks are learned from, and judged on, the objects that have one."""

from __future__ import annotations

import json

import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from lambda_det.data.mapper import WITH_MASK
from lambda_det.engine.partial_masks import learn_given_masks
from lambda_det.evaluation import evaluate_files


@pytest.fixture
def model() -> nn.Module:
    model = nn.Module()
    model.roi_heads = nn.Module()
    model.roi_heads.mask_head = MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=6, height=7, width=7), num_classes=3, conv_dims=[8]
    )
    return model.train()


def image(count: int, seed: int) -> Instances:
    generator = torch.Generator().manual_seed(seed)
    corners = 30 * torch.rand(count, 2, generator=generator)
    boxes = Boxes(torch.cat([corners, corners + 9], dim=1))
    masks = BitMasks(torch.rand(count, 47, 51, generator=generator) > 0.5)
    classes = torch.randint(0, 3, (count,), generator=generator)
    return Instances((47, 51), proposal_boxes=boxes, gt_masks=masks, gt_classes=classes)


def loss(model: nn.Module, features: torch.Tensor, images: list[Instances]) -> torch.Tensor:
    with EventStorage():
        return model.roi_heads.mask_head(features, images)["loss_mask"]


def test_objects_without_a_mask_are_not_learned(model):
    images, features = [image(4, 1), image(3, 2)], torch.randn(7, 6, 7, 7)
    images[0].set(WITH_MASK, torch.tensor([True, False, False, True]))
    chosen = torch.tensor([0, 3, 4, 5, 6])
    wanted = loss(model, features[chosen], [images[0][[0, 3]], images[1]])
    everything = loss(model, features, images)
    learn_given_masks(model)
    assert loss(model, features, images) == wanted != everything
    assert loss(model, features[4:], images[1:]) == loss(model, features[4:], [image(3, 2)])


def test_no_object_with_a_mask(model):
    learn_given_masks(model)
    one = image(2, 3)
    one.set(WITH_MASK, torch.tensor([False, False]))
    zero = loss(model, torch.randn(2, 6, 7, 7), [one])
    zero.backward()
    assert zero == 0
    assert all(torch.all(p.grad == 0) for p in model.parameters())


@pytest.mark.slow
def test_such_a_dataset_trains(make_training, shapes_folder, tmp_path, log):
    root = tmp_path / "mixed"
    root.mkdir()
    for entry in shapes_folder.iterdir():
        if entry.name != "annotations":
            (root / entry.name).symlink_to(entry)
    (root / "annotations").mkdir()
    for file in (shapes_folder / "annotations").iterdir():
        content = json.loads(file.read_text())
        for annotation in content["annotations"][::2]:
            annotation["segmentation"] = []
        (root / "annotations" / file.name).write_text(json.dumps(content))
    words = ["DATASETS.COCO_FOLDER", root, "DATASETS.TEST", "('coco_2017_val',)"]
    training = make_training(tmp_path / "run", *words, "SOLVER.MAX_ITER", 2)
    assert "objects have no mask, others have one" in log.text
    results = training.train()
    assert set(results) == {"bbox", "segm"}


def test_evaluation_judges_the_masks_that_are_there(tmp_path):
    squares = [[2, 2, 12, 2, 12, 12, 2, 12], [20, 20, 33, 20, 33, 31, 20, 31]]
    boxes = [[2, 2, 10, 10], [20, 20, 13, 11]]
    content = {
        "images": [{"id": 1, "file_name": "a", "height": 40, "width": 50}],
        "categories": [{"id": 1, "name": "one"}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": boxes[i], "area": 100,
             "iscrowd": 0, "segmentation": [squares[i]] if i == 0 else []} for i in range(2)
        ],
    }  # fmt: skip
    codes = mask_util.frPyObjects(squares, 40, 50)
    found = [
        {"image_id": 1, "category_id": 1, "bbox": boxes[i], "score": 0.5 + 0.1 * i,
         "segmentation": {**codes[i], "counts": codes[i]["counts"].decode()}} for i in range(2)
    ]  # fmt: skip
    for name, data in (("truth", content), ("found", found)):
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    results = evaluate_files(str(tmp_path / "truth.json"), str(tmp_path / "found.json"))
    # The higher score is that of the object whose mask is not known: it is not wrong.
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] == pytest.approx(100)
