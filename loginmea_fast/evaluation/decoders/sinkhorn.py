"""Optimal transport between the two sides (Cuturi, NIPS 2013), on the candidates alone.

With s the scores and T the temperature: the plan

    p_ij = a_i exp(s_ij / T) b_j ,     sum over a row of the smaller side = 1 ,     of the larger side <= 1

is what rows and columns, normalised in turn (Sinkhorn), converge to, where a sum of the larger side is divided by
itself only if it is above one, so that its factor is at most one (partial transport: Benamou et al., SIAM J. Sci.
Comput. 2015). p_ij is the probability that i and j are partners if every entity of the smaller side has one: a hub must
share itself out among all who claim it, and who is left over claims nobody. With every pair a
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
ITERATIONS = 500
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
    # Log of the largest factor of either side: none where all of it has a partner.
    most_a, most_b = (0.0 if n > m else np.inf), (0.0 if m > n else np.inf)
    logits = candidates.scores.astype(np.float64) / temperature
    to_columns = np.argsort(candidates.right, kind="stable")
    rows = candidates.starts[:-1]
    columns = np.searchsorted(candidates.right[to_columns], np.arange(m))
    a, b = np.zeros(n), np.zeros(m)  # factors in the exponent

    def iterate_in_logs() -> csr_array:
        a[:] = np.minimum(-_log_sum_exp(logits + b[candidates.right], rows), most_a)
        shifted = (logits + a[candidates.left])[to_columns]
        b[:] = np.minimum(-_log_sum_exp(shifted, columns), most_b)
        kernel = np.exp(logits + a[candidates.left] + b[candidates.right])
        return csr_array((kernel, candidates.right, candidates.starts), shape=(n, m))

    kernel = iterate_in_logs()
    u, v = np.ones(n), np.ones(m)
    done, converged = 1, False
    while True:
        with np.errstate(divide="ignore", over="ignore"):
            new_u = np.minimum(1 / (kernel @ v), np.exp(most_a - a))
            converged = bool(np.abs(u / new_u - 1).mean() <= tolerance)
            if converged or done == iterations:
                break
            new_v = np.minimum(1 / (kernel.T @ new_u), np.exp(most_b - b))
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
