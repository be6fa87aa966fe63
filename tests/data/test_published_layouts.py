"""Each data set's ids, targets, boxes and masks, pixel by pixel; beside the geometry, readings that must fail."""

import numpy as np
import pytest
from PIL import Image

from captum_vit.data import Item, open_data
from captum_vit.data.imagenet import synsets
from captum_vit.errors import DataError
from captum_vit.sample import CLASSES, draw_scene
from tests.data import made
from tests.data.made import block


def boxes(item: Item) -> list[list[float]]:
    return item.boxes.tolist()


def off_by_one(item: Item) -> list[list[float]]:
    return (item.boxes + [1, 1, 0, 0]).tolist()


def swapped(item: Item) -> list[list[float]]:
    return item.boxes[:, [1, 0, 3, 2]].tolist()


def widths_for_corners(item: Item) -> list[list[float]]:
    return np.concatenate([item.boxes[:, :2], item.boxes[:, 2:] - item.boxes[:, :2]], axis=1).tolist()


BOXES = {  # spec -> boxes by hand, of the first two rows
    "voc": [[[10, 4, 15, 16]], [[1, 2, 6, 9]]],
    "imagenet": [[[0, 2, 10, 6], [12, 8, 24, 16]]] * 2,
    "cub": [[[2, 3, 10, 8]], [[20, 10, 24, 14]]],
    "coco": [[[2, 2, 8, 7]], [[10, 2, 15, 8], [16, 9, 20, 13]]],
}
broken = pytest.mark.xfail(strict=True, raises=AssertionError, reason="a wrong reading, which the check must see")
READINGS = [boxes, *(pytest.param(r, marks=broken) for r in (off_by_one, swapped, widths_for_corners))]


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("kind", BOXES)
def test_boxes(tmp_path, kind, reading):
    reader = open_data(f"{kind}:{getattr(made, kind)(tmp_path)}")
    assert [reading(reader[i]) for i in (0, 1)] == BOXES[kind]


class TestVoc:
    def test_rows(self, tmp_path):
        reader = open_data(f"voc:{made.voc(tmp_path)}")
        assert reader.ids == ("2007_000001/dog", "2007_000001/person", "2007_000003/cat")
        assert [item.target for item in reader] == ["dog", "person", "cat"]
        assert reader.names[11] == "dog"
        assert boxes(reader[2]) == [[19, 9, 24, 16]]  # clipped
        assert np.array_equal(reader[0].mask, block((10, 4, 15, 16)))

    def test_difficult(self, tmp_path):
        reader = open_data(f"voc:{made.voc(tmp_path)}?difficult=1")
        assert reader.ids[2] == "2007_000002/cat"
        assert boxes(reader[1]) == [[1, 2, 6, 9], [19, 0, 24, 4]]
        assert boxes(reader[2]) == [[0, 0, 24, 16]]

    def test_masks(self, tmp_path):
        dog, person, cat = open_data(f"voc:{made.voc(tmp_path)}?masks=1")
        assert np.array_equal(dog.mask, block((10, 4, 15, 16)))
        assert np.array_equal(person.mask, block((1, 2, 6, 9)))
        assert np.array_equal(dog.valid, ~block((0, 0, 24, 2)))
        assert not cat.mask.any()  # kept, though the mask has no pixel of it
        assert cat.mask.shape == (made.HEIGHT, made.WIDTH)

    @pytest.mark.parametrize("inside", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
    def test_any_folder_of_it_will_do(self, tmp_path, inside):
        assert len(open_data(f"voc:{made.voc(tmp_path) / inside}:val")) == 3

    def test_year_and_set(self, tmp_path):
        made.voc(made.voc(tmp_path), "2007")
        assert len(open_data(f"voc:{tmp_path}?year=2007&set=train&difficult=1")) == 1
        with pytest.raises(DataError, match="no year '2021': there are 2007, 2012; nearest: 2012"):
            open_data(f"voc:{tmp_path}?year=2021")
        with pytest.raises(DataError, match="no set 'vall': there are train, val; nearest: val"):
            open_data(f"voc:{tmp_path}:vall")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (None, "no annotation .*2007_000003.xml': the image has none"),
            ("<annotation><object>", "2007_000003.xml' is damaged"),
            ("<annotation><object><name>cat</name></object></annotation>", "lacks 'bndbox': an object has a name and"),
            ("<note/>", "2007_000003.xml' lacks"),
        ],
    )
    def test_a_bad_annotation_costs_one_item(self, tmp_path, text, message):
        file = made.voc(tmp_path) / "VOCdevkit/VOC2012/Annotations/2007_000003.xml"
        file.unlink() if text is None else file.write_text(text)
        reader = open_data(f"voc:{tmp_path}")
        assert reader.ids == ("2007_000001/dog", "2007_000001/person", "2007_000003")
        assert reader[0].target == "dog"
        with pytest.raises(DataError, match=message):
            reader[2]

    def test_a_box_outside_is_no_box(self, tmp_path):
        base = made.voc(tmp_path) / "VOCdevkit/VOC2012/Annotations"
        made.xml(base / "2007_000003.xml", [("cat", 30, 1, 40, 9, 0), ("cat", 0, -3, 4, 2, 0)])
        assert boxes(open_data(f"voc:{tmp_path}")[2]) == [[0, 0, 4, 2]]
        made.xml(base / "2007_000003.xml", [("cat", 30, 1, 40, 9, 0)])
        item = open_data(f"voc:{tmp_path}")[2]
        assert item.boxes.shape == (0, 4)
        assert not item.mask.any()

    @pytest.mark.parametrize("corners", [(9, 3, 2, 9), ("nan", 3, 9, 9), (1, 3, "inf", 9)])
    def test_no_box_at_all(self, tmp_path, corners):
        base = made.voc(tmp_path) / "VOCdevkit/VOC2012/Annotations"
        made.xml(base / "2007_000003.xml", [("cat", *corners, 0)])
        with pytest.raises(DataError, match="a box is x1 <= x2 and y1 <= y2, got"):
            open_data(f"voc:{tmp_path}")[2]


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
            with pytest.raises(DataError, match="nothing says the class of 'ILSVRC2012_val_00000001.JPEG'"):
                reader[0]
            return
        assert reader.ids == self.IDS
        assert [item.target for item in reader] == [151, 0, 151]
        assert reader.names[0] == made.TENCH
        item = reader[1]
        if table or annotations:
            assert boxes(item) == BOXES["imagenet"][0]
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
        assert boxes(reader[0]) == [[0, 0, 4, 4]]
        assert open_data(f"imagenet:{tmp_path}/images?annotations=../xml&boxes=no")[0].boxes is None
        with pytest.raises(DataError, match="no folder of annotations"):
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
        with pytest.raises(DataError, match="has the class 'cats', which is none of ImageNet"):
            reader[3]

    def test_a_broken_table(self, tmp_path):
        made.imagenet(tmp_path, annotations=False)
        (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\na,n01440764 1 2 3\n")
        with pytest.raises(
            DataError, match="line 2: expected ImageId,PredictionString, a class and four numbers a box"
        ):
            open_data(f"imagenet:{tmp_path}")


class TestCub:
    def test_rows(self, tmp_path):
        reader = open_data(f"cub:{made.cub(tmp_path)}")
        assert reader.ids == ("001.Black_footed_Albatross/Albatross_0001_7/1", "002.Laysan_Albatross/Laysan_0001_5/2")
        assert [item.target for item in reader] == [0, 1]
        assert dict(reader.names) == dict(enumerate(made.BIRDS))
        assert np.array_equal(reader[0].mask, block((3, 4, 9, 7)))
        assert len(open_data(f"cub:{tmp_path}/CUB_200_2011:all")) == 3
        assert open_data(f"cub:{tmp_path}:train").ids == ("001.Black_footed_Albatross/Albatross_0002_8/1",)

    def test_masks_are_optional_and_soft(self, tmp_path):
        made.cub(tmp_path)
        assert np.array_equal(open_data(f"cub:{tmp_path}?threshold=101")[0].mask, block((2, 3, 10, 8)))
        item = open_data(f"cub:{tmp_path}?masks=0")[0]
        assert item.masks is None
        assert np.array_equal(item.mask, block((2, 3, 10, 8)))  # the box
        base = made.cub(tmp_path / "none", masks=False)
        assert open_data(f"cub:{base}")[0].masks is None

    def test_lists_that_do_not_fit(self, tmp_path):
        base = made.cub(tmp_path) / "CUB_200_2011"
        (base / "bounding_boxes.txt").write_text("1 2.0 3.0 8.0 5.0\n")
        reader = open_data(f"cub:{tmp_path}")
        assert reader[0].target == 0
        with pytest.raises(DataError, match="bounding_boxes.txt has no line for '002"):
            reader[1]
        (base / "image_class_labels.txt").write_text("1 1\n2 1\n")
        with pytest.raises(DataError, match="image 3 of .* has no class in image_class_labels.txt"):
            open_data(f"cub:{tmp_path}")


class TestCoco:
    def test_rows(self, tmp_path, capsys):
        reader = open_data(f"coco:{made.coco(tmp_path)}")
        assert capsys.readouterr().out == ""
        assert reader.ids == ("000000000007/person", "000000000007/dog", "000000000009/cat")  # no row for a crowd alone
        assert [item.target for item in reader] == ["person", "dog", "cat"]
        assert dict(reader.names) == {1: "person", 17: "cat", 18: "dog"}

    def test_masks(self, tmp_path):
        person, dog, cat = open_data(f"coco:{made.coco(tmp_path)}")
        assert np.array_equal(person.mask, block((2, 2, 8, 7)))
        assert np.array_equal(person.valid, ~block((0, 0, 4, 16)) | block((2, 2, 8, 7)))
        assert np.array_equal(dog.mask, block((10, 2, 15, 8), (16, 9, 20, 13)))
        assert dog.valid.all()
        assert boxes(cat) == [[20.5, 10.5, 24, 12.5]]
        assert np.array_equal(Item("", cat.image, "cat", boxes=cat.boxes).mask, block((20, 10, 24, 12)))  # by centres

    def test_not_its_json(self, tmp_path):
        file = made.coco(tmp_path) / "annotations/instances_val2017.json"
        for text in ('{"images": [{"id"', "[]", '{"images": [{}]}'):
            file.write_text(text)
            with pytest.raises(DataError, match="is not COCO's JSON of instances, or damaged"):
                open_data(f"coco:{tmp_path}")


class TestPets:
    @pytest.mark.parametrize("inside", ["", "oxford-iiit-pet"])
    def test_rows(self, tmp_path, inside):
        reader = open_data(f"pets:{made.pets(tmp_path) / inside}")
        assert reader.ids == ("Abyssinian_201/0", "Bengal_7/1")
        assert [item.target for item in reader] == [0, 1]
        assert dict(reader.names) == {0: "Abyssinian", 1: "Bengal"}
        item = reader[0]
        assert np.array_equal(item.mask, block((5, 4, 14, 9)))
        assert np.array_equal(item.valid, ~block((4, 3, 15, 10)) | item.mask)
        assert len(open_data(f"pets:{tmp_path}:trainval")) == 1


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
        with pytest.raises(DataError, match="the folders of 2 classes, not of 50, 300 or 919.*categories=FILE"):
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
        with pytest.raises(DataError, match="the item '00002' cannot be read"):
            reader[2]

    def test_not_the_file(self, tmp_path):
        (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file")
        with pytest.raises(DataError, match="is not the file gtsegs_ijcv.mat, a MATLAB 7.3 file with value/img"):
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


def test_the_scan_reads_where_pixels_come_from(tmp_path):
    image = Image.open(made.photo(tmp_path / "a.png"))
    assert made.scan(image)[5, 9].tolist() == [9, 5]
