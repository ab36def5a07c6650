"""The demo page: a picture, each task's labels as bars, and where each task looked."""

import functools
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
import jax
import numpy as np
from gradio.components.label import LabelConfidence, LabelData
from gradio.data_classes import ImageData
from PIL import Image

from crl_jax.data import unlabelled
from crl_jax.inference.grad_cam import grad_cam
from crl_jax.inference.prediction import Prediction, Predictor
from crl_jax.models.architecture import crosses
from crl_jax.reports import page
from crl_jax.reports.page import Child, element

_MAX_FILE = "20mb"  # of an upload
_LABELS = 5  # of a task, at most
_SIDE = 320  # of the pictures that show where a task looked
_DIM = 0.25  # brightness of what a task did not look at
_ON, _OFF = "on", "off"

# What the network was trained with, and system fonts: nothing comes from elsewhere.
THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
# Gradio loses a shorthand such as `border` that has a variable in it.
CSS = """
.gradio-container { max-width: 70rem !important; margin: 0 auto; }
footer { display: none !important; }
.answer table { width: 100%; margin-top: .5rem; border-collapse: collapse;
  border-width: 0 !important; }
.answer tr { border-width: 0 !important; }
.answer th, .answer td { text-align: left; padding: .3rem .6rem .3rem 0 !important;
  border-style: solid !important; border-width: 0 0 1px !important;
  border-bottom-color: var(--border-color-primary) !important;
  overflow-wrap: anywhere; }
.answer td:first-child { overflow-wrap: normal; }
.looked { flex-grow: 0 !important; }
"""


def app(predictor: Predictor, title: str) -> fastapi.FastAPI:
    """Returns the page as a web application.

    Args:
      predictor: the network.
      title: of the page.
    """
    ui = build(predictor, title)
    # Until it is launched, Gradio reads any file that is asked for as if it had been
    # uploaded; mounting does not set this.
    ui.has_launched = True
    return gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        ui,
        path="",
        max_file_size=_MAX_FILE,
        ssr_mode=False,
        footer_links=[],
        theme=THEME,
        css=CSS,
    )


def build(predictor: Predictor, title: str) -> gr.Blocks:
    """Returns the page of a network, to be launched.

    Args:
      predictor: the network.
      title: of the page.
    """
    tasks = list(predictor.classes)
    can_switch = crosses(predictor.trained.run.config.model, len(tasks))
    networks = {_ON: predictor}
    if can_switch:
        networks[_OFF] = predictor.without_cross_residuals()
    look = {
        name: jax.jit(functools.partial(grad_cam, network.trained.network))
        for name, network in networks.items()
    }

    def answer(path: str | None, cross: str) -> list[Any]:
        if path is None:
            return [""] + [None] * (2 * len(tasks))
        found = {name: network(Path(path))[0] for name, network in networks.items()}
        shown = found[cross]
        if shown.error is not None:
            raise gr.Error(f"This picture {shown.error}.", print_exception=False)
        labels = [_bars(shown, task) for task in tasks]
        return [_text(found, cross), *labels, *spotlights(path, shown, cross)]

    def spotlights(path: str, shown: Prediction, cross: str) -> list[np.ndarray]:
        trained = networks[cross].trained
        data = trained.run.config.data
        (batch,) = unlabelled.batches([Path(path)], data, batch_size=1)
        best = {t: np.array([np.argmax(p)]) for t, p in shown.probabilities.items()}
        maps = look[cross](trained.variables, batch["image"], best)
        image = batch["image"][0]
        return [spotlight(image, np.asarray(maps[task][0])) for task in tasks]

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 600)) as ui:
        gr.HTML(_to_html(element("h1", title), *_description(predictor)))
        with gr.Row():
            with gr.Column(scale=1, min_width=200):
                picture = gr.Image(
                    sources=["upload", "clipboard"],
                    label="Your picture",
                    height=280,
                    elem_id="picture",
                )
                # Gradio would open the upload itself, and fail on a broken one.
                picture.preprocess = _path  # type: ignore[method-assign, assignment]
                switch = gr.Radio(
                    [_ON, _OFF],
                    value=_ON,
                    label="Cross-residuals",
                    visible=can_switch,
                    elem_id="cross",
                )
            with gr.Column(scale=2, min_width=200):
                text = gr.HTML(elem_id="answer", elem_classes="answer")
        with gr.Row(equal_height=True):
            labels, looks = [], []
            for task in tasks:
                with gr.Column(min_width=200):
                    labels.append(gr.Label(label=task))
                    # Gradio would name the first label even if none is likely.
                    labels[-1].postprocess = _as_it_is  # type: ignore[method-assign, assignment]
                    looks.append(
                        gr.Image(
                            label=f"{task}: where it looked",
                            format="png",
                            interactive=False,
                            buttons=[],
                            elem_classes="looked",
                        )
                    )
        outputs = [text, *labels, *looks]
        for changed in (picture, switch):
            changed.change(answer, [picture, switch], outputs, api_visibility="private")
    return ui.queue(max_size=16, default_concurrency_limit=1)


def spotlight(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """Returns a picture that is dimmed where a task did not look.

    Args:
      image: `[H, W, 3]` uint8.
      cam: `[H', W']`, 0 to 1.

    Returns:
      `[rows, columns, 3]` uint8, about as large as fits beside the others.
    """
    how = Image.Resampling.NEAREST if len(image) <= 64 else Image.Resampling.BICUBIC
    enlarged = np.asarray(Image.fromarray(image).resize((_SIDE, _SIDE), how))
    smooth = Image.fromarray(cam.astype(np.float32)).resize(
        (_SIDE, _SIDE), Image.Resampling.BILINEAR
    )
    light = _DIM + (1 - _DIM) * np.clip(np.asarray(smooth), 0, 1)
    return (enlarged * light[..., None]).astype(np.uint8)


def _path(upload: ImageData | None) -> str | None:
    return upload.path if upload else None


def _bars(shown: Prediction, task: str) -> LabelData:
    """Returns a task's answer, and its labels with probabilities if it has any."""
    kind, answer = shown.kinds[task], shown.probabilities[task]
    ranked = kind.ranked(answer, _LABELS)
    bars = [LabelConfidence(label=n, confidence=p) for n, p in ranked]
    return LabelData(label=kind.headline(answer), confidences=bars or None)


def _as_it_is(value: LabelData | None) -> LabelData | None:
    return value


def _description(predictor: Predictor) -> list[Child]:
    tasks = ", ".join(f"{t} ({kind.size})" for t, kind in predictor.kinds.items())
    text = (
        f"For each picture, one network predicts: {tasks}. It answers with these "
        "labels for any picture, even one of something else. Pictures are deleted "
        "within 20 minutes."
    )
    return [element("p", text)]


def _text(found: dict[str, Prediction], cross: str) -> str:
    """Returns the joint answer, and what the cross-residuals change."""
    body: list[Child] = []
    if joint := found[cross].joint:
        labels = ", ".join(joint.labels.values())
        percent = f" ({100 * joint.probability:.1f}%)"
        body.append(element("p", "All tasks together: ", element("b", labels), percent))
    if _OFF in found:
        rows: list[list[Child]] = [
            [task, *(_best(found[name], task) for name in (_ON, _OFF))]
            for task in found[_ON].classes
        ]
        columns = ["", "with cross-residuals", "without"]
        body.append(page.table(columns, rows))
    return _to_html(*body)


def _best(prediction: Prediction, task: str) -> str:
    return prediction.kinds[task].brief(prediction.probabilities[task])


def _to_html(*elements: Child) -> str:
    return page.to_text(element("div", *elements))
