"""Imported weights: the same logits as the other framework; mistakes are answered."""

import io
import shutil
import zipfile
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import traverse_util

from crl_jax import models, start
from crl_jax.config import default
from crl_jax.errors import UserError
from crl_jax.models import MultitaskResNet, pretrained, weight_files
from crl_jax.models.imported import describe
from crl_jax.models.transfer import transfer
from crl_jax.train import train
from tests.made_weights import torch_tensors, write_pth

CLASSES = {"noun": 5, "anp": 7}


def tiny(**settings):
    settings = {"depth": 12, "width": 0.125, "branch_from": "res5a"} | settings
    return MultitaskResNet(settings.pop("classes", CLASSES), **settings)


def init(network, size=32, seed=0):
    images = np.zeros((1, size, size, 3), np.uint8)
    variables = jax.jit(network.init)(jax.random.key(seed), images)
    return jax.device_get(variables)


@pytest.fixture(scope="module")
def network():
    return tiny()


@pytest.fixture(scope="module")
def variables(network):
    return init(network)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_torchvisions_names_and_axes(network, variables, tmp_path, suffix):
    tensors = torch_tensors(network)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        write_pth(path, tensors)
    else:
        safetensors_numpy = pytest.importorskip("safetensors.numpy")
        safetensors_numpy.save_file(tensors, path)
    found = pretrained.load(path, network, variables)
    params, stats = found.variables["params"], found.variables["batch_stats"]
    stem = params["stem"]["conv"]["kernel"]
    for o, i, y, x in ((0, 0, 0, 0), (3, 2, 1, 5), (7, 1, 6, 2)):
        assert stem[y, x, i, o] == tensors["conv1.weight"][o, i, y, x]
    np.testing.assert_array_equal(
        stats["res3a"]["norm2"]["var"], tensors["layer2.0.bn2.running_var"]
    )
    projection = tensors["layer4.0.downsample.0.weight"].transpose(2, 3, 1, 0)
    for branch in params["res5a"]["projection"]["kernel"]:
        np.testing.assert_array_equal(branch, projection)  # each starts as a copy
    np.testing.assert_array_equal(
        params["head"]["noun"]["kernel"], variables["params"]["head"]["noun"]["kernel"]
    )
    assert found.left["fc.weight"] == "heads are new"
    expected = {k for k in traverse_util.flatten_dict(variables) if k[1] != "head"}
    assert set(found.matched) == {"/".join(key) for key in expected}
    assert {name.split("/")[1] for name in found.new} == {"head"}
    text = describe(found, "weights")
    assert f"{len(expected)} arrays taken" in text
    assert "Left out (heads are new): fc." in text


def test_tensors_that_lie_transposed_in_a_pth(network, variables, tmp_path):
    tensors = torch_tensors(network)
    last = tensors["conv1.weight"]
    tensors["conv1.weight"] = np.asfortranarray(last)  # such as channels last
    write_pth(tmp_path / "a.pth", tensors)
    found = pretrained.load(tmp_path / "a.pth", network, variables)
    np.testing.assert_array_equal(
        found.variables["params"]["stem"]["conv"]["kernel"], last.transpose(2, 3, 1, 0)
    )


def test_no_code_in_a_pth_is_run(network, variables, tmp_path):
    marker = tmp_path / "ran"
    command = f"touch {marker}".encode()
    code = b"cposix\nsystem\n(X" + len(command).to_bytes(4, "little") + command + b"tR0"
    path = tmp_path / "evil.pth"
    write_pth(path, torch_tensors(network), extra=code)
    with pytest.raises(UserError, match=r"more than plain tensors \(posix.system\)"):
        pretrained.load(path, network, variables)
    assert not marker.exists()


def test_a_tensor_outside_its_storage_is_refused(network, variables, tmp_path):
    path = tmp_path / "a.pth"
    write_pth(path, torch_tensors(network))
    cut = "archive/data/0"
    rewrite(path, lambda members: members.update({cut: members[cut][:-4]}))
    with pytest.raises(UserError, match=r"damaged: archive/data/0 has \d+ bytes"):
        pretrained.load(path, network, variables)


def rewrite(path, change, compression=zipfile.ZIP_STORED):
    """Changes the members of an archive, `{name: content}`."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_a_pth_that_asks_for_memory_is_refused(network, variables, tmp_path):
    """A few bytes would stand for gigabytes."""
    path = tmp_path / "a.pth"
    write_pth(path, torch_tensors(network))
    rewrite(path, lambda members: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"data.pkl is compressed"):
        pretrained.load(path, network, variables)
    put = b"r\xff\xff\xff\xff."  # into a memo of four billion places
    write_pth(path, torch_tensors(network), extra=put)
    with pytest.raises(UserError, match=r"data.pkl is damaged"):
        pretrained.load(path, network, variables)


@pytest.mark.parametrize("name", ["count", "shape"])
def test_a_pth_cannot_change_what_was_checked(network, variables, tmp_path, name):
    """A pickle may set attributes of what it made; a tensor would get any memory."""
    path = tmp_path / "a.pth"
    state = b"}X" + len(name).to_bytes(4, "little") + name.encode() + b"K\x01s"
    write_pth(path, torch_tensors(network), after_each=state + b"b")
    with pytest.raises(UserError, match=r"cannot be read \(ValueError: it changes a T"):
        pretrained.load(path, network, variables)


def test_the_storage_of_a_pth_cannot_be_changed_or_be_another(tmp_path):
    reader = weight_files._TensorUnpickler(io.BytesIO(), tmp_path / "a.pth")
    storage = reader.persistent_load(("storage", "<f4", "0", "cpu", 8))
    with pytest.raises(ValueError, match="it changes a _Storage"):
        storage.__setstate__({"count": 2**31})
    posing = SimpleNamespace(dtype="<f4", member="data/0", count=2**31)
    with pytest.raises(ValueError, match="without a storage"):
        reader._tensor(posing, 0, (8,), (1,))
    shape, strides = [2, 4], [4, 1]
    tensor = reader._tensor(storage, 0, shape, strides)
    shape[0] = strides[0] = 10**6
    reader._numbers = lambda _: np.arange(8, dtype=np.float32)
    np.testing.assert_array_equal(tensor.read(), np.arange(8).reshape(2, 4))


def test_numbers_that_are_damaged_name_the_file(network, variables, tmp_path):
    """Which is seen only when they are read, after all shapes were found to fit."""
    path = tmp_path / "a.pth"
    write_pth(path, torch_tensors(network))
    content = bytearray(path.read_bytes())
    content[-len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.pth cannot be read \(BadZipFile"):
        pretrained.load(path, network, variables)


def test_a_keras_file_that_stands_for_more_than_it_has_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    network = MultitaskResNet(CLASSES, depth=50, stride_in="1x1")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("conv1_conv/a/kernel:0", (7, 7, 3, 64), compression="gzip")
    with pytest.raises(UserError, match=r"kernel:0 is compressed or stored in another"):
        pretrained.load(path, network, {})


def test_a_keras_bias_of_another_shape_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["conv1_bn/conv1_bn/moving_mean:0"] = np.zeros(64, np.float32)
        file["conv1_conv/conv1_conv/bias:0"] = np.zeros(32, np.float32)
    network = MultitaskResNet(CLASSES, depth=50, stride_in="1x1")
    with pytest.raises(
        UserError, match=r"conv1_conv/bias is \(32,\), and .*: the file"
    ):
        pretrained.load(path, network, {})


def test_a_shape_that_does_not_fit_names_both(network, tmp_path):
    path = tmp_path / "a.pth"
    write_pth(path, torch_tensors(network))
    wider = tiny(width=0.25)
    with pytest.raises(
        UserError, match=r"is \(8,\) there, and .* is \(16,\): the config"
    ):
        pretrained.load(path, wider, init(wider))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"weights are read from .safetensors, .pth"),
        ("a.pth", b"no zip", r"not in the format that PyTorch has saved since"),
        ("a.safetensors", b"nothing", r"a.safetensors cannot be read"),
        ("none.pth", None, r"there is no such file"),
    ],
)
def test_a_wrong_file_is_answered(network, variables, tmp_path, name, content, message):
    pytest.importorskip("safetensors")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        pretrained.load(tmp_path / name, network, variables)


def test_weights_of_another_depth_are_answered(network, variables, tmp_path):
    tensors = torch_tensors(network)
    fewer = {k: v for k, v in tensors.items() if not k.startswith("layer4.1")}
    write_pth(tmp_path / "a.pth", fewer)
    with pytest.raises(UserError, match=r"lacks .*res5b.* weights belong to another"):
        pretrained.load(tmp_path / "a.pth", network, variables)
    # Of a deeper one, and of units that have more in them.
    for name in ("layer4.2.conv1.weight", "module.layer1.0.se.fc1.bias"):
        write_pth(tmp_path / "a.pth", tensors | {name: tensors["bn1.bias"]})
        with pytest.raises(UserError, match=rf"has {name}, and a ResNet-12 has no"):
            pretrained.load(tmp_path / "a.pth", network, variables)


def test_weights_that_do_not_fit_are_answered_before_anything_is_written(
    network, new_config, tmp_path
):
    path, config = tmp_path / "a.pth", new_config()
    write_pth(path, torch_tensors(network))
    config.init["from"] = str(path)
    config.data.dir = str(tmp_path / "shards")
    with pytest.raises(UserError, match=r"conv1.weight is .* must match the weights"):
        train(config, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_weights_are_checked_for_a_network_that_several_devices_share(tmp_path):
    config = default()
    config.model.depth, config.model.width = 12, 0.125
    config.model.branch_from = "res5a"
    config.data.image_size, config.train.task_devices = 32, 2
    config.init["from"] = str(tmp_path / "a.pth")
    shared = models.build(config, CLASSES)
    write_pth(tmp_path / "a.pth", torch_tensors(shared))
    start.check(config, shared)


@pytest.fixture(scope="module")
def keras_model():
    keras = pytest.importorskip("keras")
    model = keras.applications.ResNet50(
        weights=None, classes=11, input_shape=(64, 64, 3)
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        for weight in layer.weights:
            value = np.asarray(weight)
            if value.ndim == 1:  # scales, biases and statistics begin at 0 and 1
                weight.assign(value + rng.uniform(-0.2, 0.2, value.shape))
    return model


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
@pytest.mark.filterwarnings("ignore")
def test_logits_equal_those_of_keras(keras_model, tmp_path, suffix):
    path = tmp_path / f"resnet50{suffix}"
    save = keras_model.save_weights if suffix == ".weights.h5" else keras_model.save
    save(path)
    mean = (123.68 / 255, 116.779 / 255, 103.939 / 255)
    network = MultitaskResNet(
        {"noun": 11, "anp": 11}, depth=50, stride_in="1x1", cross_init=0.0, mean=mean
    )
    found = pretrained.load(path, network, init(network, 64))
    assert not found.notes
    kernel, bias = (np.asarray(w) for w in keras_model.layers[-1].weights)
    for task in ("noun", "anp"):
        found.variables["params"]["head"][task] = {"kernel": kernel, "bias": bias}
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    logits = jax.jit(network.apply)(found.variables, images)

    from keras.applications.resnet import preprocess_input

    theirs = keras_model(preprocess_input(images.astype(np.float32)), training=False)
    for task in ("noun", "anp"):
        ours = np.asarray(jax.nn.softmax(logits[task]))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        # Softmax takes one number away: the logits are equal up to their mean.
        ours = np.asarray(logits[task] - logits[task].mean(-1, keepdims=True))
        theirs_log = np.log(theirs)
        theirs_log -= theirs_log.mean(-1, keepdims=True)
        np.testing.assert_allclose(ours, theirs_log, atol=1e-4)


def test_kerass_stride_is_asked_for(tmp_path):
    pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    path.touch()
    network = MultitaskResNet(CLASSES, depth=50)
    with pytest.raises(UserError, match=r"set config.model.stride_in=1x1"):
        pretrained.load(path, network, {})


def test_a_task_takes_its_own_branch_from_another_run(network):
    there = init(network, seed=1)
    here = tiny(classes={"adjective": 3, "anp": 7}, cross_learned=True)
    found = transfer("run", network, there, here, init(here), {"anp"})
    kernel = found.variables["params"]["res5b"]["conv1"]["kernel"]
    theirs = there["params"]["res5b"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel[1], theirs[1])  # anp is second in both
    np.testing.assert_array_equal(kernel[0], theirs[0])  # new: as the first task's
    heads = found.variables["params"]["head"]
    np.testing.assert_array_equal(
        heads["anp"]["kernel"], there["params"]["head"]["anp"]["kernel"]
    )
    assert "params/head/adjective/kernel" in found.new
    assert "params/res5a_cross/weight" in found.new
    assert "adjective is new: its branch starts as a copy of noun's." in found.notes
    shared = tiny(branch_from="head")
    fewer = transfer("run", here, init(here), shared, init(shared), {})
    assert [name for name in fewer.left if "_cross" in name] == [
        "params/res5a_cross/weight",
        "params/res5b_cross/weight",
    ]


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        ({"depth": 18}, {"depth": 34}, r"model.depth is 18 there, and 34 here"),
        (
            {"depth": 50, "stride_in": "3x3"},
            {"depth": 50, "stride_in": "1x1"},
            r"model.stride_in is 3x3 there, and 1x1 here",
        ),
    ],
)
def test_a_network_that_only_looks_alike_is_refused(there, here, message):
    source, network = (
        MultitaskResNet(CLASSES, **there),
        MultitaskResNet(CLASSES, **here),
    )
    with pytest.raises(UserError, match=message):
        transfer("run", source, {}, network, {}, CLASSES)


def test_another_normalisation_is_told_of(network):
    there = tiny(mean=(0.4, 0.5, 0.6))
    found = transfer("run", there, init(there), network, init(network), CLASSES)
    assert (
        "config.data.mean was (0.4, 0.5, 0.6) there, and is (0.485, 0.456, 0.406) here."
        in found.notes
    )


@pytest.mark.parametrize("branch_from", ["res4a", "res5b"])
def test_another_branch_point_gives_the_same_logits_where_it_can(network, branch_from):
    """A copy for each task of what was shared computes what it did."""
    shared = tiny(branch_from="head")
    there = init(shared, seed=1)
    here = tiny(branch_from=branch_from, cross_init=0.0)
    found = transfer("run", shared, there, here, init(here), CLASSES)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    ours = jax.jit(here.apply)(found.variables, images)
    theirs = jax.jit(shared.apply)(there, images)
    for task in CLASSES:
        np.testing.assert_allclose(ours[task], theirs[task], atol=1e-5)
    assert found.new == []


def test_a_run_starts_from_another(trained, new_config, tmp_path, capsys):
    from crl_jax.train import train

    directory, _ = trained
    config = new_config()
    config.model.branch_from = "res5a"  # as there
    config.init["from"] = str(directory)
    config.train.steps = 1
    config.optim.learning_rate = 1e-9
    train(config, tmp_path / "run")
    assert "arrays taken" in capsys.readouterr().out
    from crl_jax import devices
    from crl_jax.trained import load

    mesh = devices.make_mesh()
    old, new = (
        jax.device_get(load(d, mesh).variables["params"])
        for d in (directory, tmp_path / "run")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), old, new)


def test_a_head_whose_classes_have_other_names_is_new(
    trained, new_config, solid_pictures, tmp_path, capsys
):
    """Though they are as many."""
    from crl_jax.train import train

    shutil.copytree(solid_pictures.parent, tmp_path / "renamed")
    manifest = tmp_path / "renamed" / "labels.csv"
    manifest.write_text(manifest.read_text().replace(",dark,", ",unlit,"))
    config = new_config()
    config.model.branch_from = "res5a"  # as there
    config.init["from"] = str(trained[0])
    config.data.manifest = str(manifest)
    config.data.dir = str(tmp_path / "shards")
    config.train.steps = 1
    train(config, tmp_path / "run")
    told = " ".join(capsys.readouterr().out.split())
    assert "params/head/hue/kernel" in told
    assert "its classes are different" in told
    assert "head/number" not in told
