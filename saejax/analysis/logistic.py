"""Logistic regression for probes: penalties on squares or on absolute values, class balance, F1.

Letters: B examples, C classes, F features.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

# The minimum counts as reached where a step lowers the loss by less than this part of it, which is
# as close as float32 comes.
_DECREASE, _MAX_STEPS = 1e-7, 500
# Where u and v begin in w = u u - v v; at 0 they would stay.
_L1_START = 0.1


class Probe(NamedTuple):
    """Linear classifiers: members of class c are where x w_c + b_c > 0.

    Attributes:
      weight: [C, F].
      bias: [C].
    """

    weight: Float[Array, "C F"]
    bias: Float[Array, " C"]

    def scores(self, x: Float[Array, "*C B F"]) -> Float[Array, "C B"]:
        """Gives x w_c + b_c; x holds the same features for all classes, or each class's own."""
        product = "bf,cf->cb" if x.ndim == 2 else "cbf,cf->cb"
        return jnp.einsum(product, x, self.weight) + self.bias[:, None]


@jax.jit
def fit_l2(
    x: Float[Array, "*C B F"], members_CB: Bool[Array, "C B"], l2: float | Float[Array, ""]
) -> Probe:
    """Minimises mean_b a_cb log(1 + exp(-s_cb (x_b w_c + b_c))) + l2/2 |w_c|^2 for every c.

    s_cb is 1 for members and -1 for others, and a_cb = B / (2 B_class) makes both count alike
    (scikit-learn: class_weight="balanced", with C = 1 / (B l2)).

    Args:
      x: Features [B, F] of the order of 1, or [C, B, F].
      members_CB: Which are members; of each class at least one is and one is not.
      l2: Penalty; the bias has none.
    """

    def loss(probe: Probe) -> Array:
        return _balanced_loss(probe, x, members_CB) + l2 / 2 * jnp.sum(probe.weight**2)

    C = len(members_CB)
    return _minimise(loss, Probe(jnp.zeros((C, x.shape[-1])), jnp.zeros(C)))


@jax.jit
def fit_l1(
    x: Float[Array, "*C B F"], members_CB: Bool[Array, "C B"], l1: float | Float[Array, ""]
) -> Probe:
    """As `fit_l2` with the penalty l1 |w_c|_1, under which most weights become 0.

    With w = u u - v v the penalty is the smooth l1 (|u|^2 + |v|^2), whose minima are the same
    (Hoff 2017, arXiv 1611.00040, section 2).
    """

    def probe(parts: tuple[Array, Array, Array]) -> Probe:
        u_CF, v_CF, bias_C = parts
        return Probe(u_CF**2 - v_CF**2, bias_C)

    def loss(parts: tuple[Array, Array, Array]) -> Array:
        u_CF, v_CF, _ = parts
        penalty = l1 * jnp.sum(u_CF**2 + v_CF**2)
        return _balanced_loss(probe(parts), x, members_CB) + penalty

    C = len(members_CB)
    start_CF = jnp.full((C, x.shape[-1]), _L1_START)
    return probe(_minimise(loss, (start_CF, start_CF, jnp.zeros(C))))


def f1(predicted_B: Bool[np.ndarray, " B"], member_B: Bool[np.ndarray, " B"]) -> float:
    """2 TP / (2 TP + FP + FN): harmonic mean of precision and recall; 0 where all is empty."""
    wrong_or_right = int(predicted_B.sum()) + int(member_B.sum())
    return 2 * int((predicted_B & member_B).sum()) / max(wrong_or_right, 1)


def _balanced_loss(probe: Probe, x: Array, members_CB: Array) -> Array:
    """The sum over classes, which are minimised together: one line search for all."""
    score_CB = probe.scores(x)
    loss_CB = jax.nn.softplus(jnp.where(members_CB, -score_CB, score_CB))
    members_C1 = members_CB.sum(axis=1, keepdims=True)
    size_CB = jnp.where(members_CB, members_C1, members_CB.shape[1] - members_C1)
    return jnp.sum(loss_CB / (2 * size_CB))


def _minimise(loss: Callable[[Any], Array], start: Any) -> Any:
    """L-BFGS with a line search, from `start`."""
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        params, state, before, _ = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(params, updates), state, value, before - value

    def unfinished(carry):
        _, state, value, decrease = carry
        return (decrease > _DECREASE * value) & (optax.tree.get(state, "count") < _MAX_STEPS)

    carry = (start, solver.init(start), jnp.asarray(jnp.finfo(jnp.float32).max), jnp.inf)
    return jax.lax.while_loop(unfinished, step, carry)[0]
