"""Where tensors are, and how exactly it is computed there."""

import torch

from fnst.errors import DeviceError


def device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` is the best one here.

    Raises:
        DeviceError: when it is not in this machine, or no such device exists.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found or torch.device("cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"expected a device such as cpu, cuda or mps, got {name!r}.") from error
    if chosen.type != "cpu" and not _present(chosen):
        raise DeviceError(f"there is no {name} in this machine; use --device cpu.")
    return chosen


def _present(chosen: torch.device) -> bool:
    found = torch.accelerator.current_accelerator(check_available=True)
    index = chosen.index or 0
    return (
        found is not None and found.type == chosen.type and index < torch.accelerator.device_count()
    )


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without them it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def keep_digits() -> None:
    """Let GPUs of this process compute in float32 where they are told to.

    By default, PyTorch lets them round what they convolve to TF32, which has 11 binary digits, and
    add up products of bfloat16 in bfloat16 where a sum is split. Whatever fnst trains, judges or
    paints with sees to it: ``Learner``, ``criterion.loss``, ``Engine``.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
