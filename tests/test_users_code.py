"""A user's own model, penalty, loss, corruption and dataset: what they must return, and whose frames an error shows."""

from pathlib import Path

import pytest
from conftest import TINY

MODEL = """
import torch
from torch import nn
from aetool.models.base import Autoencoder, AutoencoderOutput

class Mine(Autoencoder):
    def __init__(self, image_shape):
        super().__init__()
        self.image_shape = image_shape
        self.layer, self.back = nn.Linear(64, 4), nn.Linear(4, 64)

    def encode(self, x):
        return self.layer(x.flatten(1))

    def decode(self, code):
        return self.back(code).unflatten(1, self.image_shape)

    def forward(self, x, generator=None):
        code = self.encode(x)
        reconstruction = self.decode(code)
        {body}
"""
RETURN = "return AutoencoderOutput(reconstruction, code, {})"
CONTRACT = "forward(x, generator) must return AutoencoderOutput(reconstruction (B, C, H, W), code, extras)"
MINE = [word for word in TINY if not word.startswith("model")] + [
    "model=mine",
    "--config-dir",
    "conf",
    "overwrite=true",
]


@pytest.fixture
def mine(workplace: Path, request: pytest.FixtureRequest):
    """Writes a component of the user's, in a module of its own as imports are kept, and its YAML."""

    def write(group: str, code: str, keys: str = "") -> str:
        module = f"mine_{abs(hash((request.node.name, group)))}"
        (workplace / "conf" / group).mkdir(parents=True, exist_ok=True)
        (workplace / "conf" / f"{module}.py").write_text(code)
        (workplace / "conf" / group / "mine.yaml").write_text(f"_target_: {module}.Mine\n{keys}")
        return module

    return write


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return reconstruction", "it returned float32 (2, 1, 8, 8)"),
        ("return (reconstruction, code, {})", "it returned tuple"),
        (
            "return AutoencoderOutput(reconstruction.flatten(1), code, {})",
            "the reconstruction must be float32 (2, 1, 8, 8), not float32 (2, 64)",
        ),
        (
            "return AutoencoderOutput(reconstruction[:1], code, {})",
            "the reconstruction must be float32 (2, 1, 8, 8), not float32 (1, 1, 8, 8)",
        ),
        ("return AutoencoderOutput(reconstruction.long(), code, {})", "not int64 (2, 1, 8, 8)"),
        ("return AutoencoderOutput(reconstruction, code.mean(0), {})", "for B=2, not float32 (4,)"),
        ("return AutoencoderOutput(reconstruction, code, None)", "the extras must be a dict of tensors, not NoneType"),
        (
            "return AutoencoderOutput(reconstruction / 0 * 0, code, {})",
            "the reconstruction of the initial network is NaN",
        ),
        ("return AutoencoderOutput(reconstruction.detach(), code, {})", "no gradient leads from its reconstruction"),
    ],
)
def test_what_a_model_must_return_is_said_before_training(aetool, workplace, mine, body, message):
    mine("model", MODEL.replace("{body}", body), "name: mine\n")
    done = aetool("train", *MINE)
    assert done.code == 2
    assert f"model=mine: {CONTRACT}; " in done.err
    assert message in done.err
    assert not list((workplace / "outputs").glob("*"))


def test_a_model_without_a_generator_is_told_so(aetool, workplace, mine):
    code = MODEL.replace("x, generator=None", "x").replace("{body}", RETURN)
    mine("model", code, "name: mine\n")
    done = aetool("finetune", *(word for word in MINE if not word.startswith(("probe", "evaluation", "baselines"))))
    assert done.code == 2
    assert f"{CONTRACT}; it does not take these arguments: too many positional arguments" in done.err
    assert not list((workplace / "outputs").glob("*"))


COMPONENTS = {
    "penalty": (
        "from aetool.penalties.base import Penalty\n"
        "class Mine(Penalty):\n"
        "    def __call__(self, model, batch, output):\n"
        "        return {value}\n"
    ),
    "loss": "class Mine:\n    def __call__(self, reconstruction, target):\n        return {value}\n",
    "corruption": (
        "class Mine:\n"
        "    def __init__(self, level):\n"
        "        pass\n"
        "    def __call__(self, pixels, generator):\n"
        "        return {value}\n"
    ),
    "dataset": "import numpy as np\nfrom aetool.data.dataset import Arrays\ndef Mine(cache_dir):\n    return {value}\n",
}
KEYS = {"penalty": "", "loss": "pixels: false\nlogits: false\n", "corruption": "level: 0.5\n"}
DATASET_KEYS = """
name: mine
image_shape: null
val_fraction: 0.1
standardize: true
augmentation: null
num_train: null
num_classes: null
epochs: 1
batch_size: 16
"""


@pytest.mark.parametrize(
    ("group", "value", "message"),
    [
        (
            "penalty",
            "output.code.square()",
            "penalty=mine: expected a scalar tensor, the mean over the batch; it returned",
        ),
        ("penalty", "0.5", "it returned float"),
        ("penalty", "output.code.mean() / 0", "for the initial network"),
        (
            "loss",
            "(reconstruction - target).square().mean()",
            "expected the error of every pixel, float32 (2, 1, 8, 8)",
        ),
        ("loss", "(reconstruction - target).log()", "it is NaN or infinite for the initial network"),
        ("corruption", "pixels[0]", "expected float32 (2, 1, 8, 8); it returned float32 (1, 8, 8)"),
        (
            "dataset",
            "Arrays(*4 * [np.zeros((9, 1, 8, 8))], [])",
            ".Mine: train_images must be a numpy array (N, C, H, W)",
        ),
        (
            "dataset",
            "1, 2",
            "must return Arrays(train_images, train_labels, test_images, test_labels, class_names), not",
        ),
    ],
)
def test_what_other_components_must_return(aetool, workplace, mine, group, value, message):
    code, keys = COMPONENTS[group].format(value=value), KEYS.get(group, DATASET_KEYS)
    module = mine(group, code, keys)
    words = [word for word in TINY if not word.startswith(group)]
    if group == "penalty":
        text = (
            f"weight: 0.1\nwarmup: 0.0\ntarget_l0: null\nterms:\n  mine:\n    _target_: {module}.Mine\n    scale: 1.0\n"
        )
        (workplace / "conf" / "penalty" / "mine.yaml").write_text(text)
    done = aetool("train", *words, f"{group}=mine", "--config-dir", "conf")
    assert (done.code, message in done.err) == (2, True), done.err
    assert not list((workplace / "outputs").glob("*"))


@pytest.mark.parametrize("where", ["{body}", "super().__init__()"])
@pytest.mark.parametrize("command", [["train"], ["train", "-m", "seed=0,1"]])
def test_an_error_of_the_users_shows_the_users_frames_alone(aetool, workplace, mine, where, command):
    code = MODEL.replace(where, "return {}['missing']").replace("{body}", RETURN)
    module = mine("model", code, "name: mine\n")
    done = aetool(*command, *MINE)
    said = done.err + done.out
    assert done.code == 1
    assert "KeyError: 'missing'" in said
    assert f"{module}.py" in said
    assert "aetool/" not in said.replace(str(workplace), "")


def test_an_error_of_a_module_shows_its_line(aetool, workplace, mine):
    module = mine("model", "1 / 0\n", "name: mine\n")
    done = aetool("train", *MINE)
    assert done.code == 2
    assert f"importing {module} fails: ZeroDivisionError: division by zero" in done.err
    assert f"{module}.py:1)" in done.err
    assert not list((workplace / "outputs").glob("*"))


def test_a_good_model_is_trained(aetool, mine):
    mine("model", MODEL.replace("{body}", RETURN), "name: mine\n")
    assert aetool("train", *MINE).code == 0


def test_a_bug_of_ours_keeps_its_traceback(aetool, workplace, monkeypatch):
    monkeypatch.setattr("aetool.sweeps.autoencoder.pretrain", None)
    with pytest.raises(TypeError):
        aetool("train", *TINY)


def test_overwriting_with_a_model_that_cannot_be_trained_deletes_nothing(aetool, workplace, mine):
    assert aetool("train", *TINY, "name=kept").code == 0
    mine("model", MODEL.replace("{body}", "return reconstruction"), "name: mine\n")
    before = sorted((workplace / "outputs").rglob("*"))
    assert aetool("train", *MINE, "name=kept").code == 2
    assert sorted((workplace / "outputs").rglob("*")) == before
