"""Which images belong together: by a folder below the class folder, or by a table."""

import unicodedata
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from icm_study.photographs.check import check_folder, load_folder, main
from icm_study.photographs.groups import group_images


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def clinics(tmp_path):
    """Two clinics, two classes, five patients with three images each, and one image apart."""
    seed = 0
    for clinic in ("north", "south"):
        for label in ("benign", "malignant"):
            for patient in range(5):
                for i in range(3):
                    seed += 1
                    write(tmp_path / "skin" / clinic / label / f"p{patient}" / f"{i}.png", seed)
    write(tmp_path / "skin" / "north" / "benign" / "alone.png", 0)
    return tmp_path / "skin"


def groups_of(images):
    """The groups as sets of images, whatever their names."""
    return {frozenset(group["path"]) for _, group in images.groupby("group")}


def test_each_folder_below_a_class_folder_is_a_group(clinics):
    with pytest.warns(UserWarning, match=r"5 names of groups, such as 'p0'.*'folder name'"):
        images = load_folder(clinics, groups="folder")
    assert len(images) == 61
    folders = {frozenset(map(str, p.glob("*.png"))) for p in clinics.glob("*/*/p*")}
    assert groups_of(images) == folders | {frozenset([str(clinics / "north/benign/alone.png")])}


def test_folders_of_one_name_can_be_one_group(clinics):
    images = load_folder(clinics, groups="folder name")
    patients = {frozenset(map(str, clinics.glob(f"*/*/p{i}/*.png"))) for i in range(5)}
    assert groups_of(images) == patients | {frozenset([str(clinics / "north/benign/alone.png")])}


def test_folders_of_other_names_need_no_warning(clinics):
    for i, folder in enumerate(clinics.glob("*/*/p*")):
        folder.rename(folder.with_name(f"burst {i}"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = load_folder(clinics, groups="folder")
    assert images["group"].nunique() == 21
    pd.testing.assert_series_equal(
        images.groupby("path").ngroup(), load_folder(clinics, nested=True).groupby("path").ngroup()
    )


def test_the_first_folder_below_the_class_makes_the_group(clinics):
    write(clinics / "north" / "benign" / "p0" / "monday" / "x.png", 99)
    images = load_folder(clinics, groups="folder name").set_index("path")
    (deep,) = [path for path in images.index if "monday" in path]
    assert images.loc[deep, "group"] == images.loc[str(clinics / "north/benign/p0/0.png"), "group"]


@pytest.mark.parametrize("separator", ["/", "\\"])
def test_a_table_names_the_groups(clinics, tmp_path, separator):
    images = load_folder(clinics, nested=True)
    files = [str(p)[len(str(clinics)) + 1 :].replace("/", separator) for p in images["path"]]
    session = [f"0{i % 7}" for i in range(len(files))]
    listed = pd.DataFrame({"camera": 1, "group": session, "file": files}).sample(frac=1)
    listed.to_csv(tmp_path / "sessions.csv", index=False, encoding="utf-8-sig")
    grouped = load_folder(clinics, nested=True, groups=str(tmp_path / "sessions.csv"))
    assert grouped["group"].tolist() == session
    assert grouped["path"].tolist() == images["path"].tolist()


def test_accents_are_compared_in_one_form(tmp_path):
    root = tmp_path / "animals"
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "zèbre")
        images = pd.DataFrame({"path": [str(root / "pré" / name / "0.png")]})
        other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "pré/zèbre/0.png")
        (tmp_path / "g.csv").write_text(f"file,group\n{other},7\n", encoding="utf-8")
        assert group_images(images, root, str(tmp_path / "g.csv")).tolist() == ["7"]


TWO = ["north/benign/0.png", "south/benign/0.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,group\nnorth/benign/0.png,1\n", "lacks 1 of 2 images, such as 'south/benign/0.png'"),
        ("file;group\nnorth/benign/0.png;1\n", r"has the columns \['file;group'\]; expected"),
        ("path,patient\na,1\n", r"has the columns \['path', 'patient'\]; expected \['file', 'gr"),
        (f"file,group\n{TWO[0]},1\n{TWO[1]},2\n{TWO[0]},2\n", "several groups for the file 'north"),
        (f"file,group\n{TWO[0]},1\n{TWO[1]},\n", "has no group for the file 'south"),
        ("", "cannot be read as a table of groups"),
        ('file,group\na,1,2,3\n\n"', "cannot be read|lacks"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    (tmp_path / "groups.csv").write_text(text)
    images = pd.DataFrame({"path": [str(tmp_path / "data" / file) for file in TWO]})
    with pytest.raises(ValueError, match=message):
        group_images(images, tmp_path / "data", str(tmp_path / "groups.csv"))


def test_groups_that_are_none(tmp_path, clinics):
    with pytest.raises(FileNotFoundError, match="'foldr' is no file; expected 'folder', 'folder n"):
        load_folder(clinics, groups="foldr")
    flat = tmp_path / "flat"
    for domain in "ab":
        write(flat / domain / "cat" / "0.png", ord(domain))
    with pytest.raises(ValueError, match="No image lies in a folder below a class folder"):
        check_folder(flat, groups="folder")


def test_the_check_counts_groups(clinics, capsys):
    report = check_folder(clinics, groups="folder name")
    assert "61 readable images, 2 domain(s), 2 classes, 6 groups; no known" in str(report)
    assert report.hindrances[0].startswith(
        "outside 'north' each class needs 5 groups or more: 'benign' has 0, 'malignant' has 0"
    )
    with pytest.warns(UserWarning, match="names of groups"):
        assert main([str(clinics), "--groups", "folder"]) == 0
    assert "21 groups" in capsys.readouterr().out
    assert main([str(clinics), "--groups", "nowhere.csv"]) == 1
    assert "'nowhere.csv' is no file" in capsys.readouterr().err
