"""Computes the colours of data/palette.py, and prints them.

The colours are chosen one after the other from a grid: each is the one whose smallest distance to black, white and all
colours before it is largest (Glasbey et al. 2007). Distances are CIEDE2000 (Sharma et al. 2005), as seen with normal
vision, with deuteranopia and with protanopia (Machado et al. 2009, severity 1). Distances that the colour-blind see are
smaller, so they count 1.3 times; from the eleventh colour on, for which they would leave no room, 2.9 times.
"""

import numpy as np

LEVELS = (0, 26, 51, 77, 102, 128, 153, 179, 204, 230, 255)
FIRST = (0, 170, 255)
VIVID = 10  # colours that are to be vivid, and apart for the colour-blind
COUNT = 254
LIGHTNESS = (30, 92)
CHROMA = (40, 12)  # least: of the vivid colours, of the others
SCALE = (1.3, 2.86)  # of the distances that the colour-blind see: among the vivid colours, among the others

TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
VISIONS = (
    np.eye(3),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
)


def seen(colours):
    """CIELAB coordinates of sRGB colours [n,3] as each of VISIONS sees them, [v,n,3]."""
    values = np.asarray(colours) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    found = []
    for vision in VISIONS:
        xyz = np.clip(linear @ vision.T, 0, 1) @ TO_XYZ.T / TO_XYZ.sum(axis=1)
        f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
        x, y, z = np.moveaxis(f, -1, 0)
        found.append(np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1))
    return np.stack(found)


def ciede2000(first, second):
    """The colour difference of CIELAB coordinates [...,3]."""
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(each, -1, 0) for each in (first, second))
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 1 + 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25.0**7)))
    c1, c2 = np.hypot(g * a1, b1), np.hypot(g * a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, g * a1)) % 360, np.degrees(np.arctan2(b2, g * a2)) % 360
    turn = np.where(c1 * c2 == 0, 0, (h2 - h1 + 180) % 360 - 180)
    l, c, total = (l1 + l2) / 2, (c1 + c2) / 2, h1 + h2
    h = np.where(np.abs(h1 - h2) <= 180, total / 2, np.where(total < 360, (total + 360) / 2, (total - 360) / 2))
    h = np.where(c1 * c2 == 0, total, h)

    def cos(times, shift):
        return np.cos(np.radians(times * h + shift))

    t = 1 - 0.17 * cos(1, -30) + 0.24 * cos(2, 0) + 0.32 * cos(3, 6) - 0.2 * cos(4, -63)
    rotation = -np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2)))) * 2 * np.sqrt(c**7 / (c**7 + 25.0**7))
    dl = (l2 - l1) / (1 + 0.015 * (l - 50) ** 2 / np.sqrt(20 + (l - 50) ** 2))
    dc = (c2 - c1) / (1 + 0.045 * c)
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * c * t)
    return np.sqrt(dl**2 + dc**2 + dh**2 + rotation * dc * dh)


def main():
    grid = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness = seen(grid)[0, :, 0]
    grid = grid[(lightness > LIGHTNESS[0]) & (lightness < LIGHTNESS[1])]
    views = seen(grid)
    chroma = np.hypot(views[0, :, 1], views[0, :, 2])
    nearest = np.full(views.shape[:2], np.inf)  # [vision, candidate]
    chosen = []
    for colour in ((0, 0, 0), (255, 255, 255), FIRST):
        nearest = np.minimum(nearest, ciede2000(views, seen([colour])))
    chosen.append(FIRST)
    while len(chosen) < COUNT:
        late = int(len(chosen) >= VIVID)
        score = np.minimum(nearest[0], SCALE[late] * nearest[1:].min(axis=0)) * (chroma >= CHROMA[late])
        chosen.append(tuple(grid[score.argmax()].tolist()))
        nearest = np.minimum(nearest, ciede2000(views, seen([chosen[-1]])))
    words = [bytes(colour).hex() for colour in chosen]
    print("\n".join(" ".join(words[start : start + 16]) for start in range(0, COUNT, 16)))


if __name__ == "__main__":
    main()
