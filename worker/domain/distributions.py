"""Compute the two distributions that intervals and tests need: Student's t and the binomial.

Both come down to the regularized incomplete beta function I_x(a, b); see Abramowitz and Stegun,
"Handbook of Mathematical Functions" (1964), 26.5.24 for the binomial and 26.7.1 for t.
"""

from __future__ import annotations

import math
from statistics import NormalDist

PRECISION = 1e-14  # relative, at which the continued fraction ends
TINY = 1e-300  # in place of a denominator that is zero


def t_critical(confidence: float, degrees: int) -> float:
    """Return the t with P(|T| <= t) = `confidence`, for T of Student's t distribution.

    Newton's method, from the normal quantile. That is too small, and the tail is convex, so that
    each step comes closer from below.
    """
    t = NormalDist().inv_cdf((1 + confidence) / 2)
    log_density = -math.log(degrees) / 2 - _log_beta(degrees / 2, 0.5)  # at 0
    for _ in range(100):
        tail = regularized_beta(degrees / (degrees + t * t), degrees / 2, 0.5)
        slope = math.exp(log_density - (degrees + 1) / 2 * math.log1p(t * t / degrees))
        step = (tail - (1 - confidence)) / (2 * slope)
        t += step
        if abs(step) < 1e-10 * t:
            break
    return t


def fair_coin_tail(successes: int, trials: int) -> float:
    """Return P(X <= `successes`) for the number of heads X in so many throws of a fair coin."""
    if successes >= trials:
        return 1.0
    return regularized_beta(0.5, trials - successes, successes + 1)


def regularized_beta(x: float, a: float, b: float) -> float:
    """Return I_x(a, b), for x from 0 to 1 and positive a and b.

    Evaluates the continued fraction of Abramowitz and Stegun, 26.5.8, by the method of Lentz (1976)
    as modified by Thompson and Barnett (1986). It converges fast where x is below the mean of the
    distribution; else I_x(a, b) = 1 - I_(1-x)(b, a) is used.
    """
    if x <= 0 or x >= 1:
        return float(x > 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - regularized_beta(1 - x, b, a)
    log_factor = a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b)
    return math.exp(log_factor) * _continued_fraction(x, a, b) / a


def _continued_fraction(x: float, a: float, b: float) -> float:
    numerator, denominator = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = denominator
    step = 1
    while True:
        even = step * (b - step) * x / ((a + 2 * step - 1) * (a + 2 * step))
        odd = -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1))
        for coefficient in (even, odd):
            denominator = 1 / _not_zero(1 + coefficient * denominator)
            numerator = _not_zero(1 + coefficient / numerator)
            value *= numerator * denominator
        if abs(numerator * denominator - 1) < PRECISION:
            return value
        step += 1


def _not_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
