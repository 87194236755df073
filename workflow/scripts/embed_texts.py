"""Embed the captions, edits and prompts of runs: the runs only read them.

Where a run chooses settings by what intervention each image got, that is found here, too.

    python workflow/scripts/embed_texts.py NOTEBOOK -y "{SETTINGS}" RECORD

RECORD, a JSON file, says with which encoder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from icm_study.experiments.choosing import CHOICES
from icm_study.experiments.record import checked, default_parameters
from icm_study.experiments.study import Study
from icm_study.plain_yaml import read_parameters


def main() -> int:
    """Embed what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebook", help="its name, without its ending")
    parser.add_argument("-y", "--yaml", required=True, help="settings that say which texts")
    parser.add_argument("record", type=Path)
    arguments = parser.parse_args()
    record, name = arguments.record.absolute(), arguments.notebook
    os.chdir("notebooks")
    try:
        given = default_parameters(Path(f"{name}.ipynb")) | read_parameters([arguments.yaml], [])
        study = Study(name, checked(name, given))
        study.beds[0].embed_texts(study.embedder)
        if any(CHOICES[choice].needs_draws for choice in study.plan.choices):
            _ = study.drawn
    except (ValueError, OSError, RuntimeError) as error:
        print(f"embed_texts: {error}", file=sys.stderr)
        return 1
    encoder = study.embedder.encoder
    done = {"encoder": encoder.name, "weights": encoder.fingerprint}
    record.write_text(json.dumps(done, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
