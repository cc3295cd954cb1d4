import math

import pytest
import torch

from lit_vpo.metrics import OptionAccuracy, option_accuracy

SCORES = torch.tensor([-1.0, -2.0, -3.0, -0.5, -0.1, -4.0, -4.0])
INDEX = torch.tensor([0, 0, 0, 1, 1, 2, 2])
ANSWER = torch.tensor([0, 0, 1])  # right; wrong; tied between two
KINDS = ["order", "colour", "order"]


def test_hand_worked_questions():
    values = option_accuracy(SCORES, INDEX, ANSWER, KINDS)
    assert {name: pytest.approx(float(value)) for name, value in values.items()} == {
        "accuracy": (1 + 0 + 0.5) / 3,
        "chance": (1 / 3 + 1 / 2 + 1 / 2) / 3,
        "accuracy/colour": 0.0,
        "chance/colour": 1 / 2,
        "accuracy/order": 0.75,
        "chance/order": (1 / 3 + 1 / 2) / 2,
    }


def test_class_over_uneven_batches_equals_function():
    metric = OptionAccuracy()
    metric.update(SCORES[:3], INDEX[:3], ANSWER[:1], KINDS[:1])
    metric.update(SCORES[3:], INDEX[3:] - 1, ANSWER[1:], KINDS[1:])
    expected = option_accuracy(SCORES, INDEX, ANSWER, KINDS)
    values = metric.compute()
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value)
    metric.reset()
    assert math.isnan(float(metric.compute()["accuracy"]))


def test_rows_of_a_question_need_not_be_adjacent():
    order = torch.tensor([3, 0, 5, 1, 4, 2, 6])
    shuffled = option_accuracy(SCORES[order], INDEX[order], ANSWER, KINDS)
    torch.testing.assert_close(shuffled["accuracy"], torch.tensor(0.5))


def test_constant_scores_are_worth_chance():
    values = option_accuracy(torch.zeros(7), INDEX, torch.tensor([2, 0, 1]), KINDS)
    torch.testing.assert_close(values["accuracy"], values["chance"])


def _rank(rank, file, results):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    metric = OptionAccuracy()
    if rank == 0:  # the other rank has seen no question at all
        metric.update(SCORES, INDEX, ANSWER, KINDS)
    results.put((rank, {name: float(value) for name, value in metric.compute().items()}))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_one_without_questions(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, tmp_path / "store", results)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = dict(results.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join()
    expected = {name: pytest.approx(float(v)) for name, v in option_accuracy(SCORES, INDEX, ANSWER, KINDS).items()}
    assert found[0] == expected
    assert found[1] == expected


@pytest.mark.parametrize(
    ("index", "answer", "kinds", "message"),
    [
        ([0, 0, 2], [0, 0, 0], ["a"] * 3, "options"),
        ([0, 0, 1], [0, 1], ["a"] * 2, "must name one"),
        ([0, 0, 1], [0, 0], ["a"], "kinds"),
        ([0, 0, 1], [0, 0], ["a" * 49, "b"], "48 bytes"),
    ],
)
def test_bad_input_is_refused(index, answer, kinds, message):
    with pytest.raises(ValueError, match=message):
        OptionAccuracy().update(torch.zeros(3), torch.tensor(index), torch.tensor(answer), kinds)
