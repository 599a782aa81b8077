import io
import warnings

import matplotlib
import numpy as np
import pytest
from PIL import Image

from morphism import tasks
from morphism.data import sources
from morphism.data.palette import palette
from morphism.data.sources import scene_masks, scenes
from morphism.experiments.base import get_base
from morphism.tasks import drawing
from morphism.tasks.task import spread

NAMES = ("$$ a^_{", "_hidden", "a name of more letters than there is room for in any image", "犬", "$\\frac{1}{")


class Renamed:
    """A source whose classes have awkward names."""

    def __init__(self, source, classes):
        self._source, self.classes, self.targets = source, classes, source.targets

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        return self._source[index]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, kept open."""
    drawn = []
    monkeypatch.setattr(drawing.plt, "close", drawn.append)
    yield drawn
    monkeypatch.undo()
    drawing.plt.close("all")


def texts(axis):
    return [text for text in axis.texts if text.get_text()]


@pytest.mark.parametrize(("rule", "shape"), [("square", (14, 14, 3)), ("canvas", (28, 28, 3))])
def test_classified_images_are_drawn_as_the_network_sees_them(figures, rule, shape):
    """Cut from the middle, or whole on a canvas."""
    source = sources.load(get_base("classification").data, "val[:3]")
    data = get_base("classification").data
    data.update(window_rule=rule, image_size=14, resize_size=28)
    predictions = {"id": np.arange(3), "confidence": np.ones(3)} | dict.fromkeys(("class", "label"), source.labels)
    tasks.get("classification").draw(source, [predictions], data, 0.5, 9)
    assert figures[0].subfigs[0].subfigs[0].axes[0].images[0].get_array().shape == shape


def test_records_are_spread_over_a_sorted_split():
    assert spread(1000, 5) == [0, 250, 500, 749, 999]
    assert spread(3, 12) == [0, 1, 2]
    assert spread(1, 12) == [0]


def test_labels_of_detections_and_true_boxes_stay_in_the_image(figures):
    source = Renamed(scenes.load("24x64", "val", ""), NAMES)
    corners = [(0, 0, 9, 9), (55, 0, 64, 9), (0, 55, 9, 64), (55, 55, 64, 64), (60, 30, 64, 34), (20, 20, 40, 40)]
    predictions = {
        "id": np.array([5, 0]),
        "boxes": np.tile(np.float32(corners), (2, 1, 1)),
        "scores": np.tile(np.float32([0.9, 0.8, 0.7, 0.6, 0.25, 0.2]), (2, 1)),
        "classes": np.tile(np.int32([0, 1, 2, 3, 4, 0]), (2, 1)),
    }
    drawn = tasks.get("detection").draw(source, [predictions], get_base("detection").data, 0.25, 50)
    (figure,) = figures
    renderer = figure.canvas.get_renderer()
    warnings.filterwarnings("ignore", message="Glyph .* missing")
    for axis, index in zip(figure.axes, (0, 5), strict=False):
        record = source[index]
        assert axis.get_title() == f"{index}: 5 of 6"
        assert len(texts(axis)) == 5 + len(record["annotations"])
        names = {text.get_text() for text in texts(axis)}
        assert {NAMES[k][: drawing.LABEL + 5] for k in record["annotations"].classes} <= names
        for text in texts(axis):
            (x0, y0), (x1, y1) = text.get_window_extent(renderer).get_points()
            assert axis.bbox.x0 - 2 <= x0 and x1 <= axis.bbox.x1 + 2, text.get_text()
            assert axis.bbox.y0 - 2 <= y0 and y1 <= axis.bbox.y1 + 2, text.get_text()
    assert Image.open(io.BytesIO(drawn)).size == (4 * 416, 336)
    assert matplotlib.rcParams["text.parse_math"]  # as it was


def test_a_legend_names_the_classes_that_occur_however_many_there_are(figures):
    classes = (*NAMES, *(f"class {number}" for number in range(5, 200)))
    source = Renamed(scene_masks.load("24x32", "val", ""), classes)
    true = source[3]["segmentation"]
    found = np.where(true == 0, 150, true)
    batch = {"id": np.array([3]), "classes": found[None], "true": true[None], "original_size": np.array([true.shape])}
    tasks.get("segmentation").draw(source, [batch], get_base("segmentation").data, 0.25, 50)
    (legend,) = figures[0].legends
    occurring = sorted({*np.unique(true).tolist(), 150})
    assert [text.get_text() for text in legend.get_texts()] == [f" {classes[k][: drawing.LABEL]}" for k in occurring]
    colours = [patch.get_facecolor()[:3] for patch in legend.get_patches()]
    np.testing.assert_allclose(colours, palette()[occurring] / 255)
