"""A training step's pass gives Ultralytics' loss and gradients, whichever way it is computed."""

from __future__ import annotations

import copy

import pytest
import torch
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

from tests.detectors.ultralytics.test_loss import labelled_batch
from visionlora.adapters import AdapterSettings
from visionlora.adapters.methods import IA3, BitFit, ConvAdapter, DoRA, LoRA, Mona
from visionlora.adapters.torch import attach, live_statistics
from visionlora.detectors.ultralytics import plan_detector, set_activations
from visionlora.detectors.ultralytics import step as step_module
from visionlora.detectors.ultralytics.activation_swap import SiLUToReLU, fade
from visionlora.detectors.ultralytics.precision import exact_convolutions
from visionlora.detectors.ultralytics.step import MOST_GRAPHS, MOST_OBJECTS, TrainingStep, network_pass, to_unit

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


@pytest.fixture(scope="module", params=["yolo11n.yaml", "yolo26n.yaml"])
def adapted(request) -> DetectionModel:
    """Return a detector with an adapter that is not zero."""
    return detector_with_adapter(request.param, AdapterSettings(LoRA(rank=2)))


@pytest.fixture(scope="module")
def packed() -> DetectionModel:
    """Return one whose base is in NF4."""
    return detector_with_adapter("yolo11n.yaml", AdapterSettings(LoRA(rank=2, full=9000), base_precision="nf4"))


def detector_with_adapter(description: str, settings: AdapterSettings) -> DetectionModel:
    torch.manual_seed(0)
    model = DetectionModel(description, nc=5, verbose=False).eval()
    attach(model, plan_detector(model, settings, whole=()))
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.02)
    model.args = get_cfg()
    model.args.epochs = 10
    return model.train()


def loss_and_gradient(step, batch) -> tuple[torch.Tensor, torch.Tensor]:
    step.zero_grad()
    loss, terms = step(batch)
    loss.sum().backward()
    assert all(not term.requires_grad for term in terms.values()) and len(terms) == 3
    return loss.detach(), torch.cat([parameter.grad.flatten() for parameter in step.parameters()])


@pytest.mark.parametrize("lean", [False, True], ids=["usual", "lean"])
def test_step_equals_the_model_itself(adapted, lean) -> None:
    batch = labelled_batch([3, 0, 2], classes=5, size=96, seed=1)
    expected = loss_and_gradient(copy.deepcopy(adapted), batch)
    got = loss_and_gradient(TrainingStep(copy.deepcopy(adapted), graph=False, lean=lean).train(), batch)
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()


def test_loss_is_no_number_where_a_head_runs_away(adapted) -> None:
    step, images = TrainingStep(copy.deepcopy(adapted), graph=False).train(), torch.rand(1, 3, 64, 64)
    predictions, loss = step.predictions(images, recompute=0), torch.ones(3)
    names = ("box_loss", "cls_loss", "dfl_loss")
    assert step.whole_loss(loss, names, images, predictions).isfinite().all()
    heads = [predictions[name] for name in ("one2many", "one2one") if name in predictions] or [predictions]
    for head in heads:
        usual = head["scores"]
        head["scores"] = usual.detach().clone().index_fill_(2, torch.tensor(5), -1e5)
        assert step.whole_loss(loss, names, images, predictions).isnan().all()
        head["scores"] = usual


@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16])
def test_bytes_and_fractions_are_the_same_images(adapted, half) -> None:
    batch = labelled_batch([1, 1], classes=5, size=64, seed=2)
    pixels = (batch["img"] * 255).byte()
    step = TrainingStep(copy.deepcopy(adapted), graph=False).train()
    with torch.autocast("cpu", dtype=half, enabled=half is not None):
        first, second = (loss_and_gradient(step, {**batch, "img": img}) for img in (pixels, pixels.float() / 255))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_every_byte_is_rounded_to_half_precision_once(half) -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_unit(pixels, half), to_unit(pixels).to(half))


def kept_numbers(run) -> int:
    """How many numbers of pictures and features are kept for the backward pass of what runs."""
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 4:
            sizes[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(sizes.values())


def test_lean_step_keeps_less_for_the_backward_pass(adapted) -> None:
    batch = labelled_batch([1], classes=5, size=64, seed=3)
    lean, usual = (TrainingStep(copy.deepcopy(adapted), graph=False, lean=lean).train() for lean in (True, False))
    assert kept_numbers(lambda: lean(batch)) < 0.6 * kept_numbers(lambda: usual(batch))


@pytest.mark.parametrize("lean", [False, True], ids=["usual", "lean"])
def test_step_on_a_packed_base_equals_the_model_itself(packed, lean) -> None:
    batch = labelled_batch([3, 0, 2], classes=5, size=96, seed=1)
    expected = loss_and_gradient(copy.deepcopy(packed), batch)
    got = loss_and_gradient(TrainingStep(copy.deepcopy(packed), graph=False, lean=lean).train(), batch)
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()


def test_lean_step_on_a_packed_base_keeps_no_weight_that_it_brings_back(packed) -> None:
    batch = labelled_batch([1], classes=5, size=64, seed=3)
    lean, usual = (TrainingStep(copy.deepcopy(packed), graph=False, lean=lean).train() for lean in (True, False))
    weights = 2_400_000  # of the layers that are packed
    assert kept_numbers(lambda: lean(batch)) < kept_numbers(lambda: usual(batch)) - weights


def test_recomputing_the_first_module_keeps_its_insides_out_of_memory(adapted) -> None:
    images, model = labelled_batch([1], classes=5, size=64, seed=3)["img"], copy.deepcopy(adapted)
    none, first, every = (
        kept_numbers(lambda count=count: network_pass(model, images, recompute=count)) for count in (0, 1, 1000)
    )
    assert none - first >= 16 * 32 * 32 and every < first  # the stem's output before its activation


def test_objects_are_padded_to_the_next_power_of_two(adapted) -> None:
    step = TrainingStep(copy.deepcopy(adapted), graph=True)
    for counts, objects in (([3, 1], 32), ([40, 0], 64), ([2, 2], 64)):
        batch = labelled_batch(counts, classes=5, size=32, seed=4)
        step.prepare(batch)
        assert batch["targets"].shape == (2, objects, 5)


def test_crowded_pictures_end_the_use_of_graphs_with_a_word(adapted, caplog) -> None:
    step = TrainingStep(copy.deepcopy(adapted), graph=True)
    batch = labelled_batch([MOST_OBJECTS + 1], classes=5, size=32, seed=5)
    step.prepare(batch)
    assert "targets" not in batch and f"{MOST_OBJECTS + 1} objects" in caplog.text
    assert loss_and_gradient(step.train(), batch)[1].isfinite().all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the graph is captured")
def test_step_that_cannot_be_captured_runs_as_usual_with_a_word(adapted, caplog) -> None:
    batch = labelled_batch([2, 1], classes=5, size=64, seed=6)
    step = TrainingStep(copy.deepcopy(adapted), graph=True).train()
    step.prepare(batch)
    got = loss_and_gradient(step, batch)
    expected = loss_and_gradient(TrainingStep(copy.deepcopy(adapted), graph=False).train(), batch)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, expected, strict=True))
    assert "no CUDA graph for batches of 2 images" in caplog.text and not step.uses_graphs


def test_images_are_moved_to_where_the_graph_reads_them(adapted, monkeypatch) -> None:
    seen = []

    def stand_in(whole, sample, **options):
        def replay(images, targets, weights):
            seen.append(images.data_ptr() == sample[0].data_ptr())
            return whole(images, targets, weights)

        return replay

    monkeypatch.setattr(step_module, "captured", stand_in)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    usual, graphed = (TrainingStep(copy.deepcopy(adapted), graph=graph).train() for graph in (False, True))
    for seed in range(3):
        batch = labelled_batch([2, 1], classes=5, size=64, seed=seed)
        expected = loss_and_gradient(usual, batch)
        graphed.prepare(batch)
        placed = {**batch, "img": graphed.place_images(batch)}
        assert torch.equal(placed["img"], batch["img"])
        for ours, theirs in zip(loss_and_gradient(graphed, placed), expected, strict=True):
            assert (ours - theirs).norm() < 1e-4 * theirs.norm()
    assert seen == [False, True, True]
    other = labelled_batch([1], classes=5, size=64, seed=9)
    graphed.prepare(other)
    assert graphed.place_images(other) is other["img"]  # no graph of that shape yet


@needs_gpu
@pytest.mark.parametrize("lean", [False, True], ids=["usual", "lean"])
@pytest.mark.parametrize(("half", "tolerance"), [(None, 1e-3), (torch.float16, 0.03), (torch.bfloat16, 0.2)])
def test_graph_gives_the_gradients_of_the_usual_way(adapted, lean, half, tolerance) -> None:
    model = copy.deepcopy(adapted).cuda().to(memory_format=torch.channels_last)
    usual = TrainingStep(model, graph=False, precision=half).train()
    graphed = TrainingStep(model, graph=True, lean=lean, precision=half).train()
    for seed, counts in enumerate(([3, 0, 2], [1, 40, 5], [2, 1], [3, 3, 3])):
        batch = labelled_batch(counts, classes=5, size=96, seed=seed)
        graphed.prepare(batch)
        batch = {**batch, "img": graphed.place_images(batch)}
        batch = {name: value.cuda() for name, value in batch.items()}
        with torch.autocast("cuda", dtype=half, enabled=half is not None):
            expected = loss_and_gradient(usual, batch)
            got = loss_and_gradient(graphed, batch)
        for ours, theirs in zip(got, expected, strict=True):
            assert (ours - theirs).norm() < tolerance * theirs.norm()
    assert len(graphed._graphs) == 2  # 40 objects made room anew


@needs_gpu
@pytest.mark.parametrize("lean", [False, True], ids=["usual", "lean"])
def test_graph_brings_a_packed_base_back_in_every_replay(packed, lean) -> None:
    model = copy.deepcopy(packed).cuda().to(memory_format=torch.channels_last)
    usual, graphed = (TrainingStep(model, graph=graph, lean=lean and graph).train() for graph in (False, True))
    for seed in range(3):
        batch = labelled_batch([3, 1], classes=5, size=96, seed=seed)
        graphed.prepare(batch)
        batch = {name: value.cuda() for name, value in batch.items()}
        for ours, theirs in zip(loss_and_gradient(graphed, batch), loss_and_gradient(usual, batch), strict=True):
            assert (ours - theirs).norm() < 1e-3 * theirs.norm()
    assert len(graphed._graphs) == 1


@needs_gpu
@pytest.mark.parametrize("lean", [False, True], ids=["usual", "lean"])
def test_a_captured_graph_moves_live_statistics_as_the_usual_way_does(lean) -> None:
    """The passes before the capture, and those that compute again, move none of them."""
    torch.manual_seed(0)
    model = DetectionModel("yolo11n.yaml", nc=5, verbose=False).eval()
    attach(model, plan_detector(model, AdapterSettings(LoRA(rank=2, full=5000), normalization="live"), whole=()))
    model.args = get_cfg()
    model.cuda().to(memory_format=torch.channels_last)
    ways = [TrainingStep(copy.deepcopy(model), graph=graph, lean=lean and graph).train() for graph in (False, True)]
    for seed in range(3):
        batch = labelled_batch([3, 1], classes=5, size=96, seed=seed)
        ways[1].prepare(batch)
        batch = {name: value.cuda() for name, value in batch.items()}
        with exact_convolutions():  # the graph's may be other algorithms, which round elsewhere
            expected, got = (loss_and_gradient(way, batch) for way in ways)
        for ours, theirs in zip(got, expected, strict=True):
            assert (ours - theirs).norm() < 1e-3 * theirs.norm()
        first, second = (live_statistics(way.module) for way in ways)
        assert len(first) > 100
        for name, tensor in first.items():
            torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4)
    assert ways[1].uses_graphs and not ways[0].uses_graphs


@needs_gpu
def test_a_captured_graph_follows_the_fading_of_activations(adapted) -> None:
    model = copy.deepcopy(adapted)
    assert set_activations(model, AdapterSettings(LoRA(rank=2), activation="relu"), kind=SiLUToReLU)
    model.cuda()
    usual, graphed = TrainingStep(model, graph=False).train(), TrainingStep(model, graph=True).train()
    batch = labelled_batch([3, 1], classes=5, size=64, seed=0)
    graphed.prepare(batch)
    batch = {name: value.cuda() for name, value in batch.items()}
    losses = []
    for epoch in (0, 1, 4):
        fade(model, epoch, 10)
        expected, got = loss_and_gradient(usual, batch), loss_and_gradient(graphed, batch)
        losses.append(float(got[0].sum()))
        for ours, theirs in zip(got, expected, strict=True):
            assert (ours - theirs).norm() < 1e-3 * theirs.norm()
    assert len(graphed._graphs) == 1 and len(set(losses)) == 3


@needs_gpu
def test_a_graph_works_in_no_memory_that_others_may_free(adapted) -> None:
    """Nor where its stream was used before, as torch's few streams go round."""
    batch = prepared_batch(adapted)
    loss_and_gradient(TrainingStep(copy.deepcopy(adapted).cuda(), graph=True).train(), batch)
    first = torch.cuda.graph.default_capture_stream
    while first is not None and torch.cuda.Stream() != first:
        pass
    for _ in range(31):
        torch.cuda.Stream()
    usual, graphed = (TrainingStep(copy.deepcopy(adapted).cuda(), graph=graph).train() for graph in (False, True))
    loss_and_gradient(graphed, batch)
    torch.cuda.empty_cache()
    junk = [torch.full((1 << power,), torch.nan, device="cuda") for power in range(10, 28)]
    for ours, theirs in zip(loss_and_gradient(graphed, batch), loss_and_gradient(usual, batch), strict=True):
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()
    assert graphed.uses_graphs and len(junk) == 18


def prepared_batch(model: DetectionModel) -> dict[str, torch.Tensor]:
    batch = labelled_batch([3, 1], classes=5, size=64, seed=0)
    TrainingStep(model, graph=True).prepare(batch)
    return {name: value.cuda() for name, value in batch.items()}


@needs_gpu
@pytest.mark.parametrize("method", [BitFit(), IA3(), DoRA(rank=2), Mona(rank=2), ConvAdapter(rank=2)])
def test_the_graph_of_every_method(method) -> None:
    model = detector_with_adapter("yolo11n.yaml", AdapterSettings(method))
    batch = prepared_batch(model)
    usual, graphed = (TrainingStep(copy.deepcopy(model).cuda(), graph=graph).train() for graph in (False, True))
    for _ in range(3):
        for ours, theirs in zip(loss_and_gradient(graphed, batch), loss_and_gradient(usual, batch), strict=True):
            assert (ours - theirs).norm() < 1e-3 * theirs.norm()
        torch.cuda.empty_cache()
    assert graphed.uses_graphs


@needs_gpu
def test_gradients_of_several_batches_add_up(adapted) -> None:
    model = copy.deepcopy(adapted).cuda()
    step = TrainingStep(model, graph=True).train()
    batches = []
    for seed in range(3):
        batches.append(labelled_batch([2, 1], classes=5, size=64, seed=seed))
        step.prepare(batches[-1])
        batches[-1] = {name: value.cuda() for name, value in batches[-1].items()}
    single = [loss_and_gradient(step, batch)[1].clone() for batch in batches]
    step.zero_grad()
    for batch in batches:
        step(batch)[0].sum().backward()
    together = torch.cat([parameter.grad.flatten() for parameter in step.parameters()])
    torch.testing.assert_close(together, sum(single), rtol=1e-4, atol=1e-4)


@needs_gpu
def test_many_shapes_end_the_use_of_graphs_with_a_word(adapted, caplog) -> None:
    step = TrainingStep(copy.deepcopy(adapted).cuda(), graph=True).train()
    for images in range(1, MOST_GRAPHS + 3):
        batch = labelled_batch([1] * images, classes=5, size=32, seed=images)
        step.prepare(batch)
        loss, _ = step({name: value.cuda() for name, value in batch.items()})
        assert loss.isfinite().all()
    assert f"more than {MOST_GRAPHS} shapes" in caplog.text
