import sys

import numpy as np
import pytest
from PIL import Image

from morphism.errors import UserError
from morphism.evaluation import video


def stills(count, size=(31, 47)):
    """Frames of one grey each, brighter and brighter."""
    return [np.full((*size, 3), 20 * (index + 1), np.uint8) for index in range(count)]


def test_frames_of_a_gif_have_their_times(tmp_path):
    first, *others = [Image.fromarray(each) for each in stills(3)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=[100, 50, 100])
    found = list(video.frames(tmp_path / "a.gif"))
    assert [each.number for each in found] == [0, 1, 2] and video.count(tmp_path / "a.gif") == 3
    assert [each.time for each in found] == pytest.approx([0, 0.1, 0.15])
    assert [int(each.pixels.mean()) for each in found] == [20, 40, 60]
    assert not video.is_still(tmp_path / "a.gif")
    first.save(tmp_path / "b.gif")
    assert video.is_still(tmp_path / "b.gif")


def test_a_written_video_has_its_frames_and_times(tmp_path):
    pytest.importorskip("av")
    with video.VideoWriter(tmp_path / "a.mp4") as writer:
        for index, each in enumerate(stills(5)):
            writer.write(each, 0.25 * index)
    found = list(video.frames(tmp_path / "a.mp4"))
    assert [each.time for each in found] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert all(each.pixels.shape == (32, 48, 3) for each in found)  # sides are even
    assert np.abs([each.pixels.mean() - 20 * (k + 1) for k, each in enumerate(found)]).max() < 4


def test_what_is_no_video_is_one_error(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a.mp4: cannot be read \(.*\); replace it or leave it out"):
        list(video.frames(tmp_path / "a.mp4"))


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"videos need PyAV; pip install 'morphism\[video\]'"):
        list(video.frames(tmp_path / "a.mp4"))
