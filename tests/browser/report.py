#!/usr/bin/env python3
"""Opens a report of `quench report` in Chromium, without a network, and uses it.

    tests/browser/report.py report.html [--screenshots FOLDER]

Fails on any message of the console, on any request but that of the file itself, on a page wider than its window (desktop and
phone, light and dark), on a slider whose values are not those of the table and of the JSON file beside the page, and on a curve that does
not go through those values. Installs what it lacks: Debian's `chromium` by apt-get, which needs root, and Playwright of PyPI into a
virtual environment under ~/.cache/quench-browser.
"""

import argparse
import itertools
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

PLAYWRIGHT = "playwright==1.65.2"
HOME = pathlib.Path(os.environ.get("QUENCH_BROWSER", pathlib.Path.home() / ".cache" / "quench-browser"))


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        packages = ["chromium", "fonts-dejavu-core"]
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], check=True, env=environment)
        found = shutil.which("chromium")
    return found


def with_playwright() -> None:
    """Goes on in a Python that has Playwright."""
    try:
        import playwright  # noqa: F401
    except ModuleNotFoundError:
        python = HOME / "bin" / "python"
        if pathlib.Path(sys.executable) == python:
            raise
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", HOME], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", PLAYWRIGHT], check=True)
        os.execv(python, [python, *sys.argv])


def rounded(value: float) -> str:
    """As quench_report::rounded: four significant digits, whole numbers in full."""
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    exponent = int(f"{value:.3e}".split("e")[1])
    if -4 <= exponent <= 3:
        return f"{value:.{3 - exponent}f}"
    if 4 <= exponent <= 9:
        return f"{value:.0f}"
    mantissa = f"{value:.3e}".split("e")[0]
    return f"{mantissa}e{exponent}"


def explore(page, report: dict) -> int:
    """Moves every slider of every explorer to every place; how many settings were looked at."""
    looked = 0
    for number, explorer in enumerate(report["explorers"]):
        box = page.locator(f"#explorer-{number}")
        box.evaluate("box => { for (let at = box; at; at = at.parentElement) if (at.tagName === 'DETAILS') at.open = true; }")
        values = [sorted({row["at"][p] for row in explorer["rows"]}) for p in range(len(explorer["parameters"]))]
        rows = {tuple(row["at"]): row["found"] for row in explorer["rows"]}
        sliders = [box.locator(f"#explorer-{number}-slider-{p}") for p in range(len(values))]
        seen = set()
        for places in itertools.product(*(range(len(v)) for v in values)):
            for slider, place in zip(sliders, places):
                slider.focus()
                page.keyboard.press("Home")
                for _ in range(place):
                    page.keyboard.press("ArrowRight")
            at = tuple(v[place] for v, place in zip(values, places))
            shown = box.locator("output").all_text_contents()
            assert shown == [rounded(value) for value in at], (shown, at)
            found = box.locator(".found td").all_text_contents()
            wanted = rows.get(at)
            expected = ["–" if value is None else rounded(value) for value in wanted or [None] * len(explorer["columns"])]
            assert found == expected, f"{explorer['title']} at {at}: page {found}, JSON {expected}"
            assert box.locator(".missing").is_hidden() == (wanted is not None), at
            seen.add(tuple(found))
            looked += 1
        assert len(seen) > 1, f"{explorer['title']}: nothing changes when its sliders move"
        for column, over in itertools.product(range(len(explorer["columns"])), range(len(values))):
            box.locator("select[name=column]").select_option(str(column))
            box.locator("select[name=parameter]").select_option(str(over))
            curve(page, box, explorer, values, column, over)
    return looked


def curve(page, box, explorer: dict, values: list, column: int, over: int) -> None:
    """The marks of the curve that is shown are at the values of the table."""
    frames = box.locator(".frames figure:not([hidden])")
    assert frames.count() == 1, frames.count()
    frame = frames.first
    (left, top, width, height), x, y = (json.loads(frame.get_attribute(f"data-{name}")) for name in ("box", "x", "y"))
    at = [v[int(box.locator("input[type=range]").nth(p).input_value())] for p, v in enumerate(values)]

    def share(axis, value):
        log, low, high = axis
        if log and value <= 0:
            return math.nan
        return ((math.log10(value) if log else value) - low) / (high - low)

    wanted = []
    for row in explorer["rows"]:
        value = row["found"][column]
        if value is not None and all(q == over or row["at"][q] == at[q] for q in range(len(at))):
            place = (left + share(x, row["at"][over]) * width, top + (1 - share(y, value)) * height)
            if all(map(math.isfinite, place)):
                wanted.append(place)
    wanted.sort()
    drawn = frame.locator(".curve circle").evaluate_all("all => all.map(c => [Number(c.getAttribute('cx')), Number(c.getAttribute('cy'))])")
    assert len(drawn) == len(wanted), (drawn, wanted)
    for (a, b), (c, d) in zip(drawn, wanted):
        assert abs(a - c) < 0.01 and abs(b - d) < 0.01, (drawn, wanted)
    inside = all(left <= a <= left + width and top <= b <= top + height for a, b in drawn)
    assert inside, f"the curve of {explorer['columns'][column]['name']} leaves its frame"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("page", type=pathlib.Path)
    arguments.add_argument("--screenshots", type=pathlib.Path)
    arguments = arguments.parse_args()
    browser_path = chromium()
    with_playwright()
    from playwright.sync_api import sync_playwright

    page_path = arguments.page.resolve()
    beside = json.loads(page_path.with_suffix(".json").read_text())
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name, width, height, scheme in [("desktop-light", 1280, 900, "light"), ("desktop-dark", 1280, 900, "dark"),
                                            ("phone-light", 390, 844, "light"), ("phone-dark", 390, 844, "dark")]:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
            page = context.new_page()
            messages, requests = [], []
            page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: messages.append(f"error: {error}"))
            page.on("request", lambda request: requests.append(request.url))
            page.goto(page_path.as_uri())
            report = json.loads(page.locator("#report-data").text_content())
            assert report == beside, "the JSON in the page is not that of the file beside it"
            overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert overflow <= 0, f"{name}: the page is {overflow} pixels wider than the window"
            lacking = page.locator("svg").evaluate_all("all => all.filter(s => !s.querySelector('title') || s.getAttribute('role') !== 'img').length")
            assert lacking == 0, f"{lacking} plots have no title"
            looked = explore(page, report)
            if arguments.screenshots:
                page.evaluate("scrollTo(0, 0)")
                page.screenshot(path=arguments.screenshots / f"{name}-top.png")
                for section in page.locator("main > section").all():
                    section.evaluate("section => section.scrollIntoView({behavior: 'instant'})")
                    page.screenshot(path=arguments.screenshots / f"{name}-{section.get_attribute('id')}.png")
            requests = [url for url in requests if url != page_path.as_uri() and not url.startswith("data:")]
            assert not requests, f"the page asked for {requests}"
            assert not messages, "\n".join(messages)
            print(f"{name}: {looked} settings looked up, no message, nothing asked for")
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
