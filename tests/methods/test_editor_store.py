"""Files of trained editors: whole or refused, equal bytes for equal content, and one training at a time."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from editguard.errors import CacheError
from editguard.methods.editor_store import EditorFiles, Identity, load_editor

IDENTITY = Identity(
    method="mend", code=1, model="0123", matrices={"a.weight": (3, 4)}, settings={"rank": 4}, data="d", seed=0
)
STATE = {
    "b": torch.arange(6.0).reshape(2, 3),
    "a": torch.ones(3, dtype=torch.float64),
    "count": torch.tensor(7),
    "half": torch.ones(2, 2, dtype=torch.bfloat16),
}


@pytest.fixture
def files(tmp_path: Path) -> EditorFiles:
    return EditorFiles(tmp_path / "editors", "mend", IDENTITY)


def test_what_is_stored_is_loaded_and_the_checkpoint_is_gone(files: EditorFiles) -> None:
    files.store_checkpoint(STATE, {"step": 3})
    assert files.load() is None
    found = files.load_checkpoint()
    assert found is not None
    assert found[1] == {"step": 3}
    files.store(STATE, {"seconds": 1.0})
    assert files.load_checkpoint() is None
    state = files.load()
    assert state is not None
    assert state.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert torch.equal(state[name], tensor)
        assert state[name].dtype == tensor.dtype
    record = json.loads(files.editor.with_suffix(".json").read_text())
    assert record == {"identity": IDENTITY.plain, "seconds": 1.0}
    assert sorted(path.name for path in files.folder.iterdir()) == ["mend.json", "mend.safetensors"]


def test_the_same_content_has_the_same_bytes_whatever_the_record_and_the_order(files: EditorFiles) -> None:
    files.store(STATE, {"seconds": 1.0})
    first = files.editor.read_bytes()
    files.store(dict(reversed(STATE.items())), {"seconds": 2.0})
    assert files.editor.read_bytes() == first


@pytest.mark.parametrize("harm", ["cut", "flip", "text", "empty"])
def test_a_damaged_editor_is_one_clear_error(files: EditorFiles, harm: str) -> None:
    files.store(STATE, {})
    raw = files.editor.read_bytes()
    flipped = bytearray(raw)
    flipped[-5] ^= 1
    files.editor.write_bytes({"cut": raw[:-7], "flip": bytes(flipped), "text": b"no tensors", "empty": b""}[harm])
    with pytest.raises(CacheError, match=r"mend\.safetensors is damaged .*: remove it, and train again"):
        files.load()


def test_a_file_of_anything_else_is_refused(files: EditorFiles, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CacheError, match="is damaged"):
        load_editor(tmp_path / "model.safetensors")
    with pytest.raises(CacheError, match="there is no trained editor"):
        load_editor(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "4567"}, "it was trained for the model 0123, this one is 4567"),
        ({"method": "ke"}, "it is an editor for mend, not for ke"),
        ({"matrices": {"b.weight": (3, 4)}}, "it edits the matrices"),
        ({"settings": {"rank": 5}}, "it was trained with rank = 4, the setting is 5"),
        ({"code": 2}, "version 1 of the training, this one is 2"),
        ({"data": "e"}, "on other cases"),
        ({"seed": 1}, "the seed 0, not 1"),
    ],
)
def test_files_of_another_editor_are_refused_with_what_differs(
    files: EditorFiles, change: dict[str, object], said: str
) -> None:
    files.store(STATE, {})
    files.store_checkpoint(STATE, {"step": 1})
    other = EditorFiles(files.folder, "mend", replace(IDENTITY, **change))
    for load in (other.load, other.load_checkpoint):
        with pytest.raises(CacheError, match=f"of another editor: .*{said}.*Choose another folder"):
            load()
    assert replace(IDENTITY, **change).key != IDENTITY.key
    ignored = next(iter(change))
    assert replace(IDENTITY, **change).difference(IDENTITY.plain, ignoring=(ignored,)) is None


def test_a_folder_that_cannot_be_written_is_found_out_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot write to"), EditorFiles(tmp_path / "file", "mend", IDENTITY).lock():
        pass


def test_a_failed_write_leaves_the_earlier_checkpoint(files: EditorFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    files.store_checkpoint(STATE, {"step": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("editguard.storage.os.replace", full)
    with pytest.raises(CacheError, match="No space left"):
        files.store_checkpoint(STATE, {"step": 2})
    monkeypatch.undo()
    kept = files.load_checkpoint()
    assert kept is not None
    assert kept[1] == {"step": 1}
