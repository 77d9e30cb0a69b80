"""What an adapter file says about itself."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from visionlora.cards import preprocessing_card
from visionlora.errors import AdapterError, UsageError

FORMAT = 1


@dataclass(frozen=True)
class AdapterSettings:
    """Shape of an adapter.

    Attributes:
        rank: inner dimension r of A (r, inputs) and B (outputs, r); lowered on layers too small for it.
        alpha: strength; the product B @ A counts alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732).
        targets: `all`, group names joined by `+`, such as `neck+head`, `from:N`, `to:N`, or a regular expression that
            the whole layer name must match.
        train_bias: train the bias of each adapted layer too.
        activation: `silu` leaves the base's activation functions as they are; `relu` puts ReLU in place of every SiLU,
            `relu:TARGETS` behind those layers alone.

    Raises:
        UsageError: rank or alpha is not positive, targets is empty, or the activation is not known.
    """

    rank: int = 8
    alpha: float = 4.0
    targets: str = "all"
    train_bias: bool = True
    activation: str = "silu"

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or self.rank < 1:
            raise UsageError(f"rank: expected a whole number of at least 1, got {self.rank!r}")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UsageError(f"alpha: expected a positive number, got {self.alpha!r}")
        if not self.targets.strip():
            raise UsageError("targets: expected all, group names, from:N, to:N or a regular expression, got nothing")
        if self.activation != "silu" and not self.relu_targets:
            raise UsageError(f"activation: expected silu, relu or relu:TARGETS, got {self.activation!r}")

    @property
    def relu_targets(self) -> str:
        """Layers whose SiLU is replaced, in the words of `targets`; empty for none."""
        name, _, targets = self.activation.partition(":")
        return "" if name != "relu" else targets or ("" if ":" in self.activation else "all")

    def scale(self, rank: int) -> float:
        """Return the factor of B @ A for a layer of this rank."""
        return self.alpha / math.sqrt(rank)


@dataclass(frozen=True)
class AdapterCard:
    """What an adapter file says about itself.

    Attributes:
        settings: rank, alpha, targets, bias.
        names: class names in the order of the class outputs.
        base: `name` (file name) and `fingerprint` (SHA-256 of the weights) of the base it belongs to.
        preprocessing: as in an exported model's metadata; `image_size` in pixels.
        training: the settings of the run that made it.
        scores: what the run measured on its validation images.
        task: always `detect`.
        version: visionlora's version.
        quantization: how its merged model becomes int8 (docs/files.md); empty where nobody has calibrated it.
    """

    settings: AdapterSettings
    names: tuple[str, ...]
    base: Mapping[str, str]
    preprocessing: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    task: str = "detect"
    version: str = ""
    quantization: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image_size(self) -> int:
        """Side of the square input that it was trained at, in pixels."""
        return int(self.preprocessing["image_size"])

    def to_json(self) -> str:
        """Return the card as one JSON object, with `format` and `kind`; `quantization` only where there is some."""
        fields = {"format": FORMAT, "kind": "adapter", **asdict(self)}
        if not self.quantization:  # versions that do not know the entry can read the file, then
            del fields["quantization"]
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> AdapterCard:
        """Return the card that `to_json` wrote.

        Raises:
            AdapterError: the text is no adapter card, or of a later format.
        """
        try:
            fields = json.loads(text)
            version, kind = fields.pop("format"), fields.pop("kind")
            if kind != "adapter" or version > FORMAT:
                raise AdapterError(f"expected an adapter of format {FORMAT} or older, got {kind} of format {version}")
            settings = AdapterSettings(**fields.pop("settings"))
            card = cls(settings=settings, names=tuple(fields.pop("names")), **fields)
            card._check_types()
            return card
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError, UsageError) as error:
            raise AdapterError(f"the adapter's metadata cannot be read: {error}") from error

    def check_base(self, fingerprint: str, where: str) -> None:
        """Refuse a base other than the one that the adapter was trained on, and to prepare pictures otherwise.

        Raises:
            AdapterError: `fingerprint`, of the base loaded from `where`, is another (both are named); or the adapter is
                for another task, or for pictures with another padding, channels or scale.
        """
        expected = self.base["fingerprint"]
        if fingerprint != expected:
            raise AdapterError(
                f"the adapter belongs to {self.base.get('name', 'another base')} with weights {expected}, "
                f"but {where} has weights {fingerprint}; pass the base that the adapter was trained on as --model"
            )
        if self.task != "detect":
            raise AdapterError(f"expected an adapter of a detector, got one for the task {self.task!r:.80}")
        wanted = preprocessing_card(self.image_size)
        other = {name: value for name, value in self.preprocessing.items() if wanted.get(name) != value}
        if other:
            raise AdapterError(
                f"the adapter was trained on pictures prepared otherwise than visionlora does: {other!r:.160}, "
                f"expected {wanted}; its boxes would be wrong on {where}"
            )

    def _check_types(self) -> None:
        """Raise a ValueError where a file lies about what it holds."""
        if not self.names or not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"names: expected class names, got {self.names!r:.80}")
        if not isinstance(self.base, dict) or not isinstance(self.base.get("fingerprint"), str):
            raise ValueError(f"base: expected a fingerprint, got {self.base!r:.80}")
        if not isinstance(self.quantization, dict):
            raise ValueError(f"quantization: expected an object, got {self.quantization!r:.80}")
        if not isinstance(self.preprocessing, dict) or not isinstance(self.preprocessing.get("image_size"), int):
            raise ValueError(f"preprocessing: expected an image_size in pixels, got {self.preprocessing!r:.80}")
