"""Exported networks answer as the native one, by the code in their own model card."""

import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import crl_jax
from crl_jax import export, networks, workdir
from crl_jax.errors import UserError
from crl_jax.inference import export_files, export_formats, exported, model_card

PROJECT = Path(__file__).parents[1]
# The second is of three letters beyond 16 bits, joined by letters that do not print.
SOLIDS = "Solids 🍎 👨‍👩‍👧"
NEEDS = {
    "onnx": ("jax2onnx", "onnxruntime"),
    "safetensors": ("safetensors",),
    "space": ("safetensors", "gradio"),
}


@pytest.fixture(scope="module")
def predictor(trained):
    return crl_jax.load(trained[0])


def export_to(trained, out, name, **what):
    for package in NEEDS.get(name, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: see the extras in setup.cfg")
    try:
        export.export(trained[0], {"format": name, **what}, out)
    except UserError as error:
        if name == "saved_model" and "cannot run what JAX" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("name", export.FORMATS)
def test_the_code_of_the_model_card_gives_the_native_answers(
    name, trained, predictor, photographs, tmp_path
):
    export_to(trained, tmp_path, name)
    for file, photograph in zip(("a.jpg", "b.jpg"), photographs, strict=True):
        with Image.open(photograph) as image:
            image.convert("RGB").save(tmp_path / file, quality=95)
    card = (tmp_path / "README.md").read_text("utf-8")
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    # In a fresh process, with this package only where the card says so.
    here = name in ("safetensors", "space")
    code += [
        "import sys\n"
        f"assert {here} == ('crl_jax' in sys.modules)\n"
        "answers = {task: np.asarray(p) for task, p in probabilities.items()}\n"
        "np.savez('answers.npz', images=images, **answers)\n"
    ]
    (tmp_path / "use.py").write_text("\n".join(code))
    done = subprocess.run(
        [sys.executable, "use.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "answers.npz") as answers:
        expected = predictor.probabilities(answers["images"])
        for task, native in expected.items():
            assert answers[task].shape == native.shape == (2, len(native[0]))
            np.testing.assert_allclose(answers[task], native, atol=1e-4)


def prepare_of(card):
    """Returns what the code of a model card prepares a picture with."""
    code = re.search(r"```python\n(import numpy.*?)\n\nimages = ", card, re.DOTALL)[1]
    names = {}
    exec(code, names)
    return names["prepare"]


@pytest.fixture(scope="module")
def prepare(predictor):
    what = {"format": "stablehlo"}
    return prepare_of(model_card.text(predictor.trained, None, what))


def test_the_pillow_code_of_the_model_card_cuts_nearly_as_training_does(
    predictor, photographs, prepare
):
    from crl_jax.data import unlabelled

    data = predictor.trained.run.config.data
    (batch,) = unlabelled.batches(photographs, data, 2)
    for photograph, expected in zip(photographs, batch["image"], strict=True):
        difference = prepare(photograph).astype(int) - expected
        assert np.abs(difference).mean() < 4


def test_the_pillow_code_scales_as_pictures_were_stored(trained, predictor, tmp_path):
    """By `config.data.resize`; the fine pattern has another mean where it is not."""
    from crl_jax.data import unlabelled

    changes = {"data.resize": 20, "data.image_size": 16, "data.eval_crop": 0.4}
    config = networks.with_settings(predictor.trained.run.config, changes)
    run = dataclasses.replace(predictor.trained.run, config=config)
    scaled = dataclasses.replace(predictor.trained, run=run)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (90, 70, 3), np.uint8)).save(
        tmp_path / "a.png"
    )
    contents = export_files.files(scaled, trained[0], {"format": "stablehlo"})
    card = contents["README.md"]
    assert "whose shorter side has more than 20 pixels are scaled down" in card
    assert (
        contents["preprocessor_config.json"]["largest_shorter_side_before_crop"] == 20
    )
    (batch,) = unlabelled.batches([tmp_path / "a.png"], config.data, 1)
    prepared = prepare_of(card)(tmp_path / "a.png")
    difference = prepared.astype(int) - batch["image"][0]
    assert np.abs(difference).mean() < 4
    assert "LANCZOS" not in model_card.text(
        predictor.trained, None, {"format": "stablehlo"}
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "L", "I;16"])
def test_the_pillow_code_of_the_model_card_takes_pixels_of_all_kinds(
    predictor, prepare, mode, tmp_path
):
    from crl_jax.data import unlabelled

    rows = np.linspace(0, 255, 48, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(*np.ix_(rows, rows, [0, 64, 128, 192])), -1)
    pixels = (pixels[..., 0] // 2 + pixels[..., 1] // 4 + pixels[..., 2] // 4).copy()
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels.astype(np.uint8), "RGBA").convert(mode)
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(file, **({"transparency": 3} if mode == "P" else {}))
    with Image.open(file) as saved:
        assert saved.mode == mode
    data = predictor.trained.run.config.data
    (batch,) = unlabelled.batches([file], data, 1)
    assert batch["error"][0] == b""
    difference = prepare(file).astype(int) - batch["image"][0]
    assert np.abs(difference).mean() < 4


def test_arrays_that_were_exported_are_loaded_as_a_run_is(
    trained, predictor, photographs, tmp_path
):
    export_to(trained, tmp_path, "safetensors")
    exported = crl_jax.load(tmp_path)
    (found,), (expected,) = exported(photographs[0]), predictor(photographs[0])
    assert found.joint == expected.joint
    for task, probabilities in expected.probabilities.items():
        np.testing.assert_array_equal(found.probabilities[task], probabilities)
    assert exported.trained.step == predictor.trained.step
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["tasks"] == list(config["labels"]) == ["hue", "number"]
    config["labels"] = dict(reversed(config["labels"].items()))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert list(crl_jax.load(tmp_path).classes) == ["hue", "number"]
    del config["tasks"], config["labels"]  # as earlier versions wrote it
    config["labels"] = exported.trained.run.classes
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert list(crl_jax.load(tmp_path).classes) == ["hue", "number"]
    with pytest.raises(UserError, match="exported network: give the folder of its run"):
        workdir.read(tmp_path)
    assert exported.without_cross_residuals()(photographs[0])[0].error is None
    whole = (tmp_path / "config.json").read_bytes()
    for labels in ("ab", ["a", "a"], ["a", 1], [{"a": 1}, "b"]):
        config["labels"]["hue"] = labels
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=r"is damaged \(classes of hue that are"):
            crl_jax.load(tmp_path)
    (tmp_path / "config.json").write_bytes(whole)
    for file in ("config.json", "model.safetensors"):
        whole = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=f"The network in {tmp_path} is damaged"):
            crl_jax.load(tmp_path)
        (tmp_path / file).write_bytes(whole)
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays = safetensors.load_file(tmp_path / "model.safetensors")
    kernel = "params/head/hue/kernel"
    arrays[kernel] = arrays[kernel][:, :1].copy()
    safetensors.save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=rf"{kernel} has the shape \(\d+, 1\), not \("):
        crl_jax.load(tmp_path)
    arrays[kernel] = np.zeros((arrays[kernel].shape[0], 2), np.int8)
    safetensors.save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"{kernel} is of int8"):
        crl_jax.load(tmp_path)


def test_a_network_is_never_beside_the_labels_of_another(
    trained, tmp_path, monkeypatch
):
    export_to(trained, tmp_path, "safetensors")
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "saved_model.pb").touch()

    def full(trained, folder):
        raise OSError("No space left on device")

    monkeypatch.setitem(export_formats.FORMATS, "stablehlo", full)
    with pytest.raises(UserError, match="No space left"):
        export_to(trained, tmp_path, "stablehlo")
    left = {path.name for path in tmp_path.iterdir()}
    assert "config.json" in left
    assert not left & {"model.safetensors", "saved_model"}


def test_a_frozen_network_is_loaded_wherever_it_began(trained, tmp_path):
    export_to(trained, tmp_path, "safetensors")
    found = crl_jax.load(trained[0]).trained
    with found.run.config.unlocked():
        found.run.config.init["from"], found.run.config.model.frozen = ".", "res3"
    said = exported.description(found)["crl_jax"]
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"crl_jax": said}))
    assert crl_jax.load(tmp_path).trained.step == found.step


def test_any_number_of_pictures_at_a_time(trained, predictor, tmp_path):
    import jax

    export_to(trained, tmp_path, "stablehlo")
    model = jax.export.deserialize(
        bytearray((tmp_path / "model.stablehlo").read_bytes())
    )
    rng = np.random.default_rng(0)
    for count in (1, 3, 9):
        images = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
        answers, expected = model.call(images), predictor.probabilities(images)
        for task, native in expected.items():
            np.testing.assert_allclose(answers[task], native, atol=1e-4)
    assert {"cpu", "cuda", "tpu"} <= set(model.platforms)


def test_card_says_what_the_hub_and_people_want_to_know(trained, tmp_path):
    export_to(
        trained, tmp_path, "stablehlo", data_name=SOLIDS, data_license="CC0: free"
    )
    card = (tmp_path / "README.md").read_text("utf-8")
    _, metadata, text = card.split("---\n", 2)
    fields = yaml.safe_load(metadata)
    assert fields["license"] == "other"
    assert fields["license_name"] == "CC0: free"
    assert fields["pipeline_tag"] == "image-classification"
    result = json.loads((trained[0] / "result.json").read_text())["result"]
    (entry,) = fields["model-index"]
    found = {r["task"]["name"]: r["metrics"][0]["value"] for r in entry["results"]}
    assert found == {t: round(result[t]["top1"], 4) for t in ("hue", "number")}
    assert {r["dataset"]["name"] for r in entry["results"]} == {SOLIDS}
    assert "Licence of the data: CC0: free" in text
    assert f"| hue | 7 | {100 * result['hue']['top1']:.2f} |" in text
    if importlib.util.find_spec("huggingface_hub"):
        from huggingface_hub import ModelCard

        assert len(ModelCard(card).data.eval_results) == 2


def test_labels_travel_and_paths_do_not(trained, predictor, tmp_path):
    export_to(trained, tmp_path, "stablehlo")
    description = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert description["labels"] == {t: list(n) for t, n in predictor.classes.items()}
    assert description["crl_jax"]["data"]["manifest"] == "labels.csv"
    manifest = workdir.read(trained[0]).config.data.manifest
    for file in tmp_path.iterdir():
        assert str(Path(manifest).parent).encode() not in file.read_bytes()
    preprocessor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert preprocessor["size"] == {"height": 16, "width": 16}


def test_the_place_of_the_weights_that_it_began_with_does_not_travel(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    config["init"]["from"] = "/home/somebody/resnet18.pth"
    path.write_text(json.dumps(config))
    export.export(tmp_path / "run", {"format": "stablehlo"}, tmp_path / "out")
    description = (tmp_path / "out" / "config.json").read_text()
    assert "somebody" not in description
    assert json.loads(description)["crl_jax"]["init"]["from"] == "resnet18.pth"
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "Started from the weights of resnet18.pth: the terms of the data" in card


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "a cross-residual multitask ResNet-12, branched from res5a, with cross"),
        (
            {"branch_from": "res5b"},  # where nothing crosses
            "label sets: a multitask ResNet-12, branched from res5b. ",
        ),
        (
            {"cross.init": 0.0},
            "label sets: a multitask ResNet-12, branched from res5a. ",
        ),
        (
            {"cross.init": 0.0, "fusion": "nddr"},
            "a multitask ResNet-12, branched from res5a (the baseline nddr). ",
        ),
    ],
)
def test_the_card_says_which_network_it_is(trained, predictor, changes, text):
    config = predictor.trained.run.config
    for name, value in changes.items():
        config = networks.with_settings(config, {f"model.{name}": value})
    run = dataclasses.replace(predictor.trained.run, config=config)
    changed = dataclasses.replace(predictor.trained, run=run)
    contents = export_files.files(changed, trained[0], {"format": "stablehlo"})
    assert text in contents["README.md"]
    tags = yaml.safe_load(contents["README.md"].split("---\n")[1])["tags"]
    assert ("cross-residual" in tags) == ("cross-residual" in text)


@pytest.mark.parametrize("step", [None, 1])
def test_accuracies_of_no_or_another_checkpoint_are_not_shown(trained, tmp_path, step):
    shutil.copytree(trained[0], tmp_path / "run")
    path = tmp_path / "run" / "result.json"
    content = json.loads(path.read_text())
    path.unlink()
    if step is not None:
        path.write_text(json.dumps(content | {"step": step}))
    export.export(tmp_path / "run", {"format": "stablehlo"}, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "the run has no final result" in card
    assert (" of an unfinished run." in card) == (step is None)
    assert "model-index" not in yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize("name", ["result.json", "combinations.json"])
def test_what_is_damaged_is_answered_before_anything_is_written(
    trained, tmp_path, name
):
    shutil.copytree(trained[0], tmp_path / "run")
    (tmp_path / "run" / name).write_text('{"combinations": [[7, 7]], "step": 3}')
    with pytest.raises(UserError, match=f"{name} is damaged: delete it"):
        export.export(tmp_path / "run", {"format": "stablehlo"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["config.json", "README.md", "app.py", "crl_jax"])
@pytest.mark.parametrize("content", ["[]", "3", '{"model": 1}', "no JSON"])
def test_nothing_of_anything_else_is_overwritten(trained, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="has files that are not from an export"):
        export.export(trained[0], {"format": "safetensors"}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == content


def test_a_run_is_not_overwritten_by_its_export(trained, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(trained[0], directory)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match="has files that are not from an export"):
        export.export(directory, {"format": "safetensors"}, directory)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_an_export_may_go_into_a_new_repository(trained, tmp_path):
    (tmp_path / ".gitattributes").touch()
    export.export(trained[0], {"format": "stablehlo"}, tmp_path)
    assert (tmp_path / "model.stablehlo").exists()


def test_an_export_takes_the_place_of_an_earlier_one(trained, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(trained[0], run)
    for name in ("first", "second"):
        export_to((run, None), out, "stablehlo", data_name=name)
        assert (out / "combinations.json").exists() == (name == "first")
        (run / "combinations.json").unlink(missing_ok=True)
    assert "# second: " in (out / "README.md").read_text("utf-8")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_export_that_was_interrupted_can_be_repeated(
    trained, tmp_path, monkeypatch, error
):
    new, known = tmp_path / "new", tmp_path / "known"
    export_to(trained, known, "stablehlo")
    (known / "model.stablehlo").unlink()

    def interrupted(trained, folder):
        (folder / "model.stablehlo").write_bytes(b"a part of it")
        raise error

    with monkeypatch.context() as patched:
        patched.setitem(export_formats.FORMATS, "stablehlo", interrupted)
        for out in (new, known):
            with pytest.raises((UserError, KeyboardInterrupt)):
                export_to(trained, out, "stablehlo")
    assert not new.exists()
    export_to(trained, known, "stablehlo")
    assert (known / "model.stablehlo").stat().st_size > 1000


def test_several_processes_export_nothing(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(UserError, match="exported by one process"):
        export.export(trained[0], {"format": "stablehlo"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mistakes_are_answered(trained, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--out=.*cannot be written"):
        export.export(trained[0], {"format": "stablehlo"}, tmp_path / "file")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(UserError, match=r"needs safetensors: .*\.\[safetensors\]"):
        export.export(trained[0], {"format": "safetensors"}, tmp_path / "new")
    assert not (tmp_path / "new").exists()
