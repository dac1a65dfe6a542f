"""The registered model as MLflow serves it: encoded pictures in, PNGs of the same size out."""

import io
import subprocess
import sys

import numpy as np
import pytest
import registry_fixtures
from PIL import Image
from registry_fixtures import register, train

from fnst import images, registry, store
from fnst.stylize import stylize

project, empty_store = registry_fixtures.project, registry_fixtures.empty_store
pytestmark = pytest.mark.filterwarnings("ignore:::mlflow", "ignore:::pydantic")


def picture(mode, kind, size=(40, 33)):
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def model(project, tmp_path):
    register(train(tmp_path / "a"))
    store.connect()
    import mlflow

    return mlflow.pyfunc.load_model("models:/fnst-wave/1")


def test_a_registered_version_answers_with_pngs_of_the_same_size(model):
    answers = model.predict([picture("RGB", "JPEG"), picture("RGBA", "PNG"), picture("L", "PNG")])
    opened = [Image.open(io.BytesIO(answer)) for answer in answers]
    assert [(a.format, a.size) for a in opened] == [("PNG", (40, 33))] * 3
    assert [a.mode for a in opened] == ["RGB", "RGBA", "RGB"]


def test_it_paints_what_the_command_line_paints(model):
    from fnst import checkpoint

    content = picture("RGB", "PNG")
    network = checkpoint.load(registry.fetch("wave", number=1).folder).network
    ours = images.encode(images.Picture(stylize(network, images.load(content).rgb)), ".png")
    assert model.predict([content]) == [ours]


def test_the_schema_says_bytes(model):
    assert "binary" in str(model.metadata.signature.inputs)
    assert "binary" in str(model.metadata.signature.outputs)


def test_it_is_served_by_its_own_code_wherever_fnst_is_not_installed(project, tmp_path):
    version = register(train(tmp_path / "a"))
    uri = store.connect().get_model_version_download_uri("fnst-wave", str(version.number))
    script = (
        "import sys\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
        "sys.path = [p for p in sys.path if p]\n"
        "import mlflow\n"
        f"mlflow.pyfunc.load_model({uri!r})\n"
        "import fnst\n"
        "print(fnst.__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert "mlartifacts" in done.stdout, done.stderr[-500:]
