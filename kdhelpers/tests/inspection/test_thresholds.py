"""The threshold by its definition, and its interval against simulated good images."""

import numpy as np
import pytest

from kdhelpers.inspection.thresholds import choose, needed


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.1, 0.29, 0.5])
def test_it_is_the_smallest_score_that_few_enough_lie_above(rate):
    rng = np.random.default_rng(0)
    for count in [1, 2, 7, 19, 20, 21, 100]:
        for scores in (rng.normal(size=count), rng.integers(0, 4, count)):  # without ties, and with many
            scores = scores.astype(np.float32)
            found = choose(scores, rate)
            allowed = [score for score in scores if 100 * np.sum(scores > score) <= round(100 * rate * count, 9)]
            assert found.value >= min(allowed) and found.value == pytest.approx(min(allowed), rel=2e-5)
            # Rounding that differs between machines makes none of them bad.
            above = np.sum(scores > min(allowed))
            assert np.sum(scores + np.float32(3e-6) * abs(scores) > np.float32(found.value)) == above
            assert (found.held_out, found.above) == (count, above)


def test_the_true_rate_lies_in_the_interval_as_often_as_it_says():
    draws = np.random.default_rng(1).random((4000, 40), np.float32)
    found = [choose(scores, 0.05) for scores in draws[:20]]
    limits = np.sort(draws)[:, -3]  # two of forty may lie above
    assert [one.value for one in found] == pytest.approx(limits[:20], rel=2e-5)
    assert len({one.interval for one in found}) == 1
    low, high = found[0].interval
    # Scores are uniform, so that the rate above a threshold t is 1 - t.
    assert 0.018 < np.mean(1 - limits > high) < 0.032  # 2.5 %, give or take three standard errors
    assert np.mean(1 - limits < low) < 0.025


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.5])
def test_how_many_good_images_it_takes(rate):
    assert (1 - rate) ** needed(rate) <= 0.05 + 1e-12 < (1 - rate) ** (needed(rate) - 1)
    assert needed(0.05) == 59


def test_it_says_when_there_are_too_few():
    words = str(choose(np.arange(58, dtype=np.float32), 0.05))
    assert "2 of 58" in words and "there are 58, and 59 are needed" in words
    assert "too few" not in str(choose(np.arange(59, dtype=np.float32), 0.05))
