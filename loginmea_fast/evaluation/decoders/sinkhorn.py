"""Optimal transport between the two sides (Cuturi, NIPS 2013), on the candidates alone.

With s the scores, T the temperature, n and m rows a side and w = min(n, m): the plan

    p_ij = a_i exp(s_ij / T) b_j ,     sum_j p_ij = w / n ,     sum_i p_ij = w / m

is what rows and columns, normalised in turn (Sinkhorn), converge to. p_ij is the probability that i and j are partners
if every entity of the smaller side has one: a hub must share itself out among all who claim it. With every pair a
candidate this is the dense plan exactly; a pair outside both sides' lists has none. Where the lists cannot carry such a
plan (two entities that list but one, the same), normalising does not converge, and the last iterate is marked.

Scaling factors run over the float's range at low temperatures. They are taken into the exponent whenever they grow
large (Schmitzer, SIAM J. Sci. Comput. 2019), so that no temperature overflows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from loginmea_fast.errors import InputError
from loginmea_fast.evaluation.decoders.base import Candidates, Matching, check_number, register_decoder

__all__ = ["sinkhorn"]

TEMPERATURE = 0.02
ITERATIONS = 200
TOLERANCE = 1e-2
LARGE = 1e100  # a scaling factor that is taken into the exponent


def sinkhorn(
    candidates: Candidates,
    temperature: float = TEMPERATURE,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Matching:
    """The plan, and the most probable partner of every left row.

    Args:
        candidates: with cosines for scores.
        temperature: T; the lower, the closer to an assignment, and the slower to converge.
        iterations: normalisations of rows and columns, at most.
        tolerance: mean relative error of the rows' sums at which it is done; columns are exact.

    Returns:
        `plan` has the probabilities; `converged` is False where the tolerance was not reached.
        `sinkhorn(...).plan.mutual(threshold)` proposes links.

    Raises:
        InputError: a temperature, number of iterations or tolerance that is no number above 0, or iterations that are
            no whole number.
    """
    for name, value in (("temperature", temperature), ("iterations", iterations), ("tolerance", tolerance)):
        if not check_number(f"{name} of Sinkhorn", value) > 0:
            raise InputError(f"{name} of Sinkhorn must be above 0; got {value!r}")
    if not isinstance(iterations, int):
        raise InputError(f"iterations of Sinkhorn must be a whole number; got {iterations!r}")
    from scipy.sparse import csr_array

    n, m = candidates.num_left, candidates.num_right
    row_sum, column_sum = min(n, m) / n, min(n, m) / m
    logits = candidates.scores.astype(np.float64) / temperature
    to_columns = np.argsort(candidates.right, kind="stable")
    rows = candidates.starts[:-1]
    columns = np.searchsorted(candidates.right[to_columns], np.arange(m))
    a, b = np.zeros(n), np.zeros(m)  # factors in the exponent

    def iterate_in_logs() -> csr_array:
        a[:] = np.log(row_sum) - _log_sum_exp(logits + b[candidates.right], rows)
        shifted = (logits + a[candidates.left])[to_columns]
        b[:] = np.log(column_sum) - _log_sum_exp(shifted, columns)
        kernel = np.exp(logits + a[candidates.left] + b[candidates.right])
        return csr_array((kernel, candidates.right, candidates.starts), shape=(n, m))

    kernel = iterate_in_logs()
    u, v = np.ones(n), np.ones(m)
    done, converged = 1, False
    while True:
        sums = kernel @ v
        converged = bool(np.abs(u * sums / row_sum - 1).mean() <= tolerance)
        if converged or done == iterations:
            break
        with np.errstate(divide="ignore", over="ignore"):
            new_u = row_sum / sums
            new_v = column_sum / (kernel.T @ new_u)
        if _large(new_u) or _large(new_v):
            a += np.log(u)
            b += np.log(v)
            kernel = iterate_in_logs()
            u, v = np.ones(n), np.ones(m)
        else:
            u, v = new_u, new_v
        done += 1
    probability = kernel.data * u[candidates.left] * v[candidates.right]
    plan = candidates.with_scores(probability)
    matching = plan.matching(plan.best_of_left())
    return replace(matching, plan=plan, converged=converged, iterations=done)


def _log_sum_exp(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Log of the sum of exponentials of runs that begin at `starts`, none of them empty."""
    largest = np.maximum.reduceat(values, starts)
    lengths = np.diff(starts, append=len(values))
    return largest + np.log(np.add.reduceat(np.exp(values - np.repeat(largest, lengths)), starts))


def _large(factors: np.ndarray) -> bool:
    return not (factors.max() < LARGE and factors.min() > 1 / LARGE)


register_decoder(
    "sinkhorn", sinkhorn, "cosine", "optimal transport: hubs share themselves out among all who claim them"
)
