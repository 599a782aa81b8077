"""Against torch and torchvision: tests/goldens/make_windows.py."""

from pathlib import Path

import numpy as np
import pytest

from morphism.data import render as rendering
from morphism.data import windows
from morphism.data.render import IMAGENET_MEAN, render, render_classes
from morphism.data.windows import Window, whole

GOLDENS = Path(__file__).parent.parent / "goldens"
HEIGHT, WIDTH = 43, 61
BOXES = np.array([[3, 4, 20, 30], [30.5, 10, 61, 43], [50, 1, 58, 6], [0, 0, 61, 43]], np.float32)
ZOOMED = ("whole", "larger", "out", "out_enlarged", "far_out", "crop", "out_and_crop", "fill_alone")
JITTERED = {"small": ((9, 13), (0, 0)), "large": ((70, 99), (-15, -29)), "wide": ((40, 80), (0, -11))}
SHORTER = ((480, 640), (500, 375), (427, 640), (1333, 200), (612, 612), (43, 61), (375, 500))


@pytest.fixture(scope="module")
def goldens():
    with np.load(GOLDENS / "windows.npz") as file:
        return dict(file)


def sample(height=HEIGHT, width=WIDTH):
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    waves = np.stack([np.sin(x / 5), np.cos(y / 4), np.sin((x + y) / 7)], -1)
    return np.clip(100 + 90 * waves + noise, 0, 255).astype(np.uint8)


def stretched(rect, size):
    return Window(rect, size, size)


def place(boxes, window):
    """The boxes of which something is seen, on the canvas, and which these are."""
    boxes = np.asarray(boxes, np.float32)
    seen = np.flatnonzero(windows.is_seen(boxes, window))
    return windows.placed(boxes[seen], window), seen


@pytest.mark.parametrize("simd", [True, False])
@pytest.mark.parametrize("name", ZOOMED)
def test_a_rect_is_resized_as_torch_resizes_the_padded_and_cropped_image(goldens, monkeypatch, name, simd):
    if not simd:
        monkeypatch.setattr(rendering, "fast", None)
    expected = goldens[f"{name}/image"].astype(np.float64)
    window = stretched(tuple(goldens[f"{name}/rect"].tolist()), expected.shape[:2])
    found = render(sample(), window, fill=IMAGENET_MEAN)
    assert found.shape == expected.shape and np.abs(found - expected).max() < 1.1


@pytest.mark.parametrize("name", ZOOMED)
def test_a_segmentation_is_resized_as_torchs_nearest(goldens, name):
    expected = goldens[f"{name}/segmentation"]
    segmentation = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 251).astype(np.uint8)
    window = stretched(tuple(goldens[f"{name}/rect"].tolist()), expected.shape)
    assert (render_classes(segmentation, window) == expected).all()


def test_a_segmentation_moves_with_its_image():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 2, (12, 17), np.uint8) * 200
    for _ in range(200):
        x0, y0 = rng.integers(-20, 20, 2).tolist()
        height, width = rng.integers(1, 20, 2).tolist()
        offset, canvas = tuple(rng.integers(-9, 9, 2).tolist()), tuple(rng.integers(1, 40, 2).tolist())
        window = Window((x0, y0, x0 + width, y0 + height), (height, width), canvas, offset)
        pixels = render(np.repeat(grey[..., None], 3, axis=2), window, fill=(99, 99, 99))
        assert (render_classes(grey, window, fill=99) == pixels[..., 0]).all()


@pytest.mark.parametrize("name", ZOOMED)
def test_boxes_are_those_that_torchvision_keeps_where_it_puts_them(goldens, name):
    rect, size = tuple(goldens[f"{name}/rect"].tolist()), goldens[f"{name}/image"].shape[:2]
    kept = np.arange(len(BOXES))
    if "crop" in name or name == "fill_alone":
        kept = kept[windows.kept_by_crop(BOXES, rect)]
    found, seen = place(BOXES[kept], stretched(rect, size))
    assert kept[seen].tolist() == goldens[f"{name}/kept"].tolist()
    np.testing.assert_allclose(found, goldens[f"{name}/boxes"], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("simd", [True, False])
@pytest.mark.parametrize("name", JITTERED)
def test_what_is_jittered_is_resized_then_cut_and_padded(goldens, monkeypatch, name, simd):
    if not simd:
        monkeypatch.setattr(rendering, "fast", None)
    size, offset = JITTERED[name]
    window = Window(whole((HEIGHT, WIDTH)), size, (48, 56), offset)
    found = render(sample(), window, fill=IMAGENET_MEAN, antialias=True)
    assert np.abs(found - goldens[f"jitter/{name}/image"].astype(np.float64)).max() < 1.1


@pytest.mark.parametrize("size", SHORTER)
@pytest.mark.parametrize(("shortest", "longest"), [(800, 1333), (320, 640), (37, 50)])
def test_the_shorter_side_is_resized_and_rounded_as_torchvision_does(goldens, size, shortest, longest):
    to = windows.shorter(size, shortest, longest)
    case = f"shorter/{SHORTER.index(size)}/{shortest}"
    assert to == tuple(goldens[f"{case}/size"])
    found, _ = place([[1, 2, 30, 40]], Window(whole(size), to, (1344, 1344)))
    np.testing.assert_allclose(found, goldens[f"{case}/boxes"], rtol=1e-6)


def bilinear(pixels, rect, size, offset, canvas, fill):
    """One pixel of the canvas after the other, in float64, from an image padded with `fill` without end."""
    x0, y0, x1, y1 = rect
    result = np.tile(np.array(fill, np.float64), (*canvas, 1))
    for i in range(max(0, offset[0]), min(canvas[0], offset[0] + size[0])):
        for j in range(max(0, offset[1]), min(canvas[1], offset[1] + size[1])):
            y = np.clip((i - offset[0] + 0.5) * (y1 - y0) / size[0] - 0.5, 0, y1 - y0 - 1)
            x = np.clip((j - offset[1] + 0.5) * (x1 - x0) / size[1] - 0.5, 0, x1 - x0 - 1)
            total = 0
            for row, down in ((int(y), 1 - y % 1), (min(int(y) + 1, y1 - y0 - 1), y % 1)):
                for column, across in ((int(x), 1 - x % 1), (min(int(x) + 1, x1 - x0 - 1), x % 1)):
                    v, u = row + y0, column + x0
                    inside = 0 <= v < pixels.shape[0] and 0 <= u < pixels.shape[1]
                    total = total + down * across * (pixels[v, u] if inside else np.array(fill)).astype(np.float64)
            result[i, j] = total
    return result


@pytest.mark.parametrize("seed", range(100))
def test_any_window_is_what_a_plain_loop_makes(seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*rng.integers(1, 30, 2), 3), np.uint8)
    x0, y0 = rng.integers(-40, 40, 2).tolist()
    rect = (x0, y0, x0 + int(rng.integers(1, 80)), y0 + int(rng.integers(1, 80)))
    size, canvas = tuple(rng.integers(1, 40, 2).tolist()), tuple(rng.integers(1, 40, 2).tolist())
    offset = tuple(rng.integers(-30, 30, 2).tolist())
    found = render(pixels, Window(rect, size, canvas, offset), fill=(9, 80, 200))
    assert np.abs(found - bilinear(pixels, rect, size, offset, canvas, (9, 80, 200))).max() < 1.1


@pytest.mark.parametrize("antialias", [False, True])
def test_float_pixels_are_resampled_as_uint8_but_not_rounded(antialias):
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (23, 31, 3)).astype(np.uint8)
    for size in ((9, 13), (23, 31), (50, 70)):
        for rect in ((0, 0, 31, 23), (4, 3, 20, 19), (-6, -2, 40, 30)):
            window = Window(rect, size, (40, 60), (1, -2))
            whole = render(pixels, window, IMAGENET_MEAN, antialias)
            found = render(pixels.astype(np.float32), window, IMAGENET_MEAN, antialias)
            assert (whole.dtype, found.dtype) == (np.uint8, np.float32)
            off = np.abs(found - whole)
            assert off.max() <= 1.01 and off.mean() < 0.4, (size, rect)
            assert np.array_equal(found, whole) or (found % 1 != 0).any()


def test_a_flipped_window_mirrors_what_is_shown_and_its_boxes_alike():
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[2:5, 3:9] = 1
    window = Window(whole((10, 20)), (10, 20), (12, 32), flip=True)
    flipped = render(pixels, window)
    (x0, y0, x1, y1), *_ = windows.placed(np.array([[3, 2, 9, 5]], np.float32), window).astype(int)
    assert (x0, x1) == (11, 17)
    for canvas in (flipped[..., 0], render_classes(pixels[..., 0], window, fill=0)):
        assert canvas[y0:y1, x0:x1].all() and canvas[y0:y1, x0:x1].sum() == canvas.sum() == 18


def test_boxes_are_cut_to_the_canvas_and_not_seen_where_nothing_is():
    window = Window((0, 0, 100, 100), (200, 200), (50, 60), (-20, -40))
    found, seen = place([[0, 0, 19, 9], [0, 0, 30, 30], [60, 0, 70, 100], [25, 20, 40, 30]], window)
    assert seen.tolist() == [1, 3]
    assert found.tolist() == [[0, 0, 20, 40], [10, 20, 40, 40]]


def test_zooming_out_keeps_the_image_within_a_rect_of_up_to_four_times_its_sides():
    rng = np.random.default_rng(0)
    rects = np.array([windows.zoom_out((300, 400), rng) for _ in range(2000)])
    width, height = (rects[:, 2:] - rects[:, :2]).T
    assert (rects[:, :2] <= 0).all() and (rects[:, 2:] >= (400, 300)).all()
    same = (rects == (0, 0, 400, 300)).all(axis=1)
    assert 0.46 < same.mean() < 0.54
    zoomed = width[~same] / 400
    assert zoomed.max() <= 4 and abs(zoomed.mean() - 2.5) < 0.1 and np.abs(height / 300 - width / 400).max() < 0.01
    share = (-rects[~same, 0] / np.maximum(width[~same] - 400, 1)).mean()
    assert abs(share - 0.5) < 0.05


def test_a_crop_has_an_allowed_shape_and_some_box_of_enough_overlap():
    rng = np.random.default_rng(1)
    rect, cropped, best = (-20, -10, 180, 140), 0, []
    for _ in range(600):
        crop = windows.iou_crop(BOXES, rect, rng)
        if crop == rect:
            continue
        cropped += 1
        w, h = crop[2] - crop[0], crop[3] - crop[1]
        assert rect[0] <= crop[0] and rect[1] <= crop[1] and crop[2] <= rect[2] and crop[3] <= rect[3]
        assert 0.5 <= w / h <= 2 and int(0.3 * 200) <= w <= 200 and int(0.3 * 150) <= h <= 150
        centers = (BOXES[:, :2] + BOXES[:, 2:]) / 2
        inside = ((centers > crop[:2]) & (centers < crop[2:])).all(axis=1)
        assert inside.any()
        ious = []
        for x0, y0, x1, y1 in BOXES[inside].astype(np.float64):
            overlap = max(0, min(x1, crop[2]) - max(x0, crop[0])) * max(0, min(y1, crop[3]) - max(y0, crop[1]))
            ious.append(overlap / ((x1 - x0) * (y1 - y0) + w * h - overlap))
        best.append(max(ious))
    assert cropped > 300 and min(best) < 0.1 and max(best) > 0.3


@pytest.mark.parametrize("least", [0.3, 0.7])
def test_a_crop_overlaps_by_what_was_asked(monkeypatch, least):
    monkeypatch.setattr(windows, "CROP_IOUS", (least,))
    rng = np.random.default_rng(2)
    for _ in range(20):
        x0, y0, x1, y1 = windows.iou_crop(BOXES[3:], (0, 0, WIDTH, HEIGHT), rng)
        assert (x1 - x0) * (y1 - y0) / (WIDTH * HEIGHT) >= least


def test_an_image_without_boxes_is_not_cropped():
    assert windows.iou_crop(np.zeros((0, 4), np.float32), (0, 0, 9, 9), np.random.default_rng(0)) == (0, 0, 9, 9)


def test_jitter_scales_evenly_and_cuts_within_the_image():
    rng, canvas = np.random.default_rng(0), (64, 64)
    drawn = [windows.scale_jitter((100, 200), canvas, rng) for _ in range(2000)]
    scales = np.array([window.size[1] / 64 for window in drawn])
    assert 0.08 < scales.min() < 0.13 and 1.95 < scales.max() <= 2 and abs(scales.mean() - 1.05) < 0.03
    for window in drawn:
        for axis in (0, 1):
            assert min(0, canvas[axis] - window.size[axis]) <= window.offset[axis] <= 0


def test_a_tiny_jittered_image_costs_no_huge_canvas():
    import tracemalloc

    pixels = np.zeros((480, 640, 3), np.uint8)
    tracemalloc.start()
    render(pixels, stretched((-40_000, -40_000, 40_640, 40_480), (300, 300)))
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
