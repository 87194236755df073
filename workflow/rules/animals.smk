# The animal world: silhouettes, embeddings, and the notebooks that run on it or on no images.

RUNS = {  # name -> settings, each a page; a run may have seeds of its own
    name: {"seeds": SEEDS} | run for name, run in STUDY["domain_generalization"].items()
}


def worlds_to_embed(seed):
    """Map each encoder to the worlds of all runs with it and this seed, each once."""
    worlds = {}
    for run in RUNS.values():
        if seed in run["seeds"]:
            listed = worlds.setdefault(run["encoder"], [])
            listed += [world for world in run["worlds"] if world not in listed]
    return worlds


def tries_singles(seed):
    """Say whether the ablations try each image intervention on its own with this seed."""
    settings = settings_of("03_ablations", seeds=SEEDS)
    return seed in settings["seeds"][: settings.get("single_seeds", 0)]


localrules: world  # of seconds; a job of a cluster waits longer in its queue


rule world:
    message: "World: silhouettes and their split"
    priority: 4
    output: "cache/silhouettes.npz"
    log: "results/logs/world.log"
    resources: mem_mb=growing(1000), runtime=growing(10)
    params: code=digest(f"{SCRIPTS}/world.py")
    shell: "{JOB} {SCRIPTS}/world.py {output} > {log} 2>&1"


# What others wait for, and what takes longest, goes first; the short pages fill in at the end.
rule embeddings:
    message: "Embeddings: original and intervened, seed {wildcards.seed}"
    priority: 3
    input: "cache/silhouettes.npz"
    output: "cache/embeddings/seed{seed}.json"
    log: "results/logs/embeddings_seed{seed}.log"
    resources: mem_mb=growing(3000), runtime=growing(60)
    params:
        code=digest(f"{SCRIPTS}/embed.py", data=WEIGHTS),
        worlds=lambda wildcards: write_yaml(worlds_to_embed(int(wildcards.seed))),
        singles=lambda wildcards: "--singles" if tries_singles(int(wildcards.seed)) else "",
    shell:
        "{JOB} {SCRIPTS}/embed.py --silhouettes {input} --seed {wildcards.seed}"
        " --worlds {params.worlds:q} {params.singles} --record {output} > {log} 2>&1"


rule theory:
    message: "Theory"
    input: notebook=ancient("notebooks/01_theory.ipynb")
    output:
        page="results/01_theory.ipynb",
        results="results/01_theory.parquet",
        claims="results/01_theory_claims.parquet",
    log: "results/logs/01_theory.log"
    resources: mem_mb=growing(2000), runtime=growing(60)
    params:
        code=code("01_theory", data=None),
        settings=as_yaml(settings_of("01_theory")),
        files=files,
    shell: EXECUTE


rule domain_generalization:
    message: "Domain generalization: {wildcards.run}, seed {wildcards.seed}"
    priority: 1
    input:
        notebook=ancient("notebooks/02_domain_generalization.ipynb"),
        embeddings="cache/embeddings/seed{seed}.json",
    output:
        results="results/02_domain_generalization/{run}_seed{seed}.parquet",
    log: "results/logs/02_domain_generalization_{run}_seed{seed}.log"
    resources: mem_mb=growing(3000), runtime=growing(60)
    params:
        code=code("02_domain_generalization"),
        settings=lambda wildcards: write_yaml(
            RUNS[wildcards.run] | {"seeds": [int(wildcards.seed)]}
        ),
        files=files,
    wildcard_constraints: run=one_of(RUNS)
    shell: RUN_STUDY.replace("NOTEBOOK", "02_domain_generalization")


# A run in several worlds is split by its seeds, and gathered here; one in a single world is quick,
# and runs here.
rule gather_domain_generalization:
    message: "Domain generalization: {wildcards.run}, all seeds"
    input:
        notebook=ancient("notebooks/02_domain_generalization.ipynb"),
        embeddings=lambda wildcards: expand(
            "cache/embeddings/seed{seed}.json", seed=RUNS[wildcards.run]["seeds"]
        ),
        tables=lambda wildcards: [
            f"results/02_domain_generalization/{wildcards.run}_seed{seed}.parquet"
            for seed in RUNS[wildcards.run]["seeds"]
            if len(RUNS[wildcards.run]["worlds"]) > 1
        ],
    output:
        page="results/02_domain_generalization_{run}.ipynb",
        results="results/02_domain_generalization_{run}.parquet",
        claims="results/02_domain_generalization_{run}_claims.parquet",
    log: "results/logs/02_domain_generalization_{run}.log"
    resources: mem_mb=growing(3000), runtime=growing(60)
    params:
        code=code("02_domain_generalization"),
        settings=lambda wildcards: write_yaml(RUNS[wildcards.run]),
        files=files,
        title=lambda wildcards: title(RUNS[wildcards.run]),
    wildcard_constraints: run=one_of(RUNS)
    shell: TITLED


rule ablations:
    message: "Ablations"
    priority: 2
    input:
        notebook=ancient("notebooks/03_ablations.ipynb"),
        embeddings=expand("cache/embeddings/seed{seed}.json", seed=SEEDS),
    output:
        page="results/03_ablations.ipynb",
        results="results/03_ablations.parquet",
        claims="results/03_ablations_claims.parquet",
    log: "results/logs/03_ablations.log"
    resources: mem_mb=growing(3000), runtime=growing(120)
    params:
        code=code("03_ablations"),
        settings=as_yaml(settings_of("03_ablations", seeds=SEEDS)),
        files=files,
    shell: EXECUTE


rule imagenet_variants:
    message: "ImageNet variants, on the animal world"
    input: notebook=ancient("notebooks/04_imagenet_variants.ipynb")
    output:
        page="results/04_imagenet_variants.ipynb",
        results="results/04_imagenet_variants.parquet",
        claims="results/04_imagenet_variants_claims.parquet",
    log: "results/logs/04_imagenet_variants.log"
    resources: mem_mb=growing(3000), runtime=growing(60)
    params:
        code=code("04_imagenet_variants"),
        settings=as_yaml(settings_of("04_imagenet_variants", seeds=SEEDS)),
        files=files,
    shell: EXECUTE


rule your_data:
    message: "Your data, on the animal world"
    input: notebook=ancient("notebooks/05_your_data.ipynb")
    output:
        page="results/05_your_data.ipynb",
        projection="results/05_your_data.safetensors",
    log: "results/logs/05_your_data.log"
    resources: mem_mb=growing(3000), runtime=growing(60)
    params:
        code=code("05_your_data"),
        settings=as_yaml(settings_of("05_your_data")),
        files=files,
    shell: EXECUTE


rule explore:
    message: "Explore, a still"
    input:
        notebook=ancient("notebooks/07_explore.ipynb"),
        embeddings=f"cache/embeddings/seed{SEEDS[0]}.json",
    output: page="results/07_explore.ipynb"
    log: "results/logs/07_explore.log"
    params:
        code=code("07_explore"),
        settings=as_yaml(settings_of("07_explore")),
        files=files,
    shell: EXECUTE
