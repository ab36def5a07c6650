"""Open a page that answers for pictures, on this machine.

  python -m crl_jax.demo --workdir=runs/mine

It needs Gradio: `pip install ".[demo]"`. The page is at http://127.0.0.1:7860 and only
for this machine, unless --host=0.0.0.0 lets others on the network in. It needs no
internet and reports to nobody; what is uploaded is deleted within 20 minutes, and when
it stops. If it is killed, it deletes this when it is started again on the same port.
"""

import contextlib
import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from crl_jax import cli
from crl_jax.errors import UserError


def serve(workdir: Path, host: str, port: int, title: str = "") -> None:
    """Serves the page of a run until the process is stopped.

    Args:
      workdir: the run's folder, or the folder of its export to safetensors or
        a Space.
      host: address to listen at.
      port: port to listen at.
      title: of the page; empty: the folder's name.

    Raises:
      UserError: Gradio is not installed, the address is not one of this machine's or is
        taken, or there is no run.
    """
    # Gradio reads these when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import uvicorn

        from crl_jax.inference import demo_page
    except ImportError as error:
        raise UserError(
            'The demo needs Gradio: in a clone of the project, pip install ".[demo]".'
        ) from error
    from crl_jax.inference.prediction import load
    from crl_jax.terminal import console

    with _listen(host, port) as listening, _uploads_of(listening):
        if threading.current_thread() is threading.main_thread():
            # The default ends the process at once, and leaves what was uploaded.
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        predictor = load(workdir)
        app = demo_page.app(predictor, title or workdir.resolve().name)
        # An open page keeps its connection; it is not waited for at the end.
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        # Whoever asks before the server has started waits for it.
        console.print(
            f"The page is at http://{host}:{port} (Ctrl-C stops it).", soft_wrap=True
        )
        # The server closes its socket before it has ended; nobody may listen there yet.
        server.run(sockets=[listening.dup()])


def _listen(host: str, port: int) -> socket.socket:
    if not host:  # would be all addresses of this machine
        raise UserError("--host is empty: give an address, such as 127.0.0.1.")
    if port >= 2**16:
        raise UserError(f"--port={port} is too large: give one below {2**16}.")
    try:
        return socket.create_server((socket.gethostbyname(host), port))
    except (OSError, UnicodeError) as error:  # the latter for what names no machine
        number = getattr(error, "errno", None)
        other = "port" if number in (errno.EADDRINUSE, errno.EACCES) else "host"
        reason = getattr(error, "strerror", error)
        raise UserError(
            f"--host={host} --port={port} cannot be listened on ({reason}): give "
            f"another --{other}."
        ) from error


@contextlib.contextmanager
def _uploads_of(listening: socket.socket) -> Iterator[None]:
    """Gives Gradio a folder for what is uploaded, and deletes it at the end.

    A process that is killed leaves its folder behind. Only one at a time can listen at
    an address, so what is there when the next one does is of no use to anybody.
    """
    host, port = listening.getsockname()
    name = f"crl_jax-demo-{os.getuid()}-{host}-{port}"
    folder = Path(tempfile.gettempdir(), name)
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise UserError(
            f"Uploads cannot be kept in {folder} ({error.strerror or error}): delete "
            "it, or give another --port."
        ) from error
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["GRADIO_TEMP_DIR"]
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Reads the arguments and serves the page."""
    verb = cli.parser("demo", __doc__)
    cli.add_workdir(verb, "folder of a run, or of its export to safetensors or a Space")
    add = verb.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=cli.positive, default=7860, help="port to listen on")
    arguments = cli.read(verb)

    from crl_jax import devices

    devices.start()
    serve(**vars(arguments))


if __name__ == "__main__":
    cli.run(main)
