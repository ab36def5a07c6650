"""Each benchmark runs, at its smallest size; those that take longest in `make slow`."""

import csv
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import traffic

PROJECT = Path(__file__).parents[1]


TINY = ("--depth=12", "--size=16", "--batch=4")


def run(name, tmp_path, *flags):
    """Returns what a benchmark printed, and the JSON that it wrote."""
    file = tmp_path / "measurements.json"
    # Quick to compile, and one device, unlike in these tests.
    env = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, "-m", f"benchmarks.{name}", f"--json={file}", *flags]
    done = subprocess.run(
        command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


def assert_seconds(found, repeats):
    """Every measurement was made, and took time."""
    for seconds in found.values():
        assert len(seconds) == repeats
        assert all(0 < value < 600 for value in seconds)


def test_input(tmp_path):
    """What is not installed is left out, and named."""
    flags = ("--count=8", "--size=32", "--batch=4", "--seconds=0.1", "--repeats=2")
    printed, speeds = run("input", tmp_path, *flags)
    assert {"preparation", "training", "evaluation"} <= set(speeds)
    for name in ("decode", "DataLoader"):
        assert (name in speeds) != (f"Without {name}: pip install" in printed)
    for name, found in speeds.items():
        assert name in printed
        assert len(found) == 2
        assert all(math.isfinite(s["images"]) and s["images"] > 0 for s in found)


def test_input_says_that_a_folder_has_no_pictures(tmp_path):
    command = [sys.executable, "-m", "benchmarks.input", f"--images={tmp_path}"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no .jpg in it" in done.stderr


def test_step(tmp_path):
    printed, found = run("step", tmp_path, *TINY, "--repeats=2")
    works = {f"crl_jax {work}" for work in ("training", "evaluation")}
    assert works <= set(found["seconds"])
    assert ("Without PyTorch: pip install" in printed) == (
        importlib.util.find_spec("torch") is None
    )
    assert_seconds(found["seconds"], 2)
    assert found["forward_flops"] > 0


def test_step_compares_the_same_network_in_pytorch(tmp_path):
    """The benchmark itself raises where the logits are others."""
    pytest.importorskip("torch", reason="benchmarks/requirements.txt has PyTorch")
    _, found = run("step", tmp_path, *TINY, "--repeats=1")
    works = {f"PyTorch {work}" for work in ("training", "evaluation")}
    assert works <= set(found["seconds"])


def test_step_in_bfloat16_beside_a_compiled_network(tmp_path):
    pytest.importorskip("torch", reason="benchmarks/requirements.txt has PyTorch")
    flags = ("--dtype=bfloat16", "--compile", "--repeats=1")
    printed, found = run("step", tmp_path, *TINY, *flags)
    assert "bfloat16" in printed
    assert_seconds(found["seconds"], 1)


def test_roofline(tmp_path):
    printed, found = run("roofline", tmp_path, *TINY, "--repeats=1")
    assert "GFLOP/s" in printed
    for work in ("training", "evaluation"):
        of_work = found[work]
        assert_seconds({work: of_work["seconds"]}, 1)
        assert of_work["flops"] > 0
        assert of_work["arithmetic_seconds"] > 0
        assert of_work["memory_seconds"] > 0
    # At the least, an update reads and writes the parameters and their momentum.
    assert sum(found["training"]["bytes"].values()) > 4 * 4 * 2_500_000


def test_roofline_names_the_file_that_describes_no_gpu(tmp_path):
    command = [sys.executable, "-m", "benchmarks.roofline", f"--target={tmp_path}"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"--target={tmp_path}: " in done.stderr
    assert 'pip install ".[cuda]"' in done.stderr


def test_traffic_counts_what_each_operation_reads_and_writes():
    program = """HloModule m

%fused (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %n = f32[4,8]{1,0} negate(%p)
}

ENTRY %main (a: f32[4,8], b: bf16[8,2]) -> (f32[4,8], pred[3]) {
  %a = f32[4,8]{1,0} parameter(0)
  %b = bf16[8,2]{1,0} parameter(1)
  %f = f32[4,8]{1,0} fusion(%a), kind=kLoop, calls=%fused
  %c = (bf16[4,2]{1,0}, /*index=1*/u8[0]{0}) custom-call(%f, %b), \
custom_call_target="multiply"
  %g = bf16[4,2]{1,0} get-tuple-element(%c), index=0
  %d = pred[3]{0} compare(%g, %g), direction=EQ
  ROOT %t = (f32[4,8]{1,0}, pred[3]{0}) tuple(%f, %d)
}
"""
    assert traffic.moved(program) == {
        "fusion": 2 * 4 * 8 * 4,
        "multiply": 4 * 8 * 4 + 8 * 2 * 2 + 4 * 2 * 2,
        "compare": 2 * 4 * 2 * 2 + 3,
    }


@pytest.mark.slow
def test_tasks(tmp_path):
    small = ("--width=0.125", "--tasks=2", "--counts", "1", "2", "--dtype=bfloat16")
    printed, found = run("tasks", tmp_path, *TINY, *small, "--repeats=1")
    assert "A task adds" in printed
    assert set(found["crossed"]) == {"M-ResNet", "X-ResNet"}
    for part in found.values():
        assert_seconds(part, 1)


@pytest.mark.slow
def test_memory(tmp_path):
    stages = ("--stages", "none", "2345")
    _, found = run("memory", tmp_path, *TINY, *stages, "--repeats=1")
    assert_seconds(found["seconds"], 1)
    assert set(found["temporary_bytes"]) == {"none", "2345"}
    assert all(found["temporary_bytes"].values())


def test_grocery_labels(tmp_path):
    """The labels of the authors' folders, one of which is its own only fine class."""
    files = ("train/Fruit/Apple/Pink-Lady/1.jpg", "val/Fruit/Kiwi/2.jpg")
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    command = [sys.executable, "-m", "benchmarks.grocery_labels"]
    subprocess.run([*command, tmp_path], cwd=PROJECT, check=True, capture_output=True)
    assert (tmp_path / "labels.csv").read_text().splitlines() == [
        "file,split,group,coarse,fine",
        f"{files[0]},train,Fruit,Apple,Pink-Lady",
        f"{files[1]},val,Fruit,Kiwi,Kiwi",
    ]
    none = subprocess.run(
        [*command, tmp_path / "val"], cwd=PROJECT, capture_output=True
    )
    assert none.returncode == 2
    assert b"has no pictures in train, val, test" in none.stderr


def test_harder_labels(tmp_path):
    """Training has fewer labels, some of them exchanged; test has its own."""
    rows = [
        {"file": f"{i}.jpg", "split": split, "a": str(i % 3), "b": str(i % 2)}
        for i, split in enumerate(["train"] * 60 + ["val"] * 6 + ["test"] * 30)
    ]
    manifest = tmp_path / "labels.csv"

    def made(*flags):
        with manifest.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        command = [sys.executable, "-m", "benchmarks.harder_labels", "--task=a"]
        files = f"--manifest={manifest}", f"--out={tmp_path / 'out'}"
        done = subprocess.run(
            [*command, *files, *flags], cwd=PROJECT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        with (tmp_path / "out" / "labels.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    rows[0]["a"] = ""
    kept = made("--per_class=8", "--rarest=8")
    assert [row["split"] for row in kept if not row["a"]] == ["train"]
    assert sum(row["split"] == "train" for row in kept) == 1 + 3 * 8

    rows[0]["a"] = "0"
    found = made("--per_class=8", "--rarest=2", "--noise=0.5")
    original = {f"pictures/{row['file']}": row for row in rows}
    train = [row for row in found if row["split"] == "train"]
    of_class = Counter(original[row["file"]]["a"] for row in train)
    assert sorted(of_class.values()) == [2, 4, 8]
    for task in "ab":
        kept = Counter(original[row["file"]][task] for row in train)
        assert Counter(row[task] for row in train) == kept
    wrong = sum(row["b"] != original[row["file"]]["b"] for row in train)
    assert 0 < wrong <= len(train) / 2
    for row in found:
        if row["split"] != "train":
            before = original[row["file"]]
            assert (row["a"], row["b"]) == (before["a"], before["b"])
            assert row["split"] == before["split"] or before["split"] == "train"
    assert (tmp_path / "out" / "pictures").resolve() == tmp_path.resolve()

    again = made("--per_class=8", "--retest=0.5")
    test = [row for row in again if row["split"] == "test"]
    assert len(test) == (60 - 3 * 8 + 6) / 2
    assert all(original[row["file"]]["split"] != "test" for row in test)
    assert len(again) == 60 + 6


@pytest.mark.slow
def test_scaling(tmp_path):
    meshes = ("--meshes", "1x1", "2x2")
    _, found = run("scaling", tmp_path, *TINY, *meshes, "--repeats=1")
    assert_seconds(found["seconds"], 1)
    assert found["state_bytes"]["2x2"] < found["state_bytes"]["1x1"]


@pytest.mark.slow
def test_startup(tmp_path):
    _, found = run("startup", tmp_path, *TINY, "--repeats=1")
    assert_seconds(found["answers"], 1)
    (cold,), (warm,) = found["starts"]["cold"], found["starts"]["warm"]
    assert warm["compile the step"][1] < cold["compile the step"][1]  # of the CPU


@pytest.mark.slow
def test_vso_size_prints_its_table(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.vso_size"),
            *(f"--folder={tmp_path / 'vso'}", "--pictures=300"),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (.+?)(?: \| [\d,]+){4} \|$", done.stdout, re.M)
    assert [row.partition(":")[0].partition(",")[0] for row in rows] == [
        "make the pictures",
        "list them",
        "prepare",
        "prepare",
        "import JAX and TensorFlow",
        "start",
        "one epoch of batches",
        "resume",
    ]
    assert "300 pictures of 48 px" in done.stdout
    assert len(list((tmp_path / "vso" / "images").glob("*/*.jpg"))) == 300


@pytest.mark.slow
def test_export_prints_the_speed_of_each_format(trained):
    command = [sys.executable, "-m", "benchmarks.export", f"--workdir={trained[0]}"]
    done = subprocess.run(
        [*command, "--repeats=2"], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (\w+) \| [\d,]+ \| [\d,]+ \|$", done.stdout, re.M)
    assert {"native", "stablehlo"} <= set(rows)
    for name in ("saved_model", "onnx"):
        assert (name in rows) != (f"Without {name}: " in done.stdout)
