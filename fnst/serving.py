"""The model as MLflow serves it: encoded pictures in, PNGs of the same size out.

Logged as code beside safetensors and JSON, never pickled; ``mlflow models serve`` runs it.
"""

from pathlib import Path

import mlflow
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from fnst import checkpoint, images
from fnst.stylize import stylize


class Stylizer(PythonModel):
    """Stylizes pictures (JPEG, PNG, WebP; base64 in JSON) with one registered version."""

    def load_context(self, context: PythonModelContext) -> None:
        """Rebuild the network from the two files that lie beside this code."""
        folder = Path(context.artifacts[checkpoint.WEIGHTS]).parent
        self.network = checkpoint.load(folder).network

    def predict(self, model_input: list[bytes]) -> list[bytes]:  # type: ignore[override]
        """Stylize each picture; alpha is kept."""
        return [self._one(content) for content in model_input]

    def _one(self, content: bytes) -> bytes:
        picture = images.load(content)
        stylized = images.Picture(stylize(self.network, picture.rgb), picture.alpha)
        return images.encode(stylized, ".png")


mlflow.models.set_model(Stylizer())
