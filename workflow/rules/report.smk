# The front page, from what the other pages found, and the rendered report.

from glob import glob

PAGES = pages_of(STUDY)
SHOWN = shown_runs(STUDY)
OF_ACCURACIES = ("02_domain_generalization", "04_imagenet_variants")
SHOWN_PHOTOGRAPHS = [run for run in SHOWN if RECORDED[run]["notebook"] in OF_ACCURACIES]
COMPARISONS = [run for run in SHOWN if RECORDED[run]["notebook"] == "06_methods"]
UNJUDGED = ("05_your_data", "07_explore", *OVERVIEWS)
CLAIMING = [page.name for page in PAGES if page.name not in UNJUDGED]
HEADLINE, *OTHERS = RUNS


localrules: summary, claims, numbers, report  # of seconds


rule summary:
    message: "Front page: headline and verdicts"
    input:
        notebook=ancient("notebooks/00_summary.ipynb"),
        table=f"results/02_domain_generalization_{HEADLINE}.parquet",
        others=expand("results/02_domain_generalization_{run}.parquet", run=OTHERS),
        recorded=expand("reports/recorded/{run}.parquet", run=SHOWN_PHOTOGRAPHS),
        claims=expand("results/{name}_claims.parquet", name=CLAIMING),
    output: page="index.ipynb"
    log: "results/logs/00_summary.log"
    resources: mem_mb=growing(2000), runtime=growing(30)
    params:
        code=code("00_summary", data=None),
        settings=as_yaml({}),
        files=files,
        order=[page.name for page in PAGES],  # Snakemake records the files, not what each is for
    shell: EXECUTE


rule claims:
    message: "Every claim"
    input:
        notebook=ancient("notebooks/00_claims.ipynb"),
        claims=rules.summary.input.claims,
    output: page="results/claims.ipynb"
    log: "results/logs/00_claims.log"
    resources: mem_mb=growing(2000), runtime=growing(30)
    params:
        code=code("00_claims", data=None),
        settings=as_yaml({}),
        files=files,
        order=[page.name for page in PAGES],
    shell: EXECUTE


rule numbers:
    message: "Every table"
    input:
        notebook=ancient("notebooks/00_numbers.ipynb"),
        table=rules.summary.input.table,
        others=rules.summary.input.others,
        recorded=rules.summary.input.recorded,
        comparisons=expand("reports/recorded/{run}.parquet", run=COMPARISONS),
    output: page="results/all_numbers.ipynb"
    log: "results/logs/00_numbers.log"
    resources: mem_mb=growing(2000), runtime=growing(30)
    params:
        code=code("00_numbers", data=None),
        settings=as_yaml({}),
        files=files,
        order=[page.name for page in PAGES],
    shell: EXECUTE


rule report:
    message: "Report"
    input:
        "index.ipynb",
        [page.path for page in PAGES],
        "_quarto.yml",
        sorted(glob("reports/*.*")),
        sorted(glob("reports/vendor/*")),
    output: "_site/index.html"
    log: "results/logs/report.log"
    resources: mem_mb=growing(2000), runtime=growing(30)
    params:
        code=digest(*(f"{SCRIPTS}/{name}.py" for name in ("render_report", "offline", "publish"))),
        pages=as_yaml([list(page) for page in PAGES]),
    shell: "{JOB} {SCRIPTS}/render_report.py --pages {params.pages:q} > {log} 2>&1"
