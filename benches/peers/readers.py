"""Whether the reference libraries and we read the same from the same file.

    QUENCH=target/release/quench benches/peers/readers.py             all
    QUENCH=target/release/quench benches/peers/readers.py 'auto-*'    those whose name in the table is like this

Our checkpoints in GPTQ's layout are loaded by GPTQModel, those of compressed-tensors by transformers, and the other way round
the files that GPTQModel, AutoRound and llm-compressor wrote are read by us. For every file:

- logits: the library's, against those of transformers for the dense weights that `quench convert --to safetensors` decodes
  from the file; the largest difference over 8 windows of 256 tokens, at most 1e-3
- `quench eval` of the file, our own forward pass on the packed weights, against perplexity and mean KL divergence from the
  library's logits on the same windows; the perplexity at most 1e-3 apart, relatively

Prints a Markdown table; the exit code is 1 if a row fails.
"""

import fnmatch
import json
import math
import shutil
import subprocess
import sys

import tools
from tools import DATA, DENSE, HERE, OUT, QUENCH

WORK = OUT / "readers"
WINDOWS = 8
WORST = 1e-3

# Beside the recipes of `quench recipes`.
RECIPES = {
    "int8-g128": 'code = "int8"\ngroup = 128\nmethod = "rtn"',
    "uint4-g128": 'code = "uint4"\ngroup = 128\nmethod = "rtn"',
    "uint3-g64": 'code = "uint3"\ngroup = 64\nmethod = "rtn"',
    "int4-row": 'code = "int4"\ngroup = "row"\nmethod = "rtn"',
}
OURS = ["gptq-int4-g128", "gptq-int3-g128", "gptq-int2-g64", "gptq-int4-act-order", *RECIPES]
DIALECTS = {"gptq": "gptqmodel", "compressed-tensors": "transformers"}
ENVIRONMENTS = {"gptqmodel": "gptqmodel", "transformers": "llm-compressor"}


def quantized(name: str):
    """Our model by a recipe; made if it is missing."""
    folder = OUT / f"files/quench-{name}"
    if not folder.exists():
        recipe = name
        if name in RECIPES:
            recipe = WORK / f"{name}.toml"
            recipe.write_text(f'name = "{name}"\nabout = "{name}"\n\n[[rules]]\nlayers = "*"\n{RECIPES[name]}\n')
        command = [QUENCH, "quantize", DENSE, "--recipe", recipe, "--calibration", tools.wiki()]
        tools.run([*command, "--output", folder, "--quiet"], WORK / f"{name}.log")
    return folder


def with_tokenizer(folder):
    """A stored folder, as links, with the tokenizer that GPTQModel wants beside the weights."""
    whole = WORK / folder.name
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    for file in [*folder.iterdir(), *DENSE.glob("tokenizer*")]:
        (whole / file.name).symlink_to(file)
    return whole


def files(wanted: list):
    """All that is compared: who wrote it, its name, the library that reads it, and where it is."""
    like = lambda name: any(fnmatch.fnmatch(name, glob) for glob in wanted or ["*"])
    for name in OURS:
        for dialect, reader in DIALECTS.items():
            if like(f"{name}, {dialect}"):
                out = tools.convert(quantized(name), dialect, WORK / f"{name}-{dialect}")
                yield "Quench", f"{name}, {dialect}", reader, out
    for folder in sorted((DATA / "peers").iterdir()):
        writer = folder.name.split("-w")[0]
        if (folder / "config.json").exists() and like(folder.name):
            reader = "transformers" if writer == "llm-compressor" else "gptqmodel"
            yield writer, folder.name, reader, with_tokenizer(folder)


def logits(jobs: list, windows) -> None:
    """Runs all jobs, one process for each environment."""
    for environment in sorted({ENVIRONMENTS[job["reader"]] for job in jobs}):
        mine = WORK / f"jobs-{environment}.json"
        mine.write_text(json.dumps([job for job in jobs if ENVIRONMENTS[job["reader"]] == environment]))
        tools.run([tools.python(environment), HERE / "logits.py", windows, mine], WORK / f"logits-{environment}.log")


def main() -> bool:
    WORK.mkdir(parents=True, exist_ok=True)
    for old in [*WORK.glob("*.npy"), *WORK.glob("*.error")]:
        old.unlink()
    windows = WORK / "windows.json"
    subprocess.run([tools.python("venv"), HERE / "tokens.py", "windows", DENSE, tools.held_out(), windows], check=True)
    windows.write_text(json.dumps(json.loads(windows.read_text())[:WINDOWS]))

    dense = WORK / "dense.npy"
    jobs, compared = [{"reader": "transformers", "model": str(DENSE), "out": str(dense)}], []
    for at, (writer, name, reader, folder) in enumerate(files(sys.argv[1:])):
        decoded = tools.convert(folder, "safetensors", WORK / f"decoded-{at}")
        there, here = WORK / f"library-{at}.npy", WORK / f"decoded-{at}.npy"
        jobs.append({"reader": reader, "model": str(folder), "out": str(there)})
        jobs.append({"reader": "transformers", "model": str(decoded), "out": str(here)})
        compared.append((writer, name, reader, folder, there, here))
    logits(jobs, windows)

    rows, good = [], True
    for writer, name, reader, folder, there, here in compared:
        failed = [path.with_suffix(".error") for path in (there, here) if not path.exists()]
        if failed:
            rows.append([writer, name, reader, *[""] * 5, "FAIL: " + failed[0].read_text().replace("\n", " ")[:200]])
            good = False
            continue
        command = [tools.python("venv"), HERE / "distance.py", windows, dense, there, here]
        library = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        ours = tools.evaluate(folder, "--windows", WINDOWS)
        relative = abs(ours["perplexity"] / library["perplexity"] - 1)
        passed = math.isfinite(library["apart"]) and library["apart"] <= WORST and relative <= WORST
        good &= passed
        rows.append([
            writer, name, reader, f"{library['apart']:.1e}", f"{library['perplexity']:.4f}", f"{ours['perplexity']:.4f}",
            f"{library['kl']:.6f}", f"{ours['kl']['mean']:.6f}", "pass" if passed else "FAIL",
        ])
    head = ["written by", "file", "library", "logits apart", "perplexity, library", "quench eval", "mean KL, library",
            "quench eval", ""]
    print(tools.table(head, rows))
    print(f"\n{sum(row[-1] == 'pass' for row in rows)} passed, {sum(row[-1] != 'pass' for row in rows)} failed")
    return good


if __name__ == "__main__":
    sys.exit(not main())
