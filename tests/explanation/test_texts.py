"""Texts in `explain`: words, what the map is without each, probabilities, and on disk."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import captum_vit
from captum_vit import Contrast, Preprocessing, Sentence, Text, Word, explain, token_shares
from captum_vit.access.two_towers import TextSide
from captum_vit.colours import LOOK, Look
from captum_vit.errors import ExplanationLoadError, InputError, OptionError, TargetError, UnsupportedModelError
from captum_vit.explanation.explanation import Explanation
from captum_vit.geometry import View
from captum_vit.models import load_model
from captum_vit.verdicts import Verdict
from tests.families.two_towers import clip, siglip, tokenizer
from tests.helpers import assert_close, images, relative_error

CAT, DOG = Text("a cat on a sofa"), Text("a dog")
METHODS = ["grad_eclip", "generic_relevance", "rollout"]


def ask(model=None, **given) -> Explanation:
    asked = {"target": CAT, "tokenizer": tokenizer(), "method": METHODS} | given
    return explain(images(1).double()[0], model or clip(), **asked)


def embeddings(model, *texts: str) -> tuple[Tensor, Tensor]:
    """The image's feature and those of texts, by the model itself."""
    tokens = [torch.tensor([tokenizer()(text)["input_ids"]]) for text in texts]
    image = model.get_image_features(images(1).double()).pooler_output[0]
    return image.detach(), torch.cat([model.get_text_features(ids).pooler_output for ids in tokens]).detach()


def test_every_word_has_what_its_tokens_have():
    model = clip()
    found, (image, texts) = ask(model), embeddings(model, CAT.sentence)
    for a in list(found)[:2]:
        each = token_shares(
            model, CAT, image, a.method, tokenizer=tokenizer()
        ).tolist()  # start, a cat o n a sof a, end
        assert [word.text for word in a.words] == CAT.sentence.split()
        shares = [word.share for word in a.words]
        expected = [each[1], each[2], each[3] + each[4], each[5], each[6] + each[7]]
        assert shares == pytest.approx(expected, rel=1e-6)
        assert a.sentence.apart == pytest.approx({"start": each[0], "end": each[8]}, rel=1e-6)
        twin = [*expected[:-1], expected[-1] + each[8]]  # the end counted as a part of the last word
        assert shares != pytest.approx(twin, rel=1e-3)
    assert list(found)[2].sentence is None, "rollout says nothing of words"
    assert found.labels[0].score == pytest.approx(float(torch.cosine_similarity(texts[0], image, 0)), rel=1e-5)
    assert (found.labels[0].unit, found.labels[0].title) == ("cosine", "“a cat on a sofa”")


def test_without_a_word_is_the_map_of_the_text_without_it():
    model = clip()
    found, shorter = ask(model, words=True), ask(model, target=Text("a cat on sofa"))
    for a, other in zip(list(found)[:2], list(shorter)[:2], strict=True):
        word = a.words[3]
        assert_close(word.map.double(), other.map.double(), 1e-6)
        assert word.score == pytest.approx(shorter.labels[0].score, abs=1e-6)
        assert relative_error(word.map.double(), a.map.double()) > 1e-3, "no word is left out"
    assert all(word.map is None and word.score is None for word in ask(model).attributions[0].words)
    alone = ask(model, target=Text("cat"), words=True).attributions[0].words
    assert alone[0].map is None, "nothing is left without the only word"


def test_probabilities_are_those_of_the_models_own_scale():
    model = clip()
    found, (image, texts) = ask(model, target=[CAT, DOG]), embeddings(model, CAT.sentence, DOG.sentence)
    cosines = torch.cosine_similarity(texts, image[None])
    expected = (cosines * model.logit_scale.exp()).softmax(0).tolist()
    assert [label.probability for label in found.labels] == pytest.approx(expected, rel=1e-4)
    assert [label.probability for label in found.labels] != pytest.approx(cosines.softmax(0).tolist(), rel=1e-2)
    assert found.labels[0].measured.endswith("% of 2 texts")
    assert ask(model).labels[0].probability is None, "there is nothing to compare one text with"


def test_siglip_says_it_of_each_text_by_itself():
    model, ids = siglip(), torch.tensor([8, 14, 12, 17] + [1] * 8)
    found = ask(model, target=Text(ids=ids), tokenizer=None, method="grad_eclip", words=True)
    image = model.get_image_features(images(1).double()).pooler_output[0]
    text = model.get_text_features(ids[None]).pooler_output[0]
    logit = torch.cosine_similarity(image, text, 0) * model.logit_scale.exp() + model.logit_bias
    assert found.labels[0].probability == pytest.approx(float(logit.detach().sigmoid()), rel=1e-4)
    assert found.labels[0].measured.endswith(" %")
    words, apart = found.attributions[0].words, found.attributions[0].sentence.apart
    assert [word.text for word in words] == ["#8", "#14", "#12", "#17"]
    assert set(apart) == {"end", "padding"}
    shorter = ask(model, target=Text(ids=ids[[0, 2, 3, *range(4, 12), 11]]), tokenizer=None, method="grad_eclip")
    assert words[1].score == pytest.approx(shorter.labels[0].score, abs=1e-6)


class Passes(TorchDispatchMode):
    """How often images go through a patch embedding, and texts through that of their tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.images = self.texts = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.images += func.overloadpacket is torch.ops.aten.convolution
        self.texts += func.overloadpacket is torch.ops.aten.embedding and len(args[0]) == 22  # not of positions
        return func(*args, **(kwargs or {}))


def test_map_and_words_take_one_forward_for_all_methods():
    model = clip()
    for methods, texts in (["generic_relevance"], [CAT]), (["generic_relevance", "daam"], [CAT, DOG]):
        asked = {"model": model, "method": methods, "target": texts}
        ask(**asked)  # what examines the model
        with Passes() as seen:
            ask(**asked)
        assert seen.images == 1
        assert seen.texts == 1 + 2 * len(texts), "beside the images, and of each its feature and its words"


def test_a_method_that_refuses_words_leaves_others_theirs(monkeypatch):
    asked = {"method": ["generic_relevance", "legrad"]}
    whole, maps_of = ask(**asked), captum_vit.LeGrad._maps

    def refused(self, run, target, **options):
        if isinstance(self.adapter, TextSide):
            raise UnsupportedModelError("no words here")
        return maps_of(self, run, target, **options)

    monkeypatch.setattr(captum_vit.LeGrad, "_maps", refused)
    one, other = ask(**asked).attributions
    assert [word.share for word in one.words] == [word.share for word in whole.attributions[0].words]
    assert whole.attributions[1].words
    assert other.words == ()
    assert any("no words here" in note for note in ask(**asked).notes)


def test_a_batch_is_its_images():
    x, asked = images().double(), {"target": CAT, "tokenizer": tokenizer(), "method": "grad_eclip", "words": True}
    together = explain(list(x), clip(), **asked)
    for one, alone in zip(together, (explain(each, clip(), **asked) for each in x), strict=True):
        assert [w.share for w in one.attributions[0].words] == pytest.approx(
            [w.share for w in alone.attributions[0].words], rel=1e-5
        )
        assert_close(one.attributions[0].words[1].map, alone.attributions[0].words[1].map, 1e-5)


def test_a_contrast_has_a_map_and_no_words():
    found = ask(target=Contrast(CAT, DOG), method="agcam")
    assert found.attributions[0].words == ()
    assert found.labels[0].title == "“a cat on a sofa” rather than “a dog”"
    assert found.labels[0].unit == "cosine difference"


@pytest.mark.parametrize("target", [None, "a cat", 3])
def test_a_text_is_asked_for(target):
    said = "a cat" if target == "a cat" else "a cat on a sofa"
    with pytest.raises(TargetError, match=rf"compares images with texts, .*Text\('{said}'\), --text"):
        ask(target=target)


def test_texts_beside_the_images_are_classes_as_before():
    ids = torch.tensor([tokenizer()(text, padding="max_length", max_length=12)["input_ids"] for text in ("a cat", "a")])
    given = {"forward_kwargs": {"input_ids": ids[:1]}, "output": "logits_per_image", "target": 0, "tokenizer": None}
    found = ask(method="agcam", **given)
    assert found.labels[0].index == 0


def test_the_call_can_be_made_again():
    assert "target=captum_vit.targets.Text('a cat on a sofa')" in ask().call


def test_an_unknown_name_of_an_option_is_hinted_at():
    with pytest.raises(OptionError, match="explain takes tokenizer="):
        ask(tokeniser=3)


def test_words_are_on_disk(tmp_path: Path):
    found = ask(target=[CAT, DOG], words=True)
    found.save(tmp_path)
    loaded = Explanation.load(tmp_path)
    assert loaded.labels == found.labels
    for one, other in zip(loaded, found, strict=True):
        assert (one.sentence is None) == (other.sentence is None)
        for a, b in zip(one.words, other.words, strict=True):
            assert (a.text, a.share, a.place, a.score) == (b.text, b.share, b.place, b.score)
            assert (a.map is None and b.map is None) or torch.equal(a.map, b.map)
        if one.sentence is not None:
            assert (one.sentence.text, dict(one.sentence.apart)) == (other.sentence.text, dict(other.sentence.apart))


HOSTILE = {
    "a place outside": lambda s: s["words"][0].update(place=[3, 99]),
    "a share that is none": lambda s: s["words"][0].update(share="much"),
    "no words": lambda s: s.update(words=[]),
    "a map that is not there": lambda s: s["words"][0].update(map=True),
    "apart that is no number": lambda s: s.update(apart={"start": None}),
}


@pytest.mark.parametrize("damage", HOSTILE.values(), ids=HOSTILE)
def test_damaged_words_are_refused(tmp_path: Path, damage):
    ask(method="grad_eclip").save(tmp_path)
    (file,) = tmp_path.glob("*.json")
    manifest = json.loads(file.read_text())
    damage(manifest["attributions"][0]["sentence"])
    file.write_text(json.dumps(manifest))
    with pytest.raises(ExplanationLoadError, match="damaged"):
        Explanation.load(tmp_path)


def test_maps_of_words_that_nobody_named_are_refused(tmp_path: Path):
    ask(method="grad_eclip", words=True).save(tmp_path)
    (file,) = tmp_path.glob("*.json")
    manifest = json.loads(file.read_text())
    for word in manifest["attributions"][0]["sentence"]["words"]:
        word["map"] = False
    file.write_text(json.dumps(manifest))
    with pytest.raises(ExplanationLoadError, match="must be those that the manifest names"):
        Explanation.load(tmp_path)


def test_words_have_the_colours_of_maps():
    words = Sentence("a b", (Word("a", -1.0, (0, 1)), Word("b", 3.0, (2, 3))))
    assert (words.scale(LOOK, True).low, words.scale(LOOK, True).high) == (-3.0, 3.0)
    even = Sentence("a b", (Word("a", 1.0, (0, 1)), Word("b", 3.0, (2, 3))))
    assert (even.scale(LOOK, False).low, even.scale(LOOK, False).high) == (1.0, 3.0)
    assert even.scale(Look(scale=(0.0, 9.0)), False).high == 9.0
    with pytest.raises(InputError, match="at least one word"):
        Sentence("", ())


def test_verdicts_are_of_texts_too():
    found = ask(method="grad_eclip", verdict=True)
    assert isinstance(found.attributions[0].verdict, Verdict)
    assert found.attributions[0].verdict.unit == "cosine"


def test_a_folder_brings_its_tokenizer(tmp_path: Path):
    from transformers import CLIPImageProcessorPil

    clip().float().save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(tmp_path)
    assert load_model(f"hf/{tmp_path}").tokenizer is None
    with pytest.raises(TargetError, match="the tokenizer of CLIPModel is not known"):
        explain(Image.new("RGB", (20, 16)), f"hf/{tmp_path}", target=CAT)
    tokenizer().save_pretrained(tmp_path)
    found = explain(Image.new("RGB", (20, 16)), f"hf/{tmp_path}", target=CAT, method="grad_eclip")
    assert [word.text for word in found.attributions[0].words] == CAT.sentence.split()


def test_open_clip_is_loaded_by_name(tmp_path: Path):
    open_clip = pytest.importorskip("open_clip")
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 4}
    text = {"context_length": 20, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
    config = tmp_path / "tiny-of-tests.json"
    config.write_text(json.dumps({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(config)
    try:
        loaded = load_model("open_clip/tiny-of-tests", pretrained=False)
        found = explain(Image.new("RGB", (20, 16), "red"), loaded, target=Text("two cats, asleep"))
        assert [word.text for word in found.attributions[0].words] == ["two", "cats,", "asleep"]
        assert set(found.attributions[0].sentence.apart) == {"start", "end", "padding"}
        with pytest.raises(captum_vit.CaptumViTError, match="is said by a tag"):
            load_model("open_clip/tiny-of-tests")
        with pytest.raises(captum_vit.CaptumViTError, match=r"has no model 'tiny-of-test'.*tiny-of-tests"):
            load_model("open_clip/tiny-of-test")
    finally:
        open_clip.factory._MODEL_CONFIGS.pop("tiny-of-tests", None)
        open_clip.factory._MODEL_CONFIG_PATHS[:] = [p for p in open_clip.factory._MODEL_CONFIG_PATHS if p != config]


def test_the_preprocessing_is_asked_for_where_it_is_not_known():
    with pytest.raises(captum_vit.CaptumViTError, match="no preprocessing is known"):
        explain(Image.new("RGB", (16, 16)), clip(), target=CAT, tokenizer=tokenizer())
    given = Preprocessing(lambda image: torch.zeros(3, 32, 32), lambda size: View.of(size).resized(32, 32))
    found = explain(Image.new("RGB", (16, 16)), clip(), target=CAT, tokenizer=tokenizer(), preprocess=given)
    assert replace(found, notes=()).attributions[0].words
