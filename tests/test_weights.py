"""Published weights: torchvision's models give the same scores, MMSegmentation's names all have a
place, and whatever does not fit is said.

That MMSegmentation's models give the same scores, too, is for ``make parity`` to show, which
needs an environment of its own.
"""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18, segmentation

from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.layers import resize
from segcore.models import build_model
from segcore.weights import converted, load_weights, read_state

PUBLISHED = json.loads((Path(__file__).parent / "golden/published_names.json").read_text())
TORCHVISION = {
    "fcn": {"num_convs": 1, "concat_input": False},
    "deeplabv3": {"width": 256, "projection_kernel": 1, "num_convs": 1},
}
TRUNKS = {
    "resnet18": {},
    "resnet50c": {},
    "mobilenetv2_100": {},
    "hrnet_w18_small_v2": {"pyramid": "concat"},
}


def randomise(model):
    """BatchNorm's statistics, too; scores of about one."""
    for each in model.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.normal_(each.running_mean, std=0.1)
            nn.init.uniform_(each.running_var, 0.5, 1.5)
            nn.init.uniform_(each.weight, 0.3, 0.7)
            nn.init.normal_(each.bias, std=0.1)


# --- torchvision -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", TORCHVISION)
@pytest.mark.parametrize(
    "backbone", ["resnet50", pytest.param("resnet101", marks=pytest.mark.long)]
)
def test_torchvision_scores_are_ours(method, backbone):
    torch.manual_seed(0)
    build = getattr(segmentation, f"{method}_{backbone}")
    theirs = build(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()
    randomise(theirs)
    ours = build_model(method, build_backbone(backbone, output_stride=8), 21, **TORCHVISION[method])
    conversion = converted(theirs.state_dict(), ours)
    assert conversion.complete
    assert conversion.left_out == ()
    ours.load_state_dict(conversion.weights)
    ours.eval().training = True  # the auxiliary head speaks, all layers are as in inference
    with torch.inference_mode():
        for size in ((64, 96), (65, 97), (80, 48)):
            images = torch.randn(1, 3, *size)
            expected, prediction = theirs(images), ours(images)
            pairs = {"out": prediction.logits, "aux": prediction.auxiliary[0]}
            for name, scores in pairs.items():
                scale = expected[name].std()
                assert scale > 1e-2
                difference = (resize(scores, images.shape[-2:]) - expected[name]).abs().max()
                assert difference / scale <= 1e-4


# --- MMSegmentation's names --------------------------------------------------------------------


def state_of(*parts):
    with torch.device("meta"):
        return {key: torch.empty(shape) for part in parts for key, shape in part.items()}


def zoo(method, backbone, *, auxiliary=True, options=None, **form):
    with torch.device("meta"):
        return build_model(
            method, build_backbone(backbone, **form), 19, auxiliary=auxiliary, **(options or {})
        )


@pytest.mark.parametrize("method", PUBLISHED["heads"])
def test_every_published_name_has_its_place(method):
    head, trunk = PUBLISHED["heads"][method], PUBLISHED["trunks"]["resnet50c"]
    model = zoo(method, "resnet50c", options={"lateral": True} if method == "encnet" else None)
    if method == "bisenet":
        model = zoo(method, "resnet18")
        trunk = PUBLISHED["trunks"]["resnet18"]
        inner = "backbone.context_path.backbone"
        trunk = {key.replace("backbone", inner, 1): shape for key, shape in trunk.items()}
    conversion = converted(state_of(head, trunk), model)
    assert conversion.complete, str(conversion)
    assert conversion.left_out == ()
    named = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
    assert set(conversion.weights) == named


@pytest.mark.parametrize("backbone", TRUNKS)
def test_every_trunk_has_its_place(backbone):
    options = {"num_convs": 1, "concat_input": False}
    model = zoo("fcn", backbone, auxiliary=False, options=options, **TRUNKS[backbone])
    conversion = converted(state_of(PUBLISHED["trunks"][backbone]), model)
    assert conversion.unexpected == ()
    assert conversion.misshaped == {}
    assert all(key.startswith(("convs.", "classify.")) for key in conversion.missing)


def test_the_joint_pyramid_has_its_place():
    model = zoo("pspnet", "resnet50c", pyramid="joint")
    parts = PUBLISHED["trunks"]["resnet50c"], PUBLISHED["heads"]["pspnet"], PUBLISHED["neck"]
    conversion = converted(state_of(*parts), model)
    assert conversion.complete, str(conversion)
    assert conversion.weights["backbone.enter.2.0.weight"].shape == (512, 2048, 3, 3)
    assert conversion.weights["backbone.branches.3.1.0.weight"].shape == (512, 1536, 1, 1)


def test_values_go_where_their_names_say():
    theirs = {"decode_head.0.conv_seg.bias": torch.arange(19.0)}
    theirs["decode_head.1.conv_seg.bias"] = -torch.arange(19.0)
    theirs["backbone.stem.7.running_mean"] = torch.arange(64.0)
    weights = converted(theirs, zoo("ocrnet", "resnet50c")).weights
    assert weights["regions.1.1.bias"].tolist() == list(range(19))
    assert weights["classify.1.bias"].tolist() == [-each for each in range(19)]
    assert weights["backbone.body.bn1.running_mean"].tolist() == list(range(64))
    assert len(weights) == 3


def test_shapes_agree_but_for_dimensions_of_one():
    gate = {"decode_head.cca.gamma.scale": torch.full((1,), 0.5)}
    assert converted(gate, zoo("ccnet", "resnet18")).weights["head.context.gain"].shape == ()
    turned = {"decode_head.cca.query_conv.weight": torch.empty(512, 64, 1, 1)}
    conversion = converted(turned, zoo("ccnet", "resnet18"))
    ((key, shapes),) = conversion.misshaped.items()
    assert key == "decode_head.cca.query_conv.weight"
    assert shapes == ((512, 64, 1, 1), (64, 512, 1, 1))


# --- files, URLs and refusals ------------------------------------------------------------------

WIDTH = 8
NARROW = {"num_convs": 1, "concat_input": False, "width": WIDTH, "auxiliary_width": WIDTH}


@pytest.fixture(scope="module")
def checkpoint():
    """MMSegmentation's FCN on ResNet-18b, narrow, for 3 classes, with its auxiliary head."""
    torch.manual_seed(0)
    trunk = resnet18().state_dict()
    state = {f"backbone.{key}": value for key, value in trunk.items() if not key.startswith("fc.")}
    for head, inputs in {"decode_head": 512, "auxiliary_head": 256}.items():
        state[f"{head}.convs.0.conv.weight"] = torch.randn(WIDTH, inputs, 3, 3)
        for key, value in nn.BatchNorm2d(WIDTH).state_dict().items():
            state[f"{head}.convs.0.bn.{key}"] = value
        state[f"{head}.conv_seg.weight"] = torch.randn(3, WIDTH, 1, 1)
        state[f"{head}.conv_seg.bias"] = torch.randn(3)
    return state


def narrow(method="fcn", backbone="resnet18", classes=3, **options):
    options = (NARROW if method == "fcn" else {}) | options
    return build_model(method, build_backbone(backbone), classes, **options)


def written(state, path):
    torch.save({"meta": {"epoch": 3}, "state_dict": state}, path)
    return path


def test_a_file_is_loaded(checkpoint, tmp_path):
    model = narrow()
    conversion = load_weights(model, written(checkpoint, tmp_path / "fcn.pth"))
    assert conversion.complete
    assert str(conversion) == f"{len(checkpoint)} tensors fit"
    loaded = model.state_dict()
    for ours, theirs in {
        "classify.1.bias": "decode_head.conv_seg.bias",
        "convs.0.0.weight": "decode_head.convs.0.conv.weight",
        "auxiliary.1.1.weight": "auxiliary_head.conv_seg.weight",
        "backbone.body.layer4.1.conv2.weight": "backbone.layer4.1.conv2.weight",
    }.items():
        assert torch.equal(loaded[ours], checkpoint[theirs])


def test_safetensors_and_wrapped_models_are_read(checkpoint, tmp_path):
    save_file(checkpoint, tmp_path / "fcn.safetensors")
    wrapped = {f"module.{key}": value for key, value in checkpoint.items()}
    for path in (tmp_path / "fcn.safetensors", written(wrapped, tmp_path / "fcn.pth")):
        state = read_state(str(path))
        assert state.keys() == checkpoint.keys()
        assert all(torch.equal(state[key], checkpoint[key]) for key in state)


def test_heads_for_training_may_be_on_one_side_only(checkpoint, tmp_path):
    path = written(checkpoint, tmp_path / "fcn.pth")
    conversion = load_weights(narrow(auxiliary=False), path)
    assert conversion.complete
    assert len(conversion.left_out) == 8
    assert all(key.startswith("auxiliary_head.") for key in conversion.left_out)
    bare = {key: each for key, each in checkpoint.items() if not key.startswith("auxiliary")}
    conversion = load_weights(narrow(), written(bare, path))
    assert conversion.complete
    assert all(key.startswith("auxiliary.") for key in conversion.left_out)
    assert "7 only for training, left out (auxiliary.0.0.weight" in str(conversion)


def test_a_url_is_fetched_once_and_its_hash_checked(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    path = written(checkpoint, tmp_path / "fcn.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    good = path.rename(tmp_path / f"fcn-{digest}.pth")
    assert load_weights(narrow(), good.as_uri()).complete
    good.rename(tmp_path / "fcn-00000000.pth")
    assert read_state(good.as_uri()).keys() == checkpoint.keys()
    with pytest.raises(InputError, match=r"fcn-00000000.pth cannot be had \(invalid hash value"):
        read_state((tmp_path / "fcn-00000000.pth").as_uri())
    with pytest.raises(InputError, match=r"absent.pth cannot be had .* give the file"):
        read_state((tmp_path / "absent.pth").as_uri())


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there are no weights at .*absent.pth; give a file"):
        read_state(tmp_path / "absent.pth")
    for name in ("cut.pth", "cut.safetensors"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
        with pytest.raises(InputError, match=f"{name} is no whole checkpoint"):
            read_state(tmp_path / name)
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match=r"empty.pth holds no tensors by name"):
        read_state(tmp_path / "empty.pth")
    torch.save({"state_dict": {}, "hook": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(InputError, match=r"code.pth holds more than tensors .* tensors alone"):
        read_state(tmp_path / "code.pth")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"classes": 5}, "a checkpoint for 3 classes, the model has 5; build it for 3"),
        ({"method": "pspnet"}, "a checkpoint of method fcn, the model is pspnet; build that one"),
        ({"method": "deeplabv2"}, "no weights for method deeplabv2; it does for fcn, pspnet,"),
        ({"backbone": "resnet34"}, "the checkpoint of a fcn on another backbone; build the one"),
        ({"backbone": "resnet18d"}, "the checkpoint of a fcn on another backbone; build the one"),
        ({"width": 16}, "the checkpoint of a fcn with other options; build it with those"),
        ({"num_convs": 2}, r"with other options.*\[.* tensors fit; 5 missing \(convs.1.0.weight"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(checkpoint, tmp_path, form, message):
    path = written(checkpoint, tmp_path / "fcn.pth")
    model = narrow(**form)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        load_weights(model, path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_checkpoint_of_no_method_is_refused(tmp_path):
    path = written(resnet18().state_dict(), tmp_path / "imagenet.pth")
    with pytest.raises(InputError, match="no checkpoint of a method that is both MMSegmentation's"):
        load_weights(narrow(), path)


@pytest.mark.parametrize("method", PUBLISHED["heads"])
def test_the_method_of_a_checkpoint_is_known(method, monkeypatch):
    other = "fcn" if method != "fcn" else "pspnet"
    state = state_of(PUBLISHED["heads"][method], PUBLISHED["trunks"]["resnet50c"])
    if method == "bisenet":
        state = state_of(PUBLISHED["heads"][method])
    monkeypatch.setattr("segcore.weights.loading.read_state", lambda source: state)
    with pytest.raises(InputError, match=f"x: a checkpoint of method {method}, the model is"):
        load_weights(zoo(other, "resnet50c"), "x")


def torchvision_s(method):
    with torch.device("meta"):
        build = getattr(segmentation, f"{method}_resnet50")
        return build(
            weights=None, weights_backbone=None, num_classes=19, aux_loss=True
        ).state_dict()


@pytest.mark.parametrize(
    ("method", "model", "message"),
    [
        ("fcn", ("fcn", {}), "with other options; build it with num_convs=1, concat_input=False"),
        ("fcn", ("deeplabv3", {}), "of method fcn, .* that one with num_convs=1, concat_input=Fa"),
        ("deeplabv3", ("deeplabv3", {}), "with width=256, projection_kernel=1, num_convs=1"),
        ("deeplabv3", ("fcn", {}), "of method deeplabv3, the model is fcn; .* with width=256, pro"),
        ("fcn", ("fcn", {"num_convs": 1, "concat_input": False}), "resnet50 or resnet101, at outp"),
    ],
)
def test_a_refusal_of_torchvision_s_names_the_options(method, model, message, monkeypatch):
    name, options = model
    monkeypatch.setattr("segcore.weights.loading.read_state", lambda _: torchvision_s(method))
    with pytest.raises(InputError, match=message):
        load_weights(zoo(name, "resnet18" if options else "resnet50", options=options), "x")


@pytest.mark.parametrize("method", ["fcn", "deeplabv2"])
def test_weights_of_this_project_are_told_apart(method, tmp_path):
    model = narrow(method)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"has the names of this project.*load_model .* init"):
        load_weights(model, tmp_path / "weights.safetensors")


# --- docs/weights.md ---------------------------------------------------------------------------

DOCUMENT = (Path(__file__).parents[1] / "docs/weights.md").read_text()


def calls(columns):
    """The first code of the second cell of each line of a table with so many columns."""
    lines = [line.strip("| ").split(" | ") for line in DOCUMENT.splitlines() if line[:1] == "|"]
    cells = [cells for cells in lines if len(cells) == columns and not cells[0].startswith("-")]
    return {first: code[1] for first, second, *_ in cells[1:] if (code := second.split("`"))[1:]}


def arguments(text):
    return eval(f"(lambda name, **options: (name, options))({text})")


def test_the_backbones_of_the_page_are_those_of_the_checkpoints():
    trunks = {"`r50-d8`": "resnet50c", "`m-v2-d8`": "mobilenetv2_100"}
    found = calls(3)
    assert len(found) >= 10
    for said, text in found.items():
        name, options = arguments(text)
        with torch.device("meta"):
            model = zoo("fcn", name, options={"num_convs": 1, "concat_input": False}, **options)
        for mark, trunk in trunks.items():
            if mark in said:
                conversion = converted(state_of(PUBLISHED["trunks"][trunk]), model)
                assert conversion.unexpected == ()
                assert conversion.misshaped == {}


def test_the_methods_of_the_page_are_those_of_the_checkpoints():
    found = calls(2)
    assert len(found) >= 10
    for said, text in found.items():
        name, options = arguments(text)
        auxiliary = options.pop("auxiliary", True)
        model = zoo(name, "resnet50", auxiliary=auxiliary, options=options)
        if said.startswith("torchvision"):
            assert options == TORCHVISION[name]
            conversion = converted(torchvision_s(name), model)
            assert conversion.complete


def test_the_code_of_the_page_runs():
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    exec(code, names := {})
    assert names["model"].head[0][0].out_channels == 128
