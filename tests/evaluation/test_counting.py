"""The numbers: against pycocotools called directly, and where they are known beforehand."""

from __future__ import annotations

import copy
import importlib.util
import logging
from types import SimpleNamespace

import numpy as np
import pycocotools.mask as mask_util
import pytest
from evaluation_helpers import judge, quiet_coco, random_detections, truth_as_detections

from lambda_det.data.reading.coco_json import clean_coco
from lambda_det.errors import InputError
from lambda_det.evaluation import counting
from lambda_det.evaluation.counting import choose_backend, count, evaluation_of
from lambda_det.evaluation.detections import Detections
from lambda_det.evaluation.ground_truth import GroundTruth
from lambda_det.evaluation.metrics import METRICS

HAS_FASTER = importlib.util.find_spec("faster_coco_eval") is not None
NEEDS_FASTER = pytest.mark.skipif(not HAS_FASTER, reason="faster-coco-eval is not installed")
BACKENDS = ["pycocotools", pytest.param("faster-coco-eval", marks=NEEDS_FASTER)]
AREAS = {"s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}


def evaluate(content: dict, entries: list[dict], backend: str = "pycocotools", **arguments) -> dict:
    truth = GroundTruth(clean_coco(content, "a.json"))
    return count(truth, Detections(entries, truth, "p.json"), backend=backend, **arguments)


def assert_same(results: dict, stats: np.ndarray) -> None:
    found = [-100 if results[name] is None else results[name] for name in METRICS]
    assert found == pytest.approx(100 * stats, abs=1e-6, rel=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_ground_truth_as_predictions_is_100(real, split, backend):
    content = real[split]
    results = evaluate(content, truth_as_detections(content), backend)
    assert set(results) == {"bbox", "segm"}
    for values in results.values():
        for name in METRICS:
            if name not in ("AR1", "AR10"):  # an image with more objects has no 100 there
                assert values[name] == pytest.approx(100, abs=1e-6), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", "sml")
def test_size_without_objects_is_undefined(real, size, backend):
    low, high = AREAS[size]
    content = copy.deepcopy(real["val2017"])
    content["annotations"] = [
        a for a in content["annotations"] if a["iscrowd"] or not low <= a["area"] <= high
    ]
    results = evaluate(content, truth_as_detections(content), backend)
    for values in results.values():
        assert [name for name in METRICS if values[name] is None] == [f"AP{size}", f"AR{size}"]
        assert values["AP"] == pytest.approx(100, abs=1e-6)


@pytest.fixture(scope="module", params=[(0, "val2017"), (1, "train2017")], ids=str)
def judged(request, real) -> tuple[dict, list[dict], dict[str, np.ndarray]]:
    """Annotations, random detections, and pycocotools' own numbers for them."""
    seed, split = request.param
    content = real[split]
    entries = random_detections(content, seed)
    return content, entries, {task: judge(content, entries, task) for task in ("bbox", "segm")}


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_predictions_as_pycocotools(judged, backend):
    content, entries, expected = judged
    counts = np.unique([e["image_id"] for e in entries], return_counts=True)[1]
    assert counts.max() > 100 and any(a["iscrowd"] for a in content["annotations"])
    before = copy.deepcopy((content, entries))
    results = evaluate(content, entries, backend)
    assert set(results) == set(expected)
    for task, values in results.items():
        stats = expected[task]
        assert 0.02 < stats[0] < 0.9 and len(np.unique(stats)) == 12
        assert_same(values, stats)
    assert (content, entries) == before


@NEEDS_FASTER
def test_faster_coco_eval_does_not_encode_the_masks_again(content):
    truth = GroundTruth(clean_coco(content, "a.json"))
    found = Detections(truth_as_detections(content), truth, "p.json").coco("segm")
    counting.run(evaluation_of("faster-coco-eval", truth.coco("segm"), found, "segm"))
    for annotation in (*truth.coco("segm").anns.values(), *found.anns.values()):
        assert annotation["rle"] is annotation["segmentation"]


@pytest.fixture(scope="module")
def judged_classes(real) -> tuple[dict, list[dict], dict[int, np.ndarray]]:
    """The same for the masks of some categories."""
    content = real["val2017"]
    entries = random_detections(content, 3)
    return content, entries, {i: judge(content, entries, "segm", [i]) for i in (1, 3, 62, 90)}


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_class_as_pycocotools(judged_classes, backend):
    content, entries, expected = judged_classes
    classes = evaluate(content, entries, backend)["segm"]["per_class"]
    assert [(c["id"], c["name"]) for c in classes] == [
        (c["id"], c["name"]) for c in content["categories"]
    ]
    for category_id, stats in expected.items():
        assert_same(next(c for c in classes if c["id"] == category_id), stats)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_predictions_is_zero_and_not_undefined(content, backend):
    results = evaluate(content, [], backend)
    assert set(results) == {"bbox", "segm"}
    for values in results.values():
        assert values["AP"] == values["AR100"] == values["APs"] == 0
        assert values["APl"] is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_annotations_is_undefined_and_not_zero(content, backend):
    entries = truth_as_detections(content)
    content["annotations"] = []
    for found in (entries, []):
        results = evaluate(content, found, backend)
        assert set(results) == {"bbox", "segm"}
        for values in results.values():
            assert [values[name] for name in METRICS] == [None] * 12
            assert [c["AP"] for c in values["per_class"]] == [None, None]


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_without_predictions_count_as_missed(content, backend):
    entries = [e for e in truth_as_detections(content) if e["image_id"] == 8]
    results = evaluate(content, entries, backend)["bbox"]
    assert [c["AP"] for c in results["per_class"]] == [0, pytest.approx(100)]
    assert results["AP"] == pytest.approx(50)
    only = evaluate(content, entries, backend, image_ids=[8])["bbox"]
    assert only["AP"] == pytest.approx(100)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ids_do_not_matter(content, backend):
    """pycocotools itself counts an annotation with id 0 as never detected."""
    entries = truth_as_detections(content)[:2]
    for annotation in content["annotations"]:
        annotation["id"] -= 5
    assert judge(content, entries, "bbox")[0] < 0.6
    assert evaluate(content, entries, backend)["bbox"]["AP"] == pytest.approx(100)
    names = {8: "b", 3: "a", 11: "c"}
    for image in content["images"]:
        image["id"] = names[image["id"]]
    for entry in content["annotations"] + entries:
        entry["image_id"] = names[entry["image_id"]]
    assert evaluate(content, entries, backend)["segm"]["AP"] == pytest.approx(100)


def test_every_form_of_mask_gives_the_same(real):
    content = real["val2017"]
    polygons = [e for e in truth_as_detections(content) if isinstance(e["segmentation"], list)]
    coco = quiet_coco(content)
    compressed, uncompressed = copy.deepcopy(polygons), copy.deepcopy(polygons)
    for entry, packed, plain in zip(polygons, compressed, uncompressed, strict=True):
        mask = coco.annToMask(entry)
        flat = np.concatenate([[0], mask.flatten(order="F"), [2]])
        ends = np.flatnonzero(np.diff(flat, prepend=0))[:]
        runs = np.diff(np.concatenate([[1], ends])).tolist()
        plain["segmentation"] = {"size": list(mask.shape), "counts": runs}
        code = mask_util.encode(np.asfortranarray(mask))
        packed["segmentation"] = {**code, "counts": code["counts"].decode("ascii")}
    expected = evaluate(content, polygons)
    assert expected["segm"]["AP"] == pytest.approx(100)
    assert evaluate(content, compressed) == expected
    assert evaluate(content, uncompressed) == expected


@pytest.mark.slow
def test_boxes_only_and_masks_only(real):
    content = real["val2017"]
    entries = random_detections(content, 4)
    both = evaluate(content, entries)
    boxes = [{k: v for k, v in e.items() if k != "segmentation"} for e in entries]
    assert evaluate(content, boxes) == {"bbox": both["bbox"]}
    masks = [{k: v for k, v in e.items() if k != "bbox"} for e in entries]
    results = evaluate(content, masks)
    assert results["segm"] == both["segm"]
    assert_same(results["bbox"], judge(content, masks, "bbox"))
    without = copy.deepcopy(content)
    for annotation in without["annotations"]:
        del annotation["segmentation"]
    assert evaluate(without, entries) == {"bbox": both["bbox"]}


def test_choice_of_the_backend(monkeypatch, caplog):
    def importing(error: Exception | None) -> None:
        def import_module(_name: str) -> None:
            if error is not None:
                raise error

        monkeypatch.setattr(counting, "importlib", SimpleNamespace(import_module=import_module))

    with pytest.raises(InputError, match=r"'cpu'.*pycocotools"):
        choose_backend("cpu")
    importing(None)
    assert choose_backend() == choose_backend("faster-coco-eval") == "faster-coco-eval"
    assert choose_backend("pycocotools") == "pycocotools"

    missing = ModuleNotFoundError(name="faster_coco_eval")
    broken = ValueError("numpy.dtype size changed, may indicate binary incompatibility.")
    alone = ModuleNotFoundError("No module named 'scipy'", name="scipy")
    for error, text in (
        (missing, "is not installed: pip install"),
        (broken, "cannot be imported (numpy.dtype size changed"),
        (alone, "cannot be imported (No module named 'scipy'"),
    ):
        importing(error)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert choose_backend() == "pycocotools"
        assert (text in caplog.text) == (error is not missing)
        with pytest.raises(InputError) as raised:
            choose_backend("faster-coco-eval")
        assert text in str(raised.value)
