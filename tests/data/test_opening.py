"""Specs, and what is said where a data set is not there."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from captum_vit.data import KINDS, READERS, IndexedReader, Item, Row, open_data, opening
from captum_vit.errors import CaptumViTError, DataError
from tests.data import made
from tests.data.conftest import folder
from tests.waiting import PATIENCE

ON_DISK = sorted(set(KINDS) - {"planted", "sample"})
HOLDS = {
    "coco": r"annotations/instances_val2017.json and val2017/",
    "cub": r"CUB_200_2011/ .* images.txt",
    "folder": r"images/ in it and, of the same names, masks/",
    "hf": r"save_to_disk, or a data set's name",
    "imagenet": r"Data/CLS-LOC/val/ and Annotations/CLS-LOC/val/",
    "imagenet-s": r"validation/ and validation-segmentation/",
    "imagenet-segmentation": r"gtsegs_ijcv.mat, a MATLAB 7.3 file",
    "pets": r"oxford-iiit-pet/ .* trimaps/",
    "voc": r"VOCdevkit/VOC2012/ in it, which has Annotations/",
}


@pytest.mark.parametrize("kind", ON_DISK)
def test_nothing_there(tmp_path, kind):
    with pytest.raises(DataError, match=rf"no such (file or )?folder: .*{HOLDS[kind]}"):
        open_data(f"{kind}:{tmp_path}/nowhere")


@pytest.mark.parametrize("kind", sorted(set(ON_DISK) - {"hf"}))
def test_something_else_there(tmp_path, kind):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match=rf"{kind}: takes .*{HOLDS[kind]}"):
        open_data(f"{kind}:{tmp_path}")


@pytest.mark.parametrize("kind", ON_DISK)
def test_no_path(kind):
    with pytest.raises(DataError, match=rf"'{kind}:' names no path: write {kind}:PATH"):
        open_data(f"{kind}:")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("imagnet:/a", r"unknown data set 'imagnet:/a': it begins with coco, cub, .*; nearest: imagenet"),
        ("", r"unknown data set ''"),
        ("sample:2?sise=64", r"no option of sample 'sise': there are size, first; nearest: size"),
        ("sample:2?size=large", r"the option size is a whole number of at least 0, got 'large'"),
        ("sample:2?size", r"cannot read the options"),
        ("sample:2?size=64&size=32", r"stands there twice"),
        ("voc:/a?masks=perhaps", r"no value of masks, 'perhaps': there are 1, true, yes, 0"),
    ],
)
def test_specs_that_are_none(spec, message):
    with pytest.raises(DataError, match=message) as caught:
        open_data(spec)
    assert isinstance(caught.value, (CaptumViTError, ValueError))


def test_a_path_alone_gets_a_hint(tmp_path):
    with pytest.raises(DataError, match=rf"folder of your own write folder:{tmp_path}"):
        open_data(str(tmp_path))


@pytest.mark.parametrize("name", ["a?b=c", "with space", "a:b", "日本", "50%25"])
def test_odd_names_of_folders(tmp_path, name):
    folder(tmp_path / name)
    assert len(open_data(f"folder:{tmp_path / name}")) == 3
    made.cub(tmp_path / name)
    assert len(open_data(f"cub:{tmp_path / name}:all")) == 3


def test_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder(tmp_path / "mine")
    assert len(open_data("folder:~/mine?threshold=3")) == 3


class Mine(IndexedReader):
    kind = "mine"

    def __init__(self, root, *, shout: bool = False):
        super().__init__(root, shout=shout)

    def list_rows(self):
        return [Row("a")]

    def read(self, row):
        return Item(row.id.upper() if self.options["shout"] else row.id, None, None)


def test_a_package_brings_its_own(monkeypatch):
    point = EntryPoint("mine", f"{__name__}:Mine", READERS)
    monkeypatch.setattr(opening, "entry_points", lambda group: [point] if group == READERS else [])
    monkeypatch.setattr(EntryPoint, "load", lambda self: Mine)
    assert open_data("mine:x?shout=1")[0].id == "A"
    with pytest.raises(DataError, match=r"unknown data set 'min:x'.*mine.*nearest: mine"):
        open_data("min:x")


MISSING = {
    "coco": "pycocotools",
    "hf": "datasets",
    "imagenet-segmentation": "h5py",
    "pets": "torchvision",
    "voc": "torchvision",
}


@pytest.mark.parametrize("kind", MISSING)
def test_a_missing_package(tmp_path, monkeypatch, kind):
    from tests.data.conftest import KINDS as MADE

    spec = f"{kind}:{MADE[kind](tmp_path)}"
    for module in (MISSING[kind], f"{MISSING[kind]}.datasets", f"{MISSING[kind]}.mask"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        DataError, match=rf"read by {MISSING[kind]}, .* pip install {MISSING[kind]}, or 'captum-vit\[data\]'"
    ):
        open_data(spec)


def test_importing_brings_in_none_of_them():
    code = "import sys, captum_vit.data; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert "captum_vit" in done.stdout.split()
    assert not set(done.stdout.split()) & {"torchvision", "datasets", "h5py", "pycocotools"}
