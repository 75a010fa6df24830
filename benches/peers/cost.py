"""Time and memory of quantizing the reference model to 4 bits in groups of 128: GPTQModel, llm-compressor and ours.

    QUENCH=target/release/quench benches/peers/cost.py [--rounds 3] [--threads 1 2]

The same 128 sequences of 256 tokens (ours draws as many from the same text), one after the other, `rounds` times around, each
process held to as many cores as it has threads. The table has medians: seconds of the whole process, with starting, reading and
saving; seconds of the quantization as the tool itself sees it; seconds of CPU of the process; the most memory it held.

Ours runs twice: `default` is the recipe gptq-int4-g128, which fits scales anew, descends over the codes and makes up for what
earlier layers have lost; `GPTQ` is the published method on the same activations as the other two, without any of that.
"""

import argparse
import json
import shutil
import statistics

import tools
from tools import DENSE, HERE, OUT, QUENCH

WORK = OUT / "cost"
PUBLISHED = """name = "gptq-published"
about = "GPTQ as published, 4-bit integers, groups of 128"

[calibration]
samples = 128
length = 256
batch = 8
seed = 0
sequential = true

[[rules]]
layers = "*"
code = "int4"
group = 128
search = "absmax"
refit = false
descent = 0
pairs = 0
restarts = 0
feedback = 0.0
"""


def python(tool: str, threads: int) -> tuple:
    out, log = WORK / tool, WORK / f"{tool}.log"
    shutil.rmtree(out, ignore_errors=True)
    command = [tools.python(tool), HERE / "make.py", tool, DENSE, tools.calibration(), out, "--bits", 4, "--group", 128]
    cost = tools.run(command, log, threads)
    return cost, json.loads(log.read_text(errors="replace").splitlines()[-1])["seconds"]


def quench(recipe: str, threads: int) -> tuple:
    report = WORK / "quench.json"
    command = [QUENCH, "quantize", DENSE, "--recipe", recipe, "--calibration", tools.wiki(), "--device", "flex"]
    command += ["--output", WORK / "quench", "--force", "--quiet", "--json", report]
    cost = tools.run(command, WORK / "quench.log", threads)
    return cost, json.loads(report.read_text())["seconds"]["quantize"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()

    WORK.mkdir(parents=True, exist_ok=True)
    published = WORK / "gptq-published.toml"
    published.write_text(PUBLISHED)
    contestants = {
        "GPTQModel": lambda threads: python("gptqmodel", threads),
        "llm-compressor": lambda threads: python("llm-compressor", threads),
        "Quench, GPTQ": lambda threads: quench(str(published), threads),
        "Quench, default": lambda threads: quench("gptq-int4-g128", threads),
    }
    runs, loads = {}, []
    for threads in options.threads:
        for _ in range(options.rounds):
            for name, contestant in contestants.items():
                loads.append(float(tools.load()))
                runs.setdefault((name, threads), []).append(contestant(threads))

    rows = []
    for (name, threads), found in runs.items():
        median = lambda values: statistics.median(list(values))
        rows.append([
            name, threads, f"{median(cost.seconds for cost, _ in found):.1f}", f"{median(inner for _, inner in found):.1f}",
            f"{median(cost.cpu for cost, _ in found):.1f}", f"{median(cost.memory for cost, _ in found) / 2**20:.0f}",
        ])
    print(tools.table(["tool", "threads", "seconds", "of them quantizing", "CPU seconds", "peak MiB"], rows))
    print(f"\n{options.rounds} rounds; load before each run: {min(loads)} to {max(loads)}")


if __name__ == "__main__":
    main()
