"""The palette, measured by CIE 1976 colour differences; the palette was made by those of 2000."""

import numpy as np

from morphism.data import marks
from morphism.data.palette import palette
from morphism.labels import IGNORE

TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])  # IEC 61966-2-1
VISIONS = {  # Machado et al. 2009, table 1, severity 1.0
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


def least_difference(colours, vision):
    """The smallest colour difference of any two of the colours, in CIELAB; 2.3 can just be noticed."""
    values = np.asarray(colours) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.transpose(VISIONS[vision]), 0, 1) @ TO_XYZ.T / TO_XYZ.sum(axis=1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
    return np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(len(lab), 1)].min()


def test_the_first_ten_classes_are_told_apart_by_the_colour_blind():
    colours = [marks.nth(index) for index in range(10)]
    found = {vision: round(least_difference(colours, vision), 1) for vision in VISIONS}
    assert found == {"normal": 39.8, "protanopia": 17.5, "deuteranopia": 19.5}


def test_no_two_of_eighty_classes_look_alike():
    colours = list(marks.colours([[str(number) for number in range(80)]]).values())[:80]
    assert least_difference(colours, "normal") > 12
    assert min(least_difference(colours, vision) for vision in VISIONS) > 4
    assert len(np.unique(palette(), axis=0)) == 256
    assert palette()[0].tolist() == [0] * 3 and palette()[IGNORE].tolist() == [255] * 3
