"""Quantizes a model with GPTQModel, llm-compressor or AutoRound, in the Python environment of that tool.

make.py TOOL MODEL CALIBRATION.json OUT --bits B --group G [--act-order]

Default settings but for bits and group; embedding and head stay dense. The last line it prints is JSON: the seconds of
the quantization alone, without imports, reading the model and saving.
"""

import argparse
import json
import time

import torch

parser = argparse.ArgumentParser()
parser.add_argument("tool", choices=["gptqmodel", "llm-compressor", "auto-round"])
parser.add_argument("model")
parser.add_argument("calibration")
parser.add_argument("out")
parser.add_argument("--bits", type=int, required=True)
parser.add_argument("--group", type=int, required=True)
parser.add_argument("--act-order", action="store_true", help="GPTQModel: columns by descending energy, order stored")
parser.add_argument("--iterations", type=int, default=50, help="AutoRound: steps of sign descent")
options = parser.parse_args()

torch.manual_seed(0)
with open(options.calibration) as file:
    sequences = json.load(file)


def gptqmodel() -> float:
    from gptqmodel import GPTQModel, QuantizeConfig

    config = QuantizeConfig(
        bits=options.bits, group_size=options.group, desc_act=options.act_order, offload_to_disk=False
    )
    model = GPTQModel.load(options.model, config)
    examples = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in sequences]
    start = time.monotonic()
    model.quantize(examples, batch_size=8)
    seconds = time.monotonic() - start
    model.save(options.out)
    return seconds


def llm_compressor() -> float:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    weights = QuantizationArgs(num_bits=options.bits, group_size=options.group, strategy="group", symmetric=True)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    recipe = GPTQModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])
    examples = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in sequences]
    start = time.monotonic()
    oneshot(
        model=model,
        dataset=Dataset.from_list(examples),
        recipe=recipe,
        max_seq_length=len(sequences[0]),
        num_calibration_samples=len(sequences),
    )
    seconds = time.monotonic() - start
    model.save_pretrained(options.out, save_compressed=True)
    return seconds


def auto_round() -> float:
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    rounder = AutoRound(
        model,
        tokenizer=AutoTokenizer.from_pretrained(options.model),
        bits=options.bits,
        group_size=options.group,
        sym=True,
        iters=options.iterations,
        seqlen=len(sequences[0]),
        nsamples=len(sequences),
        dataset=list(torch.tensor(sequences).split(8)),
        device_map="cpu",
    )
    start = time.monotonic()
    rounder.quantize()
    seconds = time.monotonic() - start
    rounder.save_quantized(options.out, format="auto_gptq")
    return seconds


seconds = {"gptqmodel": gptqmodel, "llm-compressor": llm_compressor, "auto-round": auto_round}[options.tool]()
print()
print(json.dumps({"seconds": seconds}), flush=True)
