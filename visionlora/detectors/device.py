"""Where torch computes: names of devices as users type them, checked, and how many processes train on them."""

from __future__ import annotations

import gc

import torch

from visionlora.errors import UsageError


def check_device(device: str | int) -> str:
    """Return the name of a device that is there: `cpu`, `mps`, or numbers of GPUs such as `0` or `0,1`.

    Args:
        device: one of these; torch's `cuda`, `cuda:0` and `cuda:0,1` too.

    Raises:
        UsageError: it is not of this form, names a GPU twice, or there is no such device.

    Example:
        >>> check_device("CPU")
        'cpu'
    """
    asked = device
    device = "".join(str(device).lower().split())
    device = "0" if device == "cuda" else ",".join(part.removeprefix("cuda:") for part in device.split(","))
    numbers = device.split(",")
    if all(number.isascii() and number.isdecimal() for number in numbers):
        if len(set(map(int, numbers))) < len(numbers):
            raise UsageError(f"--device {asked}: expected different GPUs; name each one once")
        count = torch.cuda.device_count()
        if all(int(number) < count for number in numbers):
            return ",".join(str(int(number)) for number in numbers)
        here = "there is no GPU that torch can use here" if not count else f"the GPUs here are {_range(count)}"
        raise UsageError(f"--device {asked}: {here}; use cpu" + (" or one of them" if count else ""))
    if device == "cpu" or (device == "mps" and torch.backends.mps.is_available()):
        return device
    raise UsageError(
        f"--device {asked}: expected cpu, 0 or 0,1 (or cuda:0)" + ("; there is no MPS here" if device == "mps" else "")
    )


def _range(count: int) -> str:
    return "0" if count == 1 else f"0 to {count - 1}"


def torch_device(device: str) -> torch.device:
    """Return one of the devices that `check_device` names, as torch has it."""
    return torch.device(f"cuda:{device}" if device.isdecimal() else device)


def process_count(device: str) -> int:
    """Return how many processes train on `device`: one a GPU."""
    return len(device.split(","))


def check_batch(batch: int, device: str) -> None:
    """Refuse a batch that cannot be shared equally by the processes on `device`.

    Raises:
        UsageError: their number does not divide it.
    """
    count = process_count(device)
    if batch % count:
        below = batch // count * count
        nearest = f"{below} or {below + count}" if below else f"{count}"
        raise UsageError(
            f"--batch {batch}: expected a multiple of {count}, a share for each GPU of --device {device}; try {nearest}"
        )


def check_gpu(device: str) -> None:
    """Refuse to look for the largest batch on a device whose memory other programs and the system share.

    Raises:
        UsageError: it is no GPU of CUDA.
    """
    if device in ("cpu", "mps"):
        raise UsageError(
            f"--batch auto: measures the memory of a CUDA GPU, and --device is {device} here; give --batch a number, "
            "such as 16"
        )


def free_memory(device: torch.device) -> int:
    """Return the bytes of a GPU that nothing holds, after letting go of what this process holds for later."""
    gc.collect()
    with torch.cuda.device(device):
        torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def default_device() -> str:
    """Return `0` where torch sees a GPU, else `cpu`."""
    return "0" if torch.cuda.is_available() else "cpu"
