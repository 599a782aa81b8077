"""What may be unusual about an image, and how it is read nevertheless."""

import enum


class Odd(enum.IntFlag):
    """What was unusual about an image, and handled by the rule in RULES. Batches hold it as int32."""

    TRUNCATED = enum.auto()
    DAMAGED = enum.auto()
    TURNED = enum.auto()
    CMYK = enum.auto()
    DEEP = enum.auto()
    ANIMATED = enum.auto()
    TRANSPARENT = enum.auto()
    REDUCED = enum.auto()
    NOT_FINITE = enum.auto()
    BLANK = enum.auto()


RULES = {
    Odd.TRUNCATED: "truncated (what is missing is grey; black if no JPEG)",
    Odd.DAMAGED: "damaged (used as libjpeg reads it)",
    Odd.TURNED: "EXIF-rotated (turned upright)",
    Odd.CMYK: "CMYK (converted to RGB)",
    Odd.DEEP: "of more than 8 bits (kept as floats; black and white by config.data.intensity, else by each's own bits)",
    Odd.ANIMATED: "animated or of several pages (the first is used)",
    Odd.TRANSPARENT: "transparent (alpha dropped)",
    Odd.REDUCED: "of more than 8 bits (reduced to 8, by config.data.pixels or for want of a decoder)",
    Odd.NOT_FINITE: "with values that are not finite (black, or white where infinite)",
    Odd.BLANK: "blank (of the range of config.data.intensity, their values are within one grey level of 255)",
}
