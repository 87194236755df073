"""The command ``icm``: from a folder of images to an answer, a projection, and a folded CLIP.

Each subcommand calls what the notebooks call. What is embedded is kept, so a command that
was interrupted goes on from there when it is given again. An error is said in a sentence,
with exit status 2.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from icm_study.encoders.encoder import Encoder
    from icm_study.experiments.study import Study

NOTEBOOK = "05_your_data"
#: What a run takes where nothing is said; the defaults of the notebook.
DEFAULTS: dict[str, Any] = {"seeds": [0, 1, 2], "worth": 1.0}
FOLDED = 0.99999  # least cosine between what a folded model gives and what it should


class Commands(click.Group):
    """Subcommands whose errors are sentences."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand; errors of the library end it with status 2."""
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: click.echo(f"icm: {message}", err=True)
            try:
                return super().invoke(ctx)
            except (click.exceptions.Exit, click.exceptions.Abort):  # these are RuntimeErrors
                raise
            except KeyboardInterrupt:
                click.echo(
                    "icm: interrupted. What was embedded or downloaded is kept; the same command "
                    "goes on from there.",
                    err=True,
                )
                ctx.exit(130)
            except (ValueError, TypeError, OSError, RuntimeError) as error:
                click.echo(f"icm: {error}", err=True)
                ctx.exit(2)


def examples(*lines: str) -> str:
    """Write examples as click shows them without filling the lines."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def number_or_rule(kind: type) -> Callable[[click.Context, click.Parameter, str], Any]:
    """Make an option take a positive number, or the name of a rule that chooses one."""

    def read(ctx: click.Context, parameter: click.Parameter, value: str) -> Any:
        if value in ("held-out", "auto"):
            return value
        try:
            number = kind(value)
        except ValueError:
            number = 0
        if not 0 < number < float("inf"):
            what = "a whole number from 1 on" if kind is int else "a positive number"
            raise click.BadParameter(f"{value!r}; expected {what}, held-out or auto.")
        return number

    return read


def value_range(ctx: click.Context, parameter: click.Parameter, value: str) -> Any:
    """Read a name, or two numbers with a comma."""
    try:
        return value if "," not in value else tuple(map(float, value.split(",")))
    except ValueError as error:
        raise click.BadParameter(f"{value!r}; expected file, used, or LOW,HIGH.") from error


def on_folder(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command a folder, an encoder and how they are read, as checked parameters."""

    @click.argument("folder", type=click.Path(exists=True, file_okay=False))
    @click.option("-e", "--encoder", required=True, help="Such as ViT-B-16/openai, or a folder.")
    @click.option("--cache", default="cache/embeddings", show_default=True, help="Kept embeddings.")
    @click.option(
        "-y", "--yaml", "said", default="", metavar="YAML",
        help=f"Parameters of {NOTEBOOK}, such as '{{nested: true, classes: common}}'.",
    )  # fmt: skip
    @wraps(command)
    def wrapper(folder: str, encoder: str, cache: str, said: str, **options: Any) -> Any:
        return command(_parameters(folder, encoder, cache, said), **options)

    return wrapper


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "icm check photos                          # is the folder sound?",
        "icm advise photos -e ViT-B-16/openai      # does CLIP-ICM help, and how sure is it?",
        "icm fit photos -e ViT-B-16/openai         # writes projection.safetensors",
        "icm fold projection.safetensors folded    # a CLIP that plain open_clip loads",
    ),
)
@click.version_option(package_name="clip-icm")
def icm() -> None:
    """Invariant causal mechanisms from vision-language models, for your own images."""


@icm.command(
    epilog=examples("icm check photos --classes common", "icm check photos -e ViT-B-16/openai")
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--dataset", help="Compare with this public data set.")
@click.option("--nested", is_flag=True, help="Take the images below a class folder too.")
@click.option("--groups", help="Images that belong together: folder, 'folder name', or a CSV file.")
@click.option("--classes", type=click.Choice(["all", "common"]), default="all", show_default=True)
@click.option(
    "--value-range", default="file", show_default=True, callback=value_range,
    help="Of gray images of more than 8 bits: file, used, or LOW,HIGH.",
)  # fmt: skip
@click.option("-e", "--encoder", help="Ask this encoder too whether it tells the classes apart.")
@click.option("--protocol", help="With --encoder: how the images are to be divided.")
@click.pass_context
def check(
    ctx: click.Context, folder: str, encoder: str | None, protocol: str | None, **options: Any
) -> None:
    """Open every image of FOLDER/domain/class/*, and say what is wrong.

    Exit status 0 if nothing is, 1 if something is.
    """
    from icm_study.photographs.check import check_folder

    report = check_folder(folder, **options)
    click.echo(report)
    if encoder and report.sound:
        from icm_study.testbeds.rehearsal import rehearse

        rehearse(report, encoder, **({"protocol": protocol} if protocol else {}))
        click.echo(f"{encoder!r} tells the {len(report.counts)} classes apart.")
    ctx.exit(0 if report.ok else 1)


@icm.command(
    epilog=examples(
        "icm advise photos -e ViT-B-16/openai --html answer.html",
        "icm advise photos -e lite0-minilm --json -y '{seeds: [0], worth: 2}'",
    )
)
@on_folder
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@click.option("--html", type=click.Path(dir_okay=False), help="Write a page with all figures.")
@click.option("--projection", type=click.Path(dir_okay=False), help="Save the advised projection.")
def advise(given: dict[str, Any], as_json: bool, html: str | None, projection: str | None) -> None:
    """Say whether CLIP-ICM helps on FOLDER, by leaving out each domain in turn."""
    from icm_study.experiments.study import Study
    from icm_study.report.advice import advise as judge
    from icm_study.report.advice import gains_over_plain_probe
    from icm_study.report.tables import interval_table, readable

    _check_writable(html=html, projection=projection)
    study = Study(NOTEBOOK, given | {"parts": str(Path(given["cache"], "advice"))})
    click.echo(f"icm: {_forecast(study)}", err=True)
    run = study.results()
    advice = judge(run, worth=given["worth"])
    if html:
        from icm_study.report.advice_page import advice_page

        Path(html).write_text(advice_page(study, run, advice, given["worth"]), encoding="utf-8")
    if projection:
        study.save_projection(asdict(advice), projection)
    gains = gains_over_plain_probe(run)
    if as_json:
        rows = gains[["name", "value", "low", "high"]].to_dict("records")
        told = asdict(advice) | {"gains": rows, "made_from": study.made_from()}
        click.echo(json.dumps(told, indent=1))
        return
    click.echo(_plain(advice.summary(given["worth"])))
    click.echo("\nGains over the plain probe on an unseen domain, in points, with 95 % intervals:")
    click.echo(interval_table(readable(gains), ["name"], ["condition"], signed=True).to_string())


@icm.command(
    epilog=examples(
        "icm fit photos -e ViT-B-16/openai",
        "icm fit photos -e ViT-B-16/openai --pairs image+text -K 64 --consistency-weight 10",
        "icm fit photos -e ViT-B-16/openai --probe probe.safetensors",
    )
)
@on_folder
@click.option("-o", "--output", default="projection.safetensors", show_default=True)
@click.option(
    "--pairs",
    type=click.Choice(["image", "text", "image+text"]),
    default="image",
    show_default=True,
    help="What the projection learns from.",
)
@click.option(
    "-K",
    "--n-components",
    default="held-out",
    show_default=True,
    callback=number_or_rule(int),
    help="Dimension of the subspace, or how it is chosen.",
)
@click.option(
    "--consistency-weight",
    default="held-out",
    show_default=True,
    callback=number_or_rule(float),
    help="λ, or how it is chosen.",
)
@click.option("--probe", type=click.Path(dir_okay=False), help="Save a linear probe behind it too.")
def fit(
    given: dict[str, Any], output: str, pairs: str, probe: str | None, **settings: Any
) -> None:  # fmt: skip
    """Estimate the projection from interventional pairs of all images of FOLDER."""
    from icm_study.encoders.loading import open_clip_arguments
    from icm_study.experiments.study import Study

    _check_writable(output=output, probe=probe)
    if probe:
        open_clip_arguments(given["encoder"])
    study = Study(NOTEBOOK, given)
    study.check_n_components("-K", settings["n_components"])
    click.echo(f"icm: about {_embedding(study)[1]}.", err=True)
    fitted = study.fit_projection(pairs, **settings)
    fitted.save(output, made_from=study.made_from() | {"intervention": pairs})
    click.echo(
        f"{output}: K = {fitted.n_components_} of {fitted.n_features_in_} dimensions, "
        f"λ = {fitted.consistency_weight_:g}."
    )
    if probe:
        accuracy = study.save_probe(fitted, probe)
        click.echo(
            f"{probe}: {100 * accuracy:.1f} % of the images that it was fitted on are right."
        )


@icm.command(
    epilog=examples(
        "icm fold projection.safetensors folded",
        "python -c \"import open_clip; open_clip.create_model('local-dir:folded')\"",
    )
)
@click.argument("projection", type=click.Path(exists=True, dir_okay=False))
@click.argument("output", type=click.Path(file_okay=False))
@click.option("-e", "--encoder", help="By default the one that the projection was made for.")
def fold(projection: str, output: str, encoder: str | None) -> None:
    """Multiply PROJECTION into its CLIP, and write a folder OUTPUT that open_clip loads.

    An encoder that cannot absorb it keeps it behind itself: OUTPUT then holds the projection, and
    tells why; other icm commands take it as an encoder. OUTPUT is loaded again and compared with
    projecting by hand.
    """
    from icm_core.deploy import CONFIG, PROJECTED, save_open_clip, save_projected
    from icm_core.deploy import fold as fold_into
    from icm_core.projection import InvariantProjection
    from icm_study.encoders.loading import encoder_told, load_encoder, open_clip_config

    loaded = InvariantProjection.load(projection)
    name = encoder or loaded.made_from_.get("encoder")
    if name is None:
        raise ValueError(f"{projection} does not tell its encoder; name it with --encoder.")
    _check_replaceable(Path(output), name)
    plain = load_encoder(name, "cpu", "float32")
    loaded.check_encoder(plain.fingerprint)
    told, folded = encoder_told(plain), fold_into(plain.model, loaded)
    for former in (CONFIG, PROJECTED):
        Path(output, former).unlink(missing_ok=True)
    if folded.is_absorbed and "open_clip" in told:
        save_open_clip(folded, output, open_clip_config(plain), loaded.made_from_)
        if hasattr(plain.tokenizer, "tokenizer"):  # of transformers, whose files go with the model
            plain.tokenizer.tokenizer.save_pretrained(output)
        config, embed_dim, note = CONFIG, folded.embed_dim, folded.note
    else:
        own = f"open_clip cannot build {name!r}, whose tokenizer is this project's own, so the"
        note = folded.note if "open_clip" in told else f"{own} projection stands behind it."
        save_projected(output, loaded, encoder=told, example=plain.example(), note=note)
        config, embed_dim = PROJECTED, loaded.n_components_
    worst = _compare(plain, load_encoder(output, "cpu", "float32"), loaded)
    if worst < FOLDED:
        Path(output, config).unlink()
        raise RuntimeError(
            f"The folded model has a cosine of {worst:.6f} with the projected embeddings, and "
            f"{FOLDED} was expected: {name!r} is built in a way that is not known here. Its config "
            "was removed. Project its embeddings instead, see InvariantProjection.transform."
        )
    click.echo(
        f"{output}: embed_dim {embed_dim}, cosine with projecting by hand at least "
        f"{worst:.6f}. {note}".rstrip()
    )


@icm.command(
    epilog=examples(
        "icm embed photos -e ViT-B-16/openai",
        "icm embed photos -e ViT-B-16/openai -p projection.safetensors -o projected.parquet",
    )
)
@on_folder
@click.option("-p", "--projection", type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--output", default="embeddings.parquet", show_default=True)
def embed(given: dict[str, Any], projection: str | None, output: str) -> None:
    """Embed the images of FOLDER, in whatever layout, and project them if asked to.

    The table (Parquet) has path, label and domain, and the embedding as f0, f1, ...
    """
    import pandas as pd

    from icm_core.projection import InvariantProjection
    from icm_study.embedding.files import embed_files
    from icm_study.experiments.duration import embedding_seconds, said
    from icm_study.experiments.record import commit, write_table
    from icm_study.experiments.study import Study
    from icm_study.photographs.check import load_images

    _check_writable(output=output)
    embedder = Study(NOTEBOOK, given).embedder
    fingerprint = embedder.encoder.fingerprint
    fitted = InvariantProjection.load(projection, weights=fingerprint) if projection else None
    reading = {key: given[key] for key in ("accept_problems", "value_range") if key in given}
    images = load_images(given["dataset"], cache=given["cache"], **reading)
    click.echo(f"icm: about {said(embedding_seconds(embedder, images, ()))}.", err=True)
    embedded = embed_files(embedder.encoder, images, embedder.store, interventions=())
    rows = embedded["original"]
    values = rows.to_numpy() if fitted is None else fitted.transform(rows)
    table = pd.concat([images, pd.DataFrame(values).add_prefix("f")], axis=1)
    table.attrs = {
        "encoder": given["encoder"], "weights": fingerprint, "commit": commit(),
        "images": embedded.attrs["images"],
    }  # fmt: skip
    if fitted is not None:  # these are no embeddings of the encoder any more
        table.attrs["projected_from"] = table.attrs.pop("weights")
    write_table(table, output)
    click.echo(f"{output}: {len(table):,} images, {values.shape[1]} dimensions.")


@icm.command(epilog=examples("icm download PACS"))
@click.argument("name")
@click.argument("destination", default="data")
@click.option("--revision", help="Another commit of the hub's repository than the pinned one.")
def download(name: str, destination: str, revision: str | None) -> None:
    """Download the public data set NAME into DESTINATION/NAME."""
    from icm_study.photographs.download import download as fetch

    fetch(name, destination, revision)


def _parameters(folder: str, encoder: str, cache: str, said: str) -> dict[str, Any]:
    """Check what was given as the notebook does, and name the data set."""
    from icm_study.experiments.record import checked
    from icm_study.plain_yaml import read_yaml

    more = read_yaml(said, f"--yaml {said!r} is not plain YAML") or {}
    if not isinstance(more, dict):
        raise ValueError(f"--yaml {said!r} names no parameters; write '{{name: value}}'.")
    if Path(encoder).expanduser().exists():  # what is saved names it for any working folder
        encoder = str(Path(encoder).expanduser().absolute())
    own = {"folder": str(Path(folder).absolute()), "encoder": encoder, "cache": cache}
    twice = [name for name in own if name in more]
    if twice:
        raise ValueError(f"--yaml says {', '.join(twice)} too; give that by its own option.")
    given = checked(NOTEBOOK, DEFAULTS | more | own)
    return given | {"dataset": given["folder"]}


def _check_writable(**paths: str | None) -> None:
    """Find out before the work whether files can be written."""
    from icm_study.experiments.record import check_writable

    for name, path in paths.items():
        if path is not None:
            check_writable(name, Path(path))


def _check_replaceable(output: Path, encoder: str) -> None:
    """Refuse to write a folded model over the one that it is made from, or over another."""
    from icm_core.deploy import CONFIG

    own = Path(encoder).expanduser().resolve()
    is_own = own.exists() and output.resolve() in (own, own.parent)
    try:
        is_folded = "clip_icm" in json.loads((output / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        is_folded = True
    except ValueError:  # not JSON: somebody's, whatever it is
        is_folded = False
    if is_own or not is_folded:
        whose = "the encoder that is folded" if is_own else "a model that icm fold did not write"
        raise ValueError(f"{output} holds {whose}, which would be lost; give another folder.")


def _embedding(study: Study) -> tuple[float, str]:
    """Tell how long it takes to embed what is not stored yet, in seconds and in words."""
    from icm_study.experiments.duration import embedding_seconds, said

    bed: Any = study.beds[0]
    seconds = embedding_seconds(study.embedder, bed.images, bed.interventions)
    return seconds, f"{said(seconds)} to embed what is not stored yet"


def _forecast(study: Study) -> str:
    """Say how long a run will take."""
    from icm_study.experiments.duration import fitting_seconds, said
    from icm_study.experiments.run import ICM_AND_PLAIN

    bed: Any = study.beds[0]
    embedding, told = _embedding(study)
    runs = len(bed.targets()) * len(study.given["seeds"])
    methods = [name for name in study.plan.methods or ICM_AND_PLAIN if "oracle" not in name]
    n_fitted = len(bed.images) * (len(bed.domains) - 1) // len(bed.domains)
    shape = n_fitted, study.embedder.encoder.embedding_dim, len(bed.classes)
    fitting = fitting_seconds(methods, runs, shape)
    return f"about {said(embedding + fitting)}: {told}, {said(fitting)} to fit ({runs} runs)."


def _plain(markdown: str) -> str:
    """Give a sentence without Markdown and mathematics."""
    return markdown.replace("*", "").replace("$\\lambda", "λ").replace("$K", "K").replace("$", "")


def _compare(plain: Encoder, folded: Encoder, projection: Any) -> float:
    """Give the least cosine between what a folded encoder gives and projecting by hand."""
    import numpy as np
    import torch

    from icm_core.prediction import unit_rows

    pixels = np.random.default_rng(0).integers(256, size=(4, 3, 64, 64), dtype=np.uint8)
    texts = ["a dog", "a photo of a cat", "a red bird"]
    least = 1.0
    for encode, given in (("encode_images", torch.from_numpy(pixels)), ("encode_text", texts)):
        own = getattr(folded, encode)(given)[:, : projection.n_components_]
        by_hand = projection.transform(getattr(plain, encode)(given))
        least = min(least, float((unit_rows(own) * unit_rows(by_hand)).sum(axis=1).min()))
    return least


if __name__ == "__main__":
    icm()
