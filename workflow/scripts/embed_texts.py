"""Embed the captions, edits and prompts of runs on one data set: the runs only read them.

    python workflow/scripts/embed_texts.py --runs "[[NOTEBOOK, {SETTINGS}], ...]" RECORD

RECORD, a JSON file, says with which encoder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from icm_study.experiments.record import checked, default_parameters
from icm_study.experiments.study import Study
from icm_study.plain_yaml import read_yaml


def main() -> int:
    """Embed what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", required=True, help="YAML: [[notebook, {name: value}], ...]")
    parser.add_argument("record", type=Path)
    arguments = parser.parse_args()
    record = arguments.record.absolute()
    os.chdir("notebooks")
    try:
        for name, own in read_yaml(arguments.runs, "--runs"):
            study = Study(name, checked(name, default_parameters(Path(f"{name}.ipynb")) | own))
            study.beds[0].embed_texts(study.embedder)
    except (ValueError, OSError) as error:
        print(f"embed_texts: {error}", file=sys.stderr)
        return 1
    encoder = study.embedder.encoder
    done = {"encoder": encoder.name, "weights": encoder.fingerprint}
    record.write_text(json.dumps(done, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
