# Runs whose tables are kept in reports/recorded/, from which their pages are made: they need data
# or weights from outside, or take long.

METHODS = STUDY["methods"]
RECORDED = recorded_runs(STUDY)
PHOTOGRAPHS = [run for run in RECORDED if run not in METHODS]


def recorded_settings(run, data):
    """Settings of a recorded run, whose data sets are folders of `data` (as seen from the top)."""
    own = {name: value for name, value in RECORDED[run].items() if name != "notebook"}
    if run in METHODS:
        return own
    folder = Path("..", data)  # an absolute path stays as it is
    for name in ("dataset", "projection_images"):
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
    runs = [run for run in PHOTOGRAPHS if at_hand(run)]
    if not runs:
        wanted = sorted({RECORDED[run]["dataset"] for run in PHOTOGRAPHS})
        raise WorkflowError(
            f"{STUDY['data']} holds the data of no recorded run ({', '.join(wanted) or 'none'}). "
            "reports/data.qmd says how to get them; `--config data=FOLDER` names another place."
        )
    return [f"results/recorded/{run}.parquet" for run in runs]


def all_cores():
    """The cores of this machine; a job on a cluster has one, or what `--set-threads` says."""
    try:
        return workflow.cores
    except WorkflowError:
        return 1


# Photographs: `make photographs` runs what is at hand, and keeps the tables.
rule photographs:
    input: photographs_at_hand


rule recorded_run:
    message: "Photographs: {wildcards.run} (progress: results/logs/recorded_{wildcards.run}.log)"
    input: notebook=lambda wildcards: ancient(recorded_notebook(wildcards))
    output:
        page="results/recorded/{run}.ipynb",
        results="results/recorded/{run}.parquet",
    log: "results/logs/recorded_{run}.log"
    params:
        code=lambda wildcards: code(
            RECORDED[wildcards.run]["notebook"], "icm_study/encoders/weights/*.safetensors"
        ),
        settings=lambda wildcards: write_yaml(recorded_settings(wildcards.run, STUDY["data"])),
        files=files,
    wildcard_constraints: run=one_of(PHOTOGRAPHS)
    threads: all_cores()
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
    params:
        code=lambda wildcards: code("06_methods"),
        settings=lambda wildcards: write_yaml(recorded_settings(wildcards.run, STUDY["data"])),
        files=files,
    wildcard_constraints: run=one_of(METHODS)
    shell: EXECUTE


rule recorded_page:
    message: "Recorded: {wildcards.run}"
    input:
        notebook=lambda wildcards: ancient(recorded_notebook(wildcards)),
        tables=["reports/recorded/{run}.parquet"],
    output:
        page="results/{run}.ipynb",
        claims="results/{run}_claims.parquet",
    log: "results/logs/{run}.log"
    params:
        code=lambda wildcards: code(RECORDED[wildcards.run]["notebook"]),
        settings=lambda wildcards: write_yaml(recorded_settings(wildcards.run, "data")),
        files=files,
        title=lambda wildcards: title(RECORDED[wildcards.run]),
    wildcard_constraints: run=one_of(RECORDED)
    shell: TITLED
