#!/usr/bin/env bash
# scikit-learn refuses a frame whose columns are in another order than at the fit, but only if their
# names are texts: with the numbers that pandas gives by itself it predicts from the wrong columns.
#
# Version: scikit-learn 1.9.1 with pandas 3.1.1 and numpy 2.4.6, Python 3.11.
# Guess: a fitted estimator that is given a frame matches its columns, or refuses them, by name.
# Seen: columns a, b, c in the order c, b, a: ValueError. Columns 0, 1, 2 in the order 2, 1, 0: no
#   error and no warning, and an accuracy of 0.99 falls to chance. Embeddings in a frame have such
#   columns, and a merge, a pivot or a set difference puts them in another order.
# Source: feature_names_in_ is set for names that are all texts only; sklearn/utils/validation.py,
#   _get_feature_names.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check \
  scikit-learn==1.9.1 pandas==3.1.1 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -W error - <<'PYTHON'
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

X = np.random.default_rng(0).normal(size=(200, 3))
y = (X[:, 0] > 0).astype(int)
named, numbered = pd.DataFrame(X, columns=list("abc")), pd.DataFrame(X)
try:
    LogisticRegression().fit(named, y).score(named[list("cba")], y)
    raise SystemExit("texts in another order are accepted now")
except ValueError as error:
    print("texts:", str(error).splitlines()[0])
model = LogisticRegression().fit(numbered, y)
right = model.score(numbered, y)
try:
    wrong = model.score(numbered[[2, 1, 0]], y)
except ValueError:
    raise SystemExit("numbers in another order are refused now")
print("numbers: accuracy in order", right, "in another order", wrong)
assert right > 0.95, "the example no longer fits"
assert wrong < 0.7, "numbered columns are matched now"
PYTHON
