"""Colours of classes, also for people who see few colours."""

from functools import cache

import numpy as np
from jaxtyping import UInt8

from morphism.labels import IGNORE

# Each colour is as far as possible from black, white and those before it. For the first ten the smallest of three
# distances counts, that of normal vision and those with deuteranopia and protanopia; beyond them normal vision counts
# first. Computed by tests/goldens/make_palette.py; tests/data/test_palette.py measures it.
COLOURS = """
00aaff e63300 3300e6 009980 80ff00 99004d ff99b3 00e6ff b3b366 3366ff 4d4d1a ff9900 e600cc 9999b3 66ffcc 1a8000
664d80 996666 008099 ff0066 ffccb3 990000 998066 004d66 ffe680 cc80e6 99b399 991ab3 804d33 b3b3ff b34d80 00cc33
80804d e6b3e6 b38099 cc804d 0080cc 00ccb3 cce699 99cccc 9966b3 806633 33b3cc 334d33 b39900 66664d 4d6699 006633
e6b34d 669933 e6e6ff ff66cc b31aff e69980 8080ff cc004d 804d66 999980 80cc99 b39966 4d3399 4d9999 004dcc cc6680
ff3399 b30080 e6b380 ff6680 806680 e6cc00 801a66 00ffff 00ff66 804d00 8080b3 cce64d 99cc66 338066 e6e6cc 80cce6
e66633 996600 b36633 ffcce6 8099cc 8000ff 99e6cc 4d80e6 80b3e6 4d99b3 00e699 808000 994d4d e6cc99 4d4d99 804de6
80331a 80e680 33cccc e60080 b3801a b380b3 80e6e6 808099 1a9966 ccb333 33b366 cc664d 9966ff 4d99ff b333b3 b30033
ccccff 6666cc 664d66 0033cc 99b34d 00ffe6 00664d e6e6b3 e64de6 33b399 809966 661ab3 4de61a 9980e6 334d80 99334d
b399cc ffb366 e6001a 66b380 80e6b3 b31a00 4d33e6 994d66 4d994d e68000 e6b3cc ffe600 99ff80 990033 33cc80 cccc4d
4d8033 991a66 ffcc80 e64d80 4d4de6 cc3333 ff8099 801a80 33661a e6e666 ff80e6 80ccff 803399 80ccb3 ff66ff b3ccb3
669980 33e666 9999ff ffb399 8066e6 00ffb3 99e6ff b36699 1a66cc b30066 e633b3 996633 b3994d 800099 8080cc cc1a99
e69933 ff4db3 cc801a cc3300 80b3b3 b3664d 9966cc ff1a1a 99001a e66666 b3004d cc8080 ff664d e699b3 999933 66cc4d
b3334d b3b3cc 99b31a 801ab3 ff99ff 99cc80 1aff99 99cc1a ffcc66 cc80b3 00cce6 e6cce6 666633 ff6666 991a80 4d00ff
e6b31a cc33b3 6633cc cc0033 33b34d b36666 b3e633 b36680 ff004d ff1a80 e61a99 80b366 cc4db3 80994d 80b3cc 998033
cc33e6 004d99 4d4d00 e6ccb3 ff8000 664dff ffe699 804d80 e6004d 009933 8033e6 806600 ccb3cc ff6633 4db333 66e6cc
b399e6 e60066 b31a1a e64d1a 99b380 998000 00ccff 99664d 0080ff 99ff99 cc99b3 ffccff 334db3 4d8099
"""


@cache
def palette() -> UInt8[np.ndarray, "256 3"]:
    """A colour per class; class 0 is black, IGNORE is white."""
    colours = np.full((256, 3), IGNORE, np.uint8)
    colours[0] = 0
    colours[1:IGNORE] = np.frombuffer(bytes.fromhex(COLOURS), np.uint8).reshape(-1, 3)
    colours.flags.writeable = False
    return colours
