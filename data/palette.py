"""Colours of classes."""

import colorcet
import numpy as np
from jaxtyping import UInt8

from morphism.labels import IGNORE


def palette() -> UInt8[np.ndarray, "256 3"]:
    """A colour per class, as different as possible from those before it; class 0 is black, IGNORE is white.

    Source: Glasbey et al. 2007, "Colour displays for categorical images", as colorcet tabulates it.
    """
    colours = np.round(255 * np.array([(0, 0, 0), *colorcet.glasbey_bw_minc_20_minl_30[:255]])).astype(np.uint8)
    colours[IGNORE] = 255
    return colours
