"""Texts as tokens of the reference model.

tokens.py calibration MODEL TEXT OUT.json   128 sequences of 256 tokens, evenly spaced; the same as text in OUT.txt
tokens.py windows     MODEL TEXT OUT.json   the first 60 windows of 256 tokens, none held twice
tokens.py overlapping MODEL TEXT OUT.json   the same, each starting at the last token of the one before
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer

SEQUENCES, LENGTH, WINDOWS = 128, 256, 60

what, model, text, out = sys.argv[1:]
tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
ids = tokenizer.encode(Path(text).read_text(encoding="utf-8"), add_special_tokens=False).ids
if what == "calibration":
    last = len(ids) - LENGTH
    starts = [last * i // (SEQUENCES - 1) for i in range(SEQUENCES)]
elif what == "windows":
    starts = [LENGTH * i for i in range(WINDOWS)]
else:
    starts = [(LENGTH - 1) * i for i in range(WINDOWS)]
sequences = [ids[start : start + LENGTH] for start in starts]
Path(out).write_text(json.dumps(sequences))
if what == "calibration":
    Path(out).with_suffix(".txt").write_text("".join(map(tokenizer.decode, sequences)), encoding="utf-8")
