#!/usr/bin/env python3
"""What `quench predict` says of quantized models beside what is measured, as configs/predictions.toml.

Every model is quantized in several ways; the gradients are those of one text, the measurement is on another, and what
calibrated the quantizer is a third. Predictions beyond the second order, which Quench says of them itself, are printed and left out
of the table.

    QUENCH=target/release/quench QUENCH_DATA=../shared/data python3 benches/prediction.py [MODEL ...]

QUENCH_WORK keeps the quantized models (default: a folder that is removed).
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUENCH = os.environ.get("QUENCH", str(ROOT / "target/release/quench"))
DATA = pathlib.Path(os.environ.get("QUENCH_DATA", ROOT / "../shared/data")).resolve()
TABLE = ROOT / "configs/predictions.toml"


def parts(path, count, folder):
    """A text in equal parts, cut at bytes that are line ends."""
    text = path.read_text()
    cuts = [0]
    for k in range(1, count):
        cuts.append(text.index("\n", k * len(text) // count) + 1)
    cuts.append(len(text))
    found = []
    for k, (start, end) in enumerate(zip(cuts, cuts[1:])):
        part = folder / f"{path.stem}-{k}.txt"
        part.write_text(text[start:end])
        found.append(part)
    return found


def images(count, folder):
    """The images of each class dealt to so many folders in turn."""
    for k in range(count):
        for source in sorted((DATA / "images/cifar10_test").iterdir()):
            if not source.is_dir():
                continue
            target = folder / f"images-{k}" / source.name
            target.mkdir(parents=True, exist_ok=True)
            for index, image in enumerate(sorted(source.iterdir())):
                link = target / image.name
                if index % count == k and not link.exists():
                    link.symlink_to(image)
    return [folder / f"images-{k}" for k in range(count)]


def cases(folder):
    """Name, architecture, group, what calibrates, what is differentiated, what is measured on, further options."""
    text = DATA / "text"
    stories = parts(text / "tinystories/tinystories_sample.txt", 3, folder)
    halves = images(2, folder)
    stsb = DATA / "semantic/stsb"
    wide = ["--samples", "500", "--batch", "20"]
    yield "stories260k", "llama", 32, stories[0], stories[1], stories[2], ["--samples", "64"]
    yield ("ref-llama", "llama", 128, text / "calibration_mix/wiki.utf8", text / "wikitext2/valid.txt",
           text / "wikitext2/test.txt", ["--samples", "64"])
    yield ("minilm", "bert", 128, text / "ntrex/calibration/en.txt", stsb / "stsb-en-dev.csv",
           stsb / "stsb-en-test.csv", wide)
    for name in ["resnet20-cifar10", "resnet56-cifar10"]:
        yield name, "resnet", 128, None, halves[0], halves[1], wide


def recipes(group, calibrated):
    """Name and TOML."""
    head = '[[rules]]\nlayers = "*"\ngroup = %d\nscale = "f16"\n' % group
    for bits in [8, 6, 5, 4, 3]:
        yield f"rtn-int{bits}-g{group}", f'name = "rtn{bits}"\n{head}code = "int{bits}"\nmethod = "rtn"\n'
    if calibrated:
        for bits in [4, 3]:
            yield (f"gptq-int{bits}-g{group}",
                   f'name = "gptq{bits}"\n{head}code = "int{bits}"\nmethod = "gptq"\nfeedback = 0.0\n')


def run(*command):
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def measured(case, work):
    name, architecture, group, calibration, gradients, evaluation, options = case
    dense, folders = DATA / "models" / name, []
    for recipe, text in recipes(group, calibration is not None):
        file, folder = work / f"{recipe}.toml", work / f"{name}-{recipe}"
        file.write_text(text)
        if not folder.exists():
            data = ["--calibration", calibration] if calibration else []
            run(QUENCH, "quantize", dense, "--recipe", file, *data, "--output", folder, "--quiet")
        folders.append(folder)
    result = work / f"{name}.json"
    run(QUENCH, "predict", dense, *folders, "--calibration", gradients, "--eval", evaluation, "--json", result,
        "--quiet", *options)
    for row in json.loads(result.read_text())["predictions"]:
        candidate = pathlib.Path(row["model"]).name.removeprefix(f"{name}-")
        ratio = row["kl"] / row["measured_kl"]
        by = {key: row[key] / row["measured_kl"] for key in ["kl_kfac", "kl_diagonal", "kl_together"]}
        print(f"| `{name}` {candidate} | {row['kl']:.3g} | {row['measured_kl']:.3g} | {ratio:.2f} "
              f"| {by['kl_together']:.2f} | {by['kl_kfac']:.2f} | {by['kl_diagonal']:.2f} | {row['doubt'] or ''} |",
              flush=True)
        if "second order" not in (row["doubt"] or ""):
            yield architecture, name, candidate, row["kl"], row["measured_kl"]


def main():
    wanted = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(os.environ.get("QUENCH_WORK", temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        print("| model | predicted KL | measured KL | predicted / measured | together | K-FAC | diagonal | doubt |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
        rows = [row for case in cases(work) if not wanted or case[0] in wanted for row in measured(case, work)]
    if wanted:
        return
    lines = TABLE.read_text().splitlines()
    lines = [line for line in lines if line.startswith("#")]
    for architecture, model, candidate, predicted, found in rows:
        lines += ["", "[[pair]]", f'architecture = "{architecture}"', f'model = "{model}"', f'candidate = "{candidate}"',
                  f"predicted = {predicted:.4e}", f"measured = {found:.4e}"]
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
