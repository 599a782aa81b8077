import io

import pytest
from PIL import Image

from morphism.data import sources
from morphism.errors import UserError
from morphism.experiments.base import get_base


def source(folder):
    config = get_base().data
    config.source = f"imagenet:{folder}"
    return sources.load(config, "val")


def jpeg():
    encoded = io.BytesIO()
    Image.new("RGB", (9, 7)).save(encoded, "JPEG")
    return encoded.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Both ways of naming an image's class; a file's name counts before its folder's."""
    for path in (
        "n01440764_tench.JPEG",
        "deep/er/n01443537_9.jpg",
        "n15075141/a.JPEG",
        "n15075141/inner/b.png",
        "n15075141/n01440764_7.JPEG",
        "notes.txt",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(jpeg())
    return tmp_path


def test_a_class_is_the_place_of_its_wordnet_id(folder):
    """n01440764, n01443537 and n15075141 are the first, the second and the last of the 1,000."""
    found = source(folder)
    assert len(found.classes) == 1000 and list(found.classes) == sorted(found.classes)
    labels = {found[index]["name"]: found[index]["label"] for index in range(len(found))}
    assert labels == {
        f"{folder}/n01440764_tench.JPEG": 0,
        f"{folder}/deep/er/n01443537_9.jpg": 1,
        f"{folder}/n15075141/a.JPEG": 999,
        f"{folder}/n15075141/inner/b.png": 999,
        f"{folder}/n15075141/n01440764_7.JPEG": 0,
    }
    assert found[0]["image"] == jpeg()
    assert found.oddities == f"odd files: 1 that are no images (passed over), first {folder}/notes.txt"
    assert source(folder / "n15075141").labels.tolist() == [999, 999, 0]  # a.JPEG, inner/b.png, n01440764_7.JPEG


def test_linked_folders_are_read_and_hidden_ones_passed_over(folder, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    (store / "n01440764").mkdir()
    (store / "n01440764" / "x.jfif").write_bytes(jpeg())
    (folder / "n01440764").symlink_to(store / "n01440764")
    (folder / "n01440764_again").symlink_to(folder / "n15075141")
    for hidden in ("n15075141/.ipynb_checkpoints/c.jpg", ".Trash/n01440764_8.jpg", "n15075141/._a.JPEG"):
        (folder / hidden).parent.mkdir(exist_ok=True)
        (folder / hidden).write_bytes(b"")
    found = source(folder)
    assert len(found) == 6 and found.labels.tolist().count(0) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tench.JPEG", "tench.JPEG: neither its name nor its folder begins with a WordNet id"),
        ("n00000001_x.JPEG", "n00000001_x.JPEG: n00000001 is none of ImageNet's 1,000 classes"),
        ("n014407641.JPEG", "neither its name"),
    ],
)
def test_an_image_without_a_class_is_named(tmp_path, name, message):
    (tmp_path / name).write_bytes(jpeg())
    with pytest.raises(UserError, match=message):
        source(tmp_path)


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path):
    with pytest.raises(UserError, match="no images below this folder"):
        source(tmp_path)
    with pytest.raises(UserError, match="/nowhere: no such folder; correct the path after imagenet:"):
        source("/nowhere")
