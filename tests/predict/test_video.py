"""A video in, a video and the objects of every frame out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from lambda_det.errors import InputError
from lambda_det.predict.class_names import numbered
from lambda_det.predict.video import _frames, predict_video


class BrightSquares:
    """A detector of the bright square in a frame: what the network would be does not matter."""

    def from_bgr(self, frame: np.ndarray) -> np.ndarray:
        return frame

    def stream(self, images: Iterable, batch_size: int, score_threshold: float) -> Iterator:
        for frame, image in images:
            found = self._one(image)
            yield frame, found[found.scores >= score_threshold]

    def _one(self, frame: np.ndarray) -> Instances:
        mask = torch.as_tensor(frame.max(axis=2) > 128)
        rows, columns = (torch.where(mask.any(dim))[0] for dim in (1, 0))
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        found = Instances(tuple(mask.shape))
        found.pred_boxes = Boxes(torch.tensor([box, [0, 0, 9, 9]], dtype=torch.float32))
        found.scores = torch.tensor([0.9, 0.2])
        found.pred_classes = torch.tensor([1, 0])
        found.pred_masks = torch.stack([mask, ~mask])
        return found


def write_video(path: Path, *, frames: int, size: tuple[int, int], rate: float) -> None:
    codec = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, size)
    if not writer.isOpened():
        pytest.skip(f"this OpenCV writes no {codec}")
    for index in range(frames):
        frame = np.zeros((size[1], size[0], 3), np.uint8)
        frame[16:48, 8 * index : 8 * index + 32] = 255
        writer.write(frame)
    writer.release()


@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_round_trip(tmp_path: Path, ending: str):
    source, video = tmp_path / f"in{ending}", tmp_path / "out" / f"a{ending}"
    write_video(source, frames=7, size=(96, 64), rate=12.5)
    output = tmp_path / "out" / "a.json"
    found = predict_video(BrightSquares(), str(source), str(output), str(video), numbered(2))
    assert found == 7
    content = json.loads(output.read_text())
    assert (content["width"], content["height"]) == (96, 64)
    assert content["frames_per_second"] == pytest.approx(12.5)
    for index, row in enumerate(content["frames"]):
        assert row["frame"] == index and row["time_s"] == pytest.approx(index / 12.5)
        (entry,) = row["instances"]  # the other is below 0.5
        assert entry["category_id"] == 1 and "image_id" not in entry
        np.testing.assert_allclose(entry["bbox"], [8 * index, 16, 32, 32], atol=3)
    capture = cv2.VideoCapture(str(video))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    drawn = []
    while (frame := capture.read())[0]:
        drawn.append(frame[1])
    assert len(drawn) == 7 and drawn[0].shape == (64, 96, 3)
    # Grey in the input; the frame of the second one has a colour and moves with the square.
    colour = [np.ptp(frame.astype(int), axis=2)[20:44] for frame in drawn]
    assert colour[0][:, 2:30].mean() > 40 > colour[0][:, 60:].mean()
    assert colour[6][:, 52:76].mean() > 40 > colour[6][:, :40].mean()
    assert {path.name for path in video.parent.iterdir()} == {"a.json", video.name}


def test_without_drawing_the_json_alone(tmp_path: Path):
    write_video(tmp_path / "in.avi", frames=2, size=(96, 64), rate=5)
    arguments = (str(tmp_path / "in.avi"), str(tmp_path / "o" / "a.json"), None, numbered(2))
    assert predict_video(BrightSquares(), *arguments, score_threshold=0.0) == 4
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["a.json"]


def test_what_is_no_video_is_one_line(tmp_path: Path):
    (tmp_path / "in.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(InputError, match="finds no frame in it"):
        predict_video(
            BrightSquares(), str(tmp_path / "in.mp4"), str(tmp_path / "a.json"), None, numbered(2)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_a_name_that_would_end_opencv_is_one_line(tmp_path: Path):
    source, output = tmp_path / "in.avi", str(tmp_path / "a.json")
    write_video(source, frames=2, size=(96, 64), rate=5)
    for names in ((f"{tmp_path}/\udcff.avi", None), (str(source), f"{tmp_path}/\udcff.avi")):
        with pytest.raises(
            InputError, match=r"dcff.avi: OpenCV accepts only names that are valid UTF-8"
        ):
            predict_video(BrightSquares(), names[0], output, names[1], numbered(2))


def test_a_codec_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_video(tmp_path / "in.avi", frames=2, size=(96, 64), rate=5)
    monkeypatch.setattr("lambda_det.predict.video._CODEC", {".mp4": "XXXX"})
    video = tmp_path / "o" / "a.mp4"
    with pytest.raises(InputError, match=r"cannot write XXXX video of 96 x 64.*--no-pictures"):
        arguments = (str(tmp_path / "in.avi"), str(tmp_path / "o/a.json"), str(video))
        predict_video(BrightSquares(), *arguments, numbered(2))
    assert not [*video.parent.iterdir()]


def test_a_detector_that_fails_leaves_no_half_a_video(tmp_path: Path):
    class Failing(BrightSquares):
        def stream(self, images, batch_size, score_threshold):
            yield next(super().stream(images, batch_size, score_threshold))
            raise RuntimeError("stop")

    write_video(tmp_path / "in.avi", frames=3, size=(96, 64), rate=5)
    out = tmp_path / "o"
    with pytest.raises(RuntimeError, match="stop"):
        predict_video(
            Failing(), str(tmp_path / "in.avi"), str(out / "a.json"), str(out / "a.avi"),
            numbered(2), batch_size=1,
        )  # fmt: skip
    assert not [*out.iterdir()]


def test_frames_of_another_size_are_resized_to_the_first():
    class Capture:
        left = [np.zeros((64, 96, 3), np.uint8), np.full((32, 48, 3), 7, np.uint8)]

        def isOpened(self) -> bool:
            return True

        def read(self):
            return (True, self.left.pop(0)) if self.left else (False, None)

    first, second = _frames(Capture())
    assert first.shape == second.shape == (64, 96, 3) and (second == 7).all()
