"""What every test bed says of itself: its targets, and its columns in a table of results."""

from dataclasses import replace

import numpy as np
import pytest
from linear_world import table
from stand_ins import TableBed

from icm_study.embedding.tables import EmbeddedData
from icm_study.testbeds.base import PROTOCOLS

LEAVE_OUT, OPEN, SHIFT_OPEN = PROTOCOLS


@pytest.fixture
def bed():
    nothing = table({"label": [0], "domain": [0]}, original=np.zeros((1, 2)))
    return TableBed(EmbeddedData(nothing, None, nothing, {}, ("art", "photo", "sketch"), ("cat",)))


@pytest.mark.parametrize("protocol", [LEAVE_OUT, SHIFT_OPEN])
def test_targets_are_domains_by_name(bed, protocol):
    bed = replace(bed, protocol=protocol)
    assert bed.targets() == ["art", "photo", "sketch"]
    assert bed.targets(["sketch", "art"]) == ["sketch", "art"]  # in the order given


def test_open_class_leaves_no_domain_out(bed):
    bed = replace(bed, protocol=OPEN)
    assert bed.targets() == [None]
    for names in (["art"], []):
        with pytest.raises(ValueError, match="'open class' leaves no domain out; pass None"):
            bed.targets(names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cubism"], r"targets=\['cubism'\]; expected some of .*'art'.* Unknown: \['cubism'\]"),
        (["art", "cubism"], r"Unknown: \['cubism'\]"),
        (["art", "photo", "art"], "each once"),
        ([], r"targets=\[\]; expected some of the domains"),
    ],
)
def test_bad_targets(bed, names, message):
    with pytest.raises(ValueError, match=message):
        bed.targets(names)


def test_a_lone_name_is_no_list_of_targets(bed):
    with pytest.raises((ValueError, TypeError), match="art"):
        bed.targets("art")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_known_protocols(bed, protocol):
    replace(bed, protocol=protocol).check_protocol()


@pytest.mark.parametrize("protocol", ["open classes", "", None])
def test_unknown_protocols(bed, protocol):
    with pytest.raises(ValueError, match=f"protocol={protocol!r} is unknown; choose one of"):
        replace(bed, protocol=protocol).check_protocol()


def test_columns_say_which_data_and_protocol(bed):
    columns = replace(bed, protocol=SHIFT_OPEN).columns
    assert np.isnan(columns.pop("strength"))
    assert columns == {
        "dataset": "tables", "protocol": SHIFT_OPEN, "world": "tables", "shortcut": "unknown",
    }  # fmt: skip


def test_the_tested_images_are_those_of_the_source_unless_there_are_others(bed):
    assert bed.data.tested is bed.data.source
    other = bed.data.source.copy()
    assert replace(bed.data, test=other).tested is other
