"""What all drawn figures share: dark letters, colours that the colour-blind can tell apart, PNG.

Figures are made without pyplot, whose state threads share, so that they can be drawn in any thread.
"""

import io
import warnings
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

INK, GREY = "#1a1a1a", "#767676"
# Okabe & Ito 2008, "Color universal design", without black and the yellow, which is too light on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LABEL = 24  # most letters of a class's name
DPI = 100

# Letters that the font lacks are drawn as boxes.
warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)


def figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches."""
    drawn = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


def legend(axis: Any) -> None:
    """The labels of what is drawn in `axis`, beside it."""
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, frameon=False, fontsize=10)


def png(drawn: Figure) -> bytes:
    """The figure as PNG."""
    for text in drawn.findobj(Text):
        text.set_parse_math(False)  # a class may be called "$$", which matplotlib would read as a formula
    content = io.BytesIO()
    drawn.savefig(content, format="png")
    return content.getvalue()


def cut(name: str) -> str:
    """A class's name, shortened."""
    return name if len(name) <= LABEL else f"{name[: LABEL - 1]}…"


def short(count: float) -> str:
    """A count in at most five letters: 999, 12k, 3.4M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 10 * size or (unit != "k" and count >= size):
            value = count / size
            return f"{value:.1f}{unit}" if value < 10 else f"{value:.0f}{unit}"
    return f"{count:,.0f}"
