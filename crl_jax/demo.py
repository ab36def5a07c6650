"""Open a page that answers for pictures, on this machine.

  python -m crl_jax.demo --workdir=runs/mine

It needs Gradio: `pip install crl_jax[demo]`. The page is at http://127.0.0.1:7860 and
for this machine alone, unless --host=0.0.0.0 lets others of the network in. It needs no
internet and reports to nobody; what is uploaded is deleted within 20 minutes.
"""

import os
from pathlib import Path

from crl_jax import cli
from crl_jax.errors import UserError

_MAX_FILE = "20mb"


def launch(workdir: Path, host: str, port: int, wait: bool = True) -> str:
    """Serves the page of a run.

    Args:
      workdir: the run's folder.
      host: address to listen at.
      port: likewise.
      wait: until the process is stopped; else the page lasts as long as the process.

    Returns:
      The page's address.

    Raises:
      UserError: Gradio is not installed, the port is taken, or there is no run.
    """
    # Gradio reads these when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        from crl_jax import demo_page
    except ImportError as error:
        raise UserError(
            "The demo needs Gradio: install it with `pip install crl_jax[demo]`, or in "
            "a clone `pip install .[demo]`."
        ) from error
    from crl_jax.prediction import load
    from crl_jax.terminal import console

    page = demo_page.build(load(workdir), workdir.resolve().name)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            ssr_mode=False,
            prevent_thread_lock=True,
            max_file_size=_MAX_FILE,
            footer_links=[],
            theme=demo_page.THEME,
            css=demo_page.CSS,
        )
    except OSError as error:
        raise UserError(
            f"--host={host} --port={port} cannot be listened at ({error}): give "
            "another --port."
        ) from error
    console.print(f"The page is at {address} (Ctrl-C stops it).", soft_wrap=True)
    if wait:
        page.block_thread()
    return address


def main() -> None:
    """Reads the arguments and serves the page."""
    verb = cli.parser("demo", __doc__)
    cli.add_workdir(verb, "folder of a run that was trained")
    add = verb.add_argument
    add("--host", default="127.0.0.1", help="address to listen at")
    add("--port", type=cli.positive, default=7860, help="likewise")
    arguments = cli.read(verb)

    from crl_jax import devices

    devices.start()
    launch(**vars(arguments))


if __name__ == "__main__":
    cli.run(main)
