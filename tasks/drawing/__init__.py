"""Images of results: what the drawings of all tasks share."""

import io
import warnings
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

LABEL = 24  # most letters of a class's name in a drawing

# A class may be called "$$", which matplotlib would read as a formula.
plain_text = matplotlib.rc_context({"text.parse_math": False})


def png(figure: Any, dpi: int) -> bytes:
    """The figure as PNG; closes it. Letters that the font lacks are drawn as boxes."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(drawn, dpi=dpi)
    plt.close(figure)
    return drawn.getvalue()
