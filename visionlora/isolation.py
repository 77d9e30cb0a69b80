"""Libraries keep to themselves: no telemetry, no look-ups, nothing in the home folder but visionlora's own cache.

Each switch is one that the library reads when it is imported, so it is set just before that. What a library reads from
the environment also reaches the processes that visionlora starts.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

CACHE_VARIABLE = "VISIONLORA_CACHE"


def cache_folder() -> Path:
    """Return the folder of what is kept: `$VISIONLORA_CACHE`, else `visionlora` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE_VARIABLE) or Path(home) / "visionlora")


def matplotlib_folder() -> str:
    """Return what MPLCONFIGDIR is to be: matplotlib keeps a list of fonts there, else in the home folder."""
    return str(cache_folder() / "matplotlib")


def isolate_openvino() -> None:
    """Have OpenVINO take its stand-in for its telemetry, which else reports every import; it knows no variable."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def isolate_hub() -> None:
    """Have huggingface_hub report nothing, look for no newer version, and draw no bars; it reads this when imported.

    Xet, which would lay chunks of files and logs into the home folder, is left out: without it files come by HTTP. What
    the user has set stays.
    """
    for name in ("TELEMETRY", "UPDATE_CHECK", "PROGRESS_BARS", "XET"):
        os.environ.setdefault(f"HF_HUB_DISABLE_{name}", "1")


@contextlib.contextmanager
def isolating_ultralytics() -> Iterator[None]:
    """Import Ultralytics inside: its settings are fresh ones in a folder that goes with this process.

    It reads its settings, asks the name service whether it is online and says where it put its settings when it is
    imported. With YOLO_OFFLINE it posts no events and looks for no fonts and newer versions; a model that is asked for
    by name is still downloaded. Where the caller has imported it before, its settings are the caller's.
    """
    if _OWNER not in os.environ:
        folder = tempfile.mkdtemp(prefix="visionlora-")
        atexit.register(_remove, folder, os.getpid())
        os.environ.update({"YOLO_CONFIG_DIR": folder, _OWNER: str(os.getpid())})
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "true"  # model descriptions are not evaluated either
    os.environ.setdefault("MPLCONFIGDIR", matplotlib_folder())
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "torch"))  # else a folder of /tmp that stays
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache_folder() / "triton"))  # else one in the home folder
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(disabled)


_OWNER = "VISIONLORA_CONFIG_OWNER"  # a process that made YOLO_CONFIG_DIR; its children share it


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child leaves it to its parent
        shutil.rmtree(folder, ignore_errors=True)
