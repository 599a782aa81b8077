import pytest

from errors import UserError
from experiments.quickstart import get_config
from training.manifest import claim_classes, claim_config, claimed, read_classes, read_config, write_manifest
from training.paths import write_json


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"7", b"null"])
@pytest.mark.parametrize("name", ["config.json", "classes.json", "manifest.json"])
def test_a_spoilt_file_of_a_workdir_is_named_with_the_remedy(tmp_path, name, content):
    claim_config(tmp_path, get_config(), range(100))
    claim_classes(tmp_path, ("a", "b"))
    (tmp_path / name).write_bytes(content)
    use = {
        "config.json": lambda: read_config(tmp_path),
        "classes.json": lambda: read_classes(tmp_path),
        "manifest.json": lambda: write_manifest(tmp_path, get_config(), {}),
    }
    with pytest.raises(UserError, match=f"^{tmp_path / name}: .*restore it"):
        use[name]()


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    message = "file: cannot be written .*; choose another --workdir"
    with pytest.raises(UserError, match=message), claimed(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="file/x.json: cannot be written .Not a directory.; make room"):
        write_json(tmp_path / "file" / "x.json", {})


def test_classes_in_another_order_are_other_classes(tmp_path):
    claim_classes(tmp_path, ("a", "b"))
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    claim_classes(tmp_path, ("a", "b"))
    with pytest.raises(UserError, match="holds a run of 2 classes, the data now has 2, different in b, a"):
        claim_classes(tmp_path, ("b", "a"))
