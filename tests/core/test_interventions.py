import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from icm_core.interventions import (
    IMAGE_INTERVENTIONS,
    POSTERIZE_BITS,
    SOLARIZE_THRESHOLD,
    draw_interventions,
    image_transforms,
    intervene_captions,
    intervene_images,
)

SEVEN = (
    "color_jitter",
    "grayscale",
    "gaussian_blur",
    "invert",
    "posterize",
    "solarize",
    "equalize",
)


def random_images(n, seed=0, size=16):
    values = np.random.default_rng(seed).integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    return torch.from_numpy(values)


def small_images():
    shapes = st.tuples(st.integers(1, 4), st.just(3), st.integers(8, 12), st.integers(8, 12))
    return hnp.arrays(np.uint8, shapes).map(torch.from_numpy)


def test_the_papers_seven():
    assert tuple(image_transforms()) == IMAGE_INTERVENTIONS == SEVEN


# Closed forms of the four interventions that are functions of a pixel's value alone.
PIXELWISE = {
    "invert": lambda x: 255 - x,
    "posterize": lambda x: x >> (8 - POSTERIZE_BITS) << (8 - POSTERIZE_BITS),
    "solarize": lambda x: np.where(x >= SOLARIZE_THRESHOLD, 255 - x, x),
}


@pytest.mark.parametrize("name", PIXELWISE)
@given(images=small_images())
def test_pixelwise_interventions_have_their_closed_form(name, images):
    np.testing.assert_array_equal(
        intervene_images(images, [name]).numpy(), PIXELWISE[name](images.numpy())
    )


@given(images=small_images())
def test_grayscale_has_three_equal_channels_of_the_luma(images):
    gray = intervene_images(images, ["grayscale"]).numpy().astype(float)
    luma = np.tensordot([0.299, 0.587, 0.114], images.numpy().astype(float), axes=(0, 1))
    assert (gray == gray[:, :1]).all()
    assert (
        np.abs(gray[:, 0] - luma).max() <= 1.03
    )  # torchvision truncates, and rounds 0.299 to 0.2989


def test_blur_lowers_the_variance_and_keeps_the_mean():
    images = random_images(8, size=64)
    blurred = intervene_images(images, ["gaussian_blur"]).double()
    before = images.double()
    assert (blurred.var(dim=(1, 2, 3)) < 0.9 * before.var(dim=(1, 2, 3))).all()
    assert (blurred.mean(dim=(1, 2, 3)) - before.mean(dim=(1, 2, 3))).abs().max() < 2


def test_equalize_spreads_a_dark_image_over_the_whole_range():
    dark = random_images(3, size=64) // 8
    equalized = intervene_images(dark, ["equalize"])
    assert dark.max() < 32
    assert (equalized.amax(dim=(1, 2, 3)) == 255).all()
    assert (equalized.amin(dim=(1, 2, 3)) == 0).all()


def test_color_jitter_re_draws_the_hue_over_the_whole_circle():
    red = torch.tensor([200, 10, 10], dtype=torch.uint8)[:, None, None].expand(3, 8, 8)
    images = red[None].repeat(60, 1, 1, 1)
    images[:, 0, 0, 0] = torch.arange(60)  # make them differ, so that each has its own draw
    strongest = intervene_images(images, ["color_jitter"])[:, :, 4, 4].argmax(dim=1)
    assert set(strongest.tolist()) == {0, 1, 2}


@given(images=small_images(), seed=st.integers(-(2**70), 2**70))
def test_shape_dtype_and_input_are_kept(images, seed):
    before = images.clone()
    result = intervene_images(images, seed=seed)
    assert result.shape == images.shape
    assert result.dtype == torch.uint8
    assert torch.equal(images, before)
    assert torch.equal(result, intervene_images(images, seed=seed))


@given(st.permutations(range(12)), st.integers(1, 12))
def test_an_image_gets_the_same_intervention_in_any_batch(order, batch_size):
    images = random_images(12)
    whole = intervene_images(images, seed=3)
    shuffled = images[order]
    batches = [intervene_images(batch, seed=3) for batch in shuffled.split(batch_size)]
    assert torch.equal(torch.cat(batches), whole[order])


def test_memory_layout_does_not_matter():
    images = random_images(6)
    channels_last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not channels_last.is_contiguous()
    assert draw_interventions(channels_last) == draw_interventions(images)
    assert torch.equal(intervene_images(channels_last), intervene_images(images))


def test_the_global_generator_is_left_alone():
    images = random_images(20)
    torch.manual_seed(7)
    first, second = intervene_images(images), torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(second, torch.rand(3))
    torch.manual_seed(8)
    assert torch.equal(first, intervene_images(images))


def test_the_global_generator_is_restored_after_an_error(monkeypatch):
    def fail(image):
        raise RuntimeError("broken transform")

    monkeypatch.setitem(image_transforms(), "invert", fail)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="broken transform"):
        intervene_images(random_images(1), ["invert"])
    assert torch.equal(state, torch.get_rng_state())


def test_all_seven_are_drawn_equally_often():
    drawn = draw_interventions(random_images(3500, size=4))
    counts = [drawn.count(name) for name in SEVEN]
    assert sum(counts) == 3500
    chi_square = sum((count - 500) ** 2 / 500 for count in counts)
    assert chi_square < 22.46  # 0.999 quantile for 6 degrees of freedom


def test_draws_tell_what_was_applied():
    images = random_images(30)
    result = intervene_images(images, ("invert", "solarize"), seed=1)
    for image, name, intervened in zip(
        images, draw_interventions(images, ("invert", "solarize"), seed=1), result, strict=True
    ):
        np.testing.assert_array_equal(intervened.numpy(), PIXELWISE[name](image.numpy()))


def test_another_seed_draws_otherwise():
    images = random_images(100)
    agree = np.mean(
        np.array(draw_interventions(images, seed=0)) == np.array(draw_interventions(images, seed=1))
    )
    assert agree < 0.35


def test_an_empty_batch_stays_empty():
    assert intervene_images(torch.empty(0, 3, 8, 8, dtype=torch.uint8)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(2, 3, 8, 8), TypeError, r"torch\.uint8.*float32"),
        (np.zeros((2, 3, 8, 8), dtype=np.uint8), TypeError, "ndarray"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), ValueError, r"\(3, 8, 8\).*images\[None\]"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), ValueError, "permute"),
    ],
)
def test_bad_images(images, error, message):
    with pytest.raises(error, match=message):
        intervene_images(images)


def test_unknown_name_lists_the_known_and_suggests_the_closest():
    with pytest.raises(ValueError, match=r"'grey_scale'.*color_jitter.*equalize.*mean 'grayscale'"):
        intervene_images(random_images(1), ["grey_scale"])


def test_zero_interventions():
    with pytest.raises(ValueError, match="zero interventions"):
        intervene_images(random_images(1), [])
    with pytest.raises(ValueError, match="zero interventions"):
        intervene_captions(["a dog"], {})


def test_one_name_must_be_in_a_list():
    with pytest.raises(TypeError, match=r"\['invert'\]"):
        intervene_images(random_images(1), "invert")


# ----------------------------------------------------------------------------------------------
# captions

LEXICON = {
    "coat": ("red", "blue", "dark blue", "yellow"),
    "scene": ("on grass", "in snow", "in the deep forest"),
    "style": ("photo", "cartoon", "Sketch"),
}
CLASSES = ("dog", "polar bear", "blue whale", "sea-lion")
FACTOR_OF = {value.lower(): factor for factor, values in LEXICON.items() for value in values}
FILLERS = ("a", "of", "the", "redder", "snow", "blue-eyed", "very", "bear", "cartoons")
WORDS = st.lists(st.sampled_from([*FACTOR_OF, *FILLERS]), max_size=8)


def factors_in(caption):
    """Brute force: read the caption word by word, longest phrase first, skip class phrases."""
    words, found = re.findall(r"[\w-]+", caption.lower()), []
    while words:
        for length in range(4, 0, -1):
            phrase = " ".join(words[:length])
            if len(words) >= length and (phrase in FACTOR_OF or phrase in CLASSES):
                found += [FACTOR_OF[phrase]] if phrase in FACTOR_OF else []
                break
        words = words[length:]
    return sorted(found)


@given(
    before=WORDS,
    name=st.sampled_from(CLASSES),
    after=WORDS,
    seed=st.integers(0, 1000),
    comma=st.booleans(),
)
def test_an_edit_changes_variant_words_and_nothing_else(before, name, after, seed, comma):
    separator = ", " if comma else "; "
    caption = separator.join([*before, name, *after])
    (edited,) = intervene_captions([caption], LEXICON, seed, keep=CLASSES)
    old, new = caption.split(separator), edited.split(separator)
    assert len(old) == len(new)
    for old_phrase, new_phrase in zip(old, new, strict=True):
        factor = FACTOR_OF.get(old_phrase)
        assert FACTOR_OF.get(new_phrase.lower()) == factor
        assert (new_phrase != old_phrase) == (factor is not None)
    assert new[len(before)] == name


@given(before=WORDS, name=st.sampled_from(CLASSES), after=WORDS, seed=st.integers(0, 1000))
def test_running_text_keeps_its_factors_and_class(before, name, after, seed):
    caption = " ".join([*before, name, *after])
    (edited,) = intervene_captions([caption], LEXICON, seed, keep=CLASSES)
    assert name in edited
    assert (edited != caption) == bool(factors_in(caption))
    assert intervene_captions([caption], LEXICON, seed, keep=CLASSES) == [edited]


@given(st.lists(st.sampled_from(["photo", "a", "red", "in snow"]), max_size=6), st.integers(0, 50))
def test_the_multiset_of_factors_is_unchanged(words, seed):
    caption = " ".join([*words, "dog"])
    (edited,) = intervene_captions([caption], LEXICON, seed)
    assert factors_in(edited) == factors_in(caption)


@given(st.text(max_size=40), st.integers())
def test_any_text_is_accepted_and_other_text_is_unchanged(caption, seed):
    (edited,) = intervene_captions([caption], {"x": ("qqzz", "zzqq")}, seed)
    assert edited == caption or "qq" in caption.lower()


def test_a_caption_is_edited_alike_in_any_batch():
    captions = [f"a {coat} dog number {i}" for i in range(20) for coat in LEXICON["coat"]]
    together = intervene_captions(captions, LEXICON, seed=5)
    assert intervene_captions(captions[::-1], LEXICON, seed=5) == together[::-1]
    assert intervene_captions(captions[7:8], LEXICON, seed=5) == together[7:8]
    assert intervene_captions(captions, LEXICON, seed=6) != together


def test_the_other_values_are_drawn_equally_often():
    edited = intervene_captions([f"red dog {i}" for i in range(3000)], LEXICON)
    counts = [
        sum(f"{value} dog" in caption for caption in edited) for value in ("dark blue", "yellow")
    ]
    counts.append(3000 - sum(counts))
    assert not any(caption.startswith("red") for caption in edited)
    assert all(abs(count - 1000) < 100 for count in counts)  # about four standard deviations


def test_the_same_value_is_replaced_alike_within_a_caption():
    for seed in range(20):
        (edited,) = intervene_captions(["red head, red tail, RED ears"], LEXICON, seed)
        head, tail, ears = (part.rsplit(" ", 1)[0] for part in edited.split(", "))
        assert head == tail == ears.lower()


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A Red dog", "A Dark blue dog"),
        ("a red dog", "a dark blue dog"),
        ("RED DOG", "DARK BLUE DOG"),
        ("redder red-eyed infrared_red", "redder red-eyed infrared_red"),
        ("(red)", "(dark blue)"),
        ("dark blue, not red", "red, not dark blue"),
        ("", ""),
    ],
)
def test_whole_words_and_case(caption, expected):
    assert intervene_captions([caption], {"coat": ("red", "dark blue")}) == [expected]


def test_the_longest_value_wins():
    lexicon = {"coat": ("dark", "dark blue"), "scene": ("in snow", "in snow and ice")}
    assert intervene_captions(["dark blue dog in snow and ice"], lexicon) == ["dark dog in snow"]
    assert intervene_captions(["dark dog in snow"], lexicon) == ["dark blue dog in snow and ice"]


def test_a_value_written_as_in_the_lexicon_gives_one_written_as_in_the_lexicon():
    assert intervene_captions(["a 3D dog"], {"style": ("3D", "photo")}) == ["a photo dog"]


def test_a_class_phrase_is_safe_from_a_value_that_overlaps_it():
    lexicon = {"coat": ("white", "on white", "black")}
    (edited,) = intervene_captions(["a white dog on white shark"], lexicon, keep=["white shark"])
    assert edited.endswith(" dog on white shark")
    assert not edited.startswith("a white dog")


@pytest.mark.parametrize(
    ("lexicon", "error", "message"),
    [
        ({"coat": ()}, ValueError, r"'coat' has 0 value"),
        ({"coat": ("red",)}, ValueError, r"'coat' has 1 value"),
        (
            {"coat": ("red", "blue"), "sky": ("Blue", "gray")},
            ValueError,
            "'Blue' is in both 'coat' and 'sky'",
        ),
        ({"coat": ("red", "Red")}, ValueError, "'Red' is twice in 'coat'"),
        ({"coat": ("red", " ")}, ValueError, "'coat'.*blanks"),
        ({"coat": "red"}, TypeError, r"'coat'.*\['red'\]"),
        ({"coat": ("red", 3)}, TypeError, "3 of type int"),
    ],
)
def test_bad_lexicon(lexicon, error, message):
    with pytest.raises(error, match=message):
        intervene_captions(["a red dog"], lexicon)


def test_a_class_word_that_is_also_a_variant_value():
    with pytest.raises(ValueError, match=r"'Blue' must be kept.*'coat'"):
        intervene_captions(["a blue dog"], LEXICON, keep=["dog", "Blue"])


def test_bad_captions_and_keep():
    with pytest.raises(TypeError, match=r"captions.*\['a red dog'\]"):
        intervene_captions("a red dog", LEXICON)
    with pytest.raises(TypeError, match=r"captions.*None of type NoneType"):
        intervene_captions([None], LEXICON)
    with pytest.raises(ValueError, match="keep"):
        intervene_captions(["a red dog"], LEXICON, keep=[""])
