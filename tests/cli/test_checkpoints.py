"""Reading weights that nobody has checked."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from captum_vit.errors import ModelLoadError
from captum_vit.models import load_weights, read_checkpoint


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def check_unreadable(path: Path, message: str) -> None:
    with pytest.raises(ModelLoadError) as error:
        read_checkpoint(path)
    assert message in str(error.value)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path: Path):
    torch.save({"weight": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    check_unreadable(tmp_path / "evil.pth", "could run any code: refused")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    check_unreadable(tmp_path / "evil.pkl", "could run any code: refused")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    check_unreadable(tmp_path / "module.pth", "could run any code: refused")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_checkpoints(tmp_path: Path):
    save_file({"a": torch.zeros(100)}, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-50])
    check_unreadable(tmp_path / "cut.safetensors", "is damaged or cut off")
    torch.save({"a": torch.zeros(100)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:-300])
    check_unreadable(tmp_path / "cut.pth", "neither safetensors nor written by torch.save, or it is damaged")
    (tmp_path / "text.safetensors").write_text("Dear reader, this is a letter.")
    check_unreadable(tmp_path / "text.safetensors", "neither safetensors nor written by torch.save")
    (tmp_path / "empty.pth").touch()
    check_unreadable(tmp_path / "empty.pth", "is empty (0 bytes)")
    check_unreadable(tmp_path / "nothing.pth", "No such file or directory")
    check_unreadable(tmp_path, "Is a directory")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    check_unreadable(tmp_path / "list.pth", "holds list, not weights by name")


def test_a_checkpoint_that_does_not_fit():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    weights = {"0.weight": torch.zeros(3, 5), "0.bias": torch.ones(3), "a": torch.zeros(1), "b": torch.zeros(1)}
    before = model[0].bias.clone()
    with pytest.raises(ModelLoadError) as error:
        load_weights(model, weights)
    assert str(error.value) == (
        "the checkpoint does not fit Sequential: 5 keys differ, of 4 in the model: 2 missing (1.weight, 1.bias); "
        "2 not in the model (a, b); 1 of another shape (0.weight is (3, 5) and should be (3, 2))"
    )
    assert torch.equal(model[0].bias, before)
