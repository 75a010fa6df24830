"""Persistent homology in dimensions 0 and 1 beside Ripser: the same diagrams, and how long they take.

    cargo build --release --example persistence
    benches/peers/persistence.py [--rounds 5] [--cores 1] [POINTSxWIDTH ...]

Points of a normal law, scaled so that their distances are about 1, which Ripser (scikit-tda, 0.6.15) gets as the matrix of their
distances. Both times are of the quickest round, from distances to diagrams; reading, starting and computing the distances are not in
them. A diagram is equal if each feature longer than 3e-6 has one of the other's within 1e-6 in birth and in death, and none is left.

EXAMPLE        our program (default target/release/examples/persistence of this repository)
"""

import argparse
import array
import json
import os
import random
import sys
import time
from pathlib import Path

import tools

EXAMPLE = Path(os.environ.get("EXAMPLE", tools.ROOT / "target/release/examples/persistence")).absolute()
TOLERANCE = 1e-6


def by_ripser(path: str, width: int, rounds: int) -> dict:
    """The work of Ripser; runs in its own environment."""
    import numpy
    from ripser import ripser

    points = numpy.fromfile(path, dtype="<f4").astype("f8").reshape(-1, width)
    distances = numpy.sqrt(((points[:, None] - points[None]) ** 2).sum(2))
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        diagrams = ripser(distances, maxdim=1, distance_matrix=True)["dgms"]
        seconds.append(time.perf_counter() - start)
    features = [[[birth, None if death == float("inf") else death] for birth, death in diagram.tolist()] for diagram in diagrams]
    return {"seconds": min(seconds), "diagrams": features}


def equal(ours: dict, theirs: list) -> bool:
    """Whether two diagrams have the same features."""
    essential = sorted(birth for birth, death in theirs if death is None)
    if len(essential) != len(ours["essential"]):
        return False
    if any(abs(a - b) > TOLERANCE for a, b in zip(sorted(ours["essential"]), essential)):
        return False
    long = [feature for feature in theirs if feature[1] is not None and feature[1] - feature[0] > TOLERANCE]
    left = sorted(long)
    for birth, death in sorted(ours["pairs"]):
        near = [other for other in left if abs(other[0] - birth) <= TOLERANCE and abs(other[1] - death) <= TOLERANCE]
        if near:
            left.remove(near[0])
        elif death - birth > 3 * TOLERANCE:
            return False
    return all(death - birth <= 3 * TOLERANCE for birth, death in left)


def points(count: int, width: int, path: Path) -> None:
    """Writes `count` points."""
    generator = random.Random(count * width)
    scale = (2 * width) ** -0.5
    values = array.array("f", (scale * generator.gauss(0, 1) for _ in range(count * width)))
    if sys.byteorder == "big":
        values.byteswap()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(values.tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clouds", nargs="*", default=["100x64", "200x64", "400x3", "400x16", "400x64", "400x512", "800x64"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=1)
    arguments = parser.parse_args()

    rows, wrong = [], []
    for cloud in arguments.clouds:
        count, width = map(int, cloud.split("x"))
        path, log = tools.SCRATCH / "points", tools.SCRATCH / "log"
        points(count, width, path)
        tools.run([EXAMPLE, path, width, arguments.rounds], log, arguments.cores)
        ours = json.loads(log.read_text().splitlines()[-1])
        command = [tools.python("ripser"), __file__, "--ripser", path, width, arguments.rounds]
        tools.run(command, log, arguments.cores)
        theirs = json.loads(log.read_text().splitlines()[-1])
        same = all(equal(a, b) for a, b in zip(ours["diagrams"], theirs["diagrams"], strict=True))
        if not same:
            wrong.append(cloud)
        seconds, others = ours["seconds"]["diagrams"], theirs["seconds"]
        loops = len(ours["diagrams"][1]["pairs"])
        rows.append([cloud, loops, f"{1e3 * seconds:.1f}", f"{1e3 * others:.1f}", f"{others / seconds:.1f}", "yes" if same else "NO"])
    print(tools.table(["points x width", "loops", "ours, ms", "Ripser, ms", "ratio", "equal"], rows))
    print(f"\nload {tools.load()}")
    if wrong:
        sys.exit(f"the diagrams differ: {', '.join(wrong)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ripser"]:
        print(json.dumps(by_ripser(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
