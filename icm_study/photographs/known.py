"""What is known of the public data sets: domains, counts, class words, source, licence, citation.

`CATALOG` is plain data. The check of a folder compares what it finds with the counts
here, the prompts take their words from here, and the downloads their addresses. The
counts are those in circulation: where two versions of a data set are used side by side,
both are listed.

A folder's name is nearly its class's word; `class_word` makes it one ("alarm_clock" is
an alarm clock). Overrides correct spelling and names that are no words. They do not
improve on the benchmark's own choice of words, since that would change what is
measured.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from icm_study.photographs.imagenet import imagenet_classes, imagenet_index


@dataclass(frozen=True)
class Hub:
    """Files in a data set repository of the Hugging Face hub, at one commit."""

    repo: str
    revision: str
    pattern: str


@dataclass(frozen=True)
class WebFile:
    """A file on a web server, with its MD5 hash where it is known."""

    url: str
    md5: str | None = None


@dataclass(frozen=True)
class KnownDataset:
    """One public data set.

    Attributes
    ----------
    name : str
        The folder's name: the one that DomainBed's download makes, or the variant's usual name.
    n_classes : int
    versions : tuple of mapping
        Images of each domain, for each version in circulation; the one that papers
        report comes first.
    size : str
        What is downloaded, for people.
    page, licence, citation : str
        Where it is described, what its licence is as far as is known, and how to cite it (BibTeX).
    source : Hub or tuple of WebFile
        Where it is downloaded from; an empty tuple if there is no lasting public source.
    by_hand : str
        How to get it without the download.
    flat : bool
        Whether the layout is root/class/image, with no domains in it, as in ImageNet.
    class_words, domain_words : mapping
        The prompt's word for a folder, where the folder's name is not the word. A
        domain's word is None if it has none that a caption would use.
    """

    name: str
    n_classes: int
    versions: tuple[Mapping[str, int], ...]
    size: str
    page: str
    licence: str
    citation: str
    source: Hub | tuple[WebFile, ...] = ()
    by_hand: str = ""
    flat: bool = False
    class_words: Mapping[str, str] = field(default_factory=dict)
    domain_words: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of the domains' folders; the data set's own name if it is flat."""
        return tuple(self.versions[0])

    @property
    def n_images(self) -> int:
        """The number of images in the version that papers report."""
        return sum(self.versions[0].values())

    def differences(self, table: pd.DataFrame) -> tuple[str, ...]:
        """Say how the images that were found differ in number from what is known.

        Parameters
        ----------
        table : pandas.DataFrame
            One row for each image, with the columns *label* and *domain*.

        Returns
        -------
        tuple of str
            One sentence for each difference; empty if the folder is one of the known versions.
        """
        found = {self.name: len(table)} if self.flat else dict(table["domain"].value_counts())
        differences = []
        if table["label"].nunique() != self.n_classes:
            differences.append(
                f"{table['label'].nunique()} classes; {self.name} has {self.n_classes}"
            )
        for domain in sorted({*found, *self.domains}):
            expected = sorted({version.get(domain, 0) for version in self.versions}, reverse=True)
            if found.get(domain, 0) not in expected:
                numbers = " or ".join(f"{number:,}" for number in expected)
                differences.append(
                    f"{domain}: {found.get(domain, 0):,} images; {self.name} has {numbers}"
                )
        return tuple(differences)


_HENDRYCKS = "https://people.eecs.berkeley.edu/~hendrycks"

_LILA = "https://storage.googleapis.com/public-datasets-lila/caltechcameratraps"

_FAIR_USE = "Non-commercial research and education (the authors' fair-use notice)."

_IMAGENET_IMAGES = "The images stay with their owners."

_DATASETS = (
    KnownDataset(
        name="PACS",
        n_classes=7,
        versions=({"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929},),
        size="191 MB",
        page="https://dali-dl.github.io/project_iccv2017.html",
        licence="No licence stated.",
        citation="""@inproceedings{li2017deeper,
  title = {Deeper, Broader and Artier Domain Generalization},
  author = {Li, Da and Yang, Yongxin and Song, Yi-Zhe and Hospedales, Timothy M.},
  booktitle = {IEEE International Conference on Computer Vision (ICCV)},
  year = {2017}
}""",
        source=Hub("flwrlabs/pacs", "394113073258ead631f617d2e13bb377c0715c4b", "data/*.parquet"),
        domain_words={
            "art_painting": "painting", "cartoon": "cartoon", "photo": "photo", "sketch": "sketch",
        },
    ),
    KnownDataset(
        name="VLCS",
        n_classes=5,
        versions=({"Caltech101": 1415, "LabelMe": 2656, "SUN09": 3282, "VOC2007": 3376},),
        size="3.6 GB",
        page="https://github.com/facebookresearch/DomainBed",
        licence="No licence stated for the collection; each of its four sources has its own terms.",
        citation="""@inproceedings{fang2013unbiased,
  title = {Unbiased Metric Learning: On the Utilization of Multiple Datasets and Web Images for Softening Bias},
  author = {Fang, Chen and Xu, Ye and Rockmore, Daniel N.},
  booktitle = {IEEE International Conference on Computer Vision (ICCV)},
  year = {2013}
}""",
        by_hand=(
            "Open https://drive.google.com/uc?id=1skwblH1_okBwxWxmRsp9_qi15hyPpxg8 (the file "
            "that DomainBed "
            "uses) in a browser, save VLCS.tar.gz, and unpack it so that the folders "
            "Caltech101, LabelMe, "
            "SUN09 and VOC2007, each with bird, car, chair, dog and person, lie in {root}."
        ),
        domain_words=dict.fromkeys(("Caltech101", "LabelMe", "SUN09", "VOC2007"), "photo"),
    ),
    KnownDataset(
        name="office_home",
        n_classes=65,
        versions=({"Art": 2427, "Clipart": 4365, "Product": 4439, "Real World": 4357},),
        size="1.2 GB",
        page="https://www.hemanthdv.org/officeHomeDataset.html",
        licence=_FAIR_USE,
        citation="""@inproceedings{venkateswara2017deep,
  title = {Deep Hashing Network for Unsupervised Domain Adaptation},
  author = {Venkateswara, Hemanth and Eusebio, Jose and Chakraborty, Shayok and Panchanathan, Sethuraman},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2017}
}""",
        source=Hub("flwrlabs/office-home", "d430d44779e929b335be368ab3456484e5de36bb", "data/*.parquet"),
        class_words={
            "Flipflops": "flip-flops", "Postit_Notes": "post-it notes", "ToothBrush": "toothbrush", "TV": "TV",
        },
        domain_words={
            "Art": "painting", "Clipart": "clip art", "Product": "photo", "Real World": "photo",
        },
    ),
    KnownDataset(
        name="terra_incognita",
        n_classes=10,
        versions=(
            {"location_100": 4879, "location_38": 9767, "location_43": 4020, "location_46": 6122},
            {"location_100": 4741, "location_38": 9736, "location_43": 3970, "location_46": 5883},
        ),
        size="6.5 GB",
        page="https://lila.science/datasets/caltech-camera-traps",
        licence="Community Data License Agreement, permissive variant 1.0.",
        citation="""@inproceedings{beery2018recognition,
  title = {Recognition in Terra Incognita},
  author = {Beery, Sara and Van Horn, Grant and Perona, Pietro},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year = {2018}
}""",
        source=(
            WebFile(f"{_LILA}/eccv_18_all_images_sm.tar.gz"),
            WebFile(f"{_LILA}/eccv_18_annotations.tar.gz"),
        ),
        class_words={"empty": "empty scene"},
        domain_words=dict.fromkeys(("location_100", "location_38", "location_43", "location_46"), "photo"),
    ),
    KnownDataset(
        name="domain_net",
        n_classes=345,
        versions=(
            {
                "clipart": 48129, "infograph": 51605, "painting": 72266,
                "quickdraw": 172500, "real": 172947, "sketch": 69128,
            },
        ),
        size="18.5 GB",
        page="https://ai.bu.edu/M3SDA/",
        licence=_FAIR_USE,
        citation="""@inproceedings{peng2019moment,
  title = {Moment Matching for Multi-Source Domain Adaptation},
  author = {Peng, Xingchao and Bai, Qinxun and Xia, Xide and Huang, Zijun and Saenko, Kate and Wang, Bo},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year = {2019}
}""",
        source=Hub("wltjr1007/DomainNet", "ee20570ae7a29c51571e55a9a17983f7625295d6", "data/*.parquet"),
        class_words={
            "The_Eiffel_Tower": "Eiffel Tower",
            "The_Great_Wall_of_China": "Great Wall of China",
            "The_Mona_Lisa": "Mona Lisa",
            "bottlecap": "bottle cap",
            "bowtie": "bow tie",
            "rollerskates": "roller skates",
            "see_saw": "seesaw",
            "teddy-bear": "teddy bear",
        },
        domain_words={
            "clipart": "clip art", "infograph": "infographic", "painting": "painting",
            "quickdraw": "doodle", "real": "photo", "sketch": "sketch",
        },
    ),
    KnownDataset(
        name="imagenet",
        n_classes=1000,
        versions=({"imagenet": 1_281_167},),
        size="138 GB",
        page="https://image-net.org/download.php",
        licence=f"ImageNet's terms of access: non-commercial research and education. "
                f"{_IMAGENET_IMAGES}",
        citation="""@article{russakovsky2015imagenet,
  title = {ImageNet Large Scale Visual Recognition Challenge},
  author = {Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and Satheesh, Sanjeev and Ma, Sean
    and Huang, Zhiheng and Karpathy, Andrej and Khosla, Aditya and Bernstein, Michael and Berg, Alexander C. and
    Fei-Fei, Li},
  journal = {International Journal of Computer Vision},
  volume = {115},
  year = {2015}
}""",
        by_hand=(
            "It needs an account: register at https://image-net.org/download.php, download "
            "ILSVRC2012_img_train.tar, unpack it, and unpack each of the 1,000 archives in "
            "it into a folder of "
            "its name, so that the images lie in {root}/n01440764/*.JPEG and so on. Any part "
            "of the training "
            "images in this layout will do to estimate a projection."
        ),
        flat=True,
        domain_words={"imagenet": "photo"},
    ),
    KnownDataset(
        name="imagenet-v2",
        n_classes=1000,
        versions=({"imagenet-v2": 10_000},),
        size="1.3 GB",
        page="https://github.com/modestyachts/ImageNetV2",
        licence=f"MIT. {_IMAGENET_IMAGES}",
        citation="""@inproceedings{recht2019imagenet,
  title = {Do ImageNet Classifiers Generalize to ImageNet?},
  author = {Recht, Benjamin and Roelofs, Rebecca and Schmidt, Ludwig and Shankar, Vaishaal},
  booktitle = {International Conference on Machine Learning (ICML)},
  year = {2019}
}""",
        source=Hub(
            "vaishaal/ImageNetV2",
            "d626240be2538720e83103a0e1178d24aca8b12c",
            "imagenetv2-matched-frequency.tar.gz",
        ),
        flat=True,
        domain_words={"imagenet-v2": "photo"},
    ),
    KnownDataset(
        name="imagenet-r",
        n_classes=200,
        versions=({"imagenet-r": 30_000},),
        size="2.2 GB",
        page="https://github.com/hendrycks/imagenet-r",
        licence=f"MIT. {_IMAGENET_IMAGES}",
        citation="""@inproceedings{hendrycks2021many,
  title = {The Many Faces of Robustness: A Critical Analysis of Out-of-Distribution Generalization},
  author = {Hendrycks, Dan and Basart, Steven and Mu, Norman and Kadavath, Saurav and Wang, Frank and
    Dorundo, Evan and Desai, Rahul and Zhu, Tyler and Parajuli, Samyak and Guo, Mike and Song, Dawn and
    Steinhardt, Jacob and Gilmer, Justin},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year = {2021}
}""",
        source=(WebFile(f"{_HENDRYCKS}/imagenet-r.tar", md5="a61312130a589d0ca1a8fca1f2bd3337"),),
        flat=True,
        domain_words={"imagenet-r": None},
    ),
    KnownDataset(
        name="imagenet-sketch",
        n_classes=1000,
        versions=({"imagenet-sketch": 50_889},),
        size="7.6 GB",
        page="https://github.com/HaohanWang/ImageNet-Sketch",
        licence=f"No licence stated for the data. {_IMAGENET_IMAGES}",
        citation="""@inproceedings{wang2019learning,
  title = {Learning Robust Global Representations by Penalizing Local Predictive Power},
  author = {Wang, Haohan and Ge, Songwei and Lipton, Zachary and Xing, Eric P.},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year = {2019}
}""",
        source=Hub(
            "songweig/imagenet_sketch",
            "bee800b13e5902e5dc77861fce441a6986b840ca",
            "data/ImageNet-Sketch.zip",
        ),
        flat=True,
        domain_words={"imagenet-sketch": "sketch"},
    ),
    KnownDataset(
        name="imagenet-a",
        n_classes=200,
        versions=({"imagenet-a": 7_500},),
        size="0.7 GB",
        page="https://github.com/hendrycks/natural-adv-examples",
        licence=f"MIT. {_IMAGENET_IMAGES}",
        citation="""@inproceedings{hendrycks2021natural,
  title = {Natural Adversarial Examples},
  author = {Hendrycks, Dan and Zhao, Kevin and Basart, Steven and Steinhardt, Jacob and Song, Dawn},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2021}
}""",
        source=(WebFile(f"{_HENDRYCKS}/imagenet-a.tar", md5="c3e55429088dc681f30d81f4726b6595"),),
        flat=True,
        domain_words={"imagenet-a": "photo"},
    ),
)  # fmt: skip

#: Every known data set, by its folder's name.
CATALOG: dict[str, KnownDataset] = {known.name: known for known in _DATASETS}


def known_dataset(dataset: str) -> KnownDataset:
    """Look a data set up.

    Parameters
    ----------
    dataset : str
        A name in `CATALOG`.

    Returns
    -------
    KnownDataset

    Raises
    ------
    ValueError
        If there is no such data set.
    """
    if dataset not in CATALOG:
        raise ValueError(f"unknown data set {dataset!r}; the known ones are {', '.join(CATALOG)}.")
    return CATALOG[dataset]


def guess_dataset(root: str | os.PathLike[str]) -> str | None:
    """Tell which known data set a folder holds, by the folder's name.

    Parameters
    ----------
    root : path-like

    Returns
    -------
    str or None
        A name in `CATALOG`, or None.
    """
    name = Path(root).absolute().name
    return name if name in CATALOG else None


def class_word(name: str, overrides: Mapping[str, str] | None = None) -> str:
    """Make a prompt's word of a class folder's name.

    Underscores become spaces, and words become lower case unless they are written in capitals.

    Parameters
    ----------
    name : str
        The folder's name.
    overrides : mapping of str to str, optional
        Words for the names that need another.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If no word is left.

    Examples
    --------
    >>> class_word("alarm_clock")
    'alarm clock'
    >>> class_word("ToothBrush", {"ToothBrush": "toothbrush"})
    'toothbrush'
    """
    word = (overrides or {}).get(name)
    if word is None:
        words = name.replace("_", " ").split()
        word = " ".join(
            part if part.isupper() and len(part) > 1 else part.lower() for part in words
        )
    if not word.strip():
        raise ValueError(f"the class {name!r} gives no word for a prompt; rename the folder.")
    return word


def class_words(dataset: str | None, names: Sequence[str]) -> list[str]:
    """Make prompt words of the class folders' names of a data set.

    Parameters
    ----------
    dataset : str or None
        A name in `CATALOG`, for its overrides (for ImageNet and its variants:
        open_clip's class names); None for any other data set.
    names : sequence of str
        The folders' names.

    Returns
    -------
    list of str
        One word for each name, in order.

    Raises
    ------
    ValueError
        If the data set is unknown, two names give the same word (but for ImageNet,
        whose usual class names have two such pairs), or a name is no ImageNet class.
    """
    if dataset is not None and known_dataset(dataset).flat:
        return imagenet_classes()["word"].iloc[imagenet_index(names)].tolist()
    overrides = known_dataset(dataset).class_words if dataset is not None else {}
    words = [class_word(name, overrides) for name in names]
    seen: dict[str, str] = {}
    for name, word in zip(names, words, strict=True):
        if seen.setdefault(word, name) != name:
            raise ValueError(
                f"the classes {seen[word]!r} and {name!r} are both {word!r} in a prompt; a "
                f"zero-shot classifier "
                "cannot tell them apart. Rename one folder."
            )
    return words
