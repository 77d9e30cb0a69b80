"""All that turns a float graph into an int8 one: the same recipe on the same graph gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import onnx

from visionlora.errors import QuantizationError, UsageError
from visionlora.formats.parsing import parse_json
from visionlora.int8.plan import QuantizationPlan, plan_quantization
from visionlora.int8.ranges import ActivationRange
from visionlora.int8.scheme import Scheme

FORMAT = 1
IMAGES = ("float32", "uint8")


@dataclass(frozen=True)
class QuantizationRecipe:
    """How to quantize one float graph, or another of the same layers. Weights are no part of it.

    A recipe with more `float_layers` needs no other ranges: what is not quantized any more is not looked up.

    Attributes:
        scheme: in which integers.
        ranges: the range of each activation, by the name of the tensor in the float graph.
        float_layers: names of convolutions that stay float, for the sake of accuracy.
        int8_layers: names of convolutions whose weights stay int8 for it where the scheme has int4 ones.
        image: numbers of the picture, one of `IMAGES`: float32 as in the float graph, (n, 3, S, S) in [0, 1], or uint8
            as in memory, (n, S, S, 3) in [0, 255].

    Raises:
        QuantizationError: a range is not of the scheme's kind.
        UsageError: `image` is not one of `IMAGES`.
    """

    scheme: Scheme
    ranges: Mapping[str, ActivationRange]
    float_layers: tuple[str, ...] = ()
    int8_layers: tuple[str, ...] = ()
    image: str = IMAGES[0]

    def __post_init__(self) -> None:
        if self.image not in IMAGES:
            raise UsageError(f"--input: expected one of {', '.join(IMAGES)}, got {self.image!r}")
        wrong = [name for name, chosen in self.ranges.items() if chosen.symmetric != self.scheme.symmetric]
        if wrong:
            kind = "symmetric" if self.scheme.symmetric else "asymmetric"
            raise QuantizationError(f"expected {kind} ranges for scheme {self.scheme.name}, got others for {wrong[:5]}")

    def plan_for(self, graph: onnx.GraphProto) -> QuantizationPlan:
        """Return what becomes int8 and int4 of a float graph by this recipe.

        Raises:
            QuantizationError: it names a layer that the graph does not have.
        """
        return plan_quantization(
            graph,
            float_layers=self.float_layers,
            fuses=self.scheme.fuses,
            int4=self.scheme.weights == "int4",
            int8_layers=self.int8_layers,
        )

    def described_layers(self) -> dict[str, tuple[str, ...]]:
        """Return what a file's metadata says of the layers that are finer than the scheme."""
        return {"float_layers": self.float_layers, **({"int8_layers": self.int8_layers} if self.int8_layers else {})}

    def to_json(self) -> str:
        """Return the recipe as text; `from_json` gives back the same numbers to the last bit."""
        scheme = asdict(self.scheme)
        if scheme["weights"] == "int8":  # versions that know no other can read it, then
            del scheme["weights"]
        return json.dumps(
            {
                "format": FORMAT,
                "scheme": scheme,
                **self.described_layers(),
                "image": self.image,
                "ranges": {name: [chosen.low, chosen.high] for name, chosen in self.ranges.items()},
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> QuantizationRecipe:
        """Return the recipe that `to_json` wrote.

        Raises:
            QuantizationError: the text is no recipe, or of another version.
            UsageError: its scheme names an unknown method, or its input is unknown.
        """
        try:
            fields = parse_json(text)
            if fields["format"] != FORMAT:
                raise QuantizationError(f"quantization recipe: expected format {FORMAT}, got {fields['format']!r}")
            scheme = Scheme(**fields["scheme"])
            ranges = {
                str(name): ActivationRange(float(low), float(high), symmetric=scheme.symmetric)
                for name, (low, high) in fields["ranges"].items()
            }
            return cls(
                scheme,
                ranges,
                float_layers=tuple(map(str, fields["float_layers"])),
                int8_layers=tuple(map(str, fields.get("int8_layers", ()))),
                image=fields["image"],
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise QuantizationError(f"quantization recipe: expected what to_json writes, got {error!r}") from error
