"""What can go wrong, as a tree; every message says what was expected, what came and what to do.

FnstError
├── ParamsError         params.yaml holds an unknown key, a wrong type or an impossible value
├── AssetError          a file could not be had, or is not the file its hash promises
├── ImageError          a picture cannot be read, or a result cannot be written
│   └── HugeError       it promises more pixels or frames than are read unasked
├── VideoError         a clip cannot be read, or what it becomes cannot be written
├── CheckpointError     a model on disk is damaged, foreign or made for something else
├── TrainingError       training cannot start, go on or end well
├── RegistryError       MLflow does not know this style or version, or does not answer
└── DeviceError         the device that was asked for is not in this machine

The library raises; only ``fnst.cli`` and the stages' entry point turn an error into one sentence
and an exit code.
"""


class FnstError(Exception):
    """Base of everything fnst raises on purpose; ``str(error)`` is one clear sentence."""


class ParamsError(FnstError):
    """A value of params.yaml, or an argument that mirrors one, is not what it must be."""


class AssetError(FnstError):
    """A named file is out of reach, or its bytes are not the ones that were promised."""


class ImageError(FnstError):
    """A picture could not be read or written."""


class HugeError(ImageError):
    """A picture has more pixels or frames than anybody is likely to mean."""


class VideoError(FnstError):
    """A clip could not be read or written."""


class CheckpointError(FnstError):
    """A trained style on disk is damaged, foreign or does not fit."""


class TrainingError(FnstError):
    """Training cannot start, continue or finish."""


class RegistryError(FnstError):
    """The MLflow registry has no such model, or cannot be reached."""


class DeviceError(FnstError):
    """The requested device does not exist here."""
