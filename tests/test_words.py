"""What may be meant by a word that is no class, among the names of ImageNet and others."""

import re

import pytest
from timm.data import ImageNetInfo

from captum_vit.classes import class_index
from captum_vit.errors import TargetError
from captum_vit.words import alike, edits, listing

INFO = ImageNetInfo("imagenet-1k")
IMAGENET = {number: INFO.index_to_description(number) for number in range(1000)}

CATS = (
    "7 classes contain the word: tabby cat (281), tiger cat (282), Persian cat (283), Siamese cat (284), "
    "Egyptian cat (285), Madagascar cat (383), bear cat (387)"
)
ASKED = {
    "cat": CATS,
    "a Cat": CATS,
    "the cats": CATS,
    "car": "9 classes contain the word: estate car (436), freight car (565), passenger car (705), race car (751)",
    "bird": "1 class contains the word: indigo bird (14); within a word: snowbird (13), hummingbird (94), ladybird",
    "person": "no name is like it",
    "egyptian cats": "1 class contains the words: Egyptian cat (285)",
    "butterflies": "5 classes contain the word: ringlet butterfly (322)",
    "wolves": "classes contain the word: sea wolf (148)",
    "cow": "2 classes contain it within a word: cowboy boot (514), cowboy hat (515)",
    "orange cat": "8 classes contain a part of it: tabby cat (281)",
    "tabyb cat": "nearest: tabby cat (281);",
    "labradr": "nearest: Labrador retriever (208);",
    "bycicle": "nearest: bicycle-built-for-two (444);",
    "x" * 1_000_000: "no name is like it",
    "": "no name is like it",
    "?!": "no name is like it",
}


@pytest.mark.parametrize("text", ASKED, ids=lambda text: text[:20])
def test_words_of_imagenet(text: str):
    with pytest.raises(TargetError, match=rf"^no class .* in 'vit'; .*{re.escape(ASKED[text])}") as error:
        class_index(text, IMAGENET, 1000, "vit")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "text", ["tabby", "Tabby Cat", "tabby_cat", " tabby-cat ", "tabby, tabby cat", "tabby cat (281)"]
)
def test_a_name_or_synonym_is_taken_however_its_words_are_parted(text: str):
    assert class_index(text, IMAGENET, 1000, "vit") == 281


def test_two_classes_of_one_name():
    with pytest.raises(TargetError, match=r"'crane' is not unique: give one of the numbers 134 \(crane\), 517 \(crane"):
        class_index("crane", IMAGENET, 1000, "vit")
    assert class_index("crane (517)", IMAGENET, 1000, "vit") == 517
    with pytest.raises(TargetError, match="no class"):
        class_index("crane (281)", IMAGENET, 1000, "vit")


def test_the_only_class_with_a_word_is_told_and_not_taken():
    with pytest.raises(TargetError, match=r"1 class contains the word: zebra \(340\)"):
        class_index("zebras", IMAGENET, 1000, "vit")


@pytest.mark.parametrize("number", [0, 281, 999])
def test_no_class_stands_in_a_list_twice(number: int):
    for word in re.findall(r"\w+", IMAGENET[number]):
        found = list(alike(word, IMAGENET).names)
        assert len(found) == len(set(found))


def test_few_classes_are_all_named():
    shapes = dict(enumerate(["disc", "ring", "square", "star"]))
    with pytest.raises(TargetError, match=r"no class 'stra' in 'vit'; it has disc, ring, square, star; nearest: star$"):
        class_index("stra", shapes, 4, "vit")
    with pytest.raises(TargetError, match=r"its classes have no names: give a number, or the names by explain\("):
        class_index("star", {}, 4, "vit")
    with pytest.raises(
        TargetError, match=r"Why the one rather than the other is captum_vit.Contrast\('disc', 'rinf'\)"
    ):
        class_index("disc/rinf", shapes, 4, "vit")
    assert listing(alike("Café au lait", {0: "cafe", 1: "tea"})).startswith("1 class contains a part of it: cafe (0)")


@pytest.mark.parametrize(
    ("a", "b", "count"),
    [("cat", "cat", 0), ("cat", "act", 1), ("bicycle", "bycicle", 2), ("", "abc", 3), ("tench", "trench", 1)],
)
def test_edits(a: str, b: str, count: int):
    assert edits(a, b) == edits(b, a) == count
