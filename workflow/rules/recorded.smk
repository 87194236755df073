# Runs whose tables are kept in reports/recorded/, from which their pages are made: they need data
# or weights from outside, or take long.

import math
import unicodedata
from hashlib import sha256

METHODS = STUDY["methods"]
QUESTIONS = STUDY["questions"]
RECORDED = recorded_runs(STUDY)
WEIGHTS = "icm_study/encoders/weights/*.safetensors"
# embeddings that others have published need no encoder
PUBLISHED = [run for run, settings in STUDY["recorded"].items() if "encoder" not in settings]
PHOTOGRAPHS = [run for run in STUDY["recorded"] if run not in PUBLISHED]


def recorded_settings(run, data):
    """Settings of a recorded run, whose data sets are folders of `data` (as seen from the top)."""
    own = {name: value for name, value in RECORDED[run].items() if name != "notebook"}
    if run in METHODS:
        return own
    folder = Path("..", data)  # an absolute path stays as it is
    for name in ("dataset", "projection_images", "photographs", "real_clip"):
        if own.get(name):
            own[name] = str(folder / own[name])
    if "variants" in own:
        own["variants"] = {name: str(folder / path) for name, path in own["variants"].items()}
    return own


def recorded_notebook(wildcards):
    return f"notebooks/{RECORDED[wildcards.run]['notebook']}.ipynb"


def at_hand(run):
    """Say whether the data of a recorded run is there."""
    settings = RECORDED[run]
    named = [settings["dataset"], *settings.get("variants", {}).values()]
    named += filter(None, [settings.get("projection_images")])
    folders = [Path(STUDY["data"], name) for name in named]
    # an empty folder is no data
    return all(any([*folder.glob("*/"), *folder.glob("*.npy")]) for folder in folders)


def photographs_at_hand(wildcards):
    """Tables of the runs whose data is there."""
    outside = [*PHOTOGRAPHS, *PUBLISHED]
    runs = [run for run in outside if at_hand(run)]
    if not runs:
        wanted = sorted({RECORDED[run]["dataset"] for run in outside})
        raise WorkflowError(
            f"{STUDY['data']} holds the data of no recorded run ({', '.join(wanted) or 'none'}). "
            "reports/data.qmd says how to get them; `--config data=FOLDER` names another place."
        )
    return [f"results/recorded/{run}.parquet" for run in runs]


#: The settings that say which images are embedded, and how.
IMAGES = (
    "precision", "accept_problems", "n_images", "nested", "groups", "classes", "value_range",
    "interventions", "variants", "projection_images",
)


#: Those that say, beside these, which texts are, and whether a choice asks what each image got.
TEXTS = ("captioner", "editor", "domain_words", "protocol", "choices")


def embeddings_of(run):
    """Name what a run embeds: runs of one name share it."""
    settings = RECORDED[run]
    said = f"{settings['dataset']}_{settings['encoder']}"
    name = re.sub(r"[^\w.+-]+", "-", said)
    own = {one: settings[one] for one in IMAGES if one in settings}
    own |= {"of": said} if name != said else {}  # another may have a name that is written alike
    return name + short_hash(own)


def texts_of(run):
    """Name the texts that a run embeds beside its images: runs of one name share them."""
    own = {name: RECORDED[run][name] for name in TEXTS if name in RECORDED[run]}
    if RECORDED[run]["notebook"] != "02_domain_generalization":  # its defaults are others
        own["notebook"] = RECORDED[run]["notebook"]
    return f"{embeddings_of(run)}_texts{short_hash(own)}"


def short_hash(settings):
    return f"-{sha256(write_yaml(settings).encode()).hexdigest()[:8]}" if settings else ""


def run_of(name, named):
    """One of the runs that embed what has a name: they are alike in what counts for it."""
    return next(run for run in PHOTOGRAPHS if named(run) == name)


def settings_among(run, names):
    settings = recorded_settings(run, STUDY["data"])
    names = {"dataset", "encoder", *names}
    return {name: value for name, value in sorted(settings.items()) if name in names}


def images_by(images):
    """The notebook and the settings by which images are embedded, whichever run comes first.

    What else a run is set to may change. For images 06 is as 02.
    """
    own = settings_among(run_of(images, embeddings_of), IMAGES)
    return "04_imagenet_variants" if "variants" in own else "02_domain_generalization", own


def texts_by(texts):
    """The notebook and the settings by which texts are embedded."""
    run = run_of(texts, texts_of)
    return RECORDED[run]["notebook"], settings_among(run, (*IMAGES, *TEXTS))


def parts_of(images):
    """The records of jobs that share the images out: in any number, where that is done."""
    plan, folder = Path(f"cache/plans/{images}.parquet"), Path("cache/embeddings/parts")
    since = plan.stat().st_mtime if plan.exists() else math.inf

    def records(number):
        return [folder / f"{images}_{part}of{number}.json" for part in range(1, number + 1)]

    def are_done(number):
        return all(one.exists() and one.stat().st_mtime >= since for one in records(number))

    named = (re.fullmatch(re.escape(images) + r"_1of(\d+)", one.stem) for one in folder.glob("*"))
    others = sorted(int(one[1]) for one in named if one)
    wanted = STUDY["embedding_jobs"]
    return [str(one) for one in records(next(filter(are_done, [wanted, *others]), wanted))]


def targets_of(run):
    """Map a name for files to each target of a recorded run; None leaves no domain out."""
    settings = RECORDED[run]
    if "variants" in settings or settings.get("protocol") == "open class":
        return {"all": None}
    folders = Path(STUDY["data"], settings["dataset"]).glob("[!.]*/")
    domains = sorted(unicodedata.normalize("NFC", folder.name) for folder in folders)
    names = settings.get("targets") or domains
    return {f"{i}-" + re.sub(r"[^\w.+-]+", "-", name): name for i, name in enumerate(names)}


def settings_on_target(wildcards):
    """Settings of a recorded run with one seed and one target."""
    target = targets_of(wildcards.run)[wildcards.target]
    settings = recorded_settings(wildcards.run, STUDY["data"])
    settings |= {"seeds": [int(wildcards.seed)], **({"targets": [target]} if target else {})}
    return write_yaml(dict(sorted(settings.items())))


# Photographs: `make photographs` runs what is at hand, and keeps the tables.
rule photographs:
    input: photographs_at_hand


# The images of a data set are listed, looked at and hashed once, and cut into shards; jobs embed
# the shards, each some; then the texts are embedded. Runs only read what is stored.
rule embedding_plan:
    message: "Images: {wildcards.images}"
    priority: 3
    output: "cache/plans/{images}.parquet"
    log: "results/logs/plan_{images}.log"
    threads: all_cores()
    resources: mem_mb=growing(2000), runtime=growing(120)
    params:
        code=digest(f"{SCRIPTS}/embedding_plan.py"),
        notebook=lambda wildcards: images_by(wildcards.images)[0],
        settings=lambda wildcards: write_yaml(images_by(wildcards.images)[1]),
    shell:
        "unset TQDM_DISABLE; "
        "{JOB} {SCRIPTS}/embedding_plan.py {params.notebook} -y {params.settings:q} {output}"
        " > {log} 2>&1"


rule embed_images:
    message: "Embeddings: {wildcards.images}, {wildcards.part} of {wildcards.parts} ({log})"
    priority: 3
    input: "cache/plans/{images}.parquet"
    output: "cache/embeddings/parts/{images}_{part}of{parts}.json"
    log: "results/logs/embed_{images}_{part}of{parts}.log"
    threads: all_cores()
    resources: mem_mb=growing(6000), runtime=growing(720)
    params:
        code=digest(f"{SCRIPTS}/embed_images.py", data=WEIGHTS),
        notebook=lambda wildcards: images_by(wildcards.images)[0],
        settings=lambda wildcards: write_yaml(images_by(wildcards.images)[1]),
    wildcard_constraints: part="[0-9]+", parts="[0-9]+"
    shell:
        "export OMP_NUM_THREADS={threads}; unset TQDM_DISABLE; "
        "{JOB} {SCRIPTS}/embed_images.py {params.notebook} -y {params.settings:q}"
        " --part {wildcards.part} --parts {wildcards.parts} {input} {output} > {log} 2>&1"


rule embed_texts:
    message: "Embeddings: {wildcards.texts}"
    priority: 3
    input:
        lambda wildcards: parts_of(embeddings_of(run_of(wildcards.texts, texts_of))),
    output: "cache/embeddings/{texts}.json"
    log: "results/logs/embed_{texts}.log"
    threads: all_cores()
    resources: mem_mb=growing(4000), runtime=growing(720)
    params:
        code=digest(f"{SCRIPTS}/embed_texts.py", data=WEIGHTS),
        notebook=lambda wildcards: texts_by(wildcards.texts)[0],
        settings=lambda wildcards: write_yaml(texts_by(wildcards.texts)[1]),
    wildcard_constraints: texts=one_of({texts_of(run) for run in PHOTOGRAPHS})
    shell:
        "export OMP_NUM_THREADS={threads}; unset TQDM_DISABLE; "
        "{JOB} {SCRIPTS}/embed_texts.py {params.notebook} -y {params.settings:q} {output}"
        " > {log} 2>&1"


# The plan is all that it needs, so it comes before images are embedded. Targets do not wait for it:
# one more seed would evaluate all of them again.
rule recorded_check:
    message: "Photographs: {wildcards.run}, check of the settings"
    priority: 4
    input:
        notebook=lambda wildcards: ancient(recorded_notebook(wildcards)),
        plan=lambda wildcards: f"cache/plans/{embeddings_of(wildcards.run)}.parquet",
    output: touch("results/photographs/{run}.checked")
    log: "results/logs/{run}_check.log"
    resources: mem_mb=growing(2000), runtime=growing(30)
    params:
        notebook=lambda wildcards: RECORDED[wildcards.run]["notebook"],
        settings=lambda wildcards: write_yaml(recorded_settings(wildcards.run, STUDY["data"])),
    wildcard_constraints: run=one_of(PHOTOGRAPHS)
    shell:
        "{JOB} {SCRIPTS}/run_study.py {params.notebook} --check -y {params.settings:q} > {log} 2>&1"


rule recorded_on_target:
    message: "Photographs: {wildcards.run}, seed {wildcards.seed}, target {wildcards.target}"
    priority: 1
    input:
        notebook=lambda wildcards: ancient(recorded_notebook(wildcards)),
        embeddings=lambda wildcards: f"cache/embeddings/{texts_of(wildcards.run)}.json",
    output:
        results="results/photographs/{run}_seed{seed}_{target}.parquet",
    log: "results/logs/{run}_seed{seed}_{target}.log"
    resources: mem_mb=growing(4000), runtime=growing(240)
    params:
        code=lambda wildcards: code(RECORDED[wildcards.run]["notebook"], WEIGHTS),
        notebook=lambda wildcards: RECORDED[wildcards.run]["notebook"],
        settings=settings_on_target,
        files=files,
    wildcard_constraints: run=one_of(PHOTOGRAPHS)
    shell:
        "export OMP_NUM_THREADS={threads}; unset TQDM_DISABLE; "
        + RUN_STUDY.replace("NOTEBOOK", "{params.notebook}")


rule recorded_run:
    message: "Photographs: {wildcards.run}, all seeds and targets"
    input:
        notebook=lambda wildcards: ancient(recorded_notebook(wildcards)),
        embeddings="results/photographs/{run}.checked",
        tables=lambda wildcards: expand(
            "results/photographs/{run}_seed{seed}_{target}.parquet",
            run=wildcards.run, seed=RECORDED[wildcards.run]["seeds"],
            target=targets_of(wildcards.run),
        ),
    output:
        page="results/recorded/{run}.ipynb",
        results="results/recorded/{run}.parquet",
    log: "results/logs/recorded_{run}.log"
    resources: mem_mb=growing(2000), runtime=growing(30)
    params:
        code=lambda wildcards: code(RECORDED[wildcards.run]["notebook"], WEIGHTS),
        settings=lambda wildcards: write_yaml(recorded_settings(wildcards.run, STUDY["data"])),
        files=files,
    wildcard_constraints: run=one_of(PHOTOGRAPHS)
    shell: EXECUTE


rule recorded_embeddings:
    message: "Published embeddings: {wildcards.run} (progress: {log})"
    input: notebook=lambda wildcards: ancient(recorded_notebook(wildcards))
    output:
        page="results/recorded/{run}.ipynb",
        results="results/recorded/{run}.parquet",
    log: "results/logs/recorded_{run}.log"
    threads: all_cores()
    resources: mem_mb=growing(4000), runtime=growing(120)
    params:
        code=lambda wildcards: code(RECORDED[wildcards.run]["notebook"], WEIGHTS),
        settings=lambda wildcards: write_yaml(recorded_settings(wildcards.run, STUDY["data"])),
        files=files,
    wildcard_constraints: run=one_of(PUBLISHED)
    shell:
        "export OMP_NUM_THREADS={threads}; unset TQDM_DISABLE; "
        + EXECUTE.replace(" > ", " --log-output > ")


# The comparison of all methods, `make methods`: every seed and target on its own, then all of them.
rule methods:
    input: expand("results/recorded/{run}.parquet", run=METHODS)


rule methods_on_target:
    message: "Methods: {wildcards.run}, seed {wildcards.seed}, target {wildcards.target}"
    input:
        notebook=ancient("notebooks/06_methods.ipynb"),
        embeddings="cache/embeddings/seed{seed}.json",
    output:
        results="results/06_methods/{run}_seed{seed}_{target}.parquet",
    log: "results/logs/{run}_seed{seed}_{target}.log"
    resources: mem_mb=growing(3000), runtime=growing(240)
    params:
        code=lambda wildcards: code("06_methods"),
        settings=lambda wildcards: write_yaml(
            recorded_settings(wildcards.run, STUDY["data"])
            | {"seeds": [int(wildcards.seed)], "targets": [wildcards.target]}
        ),
        files=files,
    wildcard_constraints: run=one_of(METHODS)
    shell: RUN_STUDY.replace("NOTEBOOK", "06_methods")


rule gather_methods:
    message: "Methods: {wildcards.run}, all seeds"
    input:
        notebook=ancient("notebooks/06_methods.ipynb"),
        tables=lambda wildcards: expand(
            "results/06_methods/{run}_seed{seed}_{target}.parquet",
            run=wildcards.run, seed=SEEDS, target=METHODS[wildcards.run]["targets"],
        ),
    output:
        page="results/recorded/{run}.ipynb",
        results="results/recorded/{run}.parquet",
    log: "results/logs/recorded_{run}.log"
    resources: mem_mb=growing(2000), runtime=growing(30)
    params:
        code=lambda wildcards: code("06_methods"),
        settings=lambda wildcards: write_yaml(recorded_settings(wildcards.run, STUDY["data"])),
        files=files,
    wildcard_constraints: run=one_of(METHODS)
    shell: EXECUTE


# The paper's open questions, `make questions`: each half is one notebook.
rule questions:
    input: expand("results/recorded/{run}.parquet", run=QUESTIONS)


rule questions_run:
    message: "Questions: {wildcards.run} (progress: {log})"
    input:
        lambda wildcards: [  # the comparison of all methods, which one of them reads
            f"reports/recorded/{run}.parquet"
            for run in METHODS
            if RECORDED[wildcards.run]["notebook"] == "10_open_questions"
        ],
        notebook=lambda wildcards: ancient(recorded_notebook(wildcards)),
    output:
        page="results/recorded/{run}.ipynb",
        results="results/recorded/{run}.parquet",
    log: "results/logs/recorded_{run}.log"
    resources: mem_mb=growing(3000), runtime=growing(120)
    params:
        code=lambda wildcards: code(RECORDED[wildcards.run]["notebook"], WEIGHTS),
        settings=lambda wildcards: write_yaml(recorded_settings(wildcards.run, STUDY["data"])),
        files=files,
    wildcard_constraints: run=one_of(QUESTIONS)
    shell:
        "unset TQDM_DISABLE; " + EXECUTE.replace(" > ", " --log-output > ")


localrules: recorded_run, gather_methods, recorded_page  # pages of tables, of seconds


rule recorded_page:
    message: "Recorded: {wildcards.run}"
    input:
        notebook=lambda wildcards: ancient(recorded_notebook(wildcards)),
        tables=["reports/recorded/{run}.parquet"],
    output:
        page="results/{run}.ipynb",
        claims="results/{run}_claims.parquet",
    log: "results/logs/{run}.log"
    resources: mem_mb=growing(2000), runtime=growing(30)
    params:
        code=lambda wildcards: code(RECORDED[wildcards.run]["notebook"]),
        settings=lambda wildcards: write_yaml(recorded_settings(wildcards.run, "data")),
        files=files,
        title=lambda wildcards: title(RECORDED[wildcards.run]),
    wildcard_constraints: run=one_of(RECORDED)
    shell: TITLED
