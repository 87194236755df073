"""Run what the settings of a notebook say, and keep its table: a run that needs no page.

    python workflow/scripts/run_study.py 02_domain_generalization -y "{seeds: [3]}"

The settings are those of the notebook, whose cell of parameters has the defaults; paths
are as seen from notebooks/.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from icm_study.experiments.names import check_names
from icm_study.experiments.record import default_parameters
from icm_study.experiments.study import Study
from icm_study.plain_yaml import read_parameters


def main() -> int:
    """Run what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebook", help="its name, without its ending")
    parser.add_argument("-y", "--yaml", action="append", default=[], help="parameters, as YAML")
    parser.add_argument("--check", action="store_true", help="check the settings, and run nothing")
    arguments = parser.parse_args()
    os.chdir("notebooks")
    try:
        defaults = default_parameters(Path(f"{arguments.notebook}.ipynb"))
        given = read_parameters(arguments.yaml, [])
        check_names(given, defaults, arguments.notebook)
        study = Study(arguments.notebook, defaults | given)
        study.check() if arguments.check else study.results()
    except (ValueError, OSError, RuntimeError) as error:
        print(f"run_study: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
