"""The bias of a convolution: the same values, and the gradient that float64 arithmetic gives."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch.nn import functional
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

from tests.detectors.ultralytics.test_loss import labelled_batch
from visionlora.adapters import AdapterSettings
from visionlora.adapters.methods import ConvAdapter, LoRA, Mona, Prefix, Prompt
from visionlora.adapters.torch import attach
from visionlora.detectors.ultralytics import again, feature_kernels, plan_detector
from visionlora.detectors.ultralytics.again import again_of, kept_once
from visionlora.detectors.ultralytics.fused import AddBias, FusedPass
from visionlora.detectors.ultralytics.step import network_pass

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def added(output: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    pixels = output.numel() // output.shape[1]
    return AddBias.apply(output.clone(memory_format=torch.preserve_format), bias, output.new_ones(1, pixels))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels last", "planes"])
def test_gradients_are_those_of_finite_differences(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator).to(memory_format=layout)
    bias = torch.randn(3, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(added, (output.requires_grad_(), bias.requires_grad_()))


def test_gradient_of_a_part_of_the_channels() -> None:
    whole = torch.randn(2, 8, 4, 4, dtype=torch.float64).to(memory_format=torch.channels_last)
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    added(torch.zeros(2, 4, 4, 4, dtype=torch.float64), bias).backward(whole[:, 2:6])
    torch.testing.assert_close(bias.grad, whole[:, 2:6].sum((0, 2, 3)))


def test_convolutions_on_the_cpu_are_left_alone() -> None:
    x, weight, bias = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3), torch.randn(3, requires_grad=True)
    with FusedPass():
        output = functional.conv2d(x, weight, bias)
    assert "Convolution" in type(output.grad_fn).__name__


@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 5e-3)])
def test_convolutions_on_a_gpu_keep_values_and_gradients(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, 40, 40, generator=generator).cuda().to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(16, 8, 3, 3, generator=generator).cuda().to(dtype)
    results = []
    for mode in (torch.enable_grad(), FusedPass()):
        bias = torch.zeros(16, device="cuda", requires_grad=True)
        with mode:
            output = functional.conv2d(x, weight, bias.to(dtype), padding=1)
        (output.float() ** 2).sum().backward()
        results.append((output.detach().float(), bias.grad.clone()))
    for usual, ours in zip(*results, strict=True):
        assert (ours - usual).norm() <= tolerance * usual.norm()


KERNELS = """
import torch
from torch.nn import functional
from visionlora.detectors.ultralytics import feature_kernels as kernels

kernels._PROGRAMS = 3  # several tiles in each
torch.manual_seed(0)
for shape, dtype in (((2, 3, 5, 7), torch.float32), ((1, 96, 9, 4), torch.float16), ((3, 130, 4, 4), torch.bfloat16),
                     ((2, 64, 40, 40), torch.float16), ((1, 1, 1, 1), torch.float32)):
    def made():
        return (4 * torch.randn(shape[0], shape[1] + 8, *shape[2:])).to(dtype).to(memory_format=torch.channels_last)
    for part in (slice(4, -4), slice(0, shape[1])):
        x, gradient, other, whole = made()[:, part], made()[:, part], made()[:, part], made()
        bias = torch.randn(shape[1]).to(dtype)
        before = (x.double() + bias.double().view(1, -1, 1, 1)).requires_grad_()
        after = functional.silu(before)
        (slope,) = torch.autograd.grad(after, before, gradient.double())
        tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
        close = dict(atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(kernels.bias_silu(x, bias).double(), after.detach(), **close)
        untouched = whole.clone()
        kernels.bias_silu(x, bias, whole[:, part])
        torch.testing.assert_close(whole[:, part].double(), after.detach(), **close)
        torch.testing.assert_close(kernels.summed(x, other), x + other)
        assert kernels.copied(x, whole[:, part]).equal(x) and whole[:, part].equal(x)
        whole[:, part] = untouched[:, part]
        assert whole.equal(untouched)
        passed, sums = kernels.bias_silu_backward(gradient, x, bias)
        torch.testing.assert_close(passed.double(), slope, **close)
        torch.testing.assert_close(sums.double(), slope.sum((0, 2, 3)), atol=1e-3, rtol=tolerance)
print("equal")
"""


def test_gpu_kernels_give_what_torch_gives(monkeypatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # the kernels' own code, without a GPU
    run = subprocess.run([sys.executable, "-c", KERNELS], capture_output=True, text=True)
    if "only 0-dimensional arrays can be converted" in run.stderr:
        pytest.skip("the interpreter of this Triton does not know this NumPy")
    assert run.stdout.strip() == "equal", run.stderr


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("name", ["_pass", "_backward"])
def test_gpu_kernels_compile(name, dtype, monkeypatch, tmp_path) -> None:
    """For a GPU that need not be there: what the interpreter takes, the compiler may refuse."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(feature_kernels, name)
    fixed = {"BLOCK": 256, "VECTOR": 8, "ROWS": 32, "COLUMNS": 64, "ACTIVATES": True, "ADDS": True}
    types = {
        argument: "constexpr" if argument in fixed else f"*{dtype}" if argument.endswith("_ptr") else "i32"
        for argument in kernel.arg_names
    }
    types |= {name: form for name, form in (("sums_ptr", "*fp32"), ("counter_ptr", "*i32")) if name in types}
    values = {(number,): fixed[name] for number, name in enumerate(kernel.arg_names) if name in fixed}
    source = ASTSource(fn=kernel, signature=types, constexprs=values, attrs={})
    assert "ex2.approx" in triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8}).asm["ptx"]


def kept_pictures(run, batch: int) -> int:
    """Return how many numbers of pictures and features are kept for the backward pass of what runs."""
    stores: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> None:
        if tensor.dim() == 4 and len(tensor) == batch:
            store = tensor.untyped_storage()
            stores[store.data_ptr()] = store.nbytes() // tensor.element_size()

    hooks = torch.autograd.graph.saved_tensors_hooks

    class Noted(hooks):
        def __init__(self, pack, unpack) -> None:
            def packed(tensor: torch.Tensor):
                found = pack(tensor)
                if isinstance(found, torch.Tensor):
                    note(found)
                return found

            super().__init__(packed, unpack)

    class NotedKept(again.Kept):
        def __init__(self, tensor: torch.Tensor) -> None:
            super().__init__(tensor)
            note(tensor)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.autograd.graph, "saved_tensors_hooks", Noted)
        patched.setattr(again, "Kept", NotedKept)
        held = run()
    assert held is not None
    return sum(stores.values())


def usual_and_fused(settings: AdapterSettings, name: str) -> list[tuple[torch.Tensor, torch.Tensor, int]]:
    """Return loss, gradient and how much was kept, of a detector with an adapter that is not zero, in both ways."""
    torch.manual_seed(0)
    model = DetectionModel(name, nc=5, verbose=False).eval()
    attach(model, plan_detector(model, settings, whole=()))
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.02)
    for module in model.modules():
        if isinstance(module, torch.nn.SiLU):
            module.inplace = False
    model.args, model.args.epochs = get_cfg(), 10
    model.double().train()
    batch = labelled_batch([3, 0, 2], classes=5, size=64, seed=1)
    images = batch["img"].double()
    found = []
    for way in (None, FusedPass(anywhere=True)):
        each = copy.deepcopy(model)
        each.criterion = each.init_criterion()

        def run(each=each, way=way):
            if way is None:
                with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
                    return network_pass(each, images)
            with kept_once():
                return network_pass(each, images, around=way)

        loss, _ = each.loss(batch, run())
        loss.sum().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in each.parameters()])
        found.append((loss.detach(), gradient, kept_pictures(run, len(images))))
    return found


@pytest.mark.parametrize("normalization", ["frozen", "live"])
@pytest.mark.parametrize("name", ["yolo11n.yaml", "yolo26n.yaml", "yolov8n.yaml"])
def test_a_fused_pass_has_the_same_gradients_and_keeps_half(name, normalization) -> None:
    settings = AdapterSettings(LoRA(rank=2, full=5000 if normalization == "live" else 0), normalization=normalization)
    (usual_loss, usual_gradient, usual), (loss, gradient, ours) = usual_and_fused(settings, name)
    torch.testing.assert_close(loss, usual_loss)
    assert (gradient - usual_gradient).norm() <= 1e-10 * usual_gradient.norm()
    assert ours < (0.55 if normalization == "frozen" else 0.7) * usual


@pytest.mark.parametrize(
    "method", [ConvAdapter(2), ConvAdapter(2, form="serial"), Mona(2), Prefix(2), Prompt(4, imgsz=64)], ids=repr
)
def test_a_fused_pass_goes_through_what_a_method_adds(method) -> None:
    (usual_loss, usual_gradient, _), (loss, gradient, _) = usual_and_fused(AdapterSettings(method), "yolo11n.yaml")
    torch.testing.assert_close(loss, usual_loss)
    assert (gradient - usual_gradient).norm() <= 1e-10 * usual_gradient.norm()


def test_a_tensor_that_was_written_into_is_not_computed_again() -> None:
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    with kept_once(), FusedPass():
        summed = torch.add(x, x)
        assert again_of(summed) is not None
        summed.mul_(2)
        assert again_of(summed) is None
        (summed**2).sum().backward()
    torch.testing.assert_close(x.grad, 32 * x.detach())
    with kept_once(), FusedPass():
        first = x * 1
        squared = torch.add(first, first) ** 2
        first.mul_(2)
    with pytest.raises(RuntimeError, match="written into after the forward pass"):
        squared.sum().backward()
