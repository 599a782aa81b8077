"""Sizes of images, canvases and anchors, and slots for boxes."""

from morphism.training.rules.case import Case, Choice

STRIDE = 32  # pixels: sides are multiples, as the networks' strides require
SIDES = (64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512, 640, 768, 1024)  # of derived images, the shorter
OBJECT = 20  # pixels that a small object should have in the network's input
LARGEST = {"square": 224, "canvas": 640, "crop": 512}  # sides that images need, by config.data.window_rule
ON_CPU = {"square": 128, "canvas": 320, "crop": 256}  # where no time is given, and no objects say what they need
ANCHORS = (4, 8, 12, 16, 24, 32, 48, 64)
PASSES, FEWEST, ENOUGH = 5, 1000, 50_000  # over the data; images that a training should see at least; that suffice


def image_size(case: Case) -> Choice:
    """The largest side that data and budget ask for.

    Data: as large as the images are, up to LARGEST; larger, up to twice as large as the images, where small objects
    (the 5th percentile) would have less than OBJECT pixels. On CPU without a time: as small as small objects, or
    ON_CPU, allow. Time: the largest for which it suffices to see enough images, PASSES times all of them.
    """
    top, why = _wanted(case)
    sides = [side for side in SIDES if side <= top] or [SIDES[0]]
    if case.affordable is None:
        return Choice(sides[-1], why)
    needed = min(max(PASSES * case.images.records, FEWEST), ENOUGH)
    least = SIDES[1] if case.images.shorter >= SIDES[1] else SIDES[0]
    sides = [side for side in sides if side >= least] or sides[-1:]
    for side in reversed(sides):
        if case.affordable(*shape(side, case)) >= needed:
            break
    seen = case.affordable(*shape(side, case))
    if side == sides[-1] and seen >= needed:
        return Choice(side, f"{why}; the budget suffices for {_round(seen)} of that size")
    size = "the smallest" if seen < needed else "the largest"
    wish = f"of {needed:,} that are wanted" if seen < needed else f"(wanted: {needed:,}; the data asks for {sides[-1]})"
    return Choice(side, f"{size} size, of which the budget suffices for {_round(seen)} {wish}")


def _wanted(case: Case) -> tuple[float, str]:
    rule, native = case.config.data.window_rule, case.images.shorter
    largest, why = LARGEST[rule], f"images have {native:.0f} pixels"
    if rule == "square":
        top = largest if native >= largest / 2 else max(2 * native, SIDES[0])
        why += f", {largest} is what networks are trained on"
    else:
        top = min(native, largest)
    needed = OBJECT / case.images.small() if len(case.images.objects) else 0.0
    if needed > top:
        top = min(needed, 2 * native, SIDES[-1])
        why = f"images have {native:.0f} pixels, and small objects then {top * case.images.small():.0f}"
    if case.on_cpu and case.budget.seconds is None:
        low = min(max(needed, SIDES[2]), top) if needed else min(top, ON_CPU[rule])
        if low < top:
            aim = f": small objects then have {low * case.images.small():.0f} pixels or more" if needed else ""
            # Rounded up, so that objects keep these pixels.
            return next(side for side in SIDES if side >= low), f"as small as will do, on CPU without a time{aim}"
    return top, why


def _round(images: float) -> str:
    return f"{images:,.0f} images"


def shape(side: int, case: Case) -> tuple[int, int]:
    """Height and width of a canvas whose shorter side is `side`."""
    if case.config.data.window_rule == "square":
        return side, side
    aspect = case.images.aspect
    height, width = (side, side / aspect) if aspect < 1 else (side * aspect, side)
    if aspect == 1:  # images of all orientations: the longer side counts
        long = side * float((case.images.sizes.max(axis=1) / case.images.sizes.min(axis=1)).mean())
        height = width = long if case.config.data.window_rule == "canvas" else side
    return tuple(max(round(each / STRIDE), 1) * STRIDE for each in (height, width))


def canvases(case: Case) -> Choice:
    found = shape(case.config.data.image_size, case)
    ratio = "images of both orientations fit in" if case.images.aspect == 1 else "the shape of most images"
    return Choice((found,), f"{ratio}, one program for all")


def resize_size(case: Case) -> Choice:
    side = case.config.data.image_size
    if case.images.shorter < side * 8 / 7:
        return Choice(side, "images are small: evaluation sees all of them")
    return Choice(round(side * 8 / 7), "evaluation sees the central 7/8, as ImageNet's")


def crop(case: Case) -> Choice:
    height, width = (min(each, LARGEST["crop"]) for each in shape(case.config.data.image_size, case))
    return Choice((height, width), f"a whole image, at most {LARGEST['crop']} pixels per side")


def anchor_size(case: Case) -> Choice:
    pixels = case.images.small() * case.config.data.image_size
    size = max((each for each in ANCHORS if each <= pixels), default=ANCHORS[0])
    return Choice(size, f"small objects (5 %) have up to {pixels:.0f} pixels at this image_size")


def max_boxes(case: Case) -> Choice:
    most = case.images.most_boxes
    if case.config.augment.mosaic > 0:
        return Choice(max(2 * most, 20), f"an image has up to {most} boxes, a mosaic those of four, not all within it")
    return Choice(max(most, 1), f"an image has up to {most} boxes")


def detections(case: Case) -> Choice:
    most = case.images.most_boxes
    return Choice(max(100, 2 * most), f"an image has up to {most} boxes; COCO's measure counts 100")
