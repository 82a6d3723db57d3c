"""What the report says about tasks: the sentence with its interval, seeds, and what was not measured."""

from __future__ import annotations

from peftodyssey.measures.multiple_choice import section as tasks


def row(seed: int = 0, **more: object) -> dict:
    return {
        "status": "done",
        "selected": True,
        "cell": f"c{seed}",
        "recipe": "r",
        "method": "lora",
        "label": "lora r=8",
        "seed": seed,
        "lr": 1e-2,
        "domain": "sums",
        "newline": "keep",
        "model": "m",
        "revision": None,
        "objective": "sft",
        "context": 64,
        **more,
    }


def answered(seed: int = 0, delta: float = 0.1, low: float = 0.04, high: float = 0.16, **more: object) -> dict:
    return {
        "cell": f"c{seed}",
        "recipe": "r",
        "task": "fields",
        "examples": 500,
        "chance": 0.1,
        "acc_before": 0.4,
        "acc_before_lo": 0.35,
        "acc_before_hi": 0.45,
        "acc_after": 0.4 + delta,
        "acc_after_lo": 0.45,
        "acc_after_hi": 0.55,
        "acc_delta": delta,
        "acc_lo": low,
        "acc_hi": high,
        "acc_norm_delta": 0.02,
        "truncated": 0,
        **more,
    }


def test_the_sentence_has_both_accuracies_the_interval_and_a_verdict() -> None:
    said, about = tasks.statements([row()], [answered()])
    assert said == (
        "LoRA r=8 trained on sums changed accuracy on fields from 40.0 % to 50.0 %, by +10.0 points "
        "[+4.0, +16.0]: better; per byte of the choice by +2.0 points."
    )
    assert about == "fields has 500 prompts; guessing is correct on 10.0 % of them."


def test_more_is_better_and_an_interval_over_zero_is_no_change() -> None:
    assert ": worse;" in tasks.statements([row()], [answered(delta=-0.1, low=-0.16, high=-0.04)])[0]
    assert ": no clear change;" in tasks.statements([row()], [answered(delta=0.01, low=-0.02, high=0.04)])[0]


def test_seeds_are_a_mean_with_an_interval() -> None:
    said = tasks.statements([row(0), row(1)], [answered(0, 0.1), answered(1, 0.2)])[0]
    assert "by +15.0 points [" in said
    assert "] (mean of 2 seeds; interval over documents and seeds): no clear change" in said
    said = tasks.statements([row(n) for n in range(3)], [answered(n, 0.1) for n in range(3)])[0]
    assert "by +10.0 points [+4.0, +16.0] (mean of 3 seeds; interval over documents and seeds): better" in said


def test_what_is_cut_or_not_measured_is_said() -> None:
    assert "3 choices lost the beginning" in tasks.statements([row()], [answered(truncated=3)])[1]
    assert tasks.figures([row()], []) == []
    assert tasks.statements([row(selected=False)], [answered()]) == []


def test_the_section_has_a_line_for_every_cell_and_task() -> None:
    more = {
        "acc_quantised": None,
        "acc_won": 60,
        "acc_lost": 10,
        "acc_p": 1e-9,
        "acc_norm_before": 0.4,
        "acc_norm_after": 0.42,
    }
    norm = {"acc_norm_lo": -0.01, "acc_norm_hi": 0.05}
    made = tasks.section([row()], [answered(**more, **norm), answered(**more, **norm, task="other")])
    assert [len(line) for line in made.table] == [len(made.headings)] * 2
    assert made.table[0][6:10] == ["-", "50.0 %", "+10.0 points [+4.0, +16.0]", "60"]
    assert tasks.section([row()], []).statements[0].startswith("Not measured")
    assert tasks.section([row(status="pending")], []) is None
