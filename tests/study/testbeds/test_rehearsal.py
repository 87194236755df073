"""What would stop a run is told before it: by the check, and by the check with the encoder."""

import pytest

from icm_study.animals.rendering import write_folder
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.command import icm
from icm_study.photographs.check import check_folder, load_folder


def check(*words):
    """Run `icm check` in this process, and give its exit status."""
    with pytest.raises(SystemExit) as ended:
        icm(["check", *map(str, words)])
    return ended.value.code


@pytest.fixture
def animals(tmp_path):
    return write_folder(tmp_path / "animals", load_silhouettes(), per_class=4)


def rename(root, old, new):
    for folder in root.glob(f"*/{old}"):
        folder.rename(folder.with_name(new))


def test_a_folder_that_can_run(animals, capsys):
    assert check(animals, "--encoder", "animal-world") == 0
    assert "'animal-world' tells the 10 classes apart" in capsys.readouterr().out
    protocol = ["--protocol", "open class"]
    for photos in animals.glob("photo/*/*.png"):
        photos.unlink()
    assert check(animals, "--encoder", "animal-world", *protocol) == 2


@pytest.mark.parametrize("word", ["lynx", "red_fox"])
def test_an_encoder_that_lacks_a_word(animals, capsys, word):
    rename(animals, "dog", word)
    assert check(animals) == 0  # the folder is in order
    assert check(animals, "--encoder", "animal-world") == 2
    said = capsys.readouterr().err
    assert f"'a photo of a {word.replace('_', ' ')}' has a word this encoder never saw" in said


@pytest.mark.parametrize(
    ("renames", "expected"),
    [
        ({"dog": "Cat"}, "the classes 'Cat', 'cat' are one name but for case, blanks and '_'"),
        ({"dog": "sea_lion", "cow": "sea lion"}, "the classes 'sea lion', 'sea_lion' are one"),
        ({"dog": "SEA_LION", "cow": "sea lion"}, "the classes 'SEA_LION', 'sea lion' are one"),
        ({"dog": "_"}, "the class '_' gives no word for a prompt; rename the folder"),
    ],
)
def test_classes_that_cannot_be_told_apart(animals, capsys, renames, expected):
    for old, new in renames.items():
        rename(animals, old, new)
    report = check_folder(animals)
    assert not report.ok
    assert expected in report.names[0]
    with pytest.raises(ValueError, match="names of folders; rename them, or put them together"):
        load_folder(animals)
    assert check(animals, "--encoder", "animal-world") == 1
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize("other", ["Photo", "PHOTO_", "photo "])
def test_domains_that_cannot_be_told_apart(animals, other):
    (animals / "sketch").rename(animals / other)
    (flaw,) = check_folder(animals).names
    assert flaw.startswith("the domains")
    assert "'photo'" in flaw
    assert repr(other) in flaw


def test_bad_names(animals, capsys):
    assert check(animals, "--encoder", "animal-wrld") == 2
    assert check(animals, "--encoder", "animal-world", "--protocol", "open") == 2
    assert check("nowhere", "--encoder", "animal-world") == 2
    assert "'nowhere' does not exist" in capsys.readouterr().err
