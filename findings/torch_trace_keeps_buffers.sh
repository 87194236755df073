#!/usr/bin/env bash
# A traced torch module has its non-persistent buffers in its state_dict.
#
# Version: torch 2.14.1 (CPU), Python 3.11.
# Guess: torch.jit.trace keeps which buffers are persistent, so that the state_dict of the trace
#   has the same keys as that of the module.
# Seen: a buffer registered with persistent=False, as open_clip's attention mask of the text
#   tower is, is missing from the module's state_dict and present in that of its trace, also
#   after saving and loading. Weights taken out of a published TorchScript archive of a CLIP
#   model so have one key too many, and load_state_dict refuses them.

set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.14.1 numpy==2.2.6
"$folder/env/bin/python" - "$folder/traced.pt" <<'PYTHON'
import sys

import torch


class Masked(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)
        self.register_buffer("mask", torch.ones(3), persistent=False)

    def forward(self, x):
        return self.linear(x) * self.mask


module = Masked()
torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3)), sys.argv[1])
traced = torch.jit.load(sys.argv[1])
extra = set(traced.state_dict()) - set(module.state_dict())
print("only in the trace:", extra)
assert extra == {"mask"}, "tracing keeps the flag of buffers now"
PYTHON
echo "seen as described"
