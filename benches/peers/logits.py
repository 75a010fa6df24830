"""The logits of checkpoints by the library whose format they are in, in f32 on the CPU, in the Python environment of it.

logits.py WINDOWS.json JOBS.json     where JOBS is [{"reader": R, "model": FOLDER, "out": FILE.npy}, ...] and R is

transformers   for dense checkpoints and those of compressed-tensors
gptqmodel      for those in GPTQ's layout: GPTQModel's loader and its torch kernel, which unpacks and multiplies

An OUT is [windows, length, vocabulary] in f32; it is not written if the library refuses the checkpoint, and the last line of
its error goes to OUT.error. GPTQModel reads in half precision only; its packed layers are then told to go on in f32, so that
what is compared is what the file says and not the rounding of a kernel.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch


def load(reader: str, path: str) -> torch.nn.Module:
    if reader == "gptqmodel":
        from gptqmodel import BACKEND, GPTQModel

        return GPTQModel.load(path, backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16).model.float()
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


windows, jobs = (json.loads(Path(path).read_text()) for path in sys.argv[1:])
ids = torch.tensor(windows)
for job in jobs:
    out = Path(job["out"])
    try:
        model = load(job["reader"], job["model"]).eval()
        with torch.inference_mode():
            logits = [model(input_ids=batch, use_cache=False).logits.float() for batch in ids.split(4)]
        np.save(out, torch.cat(logits).numpy())
    except Exception as error:
        out.with_suffix(".error").write_text(f"{type(error).__name__}: {str(error).strip()}")
