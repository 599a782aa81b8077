"""Which files below a folder are images, and the text of lists, whoever wrote them."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from morphism.data import image
from morphism.data.files import image_suffixes, read_lines, read_names, scan
from morphism.data.loose import find_images
from morphism.errors import UserError, noting


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_images_at_any_depth_in_any_case_without_what_is_hidden(tmp_path):
    write(tmp_path, "b/2.jpg", "b/10.JPG", "a.Jfif", "b!.png", "c/d/e.avif", "c/x.y.JP2", "notes.txt", "c/a.jpg.zip")
    write(tmp_path, "._a.jpg", ".thumbs/a.jpg", "__MACOSX/a.jpg", "c/@eaDir/a.jpg", "Thumbs.db", "c/$RECYCLE.BIN/a.jpg")
    found = scan(tmp_path)
    assert found.images == ["a.Jfif", "b/10.JPG", "b/2.jpg", "b!.png", "c/d/e.avif", "c/x.y.JP2"]
    assert found.others == ["c/a.jpg.zip", "notes.txt"]
    assert scan(tmp_path / ".thumbs").images == ["a.jpg"]  # a hidden folder that is named itself


def test_links_are_followed_once_and_loops_end(tmp_path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere, "x/1.jpg", "2.jpg")
    write(tmp_path, "a/3.jpg", "b/4.jpg", "z/5.jpg")
    (elsewhere / "back").symlink_to(tmp_path)
    for link, target in {
        "a/loop": tmp_path,
        "a/self": tmp_path / "a",
        "a/to_b": tmp_path / "b",
        "b/to_a": tmp_path / "a",
        "0": tmp_path / "z",
        "linked": elsewhere,
        "linked_too": elsewhere / "x",
        "file.jpg": elsewhere / "2.jpg",
        "lost.jpg": "/nowhere.jpg",
        "self.jpg": "self.jpg",
    }.items():
        (tmp_path / link).symlink_to(target)
    expected = ["a/3.jpg", "b/4.jpg", "file.jpg", "linked/2.jpg", "linked/x/1.jpg", "lost.jpg", "self.jpg", "z/5.jpg"]
    assert scan(tmp_path).images == expected


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "lost").symlink_to("/nowhere"), "lost: a link to nowhere; mend or remove it"),
        (lambda root: (root / "self").symlink_to("self"), "self: cannot be followed .*; mend or remove it"),
        (lambda root: os.mkfifo(root / "pipe.jpg"), "pipe.jpg: named as an image, but no file; remove it"),
        (lambda root: write(root, "b.heic"), "b.heic: its format cannot be read; convert it to PNG or JPEG"),
        (lambda root: write(root, "b.NII.GZ"), "b.NII.GZ: its format cannot be read"),
    ],
)
def test_what_would_be_lost_is_named(tmp_path, spoil, message):
    write(tmp_path, "a.jpg")
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        scan(tmp_path)
    with noting() as notes:
        assert scan(tmp_path).images == ["a.jpg"]
    assert len(notes) == 1 and re.search(message, notes[0])


def test_predicting_lists_images_that_cannot_be_read(tmp_path):
    write(tmp_path, "b.heic", "notes.txt", "._a.jpg")
    (tmp_path / "d.jpg").mkdir()
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "a.jpg")
    found = [path for path, _ in find_images([str(tmp_path), "._x"])]
    assert found == [tmp_path / "a.jpg", tmp_path / "b.heic", Path("._x")]
    with pytest.raises(UserError, match="d.jpg: no images below this folder"):
        find_images([str(tmp_path / "d.jpg")])


def test_every_format_that_pillow_writes_is_found_and_decoded(tmp_path, photo):
    Image.init()
    formats = {suffix: name for suffix, name in Image.registered_extensions().items() if name in Image.SAVE}
    small = Image.fromarray(photo[:40, :60])
    written = set()
    for suffix in image_suffixes() & formats.keys():
        for mode in ("RGB", "P", "1"):
            try:
                small.convert(mode).save(tmp_path / f"a{suffix.upper()}", formats[suffix])
            except (OSError, ValueError):  # formats of other modes
                continue
            written.add(suffix)
            break
    assert {".jpg", ".jpe", ".jfif", ".png", ".avif", ".jp2", ".webp", ".tga", ".ppm", ".xbm"} <= written
    assert {f".{name.rpartition('.')[2].lower()}" for name in scan(tmp_path).images} == written
    for name in scan(tmp_path).images:
        encoded = (tmp_path / name).read_bytes()
        assert image.decode(encoded, name)[0].shape[:2] == image.size(encoded, name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_is_read_in_every_encoding_that_tells_itself(tmp_path, encoding, end):
    text = end.join((" café au lait", "犬 ", "", "\u2028x", ""))
    marked = "\ufeff" + text if encoding.endswith("e") else text  # Python writes no mark where it is given the order
    (tmp_path / "list").write_bytes(marked.encode(encoding))
    assert read_lines(tmp_path / "list") == ["café au lait", "犬", "", "x"]


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        ("cat\ncafé".encode("latin-1"), "list:2: not UTF-8; save the file as text in UTF-8"),
        ("cat\ndog".encode("utf-16-le"), "list:1: a NUL character; save"),
        ("cat\ndog".encode("utf-32"), "list:1: a NUL character; save"),
        ("\ufeffcat\ndog".encode("utf-16-le")[:-1], "list:2: not UTF-16; save"),
    ],
)
def test_other_text_is_refused_with_its_line(tmp_path, encoded, message):
    (tmp_path / "list").write_bytes(encoded)
    with pytest.raises(UserError, match=message):
        read_lines(tmp_path / "list")
    with pytest.raises(UserError, match="none: cannot be read .No such file or directory.; mend or remove it"):
        read_lines(tmp_path / "none")


def test_names_in_lists_may_hold_spaces_and_be_followed_by_vocs_flag(tmp_path):
    (tmp_path / "list").write_text("a 1\nmy dog -1\n\nmy dog 1\n b\nc  0\n")
    assert read_names(tmp_path / "list", {"a", "my dog", "my dog 1", "b", "c"}) == ["a", "my dog", "my dog 1", "b", "c"]
    for text, message in (("a\nb\na 1", "list: a occurs twice; remove one"), ("\n \n", "list: names no image; write")):
        (tmp_path / "list").write_text(text)
        with pytest.raises(UserError, match=message):
            read_names(tmp_path / "list", {"a", "b"})
