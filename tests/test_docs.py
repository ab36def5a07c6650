"""The site builds without a warning, needs nothing from elsewhere, and is complete."""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from crl_jax import config

PROJECT = Path(__file__).parents[1]
HOOKS = runpy.run_path(str(PROJECT / "docs" / "hooks.py"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("material", "mkdocstrings"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: see setup.cfg, extra docs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}"],
        cwd=PROJECT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def test_site_has_every_page_of_the_nav_and_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        text = page.read_text("utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]+src="(https?://[^"]+)', text)
        loaded += re.findall(r'<link[^>]+stylesheet[^>]+href="(https?://[^"]+)', text)
        assert loaded == [], page
    api = (site / "api" / "index.html").read_text("utf-8")
    for name in ("crl_jax.load", "Predictor.probabilities", "Prediction.top"):
        assert f'id="{name}"' in api or f'.{name}"' in api


def test_every_config_field_is_there_with_its_default_and_its_meaning():
    page = HOOKS["config_page"]()
    fields = dict(config.fields(config.default()))
    fields |= {f"tasks.NAME.{n}": v for n, v in config.default_task().items()}
    rows = dict(re.findall(r"^\| `config\.([\w.]+)` \| (.*) \|$", page, re.MULTILINE))
    assert fields.keys() <= rows.keys()
    for name, value in fields.items():
        default, _, meaning = rows[name].partition(" | ")
        assert default == f"`{value!r}`"
        assert len(meaning) > 3, f"crl_jax/config.py does not say what {name} means"


def test_every_page_is_in_the_nav_or_may_be_missing():
    site = yaml.safe_load((PROJECT / "mkdocs.yml").read_text())
    named = set(re.findall(r"[\w-]+\.md", str(site["nav"]))) | {"config.md"}
    there = {path.name for path in (PROJECT / "docs").glob("*.md")}
    assert there - named <= HOOKS["_OPTIONAL"].keys()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs"])
def test_links_to_files_lead_somewhere(page):
    path = PROJECT / page
    for file in sorted(path.glob("*.md")) if path.is_dir() else [path]:
        text = re.sub(r"```.*?```", "", file.read_text("utf-8"), flags=re.DOTALL)
        for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([\w-]+))?\)", text):
            if file.parent.name == "docs" and link == "config.md":  # it is generated
                continue
            target = file.parent / link if link else file
            assert target.exists(), f"{file.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{file.name}: #{anchor}"


def anchors(page):
    """The anchors of a page's headings, as MkDocs and GitHub name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()) for heading in headings)
    return {re.sub(r"\s", "-", heading.strip()) for heading in plain}
