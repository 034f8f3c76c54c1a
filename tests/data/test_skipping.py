"""Image files that break during a run: training takes another, evaluation leaves them out."""

from __future__ import annotations

import itertools

import pytest
from data_helpers import single_line, warnings

from lambda_det.data import detection_test_loader, training_loader
from lambda_det.data.loaders import FirstBatches
from lambda_det.errors import InputError, UnreadableImageError, one_line

IMAGES = [{"file_name": f"{i}.png", "width": 9, "height": 9, "image_id": i} for i in range(5)]


def mapper(image: dict) -> dict:
    """As LambdaDatasetMapper, where images 1 and 2 are broken."""
    if image["image_id"] in (1, 2):
        raise UnreadableImageError(f"image {image['file_name']} cannot be read")
    return dict(image)


def in_order(seed: int):
    return itertools.cycle(range(5))


def training_ids(batches: int, **more) -> list[int]:
    loader = training_loader(IMAGES, mapper, 1, make_sampler=in_order, seed=0, **more)
    try:
        return [batch[0]["image_id"] for batch in itertools.islice(loader, batches)]
    finally:
        loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_image_takes_the_place(workers: int, log) -> None:
    found = training_ids(10, skip_unreadable=True, num_workers=workers)
    assert found == [0, 3, 3, 3, 4] * 2
    assert warnings(log) == [
        f"image {i}.png cannot be read; the next image that can be read takes its place (skipped "
        f"files: {i})"
        for i in (1, 2)
    ]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_without_the_key_it_is_an_error(workers: int) -> None:
    with pytest.raises(InputError) as error:
        training_ids(10, num_workers=workers)
    assert one_line(error.value) == "image 1.png cannot be read"
    with pytest.raises(InputError) as error:
        list(detection_test_loader(IMAGES, mapper, num_workers=workers))
    assert one_line(error.value) == "image 1.png cannot be read"


def test_no_image_can_be_read() -> None:
    loader = training_loader(IMAGES[1:3], mapper, 1, seed=0, skip_unreadable=True)
    with pytest.raises(InputError) as error:
        next(iter(loader))
    assert single_line(error).startswith("none of the 2 images can be read; image ")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_sees_each_other_image_once(workers: int, log) -> None:
    """detectron2 would put another image, a second time, into the place."""
    loader = detection_test_loader(IMAGES, mapper, num_workers=workers, skip_unreadable=True)
    assert len(loader) == 5
    for _ in range(2):
        assert [[image["image_id"] for image in batch] for batch in loader] == [[0], [3], [4]]
    assert len(warnings(log)) == 2 and "it has no detections" in warnings(log)[0]
    assert [batch[0]["image_id"] for batch in FirstBatches(loader, 2)] == [0, 3]
