"""Predictions on images and videos, as detectron2's predictor and our evaluation have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import CfgNode
from image_helper import smooth_image
from PIL import Image
from tiny_detector import CONFIG

from lambda_det.configs import load_config
from lambda_det.engine.evaluate import evaluate_config
from lambda_det.errors import InputError
from lambda_det.evaluation import evaluate_files
from lambda_det.predict.files import IMAGES_FILE, PREDICTIONS_FILE, Predicted, predict_files
from lambda_det.predict.predictor import Predictor

Run = Callable[..., Predicted]


@pytest.fixture
def cfg(project: Path, detector_words: list[str]) -> CfgNode:
    return load_config(str(project / CONFIG), detector_words)


@pytest.fixture
def run(cfg: CfgNode, predictor: Predictor, tmp_path: Path, monkeypatch) -> Run:
    """predict_files into tmp_path/out with the network that is there already."""
    monkeypatch.setattr("lambda_det.predict.files.Predictor", lambda cfg: predictor)

    def run(*named: Path | str, **options) -> Predicted:
        options = {"score_threshold": 0.0, **options}
        return predict_files(cfg, [*map(str, named)], str(tmp_path / "out"), **options)

    return run


def read(path: Path):
    return json.loads(path.read_text())


def test_the_json_has_the_ap_of_an_evaluation(
    run: Run, project: Path, shapes_folder: Path, detector_words: list[str], tmp_path: Path
):
    annotations = shapes_folder / "annotations/instances_val2017.json"
    done = run(shapes_folder / "val2017", annotations=str(annotations), draw=False)
    assert [image["id"] for image in done.images] == [1, 2, 3] and done.num_objects > 10
    assert {path.name for path in (tmp_path / "out").iterdir()} == {PREDICTIONS_FILE, IMAGES_FILE}
    ours = evaluate_files(str(annotations), str(tmp_path / "out" / PREDICTIONS_FILE))
    words = [*detector_words, "OUTPUT_DIR", str(tmp_path / "eval")]
    (theirs,) = evaluate_config(str(project / CONFIG), words).values()
    for task in ("bbox", "segm"):
        # Batches of several may differ in the last digits.
        assert ours[task]["AP"] == pytest.approx(theirs[task]["AP"], abs=1e-6)
        assert ours[task]["AR100"] == pytest.approx(theirs[task]["AR100"], abs=1e-6)


def test_each_kind_of_image_among_broken_ones(run: Run, tmp_path: Path):
    image, folder = smooth_image(2, 40, 70), tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    rgb = Image.fromarray(image[:, :, ::-1])
    rgb.save(folder / "a.png")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.convert("L").save(folder / "grey.png")
    Image.fromarray(image[:, :, 0].astype(np.uint16) * 256).save(folder / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    rgb.save(folder / "turned.jpg", exif=turned)
    rgb.save(folder / "below" / "a.png")
    (folder / "broken.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:400])
    (folder / "empty.png").write_bytes(b"")
    done = run(folder, recursive=True)
    assert [Path(path).name for path in done.failed] == ["broken.jpg", "empty.png"]
    sizes = {Path(row["picture"]).as_posix(): (row["width"], row["height"]) for row in done.images}
    assert sizes == {
        "a.png": (70, 40), "cmyk.jpg": (70, 40), "deep.png": (70, 40), "grey.png": (70, 40),
        "turned.jpg": (40, 70), "below/a.png": (70, 40),
    }  # fmt: skip
    out = tmp_path / "out"
    for name, (width, height) in sizes.items():
        drawn = cv2.imread(str(out / name))
        assert max(drawn.shape) == 400 and (drawn.shape[1] > drawn.shape[0]) == (width > height)
    entries, images = read(out / PREDICTIONS_FILE), read(out / IMAGES_FILE)
    assert images["images"] == done.images and len(entries) == done.num_objects
    assert {entry["image_id"] for entry in entries} <= {row["id"] for row in done.images}
    by_id = {row["id"]: [row["height"], row["width"]] for row in done.images}
    assert all(entry["segmentation"]["size"] == by_id[entry["image_id"]] for entry in entries)
    assert not [path for path in out.rglob("*") if "tmp" in path.name]


def test_the_frame_of_turned_images(run: Run, cfg: CfgNode, tmp_path: Path, log):
    """With annotations, sizes decide of a quarter turn, and a half turn has one warning."""
    images = []
    for number, orientation in ((1, 6), (2, 3)):
        exif = Image.Exif()
        exif[274] = orientation
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(smooth_image(number, 40, 70)).save(path, exif=exif)
        images.append({"id": number, "file_name": path.name, "width": 70, "height": 40})
    names = [{"id": i, "name": f"class {i}"} for i in range(4)]
    content = {"images": images, "annotations": [], "categories": names}
    (tmp_path / "a.json").write_text(json.dumps(content))
    files = [tmp_path / "1.jpg", tmp_path / "2.jpg"]
    done = run(*files, annotations=str(tmp_path / "a.json"), draw=False)
    assert not done.failed and [row["width"] for row in done.images] == [70, 70]
    (line,) = [line for line in log.messages if "180 degrees" in line]
    assert line.startswith(f"--annotations {tmp_path}/a.json: 1 of the 2 images")
    assert [row["width"] for row in run(*files, draw=False).images] == [40, 70]


def test_a_mosaic_names_the_key(run: Run, predictor: Predictor, tmp_path: Path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), smooth_image(1, 40, 70))
    cfg = predictor.cfg.clone()
    cfg.defrost()
    cfg.INPUT.MAX_PIXELS = 2799
    monkeypatch.setattr(predictor, "cfg", cfg)
    (reason,) = run(tmp_path / "a.png").failed.values()
    assert "it has 2800 pixels, more than INPUT.MAX_PIXELS 2799" in reason


def test_the_threshold_holds_for_what_is_written(run: Run, shapes_folder: Path, tmp_path: Path):
    one = shapes_folder / "val2017/000000000001.jpg"
    run(one, draw=False)
    scores = [entry["score"] for entry in read(tmp_path / "out" / PREDICTIONS_FILE)]
    middle = sorted(scores)[len(scores) // 2]
    run(one, score_threshold=middle)
    kept = [entry["score"] for entry in read(tmp_path / "out" / PREDICTIONS_FILE)]
    assert sorted(kept) == sorted(score for score in scores if score >= middle)


def test_images_of_one_name(run: Run, tmp_path: Path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), smooth_image(len(folder), 40, 50))
    done = run(tmp_path / "x", tmp_path / "y/a.png")
    assert [row["picture"] for row in done.images] == ["a.png", "a_2.png"]


def test_annotations_and_images_that_do_not_fit(run: Run, shapes_folder: Path, tmp_path: Path):
    annotations = str(shapes_folder / "annotations/instances_val2017.json")
    cv2.imwrite(str(tmp_path / "other.png"), smooth_image(0, 40, 50))
    with pytest.raises(InputError, match=r"other.png is not among the 3 images"):
        run(tmp_path / "other.png", annotations=annotations)
    assert not (tmp_path / "out").exists()
    cv2.imwrite(str(tmp_path / "000000000002.jpg"), smooth_image(0, 40, 50))
    done = run(tmp_path / "000000000002.jpg", annotations=annotations)
    (reason,) = done.failed.values()
    assert "is 50 x 40 pixels" in reason and "annotations say" in reason
    with pytest.raises(InputError, match=r"2.jpg is image 2 of .*, and so is .*2.jpg"):
        run(shapes_folder / "val2017", tmp_path / "000000000002.jpg", annotations=annotations)


def test_annotations_are_not_overwritten(run: Run, shapes_folder: Path, tmp_path: Path):
    mine = tmp_path / "out" / IMAGES_FILE
    mine.parent.mkdir()
    mine.write_bytes((shapes_folder / "annotations/instances_val2017.json").read_bytes())
    with pytest.raises(InputError, match=r"its file images\.json is an input"):
        run(shapes_folder / "val2017", annotations=str(mine))
    assert "annotations" in read(mine)


def test_class_names_of_files_and_of_nothing(
    run: Run, cfg: CfgNode, log: pytest.LogCaptureFixture, shapes_folder: Path, tmp_path: Path
):
    one = shapes_folder / "val2017/000000000001.jpg"
    cfg.DATASETS.COCO_FOLDER = ""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    run(one, draw=False)
    count = len(read(tmp_path / "out" / IMAGES_FILE)["categories"])
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == count < 80  # as the weights say
    assert f"class 0 to {count - 1}" in log.text
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefgh"[:count]))
    run(one, classes=str(names))
    categories = read(tmp_path / "out" / IMAGES_FILE)["categories"]
    assert [entry["name"] for entry in categories] == list("abcdefgh"[:count])
    names.write_text("only one")
    with pytest.raises(
        InputError, match=rf"names.txt has 1 classes, but MODEL.WEIGHTS=.* has {count}"
    ):
        run(one, classes=str(names))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, "--score-threshold 1.5"),
        ({"batch_size": 0}, "--batch 0"),
        ({"classes": "a", "annotations": "b"}, "give one"),
    ],
)
def test_wrong_options(run: Run, shapes_folder: Path, options: dict, message: str):
    with pytest.raises(InputError, match=message):
        run(shapes_folder / "val2017", **options)


def test_without_weights_nothing_is_predicted(cfg: CfgNode, shapes_folder: Path, tmp_path: Path):
    cfg.MODEL.WEIGHTS = ""
    with pytest.raises(InputError, match=r"MODEL\.WEIGHTS is empty"):
        predict_files(cfg, [str(shapes_folder / "val2017")], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
