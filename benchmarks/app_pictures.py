"""The pictures of docs/applications.md: the page of `folio app` in a headless Chromium.

    python -m benchmarks.app_pictures --model runs/quickstart --output_dir docs

Needs chromium, chromedriver, and the extras: pip install 'foliogpt[app,dev]'.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "scripts"))
from chromium import chromium

TEXT = "The for statement is used to iterate over the elements of a sequence (such as a string, tuple or list)."


class Page:
    """The page, and what there is to do in it."""

    def __init__(self, driver, url: str, folder: Path):
        self.driver, self.folder = driver, folder
        driver.get(url)
        self.wait_for("textarea")

    def visible(self, css: str) -> list:
        return [element for element in self.driver.find_elements(By.CSS_SELECTOR, css) if element.is_displayed()]

    def wait_for(self, css: str):
        return WebDriverWait(self.driver, 30).until(lambda _: self.visible(css))[0]

    def click(self, name: str) -> None:
        next(element for element in self.visible("button") if element.text == name).click()
        time.sleep(0.7)

    def type(self, text: str, *keys: str) -> None:
        box = self.wait_for("textarea")
        box.send_keys(text)
        WebDriverWait(self.driver, 60).until(lambda _: box.get_attribute("value") == text)
        time.sleep(0.5)  # until the server has it
        box.send_keys(*keys)

    def drop(self, file: Path) -> None:
        self.driver.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(file.resolve()))
        WebDriverWait(self.driver, 60).until(
            lambda _: any("passage" in hint.text for hint in self.visible(".folio-answer .hint"))
        )

    def picture(self, name: str) -> None:
        self.driver.save_screenshot(str(self.folder / name))


def take(page: Page, messages: list[str], text: str) -> None:
    for count, message in enumerate(messages, start=1):
        page.type(message, Keys.ENTER)
        page.wait_for(f".folio-chat .assistant:nth-of-type({2 * count})")
        time.sleep(6)  # for the answer
    page.picture("app-chat.png")
    page.click("Tokens")
    page.type(text)
    page.click("Show")
    page.wait_for(".folio-tokens .token")
    ActionChains(page.driver).move_to_element(page.visible(".folio-tokens .token")[5]).perform()
    time.sleep(0.5)
    page.picture("app-tokens.png")
    page.driver.set_window_size(1180, 1120)
    page.click("Attention")
    page.type(text.split(" (")[0])
    page.click("Show")
    page.wait_for(".folio-map td")
    page.picture("app-attention.png")
    page.click("Documents")
    page.drop(Path(__file__).parents[1] / "docs" / "training.md")
    page.type("What does folio doctor say before a run?", Keys.ENTER)
    page.wait_for(".folio-answer li a").click()
    page.wait_for(".folio-document mark")
    page.picture("app-documents.png")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", required=True, help="as of `folio app`")
    options.add_argument("--messages", nargs="+", default=["What does the for statement do?", "And while?"])
    options.add_argument("--text", default=TEXT, help="whose tokens are looked at")
    options.add_argument("--output_dir", type=Path, default=Path("docs"))
    chosen = options.parse_args()
    command = [sys.executable, "-m", "foliogpt.scripts.cli", "app", "--model", chosen.model, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as app, chromium(1180, 900) as driver:
        url = next(word for word in app.stdout.readline().split() if word.startswith("http"))
        take(Page(driver, url, chosen.output_dir), chosen.messages, chosen.text)
        app.terminate()


if __name__ == "__main__":
    main()
