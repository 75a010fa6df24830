"""GGUF files under llama.cpp's own perplexity tool: llama.cpp's files and ours, and whether its tool and `quench eval` agree.

    QUENCH=target/release/quench benches/peers/llama.py

Three tables as Markdown:

1. llama.cpp's files in `data/peers/llama.cpp`, scored again: they should give the figures recorded beside them.
2. Our files of the same types, made by the recipes `gguf-*` and `quench convert --to gguf`, beside those of llama.cpp with
   the importance matrix of the same calibration text; how many tensors have another type is counted.
3. Perplexity of each file on the same positions, by `llama-perplexity` and by `quench eval`. Fails if they are more than
   0.5 % apart.

The protocol of 1 and 2 is llama.cpp's: 60 chunks of 256 tokens, of which it scores the last 127; divergence from the logits
of the dense model in f32. Its strided mode scores positions 1 to 255 of windows that begin at the last token of the one
before, and that is what `quench eval --length 256 --stride 255` does: table 3.
"""

import re
import sys
from pathlib import Path

import tools
from tools import DATA, DENSE, LENGTH, OUT, QUENCH, WINDOWS

WORK = OUT / "work"
# Our type -> the presets of llama.cpp that it is compared with.
TYPES = {
    "Q4_0": ["Q4_0"], "IQ4_NL": ["IQ4_NL"], "IQ4_XS": ["IQ4_XS"], "Q3_K": ["Q3_K_S", "Q3_K_M"], "Q6_K": ["Q6_K"],
    "Q4_K_M": ["Q4_K_M"], "Q3_K_M": ["Q3_K_M"], "Q2_K": ["Q2_K"],
}
# What llama.cpp mixes of several types is asked of ours tensor by tensor.
MIXES = Path(__file__).parent / "recipes"
WORST = 0.005


def perplexity(model, *options) -> str:
    """What `llama-perplexity` prints about a file.

    Without its kernels for one CPU or another, which round differently: the rows interleaved for SIMD move the divergence by
    0.1 %, AMX by up to 0.7 %.
    """
    log = WORK / f"perplexity-{model.stem}.log"
    command = [tools.llama("llama-perplexity"), "-m", model, "-f", tools.held_out(), "--chunks", WINDOWS]
    tools.run([*command, "--threads", 1, "--no-repack", *options], log)
    return log.read_text(errors="replace")


def chunks(model, *options) -> str:
    return perplexity(model, "-c", LENGTH, "-b", LENGTH, "--kl-divergence-base", WORK / "base.logits", *options)


def dense() -> float:
    """Writes the logits of the dense model; returns its perplexity."""
    return float(re.search(r"Final estimate: PPL = ([\d.]+)", chunks(tools.dense_gguf()))[1])


def score(model) -> dict:
    """Scores of a file by llama.cpp's tool against the dense model."""
    text = chunks(model, "--kl-divergence")
    found = {
        "perplexity": r"Mean PPL\(Q\)\s*:\s*([\d.]+)",
        "kl": r"Mean\s+KLD:\s*([\d.]+)",
        "error": r"Mean\s+KLD:.*±\s*([\d.]+)",
        "agreement": r"Same top p:\s*([\d.]+)",
    }
    return {key: float(re.search(pattern, text)[1]) for key, pattern in found.items()}


def strided(model) -> float:
    """Perplexity by llama.cpp's tool at positions 1 to 255 of windows that share one token."""
    # It adds half the stride to the context.
    context = LENGTH - (LENGTH - 1) // 2
    text = perplexity(model, "-c", context, "-b", context, "--ppl-stride", LENGTH - 1)
    if f"n_ctx={LENGTH}," not in text:
        raise tools.Failed("llama-perplexity did not take the window asked for")
    return float(re.search(rf"\[{WINDOWS}\]([\d.]+)", text)[1])


def recorded() -> dict:
    """The scores in `data/peers/README.md`, by file name."""
    rows = re.findall(r"`llama\.cpp/(\S+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) %", (DATA / "peers/README.md").read_text())
    return {name: [float(value) for value in values] for name, *values in rows}


def ours(kind: str):
    """Our file of a type; made if it is missing."""
    folder, file = (OUT / f"files/quench-gguf-{kind.lower()}{suffix}" for suffix in ("", ".gguf"))
    if not folder.exists():
        mix = MIXES / f"{kind.lower()}.toml"
        recipe = mix if mix.exists() else f"gguf-{kind.lower()}"
        command = [QUENCH, "quantize", DENSE, "--recipe", recipe, "--calibration", tools.wiki()]
        tools.run([*command, "--output", folder, "--quiet"], WORK / f"quench-{kind}.log")
    return tools.convert(folder, "gguf", file)


def schemes(model) -> dict:
    return {row["layer"]: row["scheme"] for row in tools.inspect(model)["rows"]}


def recorded_scores(scores: dict) -> str:
    expected, rows = recorded(), []
    for file, found in scores.items():
        perplexity, kl, agreement = expected[file.name]
        rows.append([
            f"`{file.name}`", f"{found['perplexity']:.4f}", f"{perplexity:.4f}", f"{found['kl']:.6f}", f"{kl:.6f}",
            f"{found['agreement']:.3f} %", f"{agreement:.3f} %",
        ])
    return tools.table(
        ["llama.cpp's file", "perplexity", "recorded", "mean KL", "recorded", "same top", "recorded"], rows
    )


def rival_of(preset: str):
    """llama.cpp's file with the importance matrix; made from the stored matrix if it is not stored itself."""
    stored, made = DATA / f"peers/llama.cpp/{preset}-imx.gguf", OUT / f"files/{preset}-imx.gguf"
    if stored.exists():
        return stored
    if not made.exists():
        command = [tools.llama("llama-quantize"), "--imatrix", DATA / "peers/llama.cpp/imatrix.gguf"]
        tools.run([*command, tools.dense_gguf(), made, preset, 1], WORK / f"{preset}.log")
    return made


def rivals(mine: dict, scores: dict) -> str:
    rows = []
    for kind, preset in ((kind, preset) for kind in mine for preset in TYPES[kind]):
        file, rival = mine[kind], rival_of(preset)
        scores |= {each: score(each) for each in (file, rival) if each not in scores}
        found, their = scores[file], scores[rival]
        layout, other_layout = schemes(file), schemes(rival)
        differing = sum(other_layout[layer] != scheme for layer, scheme in layout.items())
        rows.append([
            kind, f"{tools.size(file):,}", f"{found['perplexity']:.4f}", f"{found['kl']:.6f} ± {found['error']:.6f}",
            f"{found['agreement']:.3f} %", f"`{rival.name}`", f"{tools.size(rival):,}", f"{their['perplexity']:.4f}",
            f"{their['kl']:.6f} ± {their['error']:.6f}", f"{their['agreement']:.3f} %",
            f"{their['kl'] / found['kl']:.2f}", differing or "none",
        ])
    head = ["type", "bytes, ours", "perplexity", "mean KL", "same top", "llama.cpp's", "bytes", "perplexity", "mean KL",
            "same top", "KL, theirs / ours", "tensors of another type"]
    return tools.table(head, rows)


def agreement(files: list) -> tuple[str, bool]:
    """The table, and whether all agree."""
    rows, agree = [], True
    for file in files:
        there = strided(file)
        here = tools.perplexity(file, "--length", LENGTH, "--stride", LENGTH - 1)
        apart = here / there - 1
        agree &= abs(apart) <= WORST
        verdict = "pass" if abs(apart) <= WORST else "FAIL"
        rows.append([f"`{file.name}`", f"{there:.4f}", f"{here:.4f}", f"{apart:+.3%}", verdict])
    return tools.table(["file", "llama-perplexity", "quench eval", "apart", "within 0.5 %"], rows), agree


def main() -> bool:
    print(f"dense, f32, llama-perplexity: {dense():.4f}\n", flush=True)
    theirs = sorted((DATA / "peers/llama.cpp").glob("*-*.gguf"))
    scores = {file: score(file) for file in theirs}
    print(recorded_scores(scores), "\n", flush=True)
    mine = {kind: ours(kind) for kind in TYPES}
    print(rivals(mine, scores), "\n", flush=True)
    table, agree = agreement([tools.dense_gguf(), *mine.values(), *theirs])
    print(table)
    return agree


if __name__ == "__main__":
    sys.exit(not main())
