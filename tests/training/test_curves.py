"""The picture of a training run."""

from __future__ import annotations

from matplotlib.figure import Figure

from visionlora.training.curves import draw_curves


def test_epochs_of_a_short_run_are_whole_numbers(tmp_path, monkeypatch) -> None:
    (tmp_path / "results.csv").write_text("epoch,train/box_loss,metrics/mAP50(B)\n1,2.0,0.1\n2,1.0,0.2\n")
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: drawn.append(figure) or save(figure, *args))

    draw_curves(tmp_path / "results.csv", tmp_path / "curves.png")

    ticks = [tick for axes in drawn[0].axes for tick in axes.get_xticks()]
    assert ticks and all(tick == int(tick) for tick in ticks)
