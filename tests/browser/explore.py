#!/usr/bin/env python3
"""Starts `quench explore` on a model and uses its page in Chromium.

    tests/browser/explore.py target/debug/quench [--screenshots FOLDER]

Moves every slider with the keyboard and compares what the page shows with what came over the wire, which tests/explore.rs compares with
the library. Fails on any message of the console, on any request to another place, on a slider that changes nothing, and on a page wider than
its window (desktop and phone, light and dark).
"""

import argparse
import json
import pathlib
import subprocess
import time
import urllib.request

from report import chromium, rounded, with_playwright

SLIDERS = ["step", "bits", "decay", "noise"]


def frame(url: str, version: int, name: str) -> dict:
    """The first event of a name that answers an order, or a later one; of frames, with the training done."""
    with urllib.request.urlopen(url + "events", timeout=120) as events:
        current = None
        for line in map(bytes.decode, events):
            line = line.rstrip("\n")
            if line.startswith("event: "):
                current = line.removeprefix("event: ")
            elif line.startswith("data: ") and current == name:
                answer = json.loads(line.removeprefix("data: "))
                value = answer.get("value")
                done = name != "frame" or (value and value["done"] == value["settings"]["steps"])
                if answer["version"] >= version and done:
                    return answer
    raise AssertionError(f"no {name} of version {version}")


def wait(page, condition: str) -> None:
    """Playwright's own waiting evaluates text in the page, which its policy forbids."""
    end = time.monotonic() + 120
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def settled(page, before: int) -> int:
    """Waits until the page shows the end of a newer order; its number."""
    wait(page, f"Number(document.body.dataset.version) > {before} && document.body.dataset.busy === 'false'")
    return int(page.evaluate("document.body.dataset.version"))


def compare(page, wire: dict) -> dict:
    """The values on the page are those of the wire; returns them."""
    value = wire["value"]
    cells = page.locator("#values tbody td[data-name]").evaluate_all("all => all.map(c => [c.dataset.name, Number(c.dataset.value), c.firstChild.data])")
    expected = [[named["name"], named["value"]["value"]] for named in value["values"]]
    assert [[name, number] for name, number, _ in cells] == expected, (cells, expected)
    assert [text for _, _, text in cells] == [rounded(number) for _, number in expected], cells
    threshold = value["threshold"]
    shown = page.locator("#verdict").get_attribute("data-value")
    assert (float(shown) if shown else None) == (threshold and threshold["value"]), (shown, threshold)
    assert page.locator("#verdict").get_attribute("data-kind") == value["verdict"]["kind"]
    assert page.locator("#map .disc").count() == len(value["places"])
    assert page.locator("#map .corner").count() == sum(place["corner"] for place in value["places"])
    assert page.locator("#sweep .mark").count() == len(value["sweep"]["points"])
    return dict(expected)


def sliders(page, url: str) -> int:
    """Moves every slider and the choice of the activation; how many settings were looked at."""
    wait(page, "document.body.dataset.busy === 'false'")
    version = int(page.evaluate("document.body.dataset.version"))
    seen = compare(page, frame(url, version, "frame"))
    looked = 1
    for name in SLIDERS:
        slider = page.locator(f"#{name}")
        slider.focus()
        for key in ["Home", "ArrowRight"] if name == "bits" else ["End", "Home"]:
            before = int(page.evaluate("document.body.dataset.version"))
            page.keyboard.press(key)
            version = settled(page, before)
            wire = frame(url, version, "frame")
            setting = wire["value"]["settings"][name]
            assert float(slider.input_value()) == setting, (name, slider.input_value(), setting)
            now = compare(page, wire)
            assert now != seen, f"{name}: nothing changes"
            seen, looked = now, looked + 1
    before = int(page.evaluate("document.body.dataset.version"))
    page.locator("#activation").select_option("relu")
    wire = frame(url, settled(page, before), "frame")
    assert wire["value"]["settings"]["activation"] == "relu" and compare(page, wire) != seen
    page.locator("#point").focus()
    page.keyboard.press("End")
    assert page.locator("#map .link.old").count() == 8 and page.locator("#map .link.new").count() == 8
    return looked + 1


def layers(page, url: str) -> int:
    """Moves the sliders of the layer; how many schemes were looked at."""
    looked = 0
    for name, key in [("layer-bits", "Home"), ("layer-bits", "ArrowRight"), ("group", "ArrowLeft"), ("group", "Home")]:
        before = int(page.evaluate("document.getElementById('model').dataset.version ?? 0"))
        page.locator(f"#{name}").focus()
        page.keyboard.press(key)
        wait(page, f"Number(document.getElementById('model').dataset.version) > {before}")
        wire = frame(url, before + 1, "layer")["value"]
        cells = dict(page.locator("#layer-values td").evaluate_all("all => all.map(c => [c.dataset.name, c.dataset.value || c.textContent])"))
        assert cells["scheme"] == wire["scheme"], (cells, wire["scheme"])
        for shown, key_ in [("bits per weight", "bits_per_weight"), ("relative error", "relative_error"), ("codes that occur", "codes")]:
            assert float(cells[shown]) == wire[key_], (shown, cells, wire[key_])
        for kind in ["before", "after"]:
            counts = page.locator(f"#histogram .{kind}").evaluate_all("all => all.map(bar => Number(bar.dataset.count))")
            assert counts == wire[kind], kind
        looked += 1
    return looked


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("quench", type=pathlib.Path)
    arguments.add_argument("--screenshots", type=pathlib.Path)
    arguments = arguments.parse_args()
    browser_path = chromium()
    with_playwright()
    from playwright.sync_api import sync_playwright

    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    explorer = subprocess.Popen([arguments.quench.resolve(), "explore", "spark", "--no-open", "--device", "flex"], stdout=subprocess.PIPE, text=True)
    try:
        url = explorer.stdout.readline().strip()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            for name, width, height, scheme in [("desktop-light", 1280, 1000, "light"), ("desktop-dark", 1280, 1000, "dark"),
                                                ("phone-light", 390, 844, "light"), ("phone-dark", 390, 844, "dark")]:
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                page = context.new_page()
                messages, requests = [], []
                page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
                page.on("pageerror", lambda error: messages.append(f"error: {error}"))
                page.on("request", lambda request: requests.append(request.url))
                page.goto(url)
                page.locator("#layer-values td").first.wait_for(timeout=60_000)
                if name == "desktop-light":
                    looked = sliders(page, url) + layers(page, url)
                    print(f"{looked} settings moved by the keyboard, all as on the wire")
                wait(page, "document.body.dataset.busy === 'false'")
                overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert overflow <= 0, f"{name}: the page is {overflow} pixels wider than the window"
                if arguments.screenshots:
                    page.evaluate("scrollTo(0, 0)")
                    page.screenshot(path=arguments.screenshots / f"explore-{name}.png")
                    page.screenshot(path=arguments.screenshots / f"explore-{name}-whole.png", full_page=True)
                elsewhere = [request for request in requests if not request.startswith((url, "data:"))]
                assert not elsewhere, f"the page asked for {elsewhere}"
                assert not messages, "\n".join(messages)
                print(f"{name}: no message, nothing asked for elsewhere")
                context.close()
            browser.close()
    finally:
        explorer.kill()
        explorer.wait()


if __name__ == "__main__":
    main()
