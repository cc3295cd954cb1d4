"""The controls among the judges of two answers."""

from lit_vpo.preferences.judges import Duel, LongerWins, PairwiseJudge, RandomJudge


def duel(first, second, name="p"):
    return Duel("What happens?", None, (first, second), {"id": name})


def test_a_random_judge_prefers_one_text_whatever_its_place_and_each_about_half_the_time():
    judge = RandomJudge(3)
    assert isinstance(judge, PairwiseJudge) and judge.identity == {"judge": "random", "seed": 3}
    straight = [o.choice for o in judge.compare([duel("a", "b", str(n)) for n in range(400)])]
    swapped = [o.choice for o in judge.compare([duel("b", "a", str(n)) for n in range(400)])]
    assert [3 - choice for choice in swapped] == straight
    assert 160 < straight.count(1) < 240  # 4 standard deviations of a fair coin
    assert [o.choice for o in RandomJudge(4).compare([duel("a", "b", str(n)) for n in range(400)])] != straight


def test_the_longer_answer_wins_by_words_and_equals_have_no_verdict():
    duels = [duel("one two", "supercalifragilistic"), duel("one", "one  two"), duel("one two", "three four")]
    assert [opinion.choice for opinion in LongerWins().compare(duels)] == [1, 2, None]
    assert isinstance(LongerWins(), PairwiseJudge)
