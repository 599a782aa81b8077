"""morphism prepare: which of its three works it does, and one line where it can do none."""

import pytest

from morphism.commands import prepare
from morphism.errors import UserError


def run(*arguments):
    prepare.main(prepare.COMMAND.parse(["prepare", *arguments]))


@pytest.fixture(autouse=True)
def flags():
    yield
    prepare.COMMAND.flags.unparse_flags()
    for name in prepare.COMMAND.flags:
        prepare.COMMAND.flags[name].unparse()


def test_a_source_is_prepared_and_verified(tmp_path, capsys):
    to = tmp_path / "to"
    run("scenes:20x32", "--to", str(to), "--split", "train,val", "--short_side", "32", "--workers", "1")
    assert f"prepared: {to}; read it with --data {to}" in capsys.readouterr().out
    run(str(to), "--verify")
    assert "all files are as they were written" in capsys.readouterr().out
    (to / "morphism.json").write_text("{}")
    with pytest.raises(UserError, match="not what .morphism prepare. writes"):
        run(str(to), "--verify")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "give one source"),
        (("photos",), "photos: add --to DIR, where to write it"),
        (
            ("scenes:20x32", "--to", "x", "--quality", "101"),
            "--quality is 101; it must be a whole number from 0 to 100",
        ),
        (("scenes:20x32", "--to", "x", "--engine", "spark"), "--engine is 'spark', which is none of beam, local"),
        (("scenes:20x32", "--to", "x", "--split", "tset"), "has no split 'tset'"),
        (
            ("nowhere", "--verify"),
            "nowhere: has no morphism.json, so that `morphism prepare SOURCE --to DIR` has not",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        run(*arguments)
    assert line in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
