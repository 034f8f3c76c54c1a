"""The drawing shows the objects of the files, and broken files give one line of error."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest

from lambda_det.errors import InputError
from lambda_det.evaluation.drawing import draw_predictions, title_from_metrics
from lambda_det.evaluation.drawn_objects import DrawnObject, draw_objects

SQUARE = np.zeros((60, 90), np.uint8, order="F")
SQUARE[10:40, 20:50] = 1


def as_rle(mask: np.ndarray) -> dict:
    codes = mask_util.encode(mask)
    return {"size": list(mask.shape), "counts": codes["counts"].decode("ascii")}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Two dark images; the second has objects of two classes, predicted at 0.9 and at 0.3."""
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(images / name), np.full((60, 90, 3), 30, np.uint8))
    box = [20, 10, 30, 30]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 4, "bbox": box, "area": 900, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 4, "bbox": box, "area": 900, "iscrowd": 0},
        {"id": 3, "image_id": 2, "category_id": 6, "bbox": [60, 5, 20, 20], "iscrowd": 0},
    ]
    annotations[2].update(area=400, segmentation=[[60, 5, 80, 5, 80, 25, 60, 25]])
    for annotation in annotations[:2]:
        annotation["segmentation"] = as_rle(SQUARE)
    content = {
        "images": [
            {"id": i, "file_name": name, "height": 60, "width": 90}
            for i, name in ((1, "a.png"), (2, "b.png"))
        ],
        "annotations": annotations,
        "categories": [{"id": 4, "name": "four"}, {"id": 6, "name": "six"}],
    }
    found = [
        {
            "image_id": 2,
            "category_id": 4,
            "bbox": box,
            "score": 0.9,
            "segmentation": as_rle(SQUARE),
        },
        {
            "image_id": 2,
            "category_id": 6,
            "bbox": [60, 5, 20, 20],
            "score": 0.3,
            "segmentation": [[60, 5, 80, 5, 80, 25, 60, 25]],
        },
    ]
    paths = {
        "annotations": str(tmp_path / "annotations.json"),
        "images": str(images),
        "predictions": str(tmp_path / "predictions.json"),
        "output": str(tmp_path / "out" / "figure.png"),
    }
    Path(paths["annotations"]).write_text(json.dumps(content))
    Path(paths["predictions"]).write_text(json.dumps(found))
    return paths


def test_figure(files: dict[str, str]):
    assert draw_predictions(**files, num_images=1, title="box AP 71.2") == [2]
    drawn = cv2.imread(files["output"])
    assert drawn.shape[1] > 2 * 400
    left, right = np.array_split(drawn[-200:], 2, axis=1)
    changed = [(np.abs(half.astype(int) - 30).max(axis=2) > 40).sum() for half in (left, right)]
    assert changed[0] > changed[1] > 1000  # both objects; then the one above the threshold
    assert list(Path(files["output"]).parent.iterdir()) == [Path(files["output"])]


def test_threshold(files: dict[str, str]):
    figures = []
    for threshold in (0.2, 0.5, 0.95):
        draw_predictions(**files, num_images=1, score_threshold=threshold)
        figures.append(cv2.imread(files["output"]))
    assert (figures[0] != figures[1]).any()
    assert (figures[1] != figures[2]).any()


def test_same_bytes_again_and_images_in_order(files: dict[str, str]):
    assert draw_predictions(**files) == [2, 1]  # two classes before one
    first = Path(files["output"]).read_bytes()
    draw_predictions(**files)
    assert Path(files["output"]).read_bytes() == first


def test_hole_stays_open(files: dict[str, str]):
    ring = SQUARE.copy(order="F")
    ring[20:30, 30:40] = 0
    found = [
        {"image_id": 2, "category_id": 4, "bbox": [20, 10, 30, 30], "score": 0.9},
    ]
    found[0]["segmentation"] = as_rle(ring)
    Path(files["predictions"]).write_text(json.dumps(found))
    draw_predictions(**files, num_images=1)
    drawn = cv2.imread(files["output"])
    tile = drawn[-(267 + 8) : -8, -(400 + 8) : -8]  # 60 x 90 scaled to a width of 400
    assert (tile[25 * 400 // 90, 35 * 400 // 90] == 30).all()
    assert (tile[15 * 400 // 90, 35 * 400 // 90] != 30).any()


def test_predictions_of_masks_alone_have_the_boxes_of_the_masks(files: dict[str, str]):
    figures = []
    for box in ({"bbox": [20, 10, 30, 30]}, {}):
        entry = {"image_id": 2, "category_id": 4, "score": 0.9, "segmentation": as_rle(SQUARE)}
        Path(files["predictions"]).write_text(json.dumps([entry | box]))
        draw_predictions(**files, num_images=1)
        figures.append(cv2.imread(files["output"]))
    assert np.array_equal(*figures)


def test_no_predictions(files: dict[str, str]):
    Path(files["predictions"]).write_text("[]")
    assert len(draw_predictions(**files)) == 2


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "No such file"),
        ('[{"image_id": 9, "category_id": 4, "bbox": [0,0,1,1], "score": 1}]', "image_id 9"),
    ],
)
def test_broken_predictions(files: dict[str, str], content: str | None, text: str):
    path = Path(files["predictions"])
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=text) as error:
        draw_predictions(**files)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path(files["output"]).exists()


def test_other_errors(files: dict[str, str]):
    with pytest.raises(InputError, match="--num-images 0"):
        draw_predictions(**files, num_images=0)
    with pytest.raises(InputError, match="--score-threshold 2"):
        draw_predictions(**files, score_threshold=2)
    with pytest.raises(InputError, match="cannot be written"):
        draw_predictions(**{**files, "output": files["annotations"] + "/x.png"})
    (Path(files["images"]) / "b.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"b\.png cannot be read"):
        draw_predictions(**files)


def test_names_that_lead_nowhere_as_they_are_written(files: dict[str, str]):
    draw_predictions(**files)
    drawn = Path(files["output"]).read_bytes()
    content = json.loads(Path(files["annotations"]).read_text())
    for image in content["images"]:
        image["file_name"] = "images\\" + image["file_name"]
    Path(files["annotations"]).write_text(json.dumps(content))
    draw_predictions(**files)
    assert Path(files["output"]).read_bytes() == drawn


def test_missing_image(files: dict[str, str]):
    (Path(files["images"]) / "b.png").unlink()
    with pytest.raises(InputError, match=r"b\.png.*does not exist"):
        draw_predictions(**files)


def test_an_image_of_another_size_than_its_annotations(files: dict[str, str]):
    path = str(Path(files["images"]) / "b.png")
    cv2.imwrite(path, np.zeros((5, 7, 3), np.uint8))
    with pytest.raises(InputError, match=r"b\.png has 7 x 5 pixels, the annotations say \d+ x \d+"):
        draw_predictions(**files)


def test_title_from_metrics(tmp_path: Path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"bbox": {"AP": 71.23}, "segm": {"AP": 70.4}}))
    assert title_from_metrics(str(path)) == "box AP 71.2  mask AP 70.4"
    for broken in ("{}", "[]", '{"bbox": {}}', '{"bbox": {"AP": null}}', "?"):
        path.write_text(broken)
        with pytest.raises(InputError, match=r"metrics\.json"):
            title_from_metrics(str(path))


@pytest.mark.parametrize("longest", [None, 1200])
def test_labels_of_one_place_are_both_to_be_read(longest: int | None):
    box, colours = (30.0, 40.0, 100.0, 60.0), [(255, 0, 0), (0, 0, 255), (0, 255, 0)]
    objects = [DrawnObject(box, None, f"{i}       .", colours[i]) for i in range(3)]
    drawn = draw_objects(np.zeros((150, 240, 3), np.uint8), objects, longest=longest)
    assert drawn.shape[:2] == ((150, 240) if longest is None else (750, 1200))
    plates = [(drawn == np.array(colour)).all(axis=2) for colour in colours]
    areas = [cv2.erode(plate.astype(np.uint8), np.ones((5, 5))).sum() for plate in plates]
    assert min(areas) > 0.5 * max(areas) > 50  # a box alone is too thin to be left


def test_an_image_keeps_its_pixels_where_nothing_is_drawn():
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    drawn = draw_objects(
        image, [DrawnObject((70, 50, 20, 20), None, "a", (0, 0, 255))], longest=None
    )
    assert np.array_equal(drawn[:20], image[:20]) and not np.array_equal(drawn, image)


def test_a_mask_without_a_pixel_is_no_mask():
    image = np.full((9, 8, 3), 7, np.uint8)
    drawn = [
        draw_objects(image, [DrawnObject((1, 1, 5, 5), mask, "a", (9, 200, 99))], longest=None)
        for mask in (np.zeros((9, 8), bool), None)
    ]
    assert np.array_equal(*drawn)
