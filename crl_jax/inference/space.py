"""What makes an exported network a Hugging Face Space, with the demo as its page.

https://huggingface.co/docs/hub/spaces-config-reference
"""

import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import crl_jax
from crl_jax.errors import UserError

# What setup.cfg requires, and what reads the network's arrays.
PACKAGES = (
    "absl-py",
    "chex",
    "etils",
    "flax",
    "google-crc32c",
    "importlib_resources",
    "jax",
    "ml_collections",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "pillow",
    "rich",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tensorboardX",
    "tensorflow",
    "tensorflow-datasets",
)

_APP = '''"""Starts the page of the network in this folder, as a Space or anywhere else.

The package in crl_jax/ is Apache-2.0; the network and its data may have other terms.
"""

import os
from pathlib import Path

from crl_jax import demo, devices

devices.start()
demo.serve(
    Path(__file__).parent,
    host="0.0.0.0",
    port=int(os.environ.get("GRADIO_SERVER_PORT", 7860)),
    title={title!r},
)
'''


def write(folder: Path, title: str) -> None:
    """Writes what starts the page: `app.py`, `requirements.txt` and this package.

    A Space installs its requirements before it has the other files, so a wheel among
    these could not be a requirement: this package is copied there as it is. The other
    packages are required in the versions that are installed here.

    Args:
      folder: that the network was exported to.
      title: of the page.

    Raises:
      UserError: see `check`.
    """
    check(folder)
    package = Path(crl_jax.__file__).parent
    (folder / "requirements.txt").write_text(_requirements())
    (folder / "app.py").write_text(_APP.format(title=title), "utf-8")
    shutil.rmtree(folder / package.name, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, folder / package.name, ignore=ignored)
    installed = f"crl_jax-{crl_jax.__version__}.dist-info/licenses/LICENSE"
    for found in (package.parent / "LICENSE", package.parent / installed):
        if found.exists():
            shutil.copy(found, folder / package.name)


def check(folder: Path) -> None:
    """Raises UserError unless `folder` can become a Space.

    It must not be the one that this package itself is part of, and all that a Space
    needs must be installed here.
    """
    _requirements()
    package = Path(crl_jax.__file__).parent
    there = folder / package.name
    if there.exists() and there.samefile(package):
        raise UserError(
            f"--out={folder} has the {package.name} that is running now, which would "
            "be deleted: give another folder."
        )


def _requirements() -> str:
    return "".join(f"{name}=={_version(name)}\n" for name in PACKAGES)


def settings(title: str, tags: list[str]) -> dict[str, Any]:
    """Returns what the Hub has to know to start `app.py`, for the head of `README.md`.

    Args:
      title: of the page.
      tags: to find it by.

    Raises:
      UserError: Gradio is not installed.
    """
    return {
        "title": title,
        "sdk": "gradio",
        "sdk_version": _version("gradio"),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "app_file": "app.py",
        "pinned": False,
        "tags": ["image-classification", *tags],
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f"A Space needs {name}, in a version that is known to work: install here "
            "what the page needs, in a clone of the project with "
            'pip install ".[demo,safetensors]".'
        ) from error
