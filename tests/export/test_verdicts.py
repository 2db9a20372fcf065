from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from segrd_edge.export.judge import Judgement
from segrd_edge.export.verdicts import VerdictChanges


def judgement(threshold: float, held_out: list[float], test: list[float] | None) -> Judgement:
    frames = None if test is None else [SimpleNamespace(score=score) for score in test]
    evaluation = None if frames is None else SimpleNamespace(frames=frames, source="test photographs")
    return Judgement(held_out, cast(Any, SimpleNamespace(value=threshold)), cast(Any, evaluation))


def test_each_graph_judges_with_its_own_threshold() -> None:
    fp32 = judgement(0.5, [0.1, 0.2, 0.5], [0.4, 0.6, 0.7])
    int8 = judgement(0.6, [0.1, 0.6, 0.59], [0.5, 0.7, 0.59])  # all higher, and the threshold with them
    changes = VerdictChanges.between(fp32, int8)
    assert changes.to_dict() == {
        "held_out": 2, "held_out_frames": 3, "test": 1, "test_frames": 3, "test_source": "test photographs",
    }  # fmt: skip
    assert VerdictChanges.between(fp32, fp32).held_out == 0


def test_without_anything_to_test_on() -> None:
    alone = judgement(0.5, [0.1, 0.7], None)
    assert VerdictChanges.between(alone, alone) == VerdictChanges(0, 2, None, None, None)
