"""Detections of images: detectron2's predictor's, in batches, masks of one at a time."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.engine import DefaultPredictor
from image_helper import smooth_image

from lambda_det.predict import predictor as predictor_module
from lambda_det.predict.predictor import Predictor


def boxes_by_score(instances) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    order = instances.scores.argsort(descending=True)
    masks = instances.pred_masks[order]
    return instances.scores[order], instances.pred_boxes.tensor[order], masks


def alone(predictor: Predictor, image: np.ndarray, score_threshold: float = 0.0):
    ((_, found),) = predictor.stream([(None, image)], 1, score_threshold)
    return found


def test_the_same_as_detectron2s_predictor(predictor: Predictor):
    image = smooth_image(0, 90, 131)
    ours = alone(predictor, predictor.from_bgr(image))
    theirs = DefaultPredictor(predictor.cfg)(image)["instances"]
    assert len(ours) == len(theirs) > 5
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    for one, other in zip(boxes_by_score(ours), boxes_by_score(theirs), strict=True):
        assert torch.equal(one, other)


def test_a_batch_gives_what_each_image_gives_alone(predictor: Predictor):
    sizes = [(90, 131), (64, 64), (131, 90), (60, 64), (90, 131), (40, 200), (64, 60)]
    images = {index: smooth_image(index, *size) for index, size in enumerate(sizes)}
    batches = []
    original = predictor._of_inputs
    predictor._of_inputs = lambda inputs, score: (
        batches.append(len(inputs)) or original(inputs, score)
    )
    try:
        together = dict(predictor.stream(images.items(), 3))
    finally:
        del predictor._of_inputs
    assert sorted(together) == sorted(images) and max(batches) > 1
    assert [key for key in together if sizes[key] == (90, 131)] == [0, 4]  # in their order
    for index, image in images.items():
        expected = alone(predictor, image)
        scores, boxes, _ = boxes_by_score(together[index])
        expected_scores, expected_boxes, _ = boxes_by_score(expected)
        torch.testing.assert_close(scores, expected_scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(boxes, expected_boxes, atol=1e-2, rtol=0)


def test_masks_are_made_for_one_image_at_a_time(predictor: Predictor, monkeypatch):
    made = []
    original = predictor_module.detector_postprocess
    monkeypatch.setattr(
        predictor_module,
        "detector_postprocess",
        lambda found, *size: made.append(len(found)) or original(found, *size),
    )
    images = {index: smooth_image(index, 64, 64) for index in range(2)}
    scores = [found.scores for _, found in predictor.stream(images.items(), 2)]
    middle = float(torch.cat(scores).median())
    made.clear()
    for done, (_, found) in enumerate(predictor.stream(images.items(), 2, middle), start=1):
        assert len(made) == done and made[-1] == len(found) == len(found.pred_masks)
        assert (found.scores >= middle).all()
    assert sum(made) < sum(map(len, scores))


def test_a_model_that_is_not_quite_generalized_rcnn(predictor: Predictor, monkeypatch):
    image = smooth_image(0, 64, 64)
    wanted = alone(predictor, image, 0.1)

    class Another(type(predictor.model)):
        def inference(self, batched_inputs):
            return super().inference(batched_inputs)

    monkeypatch.setattr(predictor.model, "__class__", Another)
    found = alone(predictor, image, 0.1)
    assert torch.equal(found.scores, wanted.scores) and len(found) > 0
    assert torch.equal(found.pred_masks, wanted.pred_masks)


def test_few_images_wait_for_companions(predictor: Predictor, monkeypatch):
    monkeypatch.setattr(predictor, "prepare", lambda size: {"image": torch.zeros(3, 32 * size, 1)})
    monkeypatch.setattr(predictor, "_of_inputs", lambda inputs, _: [None] * len(inputs))
    read, most = 0, 0

    def images():
        nonlocal read
        for size in range(1, 30):
            read += 1
            yield size, size

    for given, _ in enumerate(predictor.stream(images(), 2)):
        most = max(most, read - given)
    assert given == 28 and most <= 8


def test_formats_and_back(predictor: Predictor):
    image = smooth_image(1, 20, 31)
    for form in ("BGR", "RGB", "L", "YUV-BT.601"):
        other = object.__new__(Predictor)
        other.cfg = predictor.cfg.clone()
        other.cfg.defrost()
        other.cfg.INPUT.FORMAT = form
        back = other.to_bgr(other.from_bgr(image))
        assert back.shape == image.shape and back.dtype == np.uint8
        if form != "L":
            assert np.abs(back.astype(int) - image).max() <= 1
