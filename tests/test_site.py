"""The documentation site is built without a warning, and needs no network."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="needs the extra site")
pytest.importorskip("myst_nb", reason="needs the extra site")

ROOT = Path(__file__).parents[1]


class Links(HTMLParser):
    """Keeps a page's targets, its anchors, and what a browser loads to show it."""

    def __init__(self, page: Path):
        super().__init__()
        self.targets, self.anchors, self.loaded = [], set(), []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors.add(values.get("id"))
        target = values.get("src") or values.get("href")
        if target and tag in ("a", "img", "link", "script"):
            self.targets.append(target)
            if tag != "a":
                self.loaded.append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    options = ["-q", "-W", "--keep-going", "-d", str(folder / "doctrees"), "-c", str(ROOT / "docs" / "site")]
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT), str(folder / "html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.slow
def test_links_of_the_site_lead_somewhere_and_nothing_is_loaded_from_the_network(site):
    pages = {page: Links(page) for page in site.rglob("*.html")}
    assert len(pages) > 15
    for page, links in pages.items():
        assert not [target for target in links.loaded if re.match(r"(https?:)?//", target)], page
        for target in links.targets:
            if re.match(r"\w+:|//", target):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name.split("?")[0]).resolve() if name else page
            assert path.exists(), f"{page.name}: {target}"
            if anchor and path in pages:
                assert anchor in pages[path].anchors, f"{page.name}: {target}"


@pytest.mark.slow
def test_site_has_each_chapter_the_api_and_a_search(site):
    chapters = {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert {path.stem for path in (site / "notebooks").glob("*.html")} == {*chapters, "README"}
    assert "FolioForCausalLM" in (site / "docs" / "reference" / "api.html").read_text(encoding="utf-8")
    commands = (site / "docs" / "reference" / "cli.html").read_text(encoding="utf-8")
    assert "usage: folio rag sync PATH" in commands
    assert "folio doctor" in commands
    assert "--learning_rate" in commands
    assert "induction" in (site / "searchindex.js").read_text(encoding="utf-8")
    assert "<math" in "".join(page.read_text(encoding="utf-8") for page in (site / "notebooks").glob("*.html"))
