"""A folder of images through the whole study: environments, protocols, table, diagnosis, advice."""

import numpy as np
import pandas as pd
import pytest
from icm_study.experiments.domain_generalization import load_environments, run_domain_generalization

from icm_study.animals.latents import STYLES
from icm_study.animals.rendering import write_folder
from icm_study.animals.silhouettes import CLASSES, load_silhouettes
from icm_study.embedding.files import embed_files
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import pair_moments
from icm_study.encoders.loading import load_encoder
from icm_study.experiments.diagnosis import diagnose, spectra
from icm_study.experiments.intervals import aggregate, contrast, unpack
from icm_study.experiments.record import gather, run_record
from icm_study.photographs.check import load_folder
from icm_study.report.advice import ANSWERS, advise
from icm_study.report.claims import CHOICES, domain_generalization_claims, gains_over_plain
from icm_study.testbeds.image_folder import image_folder
from icm_study.testbeds.splits import PROTOCOLS, check_counts
from icm_study.text import pairs as pairs_module
from icm_study.text.pairs import text_pairs


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "animals on file"
    return load_folder(write_folder(folder, load_silhouettes(), per_class=12))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return EmbeddingStore(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("animal-world")


@pytest.fixture(scope="module")
def folder(images, store, encoder):
    return load_environments("animals", encoder, store, images=images)


@pytest.fixture(scope="module")
def table(folder, store, encoder):
    return run_domain_generalization(
        "animals", encoder, store, seeds=[0, 1], folder=folder, validations=("intervened", "target")
    )


def test_the_example_folder_has_every_class_in_every_style(images):
    assert images.groupby(["domain", "label"]).size().eq(12).all()
    assert set(images["domain"]) == set(STYLES)
    assert set(images["label"]) == set(CLASSES)


def test_environments_of_a_folder_are_its_images(images, store, encoder):
    texts = (
        [f"a red {label}" for label in images["label"]],
        [f"a blue {label}" for label in images["label"]],
    )
    environments = image_folder(encoder, images, store, name="animals", texts=texts)
    source = environments.source
    assert environments.test is None
    assert environments.tested is source
    assert environments.domains == tuple(sorted(STYLES))
    assert environments.classes == tuple(sorted(CLASSES))
    assert [environments.domains[i] for i in source["domain"].to_numpy()] == images[
        "domain"
    ].tolist()
    assert [environments.classes[i] for i in source["label"].to_numpy()] == images["label"].tolist()
    direct = embed_files(encoder, images, store)
    for name in ("original", "image"):
        np.testing.assert_array_equal(source[name], direct[name])
    np.testing.assert_allclose(source["caption"][:3], encoder.encode_text(texts[0][:3]), atol=1e-5)
    np.testing.assert_allclose(source["edit"][:3], encoder.encode_text(texts[1][:3]), atol=1e-5)
    prompts = [f"a photo of a {name}" for name in environments.classes]
    np.testing.assert_allclose(
        environments.prompts["prompt"], encoder.encode_text(prompts), atol=1e-5
    )


def test_one_caption_for_each_image(images, store, encoder):
    with pytest.raises(ValueError, match="2 captions and 1 edits for 480 images"):
        image_folder(encoder, images, store, name="animals", texts=(["a dog", "a cat"], ["a dog"]))


def test_written_pairs_keep_the_class_and_start_from_the_domain():
    images = pd.DataFrame(
        {"label": ["dog", "guitar"] * 50, "domain": ["sketch", "art_painting"] * 50}
    )
    captions, edits = text_pairs(images, name="PACS", seed=0)
    for label, medium, caption, edit in zip(
        images["label"], ["sketch", "painting"] * 50, captions, edits, strict=True
    ):
        assert label in caption.split()
        assert label in edit.split()
        assert medium in caption.split()
        assert medium not in edit.split()
    assert (captions, edits) == text_pairs(images, name="PACS", seed=0)
    assert captions != text_pairs(images, name="PACS", seed=1)[0]


def test_a_captioner_and_an_editor_are_plugged_by_name(monkeypatch, tmp_path):
    images = pd.DataFrame(
        {"path": ["a.jpg", "b.jpg"], "label": ["dog", "house"], "domain": ["photo", "photo"]}
    )

    def caption(name, paths, cache):
        assert (name, paths, cache) == (
            "some/coca",
            ["a.jpg", "b.jpg"],
            tmp_path / "captions.jsonl",
        )
        return ["a dog in a dark field", "a red building"]

    def editor(name, words, **options):
        assert (name, words, options) == (
            "llm",
            ["dog", "house"],
            {"cache": tmp_path / "edits.jsonl"},
        )
        return lambda captions, words, seed: [
            f"{text} {word} {seed}" for text, word in zip(captions, words, strict=True)
        ]

    monkeypatch.setattr(pairs_module, "caption_images", caption)
    monkeypatch.setattr(pairs_module, "load_editor", editor)
    captions, edits = text_pairs(
        images, name="PACS", captioner="some/coca", editor="llm", seed=3, cache=tmp_path
    )
    assert captions == ["a dog in a dark field", "a house, a red building"]
    assert edits == ["a dog in a dark field dog 3", "a house, a red building house 3"]


def test_the_table_has_every_domain_as_the_target(table):
    assert set(table["target"]) == set(STYLES)
    assert set(table["seed"]) == {0, 1}
    assert set(table["condition"]) == {"in_distribution", "unseen"}
    assert set(table["intervention"]) == {
        "none",
        "image",
    }  # this encoder knows too few words for captions
    assert (table["world"] == "animals").all()
    runs = table.groupby(["target", "seed", "condition"]).size()
    assert (runs == 2 + 1 + 2 * 3).all()
    assert (table.loc[table["condition"] == "unseen", "n"] == 120).all()
    shares = [unpack(row).mean() for _, row in table.iterrows()]
    np.testing.assert_allclose(table["value"], 100 * np.array(shares))


def test_a_folder_is_embedded_once(images, store, encoder, table, monkeypatch):
    monkeypatch.setattr(encoder, "encode_images", lambda pixels: pytest.fail("embedded again"))
    again = run_domain_generalization(
        "animals", encoder, store, seeds=[0, 1], validations=("intervened", "target"),
        folder=load_environments("animals", encoder, store, images=images),
    )  # fmt: skip
    pd.testing.assert_frame_equal(again, table)


@pytest.mark.parametrize("protocol", PROTOCOLS[1:])
def test_open_classes_on_a_folder(folder, store, encoder, protocol):
    targets = None if protocol == "open class" else ["sketch"]
    open_table = run_domain_generalization(
        "animals", encoder, store, seeds=[0], folder=folder, targets=targets, protocol=protocol
    )
    assert set(open_table["target"]) == ({"none"} if protocol == "open class" else {"sketch"})
    assert set(open_table["predictor"]) == {"zero-shot"}
    claims = domain_generalization_claims(
        open_table.assign(intervention=open_table["intervention"]), "images"
    )
    assert claims.empty or claims["statement"].str.contains("not seen").all()


def test_intervals_over_images_are_those_of_the_pooled_images(table):
    part = table[
        (table["method"] == "plain") & (table["predictor"] == "linear probe") & (table["seed"] == 0)
    ]
    part = part[part["condition"] == "unseen"]
    row = aggregate(part, ["condition"], over="images").iloc[0]
    correct = np.concatenate(
        [unpack(one) for _, one in part.iterrows()]
    )  # targets have equally many images
    assert row["value"] == pytest.approx(100 * correct.mean())
    within = [unpack(one).var() / 120 for _, one in part.iterrows()]
    half = 100 * 1.959964 * np.sqrt(np.sum(within)) / 4
    assert (row["low"], row["high"]) == pytest.approx((row["value"] - half, row["value"] + half))


def test_verdicts_of_a_folder(table):
    claims = domain_generalization_claims(table, "images")
    assert (claims["claim"].str.contains("animals, animal-world")).all()
    assert len(claims) == 2 * (
        1 + 2 + 1
    )  # a choice: the probe against three rivals, and zero-shot against its own
    with pytest.raises(ValueError, match="several encoders or worlds"):
        domain_generalization_claims(pd.concat([table, table.assign(world="other")]))


def test_gains_over_plain_are_paired_under_the_last_shift(table):
    gains = gains_over_plain(table, "images").set_index(["predictor", "way"])
    assert set(gains["condition"]) == {"unseen"}
    unseen = table[table["condition"] == "unseen"].set_index(
        ["predictor", "method", "intervention"]
    )["value"]
    for predictor in ("zero-shot", "linear probe"):
        for method, way in CHOICES.items():
            expected = (
                unseen[predictor, method, "image"].mean()
                - unseen[predictor, "plain", "none"].mean()
            )
            row = gains.loc[(predictor, way)]
            assert row["value"] == pytest.approx(expected)
            part = table[(table["predictor"] == predictor) & (table["condition"] == "unseen")]
            paired = contrast(
                part, (method, "image"), ("plain", "none"), ["condition"], over="images"
            ).iloc[0]
            assert (row["low"], row["high"]) == (paired["low"], paired["high"])
    assert gains_over_plain(table[table["condition"] == "in_distribution"]).empty
    with pytest.raises(ValueError, match="several encoders or worlds"):
        gains_over_plain(pd.concat([table, table.assign(world="other")]))


def test_a_protocol_that_leaves_no_domain_out_has_no_targets(folder, store, encoder):
    with pytest.raises(ValueError, match="'open class' leaves no domain out"):
        run_domain_generalization(
            "animals",
            encoder,
            store,
            seeds=[0],
            folder=folder,
            targets=["sketch"],
            protocol="open class",
        )


def test_too_few_images_are_named_before_anything_is_embedded(images):
    check_counts(images)
    few = images[(images["label"] != "cow") | (images.groupby(["domain", "label"]).cumcount() < 3)]
    with pytest.raises(
        ValueError, match=r"outside the target 'cartoon', .*: 'cow' has 9\. Add images"
    ):
        check_counts(few)
    check_counts(few, "open class")  # 12 of the cow in all
    alone = images[images["domain"] == "sketch"]
    with pytest.raises(ValueError, match="one domain, 'sketch'; to leave one out takes two"):
        check_counts(alone)
    check_counts(alone, "open class")


def test_a_single_domain_can_be_diagnosed(images, store, encoder):
    alone = image_folder(
        encoder, images[images["domain"] == "sketch"].reset_index(drop=True), store, name="animals"
    )
    assert set(diagnose([alone]).query("quantity == 'share'")["of"]) == {"class"}


def test_pairs_that_change_nothing_do_not_count(images, store, encoder):
    captions = [f"a red {label}" for label in images["label"]]
    edits = [f"a blue {label}" if i % 2 else captions[i] for i, label in enumerate(images["label"])]
    source = image_folder(encoder, images, store, name="animals", texts=(captions, edits)).source
    half = pair_moments(source.isel(row=slice(1, None, 2)), "text")
    np.testing.assert_allclose(pair_moments(source, "text").S, half.S)


def test_diagnosis_of_a_folder_knows_class_and_domain(images, store, encoder):
    environments = image_folder(encoder, images, store, name="animals")
    found = diagnose([environments])
    assert set(found.loc[found["quantity"] == "share", "of"]) == {"class", "domain"}
    counts = found[found["quantity"] == "positive eigenvalues"].set_index("of")["value"]
    for weight, eigenvalues in spectra(environments)["image"].items():
        assert counts[f"{weight:g}"] == (eigenvalues > 0).sum()
    assert found.loc[found["quantity"] == "dimension", "value"].tolist() == [64]


def test_runs_that_differ_in_seeds_are_gathered(table, tmp_path):
    paths = []
    for seed, part in table.groupby("seed"):
        record = run_record(
            "02_domain_generalization", {"seeds": [int(seed)], "dataset": "animals"}
        )
        part = part.reset_index(drop=True)
        part.attrs = record | {"diagnosis": {"quantity": ["dimension"], "value": [float(seed)]}}
        paths.append(tmp_path / f"{seed}.parquet")
        part.to_parquet(paths[-1])
    joined = gather(paths)
    assert len(joined) == len(table)
    assert joined.attrs["parameters"] == {"seeds": [0, 1], "dataset": "animals"}
    assert '"seeds": [0, 1]' in joined.attrs["command"]
    assert joined.attrs["diagnosis"] == {"quantity": ["dimension"] * 2, "value": [0.0, 1.0]}
    other = pd.read_parquet(paths[0])
    other.attrs["versions"] = {"numpy": "0"}
    other.to_parquet(paths[0])
    with pytest.raises(ValueError, match="differ in more than seeds and targets"):
        gather(paths)


def outcomes(plain, icm, n=400):
    """A table of two probes, right on a given share of the images of one target; ICM is right wherever plain is."""
    order = np.arange(n)
    rows = [
        {
            "method": method,
            "intervention": kind,
            "correct": np.packbits(order < share * n).tobytes(),
        }
        for method, kind, share in (
            ("plain", "none", plain),
            ("ICM", "image", icm),
            ("ICM auto", "image", 0.1),
        )
    ]
    return pd.DataFrame(rows).assign(
        predictor="linear probe",
        condition="unseen",
        target="a",
        seed=0,
        n=n,
        K=8,
        consistency_weight=1.0,
    )


@pytest.mark.parametrize(
    ("plain", "icm", "answer"),
    [(0.5, 0.9, "supported"), (0.9, 0.5, "refuted"), (0.5, 0.505, "not shown")],
)
def test_advice(plain, icm, answer):
    advice = advise(outcomes(plain, icm))
    assert advice.answer == ANSWERS[answer]
    assert advice.gain == pytest.approx(100 * (icm - plain))
    assert advice.low < advice.gain < advice.high
    assert (advice.method, advice.intervention, advice.n_ways) == ("ICM", "image", 2)
    assert (advice.n_components, advice.consistency_weight) == (8, 1.0)


def test_advice_names_a_pair_that_was_chosen():
    runs = pd.concat(
        outcomes(0.5, 0.9).assign(target=target, K=k, consistency_weight=weight)
        for target, k, weight in (("a", 8, 0.3), ("b", 32, 1.0), ("c", 32, 1.0), ("d", 16, 10.0))
    )
    advice = advise(runs)
    assert (advice.n_components, advice.consistency_weight) == (32, 1.0)


def test_advice_never_takes_what_was_tuned_on_the_target():
    tuned = outcomes(0.5, 0.99).replace({"method": {"ICM": "ICM, tuned on the target"}})
    assert advise(tuned).method == "ICM auto"
    with pytest.raises(ValueError, match="no linear probe of CLIP-ICM"):
        advise(tuned[tuned["method"] == "plain"])
