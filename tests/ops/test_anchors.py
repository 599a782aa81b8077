from pathlib import Path

import numpy as np

from morphism.ops.anchors import AnchorGenerator, DefaultBoxGenerator

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "boxes.npz")
PYRAMID = [(20, 27), (10, 14), (5, 7), (3, 4), (2, 2)]
SSD300 = [(n, n) for n in (38, 19, 10, 5, 3, 1)]


def test_anchors_of_retinanet_are_torchvisions_to_the_bit():
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    found = np.concatenate(AnchorGenerator(sizes)(PYRAMID, (157, 211)))
    np.testing.assert_array_equal(found, GOLDENS["anchors/retinanet"])


def test_anchors_of_the_rpn_are_torchvisions_to_the_bit():
    generator = AnchorGenerator(sizes=((32,), (64,), (128,), (256,), (512,)))
    levels = generator(PYRAMID, (157, 211))
    assert [len(level) for level in levels] == [generator.per_position * h * w for h, w in PYRAMID]
    np.testing.assert_array_equal(np.concatenate(levels), GOLDENS["anchors/rpn"])


def test_default_boxes_of_ssd300_are_torchvisions():
    scales, ratios = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    generator = DefaultBoxGenerator(ratios, scales, steps=(8, 16, 32, 64, 100, 300))
    found = generator(SSD300, (300, 300))
    assert generator.per_position == (4, 6, 6, 6, 4, 4)
    assert found.shape == (8732, 4) and found.dtype == np.float32
    np.testing.assert_allclose(found[::7], GOLDENS["anchors/ssd300"], rtol=1e-6, atol=1e-5)


def test_default_boxes_on_an_oblong_image_without_steps_are_torchvisions():
    grids = [(20, 16), (10, 8), (5, 4), (3, 2), (2, 1), (1, 1)]
    found = DefaultBoxGenerator(((2, 3),) * 6, scale_range=(0.2, 0.95))(grids, (320, 256))
    np.testing.assert_allclose(found, GOLDENS["anchors/ssdlite320"], rtol=1e-6, atol=1e-5)
