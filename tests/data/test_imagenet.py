"""ImageNet in all its layouts, ImageNet-S, ImageNet-Segmentation, and the embedded scenes."""

import numpy as np
import pytest

from captum_vit.data import open_data
from captum_vit.data.imagenet import synsets
from captum_vit.errors import DataError
from captum_vit.sample import CLASSES, draw_scene
from tests.data import made
from tests.data.made import block


class TestImageNet:
    IDS = (
        "ILSVRC2012_val_00000001/n02085620",
        "ILSVRC2012_val_00000002/n01440764",
        "ILSVRC2012_val_00000003/n02085620",
    )

    def test_synsets_are_those_of_the_models(self):
        from timm.data import ImageNetInfo

        assert list(synsets()) == sorted(set(synsets())) == ImageNetInfo().label_names()

    @pytest.mark.parametrize("folders", [False, True])
    @pytest.mark.parametrize("table", [False, True])
    @pytest.mark.parametrize("annotations", [False, True])
    def test_rows_are_the_same_however_it_is_laid_out(self, tmp_path, folders, table, annotations):
        made.imagenet(tmp_path, folders, annotations)
        if table:
            made.solution(tmp_path)
        reader = open_data(f"imagenet:{tmp_path}:val")
        if not (folders or table or annotations):
            with pytest.raises(DataError, match=r"nothing says the class of 'ILSVRC2012_val_00000001.JPEG'"):
                reader[0]
            return
        assert reader.ids == self.IDS
        assert [item.target for item in reader] == [151, 0, 151]
        assert reader.names[0] == made.TENCH
        item = reader[1]
        if table or annotations:
            assert item.boxes.tolist() == [[0, 2, 10, 6], [12, 8, 24, 16]]
            assert np.array_equal(item.mask, block((0, 2, 10, 6), (12, 8, 24, 16)))
        else:
            assert item.boxes is None
            assert item.mask is None

    def test_folders_of_ones_own(self, tmp_path):
        made.photo(tmp_path / "images/n02085620/a.png")
        made.photo(tmp_path / "images/n02085620/._a.png")
        made.xml(tmp_path / "xml/a.xml", [(made.DOG, 0, 0, 3, 3, 0)])
        reader = open_data(f"imagenet:{tmp_path}/images?annotations=../xml")
        assert reader.ids == ("a/n02085620",)
        assert reader[0].boxes.tolist() == [[0, 0, 4, 4]]
        assert open_data(f"imagenet:{tmp_path}/images?annotations=../xml&boxes=no")[0].boxes is None
        with pytest.raises(DataError, match=r"no folder of annotations"):
            open_data(f"imagenet:{tmp_path}/images?annotations=nowhere")[0]

    def test_what_is_wrong_with_one_image(self, tmp_path):
        made.imagenet(tmp_path, folders=True)
        base = tmp_path / "ILSVRC"
        (base / "Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml").unlink()
        made.xml(base / "Annotations/CLS-LOC/val/ILSVRC2012_val_00000002.xml", [(made.DOG, 0, 0, 3, 3, 0)])
        made.photo(base / "Data/CLS-LOC/val/cats/zzz.JPEG")
        reader = open_data(f"imagenet:{base}")
        for number, message in enumerate(["no annotation", "has no box of its class"]):
            with pytest.raises(DataError, match=message):
                reader[number]
        assert reader[2].target == 151
        with pytest.raises(DataError, match=r"has the class 'cats', which is none of ImageNet"):
            reader[3]

    def test_a_broken_table(self, tmp_path):
        made.imagenet(tmp_path, annotations=False)
        (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\na,n01440764 1 2 3\n")
        with pytest.raises(
            DataError, match=r"line 2: expected ImageId,PredictionString, a class and four numbers a box"
        ):
            open_data(f"imagenet:{tmp_path}")


class TestImageNetS:
    def test_all_folders_tell_the_numbers(self, tmp_path):
        made.imagenet_s(tmp_path, 300)
        for synset in (made.TENCH, made.DOG, *(s for s in synsets()[1:299] if s != made.DOG)):
            (tmp_path / "validation-segmentation" / synset).mkdir(exist_ok=True)
        last = sorted(folder.name for folder in (tmp_path / "validation-segmentation").iterdir()).index(made.DOG)
        made.imagenet_s(tmp_path, last + 1)
        folders = len(list((tmp_path / "validation-segmentation").iterdir()))
        for synset in synsets()[400 : 400 + 300 - folders]:
            (tmp_path / "validation-segmentation" / synset).mkdir()
        reader = open_data(f"imagenet-s:{tmp_path}")
        assert reader.ids == ("ILSVRC2012_val_00000004/n01440764", "ILSVRC2012_val_00000005/n02085620")
        assert [item.target for item in reader] == [0, 151]
        for item in reader:
            assert np.array_equal(item.mask, block((3, 2, 20, 6)))
            assert np.array_equal(item.valid, ~block((0, 10, 24, 12)))

    def test_green_counts(self, tmp_path):
        """The class 256 + 44 is not the class 44."""
        names = tmp_path / "names.txt"
        for number, marked in ((300, False), (44, True)):
            made.imagenet_s(tmp_path, number)
            chosen = [made.TENCH, *[s for s in synsets()[1:] if s != made.DOG][:42], made.DOG]
            names.write_text("\n".join(chosen))
            assert sorted(chosen).index(made.DOG) == 43
            assert open_data(f"imagenet-s:{tmp_path}?categories=names.txt")[1].mask.any() == marked

    def test_a_part_of_it_does_not_tell_the_numbers(self, tmp_path):
        made.imagenet_s(tmp_path)
        with pytest.raises(DataError, match=r"the folders of 2 classes, not of 50, 300 or 919.*categories=FILE"):
            open_data(f"imagenet-s:{tmp_path}")


class TestSegmentationFile:
    def test_rows(self, tmp_path):
        reader = open_data(f"imagenet-segmentation:{made.segmentation_mat(tmp_path / 'gtsegs_ijcv.mat')}")
        assert reader.ids == ("00000", "00001", "00002")
        item = reader[1]
        assert item.target is None
        assert np.array_equal(item.mask, block((3, 2, 9, 7)))
        columns, rows = np.moveaxis(made.scan(item.image), 2, 0)
        assert np.array_equal(columns, np.broadcast_to(np.arange(made.WIDTH), columns.shape))
        assert np.array_equal(rows, np.broadcast_to(np.arange(made.HEIGHT)[:, None], rows.shape))
        with pytest.raises(DataError, match=r"the item '00002' cannot be read"):
            reader[2]

    def test_not_the_file(self, tmp_path):
        (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file")
        with pytest.raises(DataError, match=r"is not the file gtsegs_ijcv.mat, a MATLAB 7.3 file with value/img"):
            open_data(f"imagenet-segmentation:{tmp_path}/a.mat")


class TestScenes:
    def test_rows(self):
        reader = open_data("sample:20?size=64")
        assert len(reader) == 40
        assert [name for name in reader.ids if name.startswith("scene-00012/")] == list(reader.ids[24:26])
        scene = draw_scene(12, objects=2, size=64)
        for place, item in enumerate(reader[24:26]):
            assert item.id == f"scene-00012/{CLASSES[item.target]}"
            assert item.target == scene.labels[place]
            assert np.array_equal(item.mask, scene.masks[place])
            assert np.array_equal(item.image, scene.image)

    def test_defaults(self):
        reader = open_data("sample")
        assert len(reader) == 200
        assert reader[0].image.size == (512, 512)
        assert open_data("sample:2?first=7&size=16").ids == reader.ids[14:18]

    @pytest.mark.parametrize("spec", ["sample:0", "sample:many", "sample:-1", "sample:1?size=8"])
    def test_refused(self, spec):
        with pytest.raises(DataError, match=r"takes a number of scenes, as sample:500|16 to 4096 pixels"):
            open_data(spec)
