"""The order of a training's images is detectron2's, can be resumed, and ignores the workers."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import samplers
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.utils import comm

from lambda_det import get_cfg
from lambda_det.data.loaders import TrainingLoader, build_train_loader
from lambda_det.data.order import KeyStream, sampler_maker, wide_images
from lambda_det.errors import InputError
from lambda_det.randomness import ORDER, seed_of

SIZE = 7
IMAGES = [
    {
        "width": 9 + 4 * (i % 3 == 0),
        "height": 10,
        "image_id": i,
        "annotations": [{"category_id": int(i == 2)}],
    }
    for i in range(SIZE)
]


def config(sampler: str = "TrainingSampler"):
    cfg = get_cfg()
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD = sampler, 0.9
    return cfg


def batches(stream, size: int, count: int) -> list[list]:
    keys = iter(stream)
    return [list(itertools.islice(keys, size)) for _ in range(count)]


@pytest.mark.parametrize("name", ["TrainingSampler", "RepeatFactorTrainingSampler"])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_order_is_detectron2s(name, grouped):
    """Against detectron2's own grouping, which takes whole images."""
    size, seed = 3, 5
    make = sampler_maker(config(name), IMAGES)
    stream = KeyStream(make, size, wide_images(IMAGES) if grouped else None, seed=seed)
    ours = [[index for index, _ in batch] for batch in batches(stream, size, 20)]
    if name == "TrainingSampler":
        sampler = samplers.TrainingSampler(SIZE, seed=seed_of(ORDER, seed))
    else:  # category 1 is in one image of seven: its images come more often
        factors = torch.ones(SIZE)
        factors[2] = (0.9 * SIZE) ** 0.5
        factors[[i for i in range(SIZE) if i != 2]] = max(1, (0.9 * SIZE / 6) ** 0.5)
        sampler = samplers.RepeatFactorTrainingSampler(factors, seed=seed_of(ORDER, seed))
    mapped = (IMAGES[i] for i in sampler)
    theirs = AspectRatioGroupedDataset(mapped, size) if grouped else iter(lambda: [
        next(mapped) for _ in range(size)], None)  # fmt: skip
    expected = [[d["image_id"] for d in batch] for batch in itertools.islice(theirs, 20)]
    assert ours == expected
    assert len({index for batch in ours for index in batch}) == SIZE


@pytest.mark.parametrize("start", [1, 2, 5, 11])
def test_it_is_taken_up_at_any_batch(start):
    make = sampler_maker(config(), IMAGES)
    wide = wide_images(IMAGES)
    whole = batches(KeyStream(make, 2, wide, seed=3), 2, 20)
    rest = batches(KeyStream(make, 2, wide, seed=3, start=start), 2, 20 - start)
    assert rest == whole[start:]
    other = batches(KeyStream(make, 2, wide, seed=4), 2, 20)
    assert [[i for i, _ in b] for b in other] != [[i for i, _ in b] for b in whole]


def test_seeds_follow_the_place_in_the_order_of_all_processes(monkeypatch):
    """An image gets another seed each time, and the same seed in one process or two."""
    make = sampler_maker(config(), IMAGES)
    alone = batches(KeyStream(make, 1, None, seed=3), 1, 30)
    assert len({seed for ((_, seed),) in alone}) == 30
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        # detectron2's samplers ask for themselves
        share = batches(KeyStream(make, 1, None, seed=3), 1, 15)
        assert share == alone[rank::2]


class Noise:
    """A mapper that draws from every generator."""

    def __call__(self, image: dict) -> dict:
        numbers = (np.random.rand(), torch.rand(()).item(), np.random.randint(1000))
        return {**image, "numbers": numbers}


def loader(workers: int, seed: int = 1, start: int = 0) -> TrainingLoader:
    made = TrainingLoader(
        IMAGES, Noise(), 2, make_sampler=sampler_maker(config(), IMAGES),
        num_workers=workers, seed=seed,
    )  # fmt: skip
    made.start = start
    return made


def drawn(made: TrainingLoader, count: int) -> list:
    batches = list(itertools.islice(made, count))
    made.close()
    return [[(d["image_id"], d["numbers"]) for d in batch] for batch in batches]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_neither_workers_nor_earlier_draws_matter():
    whole = drawn(loader(0), 6)
    assert all(len(batch) == 2 for batch in whole)
    assert len({numbers for batch in whole for _, numbers in batch}) == 12
    np.random.seed(99)
    torch.manual_seed(99)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    assert drawn(loader(2, start=2), 4) == whole[2:]
    assert drawn(loader(0, start=3), 3) == whole[3:]
    # and the model's own draws are what they are without a loader
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert drawn(loader(0, seed=2), 6) != whole


def test_no_image_is_read_to_get_to_a_batch():
    read = []
    made = loader(0, start=4)
    made._dataset._mapper = lambda image: read.append(image["image_id"]) or {"numbers": 0, **image}
    next(iter(made))
    assert len(read) == 2


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DATALOADER.SAMPLER_TRAIN", "Shuffled", r"SAMPLER_TRAIN='Shuffled': 'TrainingSampler'"),
        ("SOLVER.IMS_PER_BATCH", 3, r"IMS_PER_BATCH=3: .*multiple .* processes, 2"),
    ],
)
def test_wrong_values(key, value, message, monkeypatch):
    cfg = config()
    cfg.merge_from_list([key, value])
    monkeypatch.setattr("lambda_det.data.loaders.training_images", lambda cfg: IMAGES)
    if "BATCH" in key:
        monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(InputError, match=message):
        build_train_loader(cfg)


def test_a_seed_is_drawn_where_none_is_given(monkeypatch):
    monkeypatch.setattr("lambda_det.data.loaders.training_images", lambda cfg: IMAGES)
    monkeypatch.setattr("lambda_det.data.loaders.LambdaDatasetMapper",
                        lambda *args: SimpleNamespace())  # fmt: skip
    cfg = config()
    seeds = {build_train_loader(cfg).seed for _ in range(3)}
    assert len(seeds) == 3 and min(seeds) >= 0
    cfg.SEED = 7
    assert build_train_loader(cfg).seed == 7
