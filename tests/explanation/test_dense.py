"""Detection, segmentation, depth and pose in one call: what is found is explained, and drawn where it lies."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from typer.testing import CliRunner

from captum_vit import AGCAM, Explanation, explain, load_model
from captum_vit.cli.app import app
from captum_vit.errors import TargetError
from captum_vit.explanation.dense import task_of
from captum_vit.marks import Box, Outline, Point, from_dict, to_dict
from captum_vit.targets import Contrast, Mask, Query
from captum_vit.targets.texts import of_text
from captum_vit.visualization import overlay
from tests.families.test_dense import depth_anything
from tests.families.test_dense_targets import DPT_DEPTH, DPT_SEG, OfPatches, beit, vitpose, yolos
from tests.helpers import assert_close, relative_error

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))


def wide(image: Image.Image) -> torch.Tensor:
    """48 x 32 of the upper left, after a resize to 60 x 40."""
    pixels = np.array(image.resize((60, 40), Image.Resampling.BILINEAR).crop((0, 0, 48, 32)))
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def square(image: Image.Image) -> torch.Tensor:
    pixels = np.array(image.resize((32, 32), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def test_the_most_confident_detections_are_explained():
    model: Any = yolos()
    found = explain(PHOTO, model, preprocess=wide, top_k=2, method=["agcam", "raw_attention"])
    output = model(wide(PHOTO)[None])
    shares = output.logits[0].softmax(-1)[:, :3]
    ranked = shares.amax(1).argsort(descending=True)[:2].tolist()
    assert [label.title for label in found.targets] == [
        f"{['car', 'person', 'dog'][shares[i].argmax()]}, query {i}" for i in ranked
    ]
    assert found.targets[0].measured == f"{100 * shares[ranked[0]].max():.1f} %"
    assert len(found) == 4  # also raw attention has a map for each
    x, y, w, h = output.pred_boxes[0, ranked[0]].tolist()
    (box,) = found.attributions[0].marks
    expected = torch.tensor([(x - w / 2) * 48, (y - h / 2) * 32, (x + w / 2) * 48, (y + h / 2) * 32]) * 96 / 60
    assert isinstance(box, Box)
    assert_close(torch.tensor([box.left, box.top, box.right, box.bottom]), expected, 5e-3)  # the view is seen, not told
    of_tensor = AGCAM(model).attribute(wide(PHOTO)[None], Query(ranked[0]))
    assert_close(found.attributions[0].map, of_tensor[0, 0], 1e-5)
    with torch.no_grad():
        model.class_labels_classifier.layers[-1].bias[-1] = 200
    with pytest.raises(TargetError, match=r"finds no object in this image; query \d comes nearest"):
        explain(PHOTO, model, preprocess=wide)


def test_the_largest_regions_are_explained_and_outlined():
    model = DPT_SEG()
    found = explain(PHOTO, model, preprocess=square, top_k=2)
    classes = model(square(PHOTO)[None]).logits[0].argmax(0)
    counts = classes.flatten().bincount()
    assert [a.target.name for a in found] == [f"mask:LABEL_{i}" for i in counts.argsort(descending=True)[:2].tolist()]
    (outline,) = found.attributions[0].marks
    assert isinstance(outline, Outline)
    first = int(counts.argmax())
    drawn = np.zeros((64, 96), bool)
    for x in range(96):
        for y in range(64):
            drawn[y, x] = inside(outline, x + 0.5, y + 0.5)
    where = np.asarray(Image.fromarray((classes == first).numpy()).resize((96, 64), Image.Resampling.NEAREST))
    assert (drawn != where).mean() < 0.02
    assert (drawn == where).mean() > (~drawn == where).mean()


def inside(outline: Outline, x: float, y: float) -> bool:
    """Whether a ray from the point crosses the lines an odd number of times."""
    crossed = 0
    for line in outline.lines:
        for (ax, ay), (bx, by) in zip(line, [*line[1:], line[0]], strict=True):
            crossed += (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay)
    return crossed % 2 == 1


def test_a_mask_on_the_photograph_finds_its_way_through_the_view():
    model = OfPatches()
    mask = np.zeros((64, 96), bool)
    mask[6:30, 10:40] = True
    found = explain(PHOTO, model, preprocess=wide, target=Mask(1, mask))
    coarse = torch.from_numpy(np.asarray(Image.fromarray(mask).resize((960, 640)).crop((0, 0, 768, 512)), np.float32))
    weights = coarse.view(16, 32, 24, 32).mean((1, 3))
    by_hand = AGCAM(model).attribute(wide(PHOTO)[None], lambda o: (o[:, 1] * weights).sum((1, 2)) / weights.sum())
    assert_close(found.attributions[0].map, by_hand[0, 0], 1e-2)  # the view of a function is seen on greys, not told
    squashed = torch.from_numpy(np.asarray(Image.fromarray(mask).resize((24, 16)), np.float32))
    twin = AGCAM(model).attribute(wide(PHOTO)[None], lambda o: (o[:, 1] * squashed).sum((1, 2)) / squashed.sum())
    assert relative_error(twin[0, 0], found.attributions[0].map) > 5e-2  # as if the whole photograph were seen
    far = np.zeros((64, 96), bool)
    far[60:, 90:] = True
    with pytest.raises(TargetError, match="no pixel of the mask lies in the part of the image that the model sees"):
        explain(PHOTO, model, preprocess=wide, target=Mask(1, far))
    with pytest.raises(TargetError, match=r"the image \(64, 96\)"):
        explain(PHOTO, model, preprocess=wide, target=Mask(1, mask.T.copy()))


def test_depth_pose_and_layers_that_nothing_reads():
    depth = explain(PHOTO, DPT_DEPTH(), preprocess=square)
    assert (depth.targets[0].title, depth.targets[0].unit, depth.attributions[0].marks) == (
        "all pixels",
        "mean value",
        (),
    )
    model = vitpose()
    pose = explain(PHOTO, model, preprocess=wide, top_k=1)
    heat = model(wide(PHOTO)[None]).heatmaps[0]
    best = int(heat.flatten(1).amax(1).argmax())
    row, column = divmod(int(heat[best].argmax()), heat.shape[2])
    (point,) = pose.attributions[0].marks
    assert isinstance(point, Point)
    expected = torch.tensor([(column + 0.5) * 2, (row + 0.5) * 2]) * 96 / 60
    assert_close(torch.tensor([point.x, point.y]), expected, 2e-2)
    segmented = explain(PHOTO, beit(), preprocess=square, top_k=1)
    assert any(note.startswith("layers: nothing is read after beit.layers.3") for note in segmented.notes)
    assert not any("layers.2.attention" in layer for note in segmented.notes for layer in note.split(", "))


def test_methods_that_read_a_model_in_two_ways_answer_together():
    found = explain(PHOTO, yolos(), preprocess=wide, top_k=1, method=["agcam", "attn_lrp"])
    alone = explain(PHOTO, yolos(), preprocess=wide, top_k=1, method="attn_lrp")
    assert found.methods == ("agcam", "attn_lrp")
    assert_close(found.attributions[1].map, alone.attributions[0].map, 1e-5)


def test_several_images_each_have_their_own():
    model, other = yolos(), PHOTO.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    together = explain([PHOTO, other], model, preprocess=wide, top_k=1)
    for each, image in zip(together, (PHOTO, other), strict=True):
        alone = explain(image, model, preprocess=wide, top_k=1)
        assert each.targets == alone.targets
        assert_close(each.attributions[0].map, alone.attributions[0].map, 1e-6)


@pytest.mark.parametrize("mark", [Box(1, 2, 30, 40), Outline((((0, 0), (5, 0), (5, 5)),)), Point(3, 4)])
def test_a_mark_is_drawn_saved_and_scaled(mark, tmp_path):
    found = explain(PHOTO, OfPatches(), preprocess=wide, target=Mask(0, "peak"))
    plain = overlay(PHOTO, found.attributions[0].map, found.view)
    drawn = overlay(PHOTO, found.attributions[0].map, found.view, marks=[mark])
    assert plain.tobytes() != drawn.tobytes()
    assert from_dict(to_dict(mark)) == mark
    found.attributions[0].__dict__["marks"] = (mark,)
    found.save(tmp_path / "saved")
    assert Explanation.load(tmp_path / "saved").attributions[0].marks == (mark,)
    assert found.reduced(48).attributions[0].marks == (mark.scaled(0.5, 0.5),)
    assert '"marks":[[[' in found.to_html()


def test_words_for_masks_and_queries(tmp_path):
    model = yolos()
    by_word = explain(PHOTO, model, preprocess=wide, target=["query:3/dog", "query:1/top"])
    by_object = explain(PHOTO, model, preprocess=wide, target=[Query(3, "dog"), Query(1, box="top")])
    assert by_word.targets == by_object.targets
    assert explain(PHOTO, model, preprocess=wide, target=Contrast(Query(3, 2), Query(1))).attributions[0].marks
    picture = np.zeros((64, 96), np.uint8)
    picture[:20, :20] = 255
    Image.fromarray(picture).save(tmp_path / "mask.png")
    asked = of_text(f"mask:LABEL_1@{tmp_path / 'mask.png'}")
    assert isinstance(asked, Mask)
    assert (asked.category, float(asked.pixels.sum())) == ("LABEL_1", 400.0)
    assert of_text("tabby/Egyptian cat") is None
    for wrong in ("query:car", "query:", f"mask:1@{tmp_path / 'none.png'}"):
        with pytest.raises(TargetError, match=r"a query is query:NUMBER|cannot be read"):
            of_text(wrong)


@pytest.mark.parametrize(
    ("build", "processor", "task"),
    [
        (yolos, {"kind": "YolosImageProcessor", "size": {"shortest_edge": 64, "longest_edge": 256}}, "detection"),
        (DPT_SEG, {"kind": "DPTImageProcessor", "size": {"height": 32, "width": 32}}, "segmentation"),
        (
            depth_anything,
            {
                "kind": "DPTImageProcessor",
                "size": {"height": 32, "width": 32},
                "keep_aspect_ratio": True,
                "ensure_multiple_of": 8,
            },
            "depth",
        ),
        (
            lambda: vitpose((64, 48)),
            {"kind": "VitPoseImageProcessor", "size": {"height": 64, "width": 48}},
            "pose",
        ),
    ],
    ids=["detection", "segmentation", "depth", "pose"],
)
def test_a_folder_is_loaded_with_its_processor(build, processor, task, tmp_path):
    model = build()
    made = getattr(transformers, processor.pop("kind"))(**processor)
    model.save_pretrained(tmp_path)
    made.save_pretrained(tmp_path)
    loaded = load_model(f"hf/{tmp_path}")
    assert task_of(loaded.model) == task
    assert bool(loaded.class_names) == (task != "depth")
    photo = PHOTO.resize((48, 64) if task == "pose" else (62, 41))
    beside = {"boxes": [[[0, 0, *photo.size]]]} if task == "pose" else {}
    inputs = made(images=photo, **beside, return_tensors="pt")["pixel_values"]
    found = explain(photo, loaded, method="agcam", top_k=1)
    by_hand = AGCAM(model).attribute(inputs, target_of(task, model(inputs)))
    assert_close(found.attributions[0].map, by_hand[0, 0], 1e-4)
    assert ("pose: the whole image is taken" in " ".join(found.notes)) == (task == "pose")


def test_the_command_asks_for_queries(tmp_path):
    yolos().save_pretrained(tmp_path / "model")
    processor = transformers.YolosImageProcessor(size={"shortest_edge": 64, "longest_edge": 256})
    processor.save_pretrained(tmp_path / "model")
    PHOTO.save(tmp_path / "street.png")
    asked = ["--target", "query:3/dog", "--target", "query:1/left", "--method", "rollout", "--no-verdict"]
    arguments = ["explain", str(tmp_path / "street.png"), "--model", f"hf/{tmp_path / 'model'}", *asked]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "maps")])
    assert result.exit_code == 0, result.output
    assert "dog, query 3: " in result.output
    assert "--target is not used" not in result.output
    files = {path.name for path in (tmp_path / "maps").rglob("*.png")}
    assert files >= {"overview.png", "rollout-query_3_dog.png", "rollout-query_1_left.png"}


def target_of(task: str, output: Any) -> Any:
    if task == "detection":
        best, classes = output.logits[0].softmax(-1)[:, :-1].max(1)
        return lambda o: o.logits[:, best.argmax(), classes[best.argmax()]]
    if task == "depth":
        return lambda o: o.predicted_depth.mean((1, 2))
    if task == "pose":
        best = output.heatmaps[0].flatten(1).amax(1).argmax()
        heat = output.heatmaps[0, best]  # 16 x 12 on the image with an eighth of it around, as padding
        row, column = divmod(int(heat[3:29, 2:22].argmax()), 20)
        return lambda o: o.heatmaps[:, best, row + 3, column + 2]
    classes = output.logits[0].argmax(0)
    largest = classes.flatten().bincount().argmax()
    return lambda o: o.logits[:, largest][:, classes == largest].mean(1)
