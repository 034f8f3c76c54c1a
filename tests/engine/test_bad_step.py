"""A step with a loss that is not finite, on disk and back."""

from __future__ import annotations

import contextlib

import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks, RotatedBoxes
from detectron2.utils.events import EventStorage

from lambda_det.configs import load_config
from lambda_det.engine.bad_step import _plain, _unplain, replay, write_bad_step


def one_image(masks) -> dict:
    instances = Instances((64, 80))
    instances.gt_boxes = Boxes(torch.tensor([[5.0, 5.0, 40.0, 50.0]]))
    instances.gt_classes = torch.tensor([2])
    instances.gt_masks = masks
    image = torch.randint(0, 255, (3, 64, 80), dtype=torch.uint8)
    return {"file_name": "a.jpg", "image": image, "instances": instances, "image_id": 3}


def test_a_batch_survives_being_plain() -> None:
    torch.manual_seed(0)
    for masks in (
        BitMasks(torch.rand(1, 64, 80) > 0.5),
        PolygonMasks([[torch.tensor([5.0, 5.0, 40.0, 5.0, 40.0, 50.0]).numpy()]]),
    ):
        image = one_image(masks)
        back = _unplain(_plain([image]))[0]
        assert back["file_name"] == "a.jpg" and back["image_id"] == 3
        assert torch.equal(back["image"], image["image"])
        given, found = image["instances"], back["instances"]
        assert found.image_size == (64, 80) and torch.equal(found.gt_classes, given.gt_classes)
        assert torch.equal(found.gt_boxes.tensor, given.gt_boxes.tensor)
        boxes = given.gt_boxes.tensor
        sides = 14
        assert torch.equal(
            found.gt_masks.crop_and_resize(boxes, sides),
            given.gt_masks.crop_and_resize(boxes, sides),
        )


def test_rotated_boxes_stay_rotated(tmp_path) -> None:
    instances = Instances((64, 80))
    instances.gt_boxes = RotatedBoxes(torch.tensor([[20.0, 30.0, 10.0, 15.0, 45.0]]))
    torch.save(_plain([{"instances": instances}]), tmp_path / "step.pth")
    (back,) = _unplain(torch.load(tmp_path / "step.pth", weights_only=True))
    boxes = back["instances"].gt_boxes
    assert type(boxes) is RotatedBoxes and torch.equal(boxes.tensor, instances.gt_boxes.tensor)


def test_replays_the_losses_and_names_the_module(project, tiny_overrides, tmp_path) -> None:
    config = project / "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"
    cfg = load_config(str(config), [*tiny_overrides, "MODEL.ROI_HEADS.NUM_CLASSES", "4"])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    images = [one_image(BitMasks(torch.rand(1, 64, 80) > 0.5))]
    for broken in (False, True):
        if broken:
            with torch.no_grad():
                model.backbone.bottom_up.res4[2].lambda_layer.embedding.fill_(1e38)
        states = {"cpu": torch.get_rng_state()}
        losses = {}
        # With gradients, as in a training: without them "auto" may take another back end.
        with contextlib.suppress(FloatingPointError), EventStorage():
            losses = {name: float(loss.detach()) for name, loss in model(images).items()}
        assert bool(losses) is not broken
        folder = tmp_path / f"step{broken}"
        write_bad_step(str(folder), cfg, model, images, losses, states)
        found, now, then = replay(str(folder))
        assert now == then == losses
        if broken:
            assert found[0]["module"] == "backbone.bottom_up.res4.2.lambda_layer"
            assert found[0]["type"] == "LambdaLayer" and 0 < found[0]["max_input"] < 1e4
        else:
            assert found == []
