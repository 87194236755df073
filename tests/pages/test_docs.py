"""What the documents show is true: the README's example runs, the model card has true numbers."""

import json
import re

import pytest
from conftest import ROOT

WEIGHTS = ROOT / "icm_study" / "encoders" / "weights"


def test_the_readme_example_runs_as_it_stands():
    _, code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    accuracy = names["probe"].score(
        names["projection"].transform(names["embeddings"]), names["latents"]["label"]
    )
    assert accuracy > 0.5  # ten classes


@pytest.mark.parametrize("name", ["animal-world", "animal-world-biased"])
def test_the_model_card_has_the_accuracy_that_training_measured(name):
    measured = json.loads((WEIGHTS / f"{name}.json").read_text())["zero_shot_accuracy"]
    (row,) = re.findall(
        rf"^\| `{name}` \| (.*) \|$", (WEIGHTS / "README.md").read_text(), re.MULTILINE
    )
    shown = [float(cell) for cell in row.split("|")]
    assert shown == pytest.approx([100 * value for value in measured.values()], abs=0.06)
