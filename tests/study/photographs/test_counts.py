"""Whether a folder can be divided: the check and the protocols say the same."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from icm_study.photographs.check import check_folder, load_folder, main
from icm_study.photographs.counts import LEAST_IMAGES, common_classes, hindrances, too_few
from icm_study.testbeds.splits import PROTOCOLS, check_counts


def table(counts):
    """Make a table with so many images of each (domain, class)."""
    rows = [(label, domain) for (domain, label), n in counts.items() for _ in range(n)]
    return pd.DataFrame(rows, columns=["label", "domain"])


COUNTS = st.dictionaries(
    st.tuples(st.sampled_from("ABC"), st.sampled_from("xyz")), st.integers(1, 12), min_size=1
)


@given(COUNTS)
def test_hindrances_are_what_the_protocol_refuses(counts):
    images = table(counts)
    try:
        check_counts(images)
        refused = False
    except ValueError:
        refused = True
    assert bool(hindrances(images)) == refused


@given(COUNTS)
def test_common_classes_are_counted_one_by_one(counts):
    images = table(counts)
    domains = {domain for domain, _ in counts}
    expected = []
    for label in sorted({label for _, label in counts}):
        of_class = {d: counts.get((d, label), 0) for d in domains}
        outside = [sum(n for other, n in of_class.items() if other != d) for d in domains]
        enough = min(outside) >= 10 if len(domains) > 1 else sum(of_class.values()) >= 10
        if enough and min(of_class.values()) > 0:
            expected.append(label)
    assert common_classes(images) == expected


def test_too_few():
    images = table({("one", "a"): 20, ("one", "b"): 20, ("two", "a"): 20, ("two", "b"): 4})
    first = images["domain"] == "one"
    assert too_few(images, first) == {"b": 4}
    assert too_few(images, ~first) == too_few(images, first & False) == {}
    assert LEAST_IMAGES == 10


def test_of_groups_it_is_groups_that_are_counted():
    images = table({(domain, label): 20 for domain in ("one", "two") for label in "ab"})
    four, five = (images.assign(group=np.arange(80) % 20 % n) for n in (4, 5))
    with pytest.raises(ValueError, match=r"5 groups or more outside the target 'one'.*'a' has 0"):
        check_counts(five)  # each group is in both domains
    four, five = (
        one.assign(group=one["domain"] + one["label"] + one["group"].astype(str))
        for one in (four, five)
    )
    assert hindrances(four)[0] == (
        "outside 'one' each class needs 5 groups or more: 'a' has 4, 'b' has 4"
    )
    assert common_classes(four) == []
    assert hindrances(five) == ()
    check_counts(five)
    assert common_classes(five) == ["a", "b"]


def test_a_long_list_of_classes_is_cut():
    many = table({(domain, f"c{i:02d}"): 5 for domain in ("one", "two") for i in range(30)})
    assert len(hindrances(many)) == 2
    assert all(text.endswith("'c04' has 5 and 25 more") for text in hindrances(many))


def write(root, counts):
    rng = np.random.default_rng(0)
    for (domain, label), n in counts.items():
        folder = root / domain / label
        folder.mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


UNEVEN = {
    ("one", "a"): 20, ("one", "b"): 20, ("one", "c"): 12,
    ("two", "a"): 20, ("two", "b"): 4, ("two", "c"): 12,
    ("three", "a"): 20, ("three", "b"): 3, ("three", "c"): 12,
}  # fmt: skip


def test_the_check_tells_what_the_protocol_refuses(tmp_path, capsys):
    root = write(tmp_path / "set", UNEVEN)
    report = check_folder(root)
    assert report.hindrances == ("outside 'one' each class needs 10 images or more: 'b' has 7",)
    assert (report.sound, report.ok) == (True, False)
    assert main([str(root)]) == 1
    assert "domains cannot be left out in turn (1)" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"outside the target 'one', .*: 'b' has 7"):
        check_counts(load_folder(root))


def test_common_classes_are_those_that_can_be_used(tmp_path, capsys):
    root = write(tmp_path / "set", UNEVEN | {("two", "d"): 50})
    images = load_folder(root, classes="common")
    assert sorted(set(images["label"])) == ["a", "c"]
    check_counts(images)
    report = check_folder(root, classes="common")
    assert report.ok
    assert report.dropped == {"b": 27, "d": 50}
    assert report.counts.index.tolist() == ["a", "c"]
    assert "d: 50 images" in str(report)
    assert main([str(root), "--classes", "common"]) == 0
    with pytest.raises(ValueError, match="domains without some of the classes"):
        load_folder(root)
    with pytest.raises(ValueError, match="classes is 'some'; expected 'all' or 'common'"):
        load_folder(root, classes="some")


def test_no_common_class_is_no_image(tmp_path):
    root = write(tmp_path / "set", {("one", "a"): 12, ("two", "b"): 12})
    with pytest.raises(ValueError, match="0 readable images"):
        load_folder(root, classes="common")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_class_is_told_before_anything_is_embedded(tmp_path, protocol):
    root = write(tmp_path / "set", {("one", "cat"): 20, ("two", "cat"): 20})
    report = check_folder(root)
    assert report.hindrances == ("there is one class, 'cat'; to tell classes apart takes two",)
    with pytest.raises(ValueError, match=r"trains on 1 of the 1 class\(es\) 'cat'"):
        check_counts(report.images, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS[1:])
def test_an_open_protocol_needs_three_classes(protocol):
    two = {("one", "a"): 20, ("one", "b"): 20, ("two", "a"): 20, ("two", "b"): 20}
    with pytest.raises(ValueError, match="trains on 1 of the 2"):
        check_counts(table(two), protocol)
    check_counts(table(two | {("one", "c"): 20, ("two", "c"): 20}), protocol)


def test_one_domain_is_told(tmp_path):
    root = write(tmp_path / "set", {("one", "a"): 20, ("one", "b"): 20})
    assert check_folder(root).hindrances == (
        "there is one domain, 'one'; to leave one out takes two",
    )
    assert len(load_folder(root)) == 40
