"""Export a trained network for other tools, with its labels and a model card.

  python -m crl_jax.export --workdir=runs/mine --to=onnx

The export takes uint8 pictures, as many at a time as you like, normalises them itself,
and answers with probabilities under the names of the tasks. The folder is laid out as
the Hugging Face Hub expects it.

  stablehlo    model.stablehlo, for JAX without this package
  onnx         model.onnx, for ONNX Runtime (`make install` has its needs; with
               pip, `pip install ".[onnx]"` in an environment of its own)
  safetensors  the arrays alone (needs `pip install ".[safetensors]"`)
  saved_model  saved_model/, for TensorFlow and TensorFlow Serving (JAX 0.10)
  space        the demo page as a Hugging Face Space
               (needs `pip install ".[demo,safetensors]"`)
"""

import json
import shutil
from pathlib import Path

from crl_jax import cli
from crl_jax.errors import UserError

FORMATS = ("stablehlo", "onnx", "safetensors", "saved_model", "space")


def export(workdir: Path, what: dict[str, str], out: Path) -> None:
    """Exports the best checkpoint of the run in `workdir`.

    Args:
      workdir: the run's folder.
      what: `format`, one of `FORMATS`; `data_name` and `data_license` of the data.
      out: folder to write to.

    Raises:
      UserError: there is no run, or no checkpoint; a package is not installed; or the
        folder cannot be written, or holds what must not be overwritten.
    """
    from crl_jax import devices
    from crl_jax.inference import export_files, export_formats, space
    from crl_jax.trained import load

    devices.check_alone("A network is exported")
    _check_out(out)
    if what["format"] == "space":
        space.check(out)
    trained = load(workdir, devices.make_mesh())
    contents = export_files.files(trained, workdir, what)
    is_new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Whatever happens now, no network stands beside the labels of another, and an
        # export which is killed is known as one.
        export_formats.remove_networks(out)
        export_files.write(contents, workdir, out, what)
        export_formats.FORMATS[what["format"]](trained, out)
    except BaseException as error:
        if is_new:
            shutil.rmtree(out, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(
                f"--out={out} cannot be written: {error.strerror or error}."
            ) from error
        raise


def _check_out(out: Path) -> None:
    """Raises UserError if `out` has anything but an export, which may be replaced."""
    # A new repository of the Hub has hidden files.
    if not out.is_dir() or all(path.name.startswith(".") for path in out.iterdir()):
        return
    try:
        text = (out / "config.json").read_text("utf-8", "surrogateescape")
        is_export = "crl_jax" in json.loads(text)
    except (OSError, ValueError, TypeError):
        is_export = False
    if not is_export:
        raise UserError(
            f"--out={out} has files that are not from an export and could be "
            "overwritten: give an empty folder, or a new one."
        )


def main() -> None:
    """Reads the arguments and exports."""
    verb = cli.parser("export", __doc__)
    cli.add_workdir(verb, "folder of a run that was trained")
    add = verb.add_argument
    add(
        "--to",
        required=True,
        choices=FORMATS,
        dest="format",
        metavar="FORMAT",  # all of them in a row are wider than a terminal
        help="one of the formats above",
    )
    add(
        "--out",
        type=cli.path,
        metavar="DIR",
        help="default: export/FORMAT in --workdir",
    )
    add("--data_name", metavar="TEXT", help="the data's name, for the model card")
    add("--data_license", metavar="TEXT", help="the data's licence, likewise")
    arguments = vars(cli.read(verb))

    from crl_jax import devices
    from crl_jax.terminal import console

    devices.start()
    workdir = arguments.pop("workdir")
    out = arguments.pop("out", workdir / "export" / arguments["format"])
    export(workdir, arguments, out)
    console.print(f"Wrote {out}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main)
