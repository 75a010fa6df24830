"""Every tool's file of the reference model under one evaluator, as a Markdown table.

    QUENCH=target/release/quench benches/peers/compare.py             makes every file, then scores them
    QUENCH=target/release/quench benches/peers/compare.py --stored    takes the other tools' files from data/peers
    benches/peers/compare.py --only 'gptqmodel-*' 'quench-gptq-*'     some of them
    benches/peers/compare.py --list                                   their names

Installs what is missing (`tools.py`), and keeps each file and what it cost in QUENCH_PEERS/files; a file that is there is not
made again. All tools are calibrated on 128 sequences of 256 tokens of the same text and run with default settings but for
bits and group; embedding and head stay dense but in GGUF, where they are packed as llama.cpp's presets do, in ours too.
`data/peers/README.md` says more.

Scores: `quench eval FILE --against DENSE`, 60 windows of 256 tokens, 95 % interval over windows. Bits are those of the packed
layers in the file, scales, zero points and orders included; bytes are of the file. Seconds and memory are of the whole
process on one core, from start to end; for `imx` the importance matrix is part of them.
"""

import argparse
import fnmatch
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import tools
from tools import DATA, DENSE, HERE, LENGTH, OUT, QUENCH, SEQUENCES, Cost

FILES, WORK = OUT / "files", OUT / "work"

PYTHON = {
    "gptqmodel": ["w4g128", "w4g128-act", "w3g128", "w2g64", "w8g128"],
    "llm-compressor": ["w4g128", "w3g128", "w2g64"],
    "auto-round": ["w4", "w3", "w2"],
}
LLAMA = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_M", "Q2_K"]
QUENCH_GPTQ = ["gptq-int4-g128", "gptq-int4-act-order", "gptq-int3-g128", "gptq-int2-g64"]
QUENCH_GGUF = ["gguf-q6_k", "gguf-q4_0", "gguf-iq4_nl", "gguf-iq4_xs", "gguf-q3_k"]


def by_python(tool: str, kind: str, out: Path) -> Cost:
    """GPTQModel, llm-compressor or AutoRound; `kind` is like `w4g128-act`."""
    widths, _, order = kind.partition("-")
    bits, _, group = widths[1:].partition("g")
    environment = "llm-compressor" if tool == "llm-compressor" else "gptqmodel"
    command = [tools.python(environment), HERE / "make.py", tool, DENSE, tools.calibration(), out]
    command += ["--bits", bits, "--group", group or 128] + ["--act-order"] * (order == "act")
    return tools.run(command, WORK / f"{out.name}.log", 1)


def imatrix() -> Cost:
    """llama.cpp's importance matrix of the calibration text."""
    out, record = FILES / "imatrix.gguf", FILES / "imatrix.json"
    if not record.exists():
        tools.calibration()
        text = WORK / "calibration.txt"
        command = [tools.llama("llama-imatrix"), "-m", tools.dense_gguf(), "-f", text, "-o", out]
        cost = tools.run([*command, "-c", LENGTH, "--chunks", SEQUENCES, "-t", 1], WORK / "imatrix.log", 1)
        record.write_text(json.dumps(asdict(cost)))
    return Cost(**json.loads(record.read_text()))


def by_llama(name: str, out: Path) -> Cost:
    kind, _, matrix = name.partition("-")
    first = imatrix() if matrix == "imx" else Cost(0, 0, 0)
    options = ["--imatrix", FILES / "imatrix.gguf"] if matrix == "imx" else []
    command = [tools.llama("llama-quantize"), *options, tools.dense_gguf(), out, kind, 1]
    cost = tools.run(command, WORK / f"{out.name}.log", 1)
    return Cost(cost.seconds + first.seconds, cost.cpu + first.cpu, max(cost.memory, first.memory))


def by_quench(recipe: str, out: Path) -> Cost:
    folder = out.with_suffix("") if out.suffix else out
    command = [QUENCH, "quantize", DENSE, "--recipe", recipe, "--calibration", tools.wiki()]
    cost = tools.run([*command, "--output", folder, "--force", "--quiet"], WORK / f"{out.name}.log", 1)
    if out.suffix:
        tools.convert(folder, "gguf", out)
    return cost


def all_files() -> dict:
    """Name in the table -> where the file goes, where a stored one would be, and how it is made."""
    found = {}
    for tool, kinds in PYTHON.items():
        for kind in kinds:
            name = f"{tool}-{kind}"
            found[name] = FILES / name, DATA / "peers" / name, lambda out, tool=tool, kind=kind: by_python(tool, kind, out)
    for kind in (f"{kind}-{matrix}" for kind in LLAMA for matrix in ("imx", "plain")):
        stored = DATA / f"peers/llama.cpp/{kind}.gguf"
        found[f"llama.cpp-{kind}"] = FILES / f"{kind}.gguf", stored, lambda out, kind=kind: by_llama(kind, out)
    for recipe in QUENCH_GPTQ + QUENCH_GGUF:
        out = FILES / f"quench-{recipe}{'.gguf' if recipe in QUENCH_GGUF else ''}"
        found[f"quench-{recipe}"] = out, None, lambda out, recipe=recipe: by_quench(recipe, out)
    return found


def made(name: str, out: Path, make) -> dict:
    """Makes a file if it is missing, and returns what it cost, as far as that is known."""
    record = FILES / f"{name}.json"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        print(f"making {name}", file=sys.stderr)
        try:
            record.write_text(json.dumps(asdict(make(out))))
        except BaseException:
            shutil.rmtree(out, ignore_errors=True) if out.is_dir() else out.unlink(missing_ok=True)
            raise
    return json.loads(record.read_text()) if record.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stored", action="store_true", help="take the other tools' files from data/peers where they are")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="names, with * for any part")
    parser.add_argument("--list", action="store_true", help="print the names")
    options = parser.parse_args()
    chosen = {
        name: how for name, how in all_files().items() if any(fnmatch.fnmatch(name, glob) for glob in options.only)
    }
    if options.list:
        print("\n".join(chosen))
        return

    results = []
    for name, (out, stored, make) in chosen.items():
        if options.stored and stored is not None and stored.exists():
            out, cost, source = stored, {}, "stored"
        else:
            cost, source = made(name, out, make), "made"
        found = tools.inspect(out)
        score = tools.evaluate(out)
        results.append({
            "name": name, "source": source, "bytes": tools.size(out), "bits": found["bits_per_weight"],
            "score": score, "cost": cost,
        })
        (OUT / "compare.json").write_text(json.dumps(results, indent=2))

    def row(result: dict) -> list:
        score, cost = result["score"], result["cost"]
        interval = score["kl_interval"]
        return [
            f"`{result['name']}`", f"{result['bits']:.3f}", f"{result['bytes']:,}", f"{score['perplexity']:.3f}",
            f"{score['kl']['mean']:.5f}", f"{interval['low']:.5f} to {interval['high']:.5f}", f"{score['agreement']:.2%}",
            f"{cost['seconds']:.1f}" if cost else "–", f"{cost['cpu']:.1f}" if cost else "–",
            f"{cost['memory'] / 2**20:.0f}" if cost else "–",
        ]

    head = ["file", "bits per weight", "bytes", "perplexity", "mean KL", "95 % interval", "agreement", "seconds",
            "CPU seconds", "peak MiB"]
    print(tools.table(head, [row(result) for result in sorted(results, key=lambda result: -result["bits"])]))
    print(f"\nload of the machine at the end: {tools.load()}")


if __name__ == "__main__":
    main()
