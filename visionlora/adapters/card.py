"""What an adapter file says about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast

from visionlora.adapters.base_precision import FLOAT32, NAMES
from visionlora.adapters.methods import METHODS, LoRA, Method, method_of, setting_names
from visionlora.errors import AdapterError, ModelError, UsageError
from visionlora.formats.parsing import parse_json
from visionlora.formats.text import class_names, printable
from visionlora.tasks import DETECT, TASKS, Task, task_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT = 2
NORMALIZATIONS = ("frozen", "live")
"""What becomes of the batch normalization behind adapted layers."""
MAP50, MAP50_95 = "metrics/mAP50(B)", "metrics/mAP50-95(B)"
"""Names of an adapter's scores in its card and in its run's `results.csv`, whatever its family."""
_OPTIONAL = ("quantization", "task_settings")  # earlier versions do not know them
_FIRST_FAMILY = "ultralytics"  # of files that name none


@dataclass(frozen=True)
class AdapterSettings:
    """Shape of an adapter.

    Attributes:
        method: how a weight is adapted, with the settings of that method.
        targets: `all`, group names joined by `+`, such as `neck+head`, `from:N`, `to:N`, or a regular expression that
            the whole layer name must match.
        train_bias: train the bias of each adapted layer too.
        activation: `silu` leaves the base's activation functions as they are; `relu` puts ReLU in place of every SiLU,
            `relu:TARGETS` behind those layers alone.
        normalization: `frozen` leaves the base's batch normalization as it is; `live` trains it behind adapted layers.
        base_precision: what the weights of the base are rounded to, one of `visionlora.adapters.base_precision.NAMES`:
            the adapter belongs to the rounded base.

    Raises:
        UsageError: targets is empty, or the activation or the precision is not known.
    """

    method: Method = field(default_factory=LoRA)
    targets: str = "all"
    train_bias: bool = True
    activation: str = "silu"
    normalization: str = "frozen"
    base_precision: str = FLOAT32

    def __post_init__(self) -> None:
        if not isinstance(self.targets, str) or not self.targets.strip():
            raise UsageError("--targets: expected all, group names, from:N, to:N or a regular expression, got nothing")
        if not isinstance(self.train_bias, bool):
            raise UsageError(f"train_bias: expected true or false, got {self.train_bias!r}")
        if not isinstance(self.activation, str) or (self.activation != "silu" and not self.relu_targets):
            raise UsageError(f"--activation: expected silu, relu or relu:TARGETS, got {self.activation!r}")
        if self.normalization not in NORMALIZATIONS:
            expected = " or ".join(NORMALIZATIONS)
            raise UsageError(f"normalization: expected {expected}, got {self.normalization!r}")
        if self.base_precision not in NAMES:
            raise UsageError(f"--base-precision: expected {', '.join(NAMES)}, got {self.base_precision!r:.40}")

    @property
    def relu_targets(self) -> str:
        """Layers whose SiLU is replaced, in the words of `targets`; empty for none."""
        name, _, targets = self.activation.partition(":")
        return "" if name != "relu" else targets or ("" if ":" in self.activation else "all")

    def to_fields(self) -> dict[str, Any]:
        """Return the settings as one flat mapping, the method by its name.

        A float32 base is not named: earlier versions, which know no other, read the settings then.
        """
        own = {name: value for name, value in vars(self).items() if name != "method"}
        if self.base_precision == FLOAT32:
            del own["base_precision"]
        return {"method": self.method.name, **asdict(cast("DataclassInstance", self.method)), **own}

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> AdapterSettings:
        """Return the settings that `to_fields` gave, or that a file of format 1 has, which knew LoRA alone.

        Raises:
            TypeError: a setting is unknown.
            UsageError: the method is unknown, or a setting is out of range.
        """
        left = dict(values)
        name = left.pop("method", LoRA.name)
        own = setting_names(METHODS[name]) if name in METHODS else ()
        return cls(method_of(name, {each: left.pop(each) for each in own if each in left}), **left)


@dataclass(frozen=True)
class AdapterCard:
    """What an adapter file says about itself.

    Attributes:
        settings: method, targets, bias, activation, normalization, precision of the base.
        names: class names in the order of the class outputs.
        base: `name` (file name), `fingerprint` (SHA-256 of the weights) and `family` of the base it belongs to; a file
            that names no family is of Ultralytics'.
        preprocessing: as in an exported model's metadata; `image_size` in pixels.
        task: what its detector finds, one of `TASKS`; a file that names none is of detection.
        training: the settings of the run that made it.
        scores: what the run measured on its validation images.
        version: visionlora's version.
        quantization: how its merged model becomes int8 (docs/files.md); empty where nobody has calibrated it.
        task_settings: the sizes of the task; empty where it has none.
    """

    settings: AdapterSettings
    names: tuple[str, ...]
    base: Mapping[str, str]
    preprocessing: Mapping[str, Any]
    task: str
    training: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    version: str = ""
    quantization: Mapping[str, Any] = field(default_factory=dict)
    task_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sized_task(self) -> Task:
        """The task with its sizes."""
        return task_of(self.task, "the adapter", self.task_settings)

    @property
    def image_size(self) -> int:
        """Side of the square input that it was trained at, in pixels."""
        return int(self.preprocessing["image_size"])

    def to_json(self) -> str:
        """Return the card as one JSON object, with `format` and `kind`.

        `quantization` and `task_settings` are there where they are not empty.
        """
        own = {name: value for name, value in vars(self).items() if name not in _OPTIONAL or value}
        return json.dumps(
            {"format": FORMAT, "kind": "adapter", **own, "settings": self.settings.to_fields()}, sort_keys=True
        )

    @classmethod
    def from_json(cls, text: str) -> AdapterCard:
        """Return the card that `to_json` wrote.

        Raises:
            AdapterError: the text is no adapter card, of a later format, or of an adapter for another task or
                preprocessing than this version has.
        """
        try:
            entries = parse_json(text)
            version, kind = entries.pop("format"), entries.pop("kind")
            if kind != "adapter" or version > FORMAT:
                raise AdapterError(f"expected an adapter of format {FORMAT} or older, got {kind} of format {version}")
            settings = AdapterSettings.from_fields(entries.pop("settings"))
            names = entries.pop("names")
            names = class_names(names if isinstance(names, list) else None)
            card = cls(settings=settings, names=names, **{"task": DETECT.name, **entries})
            card._check_types()
            return card
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError, UsageError) as error:
            raise AdapterError(f"the adapter's metadata cannot be read: {printable(error):.300}") from error

    def check_base(self, fingerprint: str, where: str, *, family: str | None) -> None:
        """Refuse a base other than the one that the adapter was trained on.

        Args:
            fingerprint: of the base.
            where: what it was loaded from.
            family: of the base; None where its file names none.

        Raises:
            AdapterError: the family or the fingerprint is another; both are named.
        """
        own, other = (named or _FIRST_FAMILY for named in (self.base.get("family"), family))
        if own != other:
            raise AdapterError(
                f"the adapter belongs to a detector of {own!r:.40}, but {where} is one of {other!r:.40}; pass the base "
                "that the adapter was trained on as --model"
            )
        expected = self.base["fingerprint"]
        if fingerprint != expected:
            raise AdapterError(
                f"the adapter belongs to {self.base.get('name', 'another base')} with weights {expected}, "
                f"but {where} has weights {fingerprint}; pass the base that the adapter was trained on as --model"
            )

    def _check_task_settings(self) -> None:
        try:
            task_of(self.task, "the adapter", self.task_settings)
        except ModelError as error:
            raise ValueError(str(error)) from error

    def _check_types(self) -> None:
        """Raise a ValueError where a file lies about what it holds, or holds what nobody here can use."""
        if not isinstance(self.task, str) or self.task not in TASKS:
            raise ValueError(f"task: expected {' or '.join(TASKS)}, got {self.task!r:.80}")
        self._check_task_settings()
        base, given = self.base, self.preprocessing
        if not isinstance(base, dict) or not all(isinstance(text, str) for text in base.values()):
            raise ValueError(f"base: expected a name and a fingerprint, got {base!r:.80}")
        if "fingerprint" not in base:
            raise ValueError(f"base: expected a fingerprint, got {base!r:.80}")
        for name in ("training", "scores", "quantization"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name}: expected an object, got {getattr(self, name)!r:.80}")
        size = given.get("image_size") if isinstance(given, dict) else None
        if type(size) is not int or not 0 < size < 1 << 16:
            raise ValueError(f"preprocessing: expected an image_size in pixels, got {given!r:.80}")
        known = dict(self.sized_task.preprocessing)
        if {**known, **given} != {**known, "image_size": size}:
            raise ValueError(f"preprocessing: expected {known}, got {given!r:.200}; it was trained otherwise")
        if not isinstance(self.version, str):
            raise ValueError(f"version: expected text, got {self.version!r:.80}")
