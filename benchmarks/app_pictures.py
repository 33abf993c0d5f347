"""The pictures of the page of `folio app` in README.md and docs/, by a headless Chromium.

    python -m benchmarks.app_pictures --model runs/quickstart --output_dir docs
    python -m benchmarks.app_pictures --chat_model path/to/SmolLM2-135M-Instruct --output_dir docs

Needs chromium, chromedriver, and the extras: pip install 'foliogpt[app,dev]'.
"""

import argparse
import base64
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "scripts"))
from chromium import chromium

ROOT = Path(__file__).parents[1]
BEGINNING = "The for statement"
TEXT = "The for statement is used to iterate over the elements of a sequence (such as a string, tuple or list)."
REPEATED = "one two three four, one two three four, one two"
QUESTION = "What does a finally clause do?"
MESSAGES = ["Explain in one sentence why it rains.", "Name three large cities of Europe."]
ABOUT_DOCUMENT = "How can I stop a run and continue it?"
ASIDE = ".folio-examples, .folio-by-model, .block:has([type=file]) { display: none !important; }"  # of a first look


class Page:
    """The page, and what there is to do in it."""

    def __init__(self, driver, url: str):
        self.driver = driver
        driver.get(url)
        self.wait_for("textarea")

    def visible(self, css: str) -> list:
        return [element for element in self.driver.find_elements(By.CSS_SELECTOR, css) if element.is_displayed()]

    def wait_for(self, css: str, seconds: float = 60):
        return WebDriverWait(self.driver, seconds).until(lambda _: self.visible(css))[-1]

    def open(self, tab: str) -> None:
        next(each for each in self.visible("button[role=tab]") if each.text == tab).click()
        time.sleep(0.7)

    def enter(self, text: str, *keys: str) -> None:
        box = self.visible("textarea")[0]
        box.clear()
        box.send_keys(text)
        time.sleep(0.7)  # until the server has it
        box.send_keys(*keys)

    def settle(self, css: str) -> None:
        """Wait until what is generated has not grown for a while."""
        before = None
        while (now := self.wait_for(css).text) != before:
            before = now
            time.sleep(3)

    def click(self, name: str) -> None:
        next(element for element in self.visible("button") if element.text == name).click()

    def picture(self, first: str, last: str) -> Image.Image:
        """The page from the top of what is found first to the bottom of what is found last."""
        self.driver.execute_script("window.scrollTo(0, 0)")
        top = min(element.rect["y"] for element in self.visible(first)) - 12
        bottom = max(element.rect["y"] + element.rect["height"] for element in self.visible(last)) + 16
        width = self.driver.execute_script("return document.documentElement.clientWidth")
        clip = {"x": 0, "y": top, "width": width, "height": bottom - top, "scale": 1}
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        return Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")


@contextmanager
def opened(model: str, theme: str, seed: int = 0, width: int = 1180, height: int = 900) -> Iterator[Page]:
    start = f"import torch; torch.manual_seed({seed}); from foliogpt.scripts.cli import main; "
    command = [sys.executable, "-c", f"{start}main(['app', '--model', {model!r}, '--port', '0'])"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as app, chromium(width, height) as driver:
        scheme = [{"name": "prefers-color-scheme", "value": theme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            yield Page(driver, next(word for word in app.stdout.readline().split() if word.startswith("http")))
        finally:
            app.terminate()


def written(page: Page) -> Image.Image:
    page.open("Write")
    page.enter(BEGINNING)
    page.click("Continue")
    page.settle(".folio-written mark")
    return page.picture("[role=tablist]", ".folio-written")


def tokens(page: Page) -> Image.Image:
    page.open("Tokens")
    page.enter(TEXT, Keys.ENTER)
    page.wait_for(".folio-tokens .token")
    ActionChains(page.driver).move_to_element(page.visible(".folio-tokens .token")[5]).perform()
    time.sleep(0.5)
    return page.picture("[role=tablist]", ".folio-tokens .tip, .folio-legend")


def attention(page: Page) -> Image.Image:
    page.open("Attention")
    page.enter(REPEATED, Keys.ENTER)
    page.wait_for(".folio-map td")
    return page.picture("h1", ".folio-map, .folio-heads")


def manual(page: Page) -> Image.Image:
    page.open("Documents")
    page.driver.execute_script(
        "arguments[0].click()", page.driver.find_element(By.XPATH, f"//button[normalize-space()='{QUESTION}']")
    )
    page.wait_for(".folio-answer li a")
    return page.picture("[role=tablist]", ".folio-answer")


def document(page: Page) -> Image.Image:
    page.open("Documents")
    file = page.driver.find_element(By.CSS_SELECTOR, "input[type=file]")
    file.send_keys(str((ROOT / "docs" / "training.md").resolve()))
    WebDriverWait(page.driver, 60).until(lambda _: any("passage" in each.text for each in page.visible(".folio-hint")))
    page.enter(ABOUT_DOCUMENT, Keys.ENTER)
    page.wait_for(".folio-answer li a")
    page.visible(".folio-answer li a")[0].click()
    page.wait_for(".folio-document mark")
    return page.picture("h1", ".folio-document")


def chat(page: Page) -> Image.Image:
    for count, message in enumerate(MESSAGES, start=1):
        page.enter(message, Keys.ENTER)
        page.wait_for(f".folio-chat .assistant:nth-of-type({2 * count})", seconds=120)
        page.settle(".folio-chat .assistant")
    return page.picture("h1", "[role=tabpanel]")


def beside(pictures: list[Image.Image], height: int = 740) -> Image.Image:
    """Pictures side by side, as high as the highest, but no higher than `height`."""
    height = min(height, max(each.height for each in pictures))
    whole = Image.new("RGB", (sum(each.width for each in pictures), height), pictures[0].getpixel((2, 2)))
    for place, each in enumerate(pictures):
        whole.paste(each.crop((0, 0, each.width, min(each.height, height))), (place * each.width, 0))
    return whole


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", help="of `folio quickstart`: writing, tokens, attention, documents")
    options.add_argument("--chat_model", help="one that chats")
    options.add_argument("--seed", type=int, default=0, help="of what is written")
    options.add_argument("--theme", choices=["light", "dark"], default="light")
    options.add_argument("--output_dir", type=Path, default=ROOT / "docs")
    chosen = options.parse_args()

    def save(name: str, picture: Image.Image) -> None:
        file = chosen.output_dir / f"{name}.png"
        picture.save(file, optimize=True)
        print(f"{file}: {picture.width} x {picture.height}, {file.stat().st_size / 1000:.0f} kB", flush=True)

    if chosen.model:
        with opened(chosen.model, chosen.theme, chosen.seed, width=430, height=880) as page:
            hide = "document.head.append(Object.assign(document.createElement('style'), {textContent: arguments[0]}))"
            page.driver.execute_script(hide, ASIDE)
            save("first-look", beside([written(page), tokens(page), manual(page)]))
        with opened(chosen.model, chosen.theme) as page:
            save("app-tokens", tokens(page))
            save("app-attention", attention(page))
            save("app-documents", document(page))
    if chosen.chat_model:
        with opened(chosen.chat_model, chosen.theme) as page:
            save("app-chat", chat(page))


if __name__ == "__main__":
    main()
