"""Files that commands write."""

import json

import pytest

from morphism.errors import UserError
from morphism.runtime.paths import write_files, write_json_lines


def test_json_lines_hold_a_value_each(tmp_path):
    values = [{"file": "é.png", "classes": [1, 2]}, {"file": "b.png"}]
    write_json_lines(tmp_path / "found.jsonl", values)
    lines = (tmp_path / "found.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == values
    with pytest.raises(UserError, match="a number in it is not finite"):
        write_json_lines(tmp_path / "found.jsonl", [float("nan")])
    assert (tmp_path / "found.jsonl").read_text(encoding="utf-8").splitlines() == lines


def test_a_folder_is_made_for_files_but_not_for_none(tmp_path):
    write_files(tmp_path / "none", ())
    assert not (tmp_path / "none").exists()
    write_files(tmp_path / "some" / "deep", ((f"{name}.png", name.encode()) for name in "ab"))
    assert (tmp_path / "some" / "deep" / "b.png").read_bytes() == b"b"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made .*; name another"):
        write_files(tmp_path / "file", [("a.png", b"a")], "name another")
