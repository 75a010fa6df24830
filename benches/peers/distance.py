"""How far the logits of two programs are apart, and what they score.

distance.py WINDOWS.json DENSE.npy A.npy B.npy

Prints JSON: the largest difference of a logit, and perplexity and mean KL divergence from DENSE of A, at positions 1 to the last.
"""

import json
import sys

import numpy as np


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


with open(sys.argv[1]) as file:
    ids = np.array(json.load(file))
dense, a, b = (np.load(path) for path in sys.argv[2:])
p, q = (log_softmax(logits[:, :-1].astype(np.float64)) for logits in (dense, a))
chosen = np.take_along_axis(q, ids[:, 1:, None], axis=-1)
print(
    json.dumps(
        {
            "apart": float(np.abs(a - b).max()),
            "perplexity": float(np.exp(-chosen.mean())),
            "kl": float((np.exp(p) * (p - q)).sum(axis=-1).mean()),
        }
    )
)
