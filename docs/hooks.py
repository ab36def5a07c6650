"""What MkDocs writes by itself: the page of every config field, from the code."""

import html
import io
import re
import tokenize
from pathlib import Path
from typing import Any

_CODE = Path(__file__).parents[1] / "crl_jax" / "config.py"
_TASK = "tasks.NAME."
_OPTIONAL = {  # pages of the nav that are there only sometimes
    "results.md": "Results",
    "benchmarks.md": "Benchmarks",
}


def on_config(config: Any) -> Any:
    """Adds the optional pages that are there to the nav."""
    there = Path(config.docs_dir)
    extra = [{t: name} for name, t in _OPTIONAL.items() if (there / name).exists()]
    config.nav[-1:-1] = extra
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds `config.md`."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "config.md", content=config_page()))
    return files


def config_page() -> str:
    """Returns the page of the config fields, in Markdown."""
    from ml_collections import ConfigDict

    from crl_jax import config

    fields, task = config.default(), config.default_task()
    lines = [
        "# Config fields",
        "",
        "A file in `configs/` sets what it needs; `--config.a.b=value` sets a field on "
        "the command line. This page is made from `crl_jax/config.py`.",
    ]
    meanings = _meanings(_CODE.read_text("utf-8"))
    groups = list(dict.fromkeys(name.partition(".")[0] for name in meanings))
    group = ""
    for name in sorted(meanings, key=lambda name: groups.index(name.partition(".")[0])):
        meaning = meanings[name]
        of_task = name.startswith(_TASK)
        value = task[name.removeprefix(_TASK)] if of_task else fields
        for part in () if of_task else name.split("."):
            value = value[part]
        if isinstance(value, ConfigDict):
            if value or not meaning:  # a group of fields
                continue
            value = dict(value)
        if name.partition(".")[0] != group:
            group = name.partition(".")[0]
            lines += ["", f"## {group}", "", "| field | default | |", "|---|---|---|"]
        meaning = html.escape(meaning, quote=False).replace("|", "\\|")
        lines.append(f"| `config.{name}` | `{value!r}` | {meaning} |")
    return "\n".join(lines) + "\n"


def _meanings(code: str) -> dict[str, str]:
    """Returns the comment behind each field in order, `{dotted name: comment}`."""
    names = {"config": "", "task": _TASK}
    # "from" is a word of Python's, so its field is written init["from"].
    field = re.compile(r'\s*(config|task)\.([\w.]+(?:\["\w+"\])?) = ')
    found: dict[str, str] = {}
    current = ""
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if match := field.match(token.line):
            current = names[match[1]] + re.sub(r'\["(\w+)"\]', r".\1", match[2])
            found.setdefault(current, "")
        if token.type == tokenize.COMMENT and current:
            text = token.string.removeprefix("#").strip()
            found[current] = f"{found[current]} {text}".strip()
        if token.type == tokenize.NEWLINE:
            current = ""
    return found
