"""Generated scenes: what the image shows and what is said of it are the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lambda_det.errors import InputError
from studies.evidence.scenes import SETS, Layout, draw_scene

DARK = 40
LAYOUTS = [Layout(), Layout(distance=48), Layout(2, 96), Layout(6, 160), Layout(8, 192, 72)]


def scenes(name: str, layout: Layout = Layout(), count: int = 20):
    return [draw_scene(np.random.default_rng((seed, 5)), name, layout) for seed in range(count)]


def colour(pixel: np.ndarray) -> int | None:
    """0 for red, 1 for blue, None for what is neither; BGR."""
    blue, _, red = map(int, pixel)
    return None if abs(red - blue) < 80 else int(blue > red)


def middle(box: np.ndarray) -> tuple[int, int]:
    return int(box[0] + box[2]) // 2, int(box[1] + box[3]) // 2


def row_of(y: int, layout: Layout) -> int:
    return int(y) * layout.rows // layout.side


def bar_place(scene, row: int, *, upright: bool) -> int:
    """−1, 0 or 1: where in its square the dark bar is, across all of the square."""
    left, top, right, bottom = scene.boxes[row]
    dark = (scene.image[top:bottom, left:right] == DARK).all(-1)
    places = np.flatnonzero(dark.sum(0 if upright else 1) >= len(dark) - 5)
    assert len(places), "no bar"
    return round(2 * (places.mean() + 0.5) / len(dark) - 1)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", SETS)
def test_boxes_and_markers_are_inside_and_the_sizes_are_as_asked(name, layout):
    for scene in scenes(name, layout, 10):
        height, width = scene.image.shape[:2]
        assert height == layout.side and width % 32 == 0 and scene.image.dtype == np.uint8
        assert scene.boxes.shape == (layout.rows, 4) and scene.markers.shape == (layout.rows, 2)
        assert (scene.boxes[:, :2] >= 0).all() and (scene.boxes[:, 2:] <= (width, height)).all()
        sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
        assert (sides >= 14).all() and (sides <= 22).all()
        # Of a radius of 9, the edge of a small image may cut off three pixels.
        assert (scene.markers[:, 0] >= 6).all() and (scene.markers[:, 0] < width - 6).all()
        assert [row_of(y, layout) for _, y in map(middle, scene.boxes)] == [*range(layout.rows)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_rows_the_marker_of_the_own_row_has_the_colour_of_the_kind(layout):
    for scene in scenes("rows", layout):
        for row, (x, y) in enumerate(scene.markers):
            assert row_of(y, layout) == row
            assert colour(scene.image[y, x]) == scene.kinds[row]
            x, y = middle(scene.boxes[row])
            assert colour(scene.image[y, x]) is None, "the square says nothing"


def test_control_the_square_has_the_colour_and_the_marker_knows_nothing():
    same = total = 0
    for scene in scenes("control", count=100):
        for row, (x, y) in enumerate(scene.markers):
            at_x, at_y = middle(scene.boxes[row])
            assert colour(scene.image[at_y, at_x]) == scene.kinds[row]
            same += colour(scene.image[y, x]) == scene.kinds[row]
            total += 1
    assert 0.4 < same / total < 0.6


def test_sides_the_bar_points_to_the_marker_that_counts_and_the_other_is_the_other():
    layout, signs = Layout(distance=72), set()
    for scene in scenes("sides", layout):
        for row, (x, y) in enumerate(scene.markers):
            at = middle(scene.boxes[row])[0]
            sign = bar_place(scene, row, upright=True)
            signs.add(sign)
            assert sign * (x - at) == pytest.approx(72, abs=1)
            assert colour(scene.image[y, x]) == scene.kinds[row]
            height = layout.side // layout.rows
            other = scene.image[row * height : (row + 1) * height, at - sign * 72]
            assert 1 - scene.kinds[row] in [colour(pixel) for pixel in other]
    assert signs == {-1, 1}


def test_offsets_the_bar_says_in_which_row_the_marker_stands():
    layout, found = Layout(), []
    for scene in scenes("offsets", count=60):
        for row, (x, y) in enumerate(scene.markers):
            offset = bar_place(scene, row, upright=False)
            assert row_of(y, layout) == row + offset
            assert colour(scene.image[y, x]) == scene.kinds[row]
            found.append(offset)
    assert 0.3 < np.mean(np.equal(found, 0)) < 0.55 and {-1, 0, 1} == set(found)


def test_matches_the_marker_that_is_as_bright_as_the_square_has_its_kind():
    other_row = 0
    for scene in scenes("matches", count=40):
        levels = []
        for row, (x, y) in enumerate(scene.markers):
            at_x, at_y = middle(scene.boxes[row])
            levels.append(scene.image[at_y, at_x, 0] / 240)
            shown = scene.image[y, x]
            assert int(shown[0] > shown[2]) == scene.kinds[row]
            assert shown.max() / 235 == pytest.approx(levels[-1], abs=0.01)
            other_row += row_of(y, Layout()) != row
        assert sorted(levels) == pytest.approx(np.linspace(0.2, 1, 4), abs=0.01)
    assert other_row > 80


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", [name for name in SETS if name != "offsets"])
def test_either_kind_is_there_as_often(name, layout):
    for scene in scenes(name, layout, 5):
        assert scene.kinds.sum() == layout.rows // 2


def test_offsets_markers_of_either_colour_are_there_as_often():
    for scene in scenes("offsets"):
        hsv = cv2.cvtColor(scene.image, cv2.COLOR_BGR2HSV)
        strong = ((hsv[..., 1] > 180) & (hsv[..., 2] > 200)).astype(np.uint8)
        count, labels = cv2.connectedComponents(strong)
        means = [
            scene.image[labels == n].mean(0) for n in range(1, count) if (labels == n).sum() > 50
        ]
        assert sorted(map(colour, means)) == [0, 0, 1, 1]


def test_half_of_the_scenes_are_mirrored():
    layout = Layout()
    left = [scene.boxes[:, 0].mean() < layout.side / 2 for scene in scenes("rows", count=60)]
    assert 15 < sum(left) < 45
    for scene, at_left in zip(scenes("rows", count=60), left, strict=True):
        assert (scene.markers[:, 0] > layout.side / 2).all() == at_left


@pytest.mark.parametrize("distance", [32, 96, 140])
@pytest.mark.parametrize("side", [128, 192])
def test_distance_is_that_to_the_marker(distance, side):
    for scene in scenes("rows", Layout(4, side, distance), 10):
        for box, (x, _) in zip(scene.boxes, scene.markers, strict=True):
            assert abs(x - (box[0] + box[2]) / 2) == pytest.approx(distance, abs=1)
            assert 9 <= x < scene.image.shape[1] - 9


@pytest.mark.parametrize("name", SETS)
def test_a_stream_gives_the_same_scene_again_and_another_another(name):
    first, again, other = (draw_scene(np.random.default_rng(s), name) for s in (1, 1, 2))
    for part in ("image", "boxes", "kinds", "markers"):
        assert np.array_equal(getattr(first, part), getattr(again, part))
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize(
    "arguments, line",
    [
        ({"rows": 3}, "rows 3: an even number from 2 on"),
        ({"rows": 0}, "rows 0: an even number"),
        ({"rows": 6}, "side 128: a multiple of 32 of at least 144"),
        ({"side": 100}, "side 100: a multiple of 32 of at least 96"),
        ({"rows": 2, "side": 64}, "side 64: a multiple of 32 of at least 96 is needed for 2 rows"),
        ({"distance": 21}, "distance 21: at least 22 pixels"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(arguments, line):
    with pytest.raises(InputError, match=line):
        Layout(**arguments)
