"""From a volume to an explanation, and its map back onto the volume's voxels."""

import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import ViT
from PIL import Image

from captum_vit import AGCAM, explain
from captum_vit.cli.explain import write
from captum_vit.cli.working import Options
from captum_vit.errors import ImageLoadError, InputError, OptionError
from captum_vit.explanation.explanation import Explanation
from captum_vit.volumes import read_volume
from tests.helpers import assert_close, randomise
from tests.report.made_videos import video

SIZE, OWN = (16, 24, 32), (20, 30, 24)
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 1.5, 0, -12], [0, 0.1, 3, 7], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def model():
    made = ViT(1, SIZE, 8, 24, 48, 2, 3, classification=True, num_classes=5, post_activation=None)
    return randomise(made)


def voxels(size: tuple[int, ...] = OWN) -> np.ndarray:
    values = np.random.default_rng(0).normal(-800, 60, size).astype(np.float32)
    values[4:12, 6:18, 3:15] += 900
    return values


def prepared(values: np.ndarray) -> torch.Tensor:
    """What the model is called with, computed here."""
    own = torch.from_numpy(values)[None, None].double()
    small = F.interpolate(own, SIZE, mode="trilinear", align_corners=False)
    return ((small - small.mean()) / small.std()).float()


def test_nifti_is_read_and_the_map_written_back(model, tmp_path: Path):
    nibabel.save(nibabel.Nifti1Image(voxels(), AFFINE), tmp_path / "scan.nii.gz")
    e = explain(tmp_path / "scan.nii.gz", model, target=2)
    grid = AGCAM(model).attribute(prepared(voxels()), 2)
    assert_close(e.maps, grid, 1e-4)
    assert e.source == "scan.nii.gz"
    assert any("resampled from 20x30x24 to 16x24x32, each channel with mean 0" in note for note in e.notes)
    assert len(e.frames.images) == OWN[0]
    assert e.frames.images[0].size == (OWN[2], OWN[1])
    e.to_nifti(tmp_path / "map.nii.gz")
    back = nibabel.load(tmp_path / "map.nii.gz")
    np.testing.assert_allclose(back.affine, AFFINE)
    expected = F.interpolate(e.maps, OWN, mode="trilinear", align_corners=False)[0, 0].numpy()
    assert back.shape == OWN
    np.testing.assert_allclose(back.get_fdata(), expected, rtol=1e-4, atol=1e-6 * expected.max())
    turned = np.asarray(back.dataobj)[::-1]
    assert not np.allclose(turned, expected, rtol=1e-2), "slices in the other order would have passed"
    e.save(tmp_path / "saved")
    again = Explanation.load(tmp_path / "saved")
    assert again.frames.affine == e.frames.affine
    assert again.frames.kind == "slice"


def test_a_reduced_copy_lies_where_the_volume_lies(model, tmp_path: Path):
    """Rotated axes and voxels of three lengths: the outer corners stay where they are in the world."""
    a, b = np.deg2rad([90, 20])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3] = np.c_[turn @ tilt @ np.diag([4.0, 0.7, -1.3]), [12, -80, 33]]
    nibabel.save(nibabel.Nifti1Image(voxels(), affine), tmp_path / "scan.nii")
    e = explain(tmp_path / "scan.nii", model, target=2)
    places = []
    for i, each in enumerate((e, e.reduced(15), Explanation.load(saved(e.reduced(15), tmp_path)))):
        each.to_nifti(tmp_path / f"{i}.nii.gz")
        back = nibabel.load(tmp_path / f"{i}.nii.gz")
        corners = np.array([[-0.5] * 3, np.array(back.shape) - 0.5])
        places.append(nibabel.affines.apply_affine(back.affine, corners))
    assert nibabel.load(tmp_path / "1.nii.gz").shape == (20, 15, 12)
    assert nibabel.aff2axcodes(nibabel.load(tmp_path / "1.nii.gz").affine) == nibabel.aff2axcodes(affine)
    np.testing.assert_allclose(places[0], nibabel.affines.apply_affine(affine, [[-0.5] * 3, np.array(OWN) - 0.5]))
    np.testing.assert_allclose(places[1], places[0], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(places[2], places[0], rtol=1e-5, atol=1e-4)
    wrong = nibabel.affines.apply_affine(affine, np.array([20, 15, 12]) - 0.5)
    assert np.abs(wrong - places[0][1]).max() > 1, "the volume's own affine on fewer voxels"


def test_the_command_writes_maps_on_the_volume_s_own_voxels(model, tmp_path: Path):
    nibabel.save(nibabel.Nifti1Image(voxels(), AFFINE), tmp_path / "scan.nii")
    e = explain(tmp_path / "scan.nii", model, method="agcam", target=2)
    options = Options(max_side=16, report=False)  # the pictures are smaller
    folder, names = write(e, tmp_path, "scan", options, set())
    (name,) = [name for name in names if name.endswith(".nii.gz")]
    back = nibabel.load(folder / name)
    assert back.shape == OWN
    np.testing.assert_allclose(back.affine, AFFINE)


def saved(e: Explanation, folder: Path) -> Path:
    e.save(folder / "saved")
    return folder / "saved"


def test_every_form_is_the_same_volume(model, tmp_path: Path):
    whole = voxels().round()
    np.save(tmp_path / "scan.npy", whole)
    first, *others = [Image.fromarray(page) for page in whole]
    first.save(tmp_path / "scan.tif", save_all=True, append_images=others)
    expected = explain(whole, model, target=1).maps
    for given in (tmp_path / "scan.npy", tmp_path / "scan.tif", whole[None]):
        assert_close(explain(given, model, target=1).maps, expected, 1e-5)
    assert not torch.allclose(explain(np.ascontiguousarray(whole[::-1]), model, target=1).maps, expected, rtol=1e-2)


def test_a_tensor_is_taken_as_it_is(model):
    x = prepared(voxels())
    e = explain(x[0], model, target=1)
    assert_close(e.maps, AGCAM(model).attribute(x, 1))
    assert e.frames.images[0].size == (32, 24)


def test_slices_are_shown_in_the_middle_of_their_values():
    values = voxels()
    values[0, 0, 0] = 1e6  # a single voxel must not make all others black
    volume = read_volume(values)
    assert np.asarray(volume.slices()[6])[10, 8, 0] > 200
    assert np.asarray(volume.slices()[0])[20, 20, 0] < 80


def test_what_is_no_volume_is_refused(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "text.nii").write_text("no scan")
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "colour.tif")
    holes = voxels()
    holes[0, 0, 0] = np.nan
    for given, error, told in [
        (tmp_path / "text.nii", ImageLoadError, "is no NIfTI, or damaged"),
        (tmp_path / "none.nii.gz", ImageLoadError, "no such file"),
        (tmp_path / "colour.tif", InputError, "holds colours"),
        (holes, InputError, "NaN or infinite values: fill them first"),
        (np.zeros((2, 2), np.float32), InputError, r"got shape \(2, 2\)"),
    ]:
        with pytest.raises(error, match=told):
            read_volume(given)
    with pytest.raises(InputError, match="takes 1 channels, and the volume has 2"):
        explain(np.stack([voxels()] * 2), model, target=1)
    with pytest.raises(InputError, match="NIfTI is for maps of volumes"):
        video().to_nifti(tmp_path / "map.nii")
    e = explain(voxels(), model, target=1)
    with pytest.raises(OptionError, match=r"NIfTI ends in .nii or .nii.gz, got 'map.png'"):
        e.to_nifti("map.png")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ImageLoadError, match=r"pip install 'captum-vit\[volumes\]'"):
        e.to_nifti(tmp_path / "map.nii")
