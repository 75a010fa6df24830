"""The other tools: where they live, how they are installed, and what a run of one costs.

QUENCH         our program (default target/release/quench of this repository)
QUENCH_DATA    models, texts and the files of other tools (default ../shared/data beside this repository)
QUENCH_PEERS   where tools and their output go (default ~/.cache/quench-peers)
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
QUENCH = str(Path(os.environ.get("QUENCH", ROOT / "target/release/quench")).absolute())
DATA = Path(os.environ.get("QUENCH_DATA", ROOT / "../shared/data")).resolve()
OUT = Path(os.environ.get("QUENCH_PEERS", Path.home() / ".cache/quench-peers")).resolve()
DENSE = DATA / "models/ref-llama"
# What a script reads once, apart from that of the others.
SCRATCH = OUT / "work" / Path(sys.argv[0]).stem

# The protocol of `data/peers/README.md`.
SEQUENCES, LENGTH, WINDOWS = 128, 256, 60

# Each in an environment of its own, since they pin different versions of torch; AutoRound runs with that of GPTQModel.
ENVIRONMENTS = {
    "venv": ["cmake", "gguf", "numpy", "tokenizers"],
    "gptqmodel": ["gptqmodel==7.7.0", "auto-round==0.16.1", "torch==2.14.1"],
    "ripser": ["numpy==2.4.6", "ripser==0.6.15"],
    "llm-compressor": ["llmcompressor==0.14.0.1", "torch==2.14.0"],
}


def python(environment: str) -> str:
    """The Python of an environment, which is made if it is missing."""
    home = OUT / environment
    wanted = "\n".join(ENVIRONMENTS[environment])
    mark = home / "installed"
    if not mark.exists() or mark.read_text() != wanted:
        print(f"installing {' '.join(ENVIRONMENTS[environment])} in {home}", file=sys.stderr)
        home.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        pip = [home / "bin/python", "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        subprocess.run([*pip, *ENVIRONMENTS[environment]], check=True)
        mark.write_text(wanted)
    return str(home / "bin/python")


def llama(tool: str) -> str:
    """A program of llama.cpp, such as `llama-quantize`; built if it is missing."""
    path = OUT / "llama/build/bin" / tool
    if not path.exists():
        subprocess.run([HERE / "build.sh", "llama"], check=True, env=os.environ | {"QUENCH_PEERS": str(OUT)})
    return str(path)


@dataclass
class Cost:
    """What a process took: seconds from start to end, seconds of CPU, and the most memory it held at once, in bytes."""

    seconds: float
    cpu: float
    memory: int


class Failed(Exception):
    """A program that ended with an error; the message ends with the last lines it wrote."""


def run(command: list, log: Path, cores: int | None = None) -> Cost:
    """Runs a program, output to `log`: with one thread on any core, or held to so many cores, with a thread on each.

    The memory is that of the largest of the process and those it waited for, as the kernel counts it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    count = str(cores or 1)
    settings = {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "RAYON_NUM_THREADS": count,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # GPTQModel asks for two workers and stops if it thinks that there is one core.
        "GPTQMODEL_CPU_WORKERS": "2",
    }
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    with open(log, "wb") as output:
        start = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # GPTQModel leaves logs where it runs.
            cwd=log.parent,
            env=os.environ | settings,
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        raise Failed(f"{' '.join(map(str, command))}\nended with {process.returncode}; all of it is in {log}:\n{tail}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def held_out() -> Path:
    """The first 400,000 characters of WikiText-2 test, as a file."""
    path = OUT / "work/held-out.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text((DATA / "text/wikitext2/test.txt").read_text(encoding="utf-8")[:400_000], encoding="utf-8")
    return path


def calibration() -> Path:
    """What the other tools are calibrated on, as token ids in JSON; beside it the same as text, for llama.cpp.

    128 sequences of 256 tokens, evenly spaced in `wiki.utf8` from its first token to its last.
    """
    path = OUT / "work/calibration.json"
    if not path.exists():
        subprocess.run([python("venv"), HERE / "tokens.py", "calibration", DENSE, wiki(), path], check=True)
    return path


def wiki() -> Path:
    """The calibration text."""
    return DATA / "text/calibration_mix/wiki.utf8"


def evaluate(model: Path, *options: object) -> dict:
    """The scores that `quench eval` gives to a file or folder, against the dense model."""
    return _evaluate(model, "--against", DENSE, *options)["candidates"][0]["total"]


def perplexity(model: Path, *options: object) -> float:
    """The perplexity that `quench eval` gives to a file or folder."""
    return _evaluate(model, *options)["dense"]["total"]["perplexity"]


def _evaluate(model: Path, *options: object) -> dict:
    scores = SCRATCH / "eval.json"
    run([QUENCH, "eval", model, "--data", held_out(), "--json", scores, "--quiet", *options], SCRATCH / "eval.log")
    return json.loads(scores.read_text())["comparison"]


def inspect(model: Path) -> dict:
    """What `quench inspect` says about a file or folder."""
    table = SCRATCH / "inspect.json"
    run([QUENCH, "inspect", model, "--json", table], table.with_suffix(".log"))
    return json.loads(table.read_text())


def size(model: Path) -> int:
    """Bytes of a checkpoint's weights, container included."""
    return model.stat().st_size if model.is_file() else (model / "model.safetensors").stat().st_size


def convert(model: Path, to: str, out: Path) -> Path:
    """`quench convert`."""
    run([QUENCH, "convert", model, out, "--to", to, "--force", "--quiet"], SCRATCH / "convert.log")
    return out


def dense_gguf() -> Path:
    """The dense model as llama.cpp reads it, in f32: with bf16 it would round activations to bf16 too."""
    packed, full = OUT / "work/dense-bf16.gguf", OUT / "work/dense-f32.gguf"
    if not full.exists():
        convert(DENSE, "gguf", packed)
        run([llama("llama-quantize"), packed, full, "F32"], SCRATCH / "dense.log")
    return full


def table(head: list, rows: list) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def load() -> str:
    """How busy the machine is: the mean number of processes that wanted a core in the last minute."""
    return f"{os.getloadavg()[0]:.1f}"
