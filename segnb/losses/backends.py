"""The two forms that every back end computes, and the choice of the back end.

Notation: f_p is the feature of pixel p, tau the temperature, s_pk = f_p . f_k / tau, y_p the label.
A pixel whose label is ``IGNORED`` is neither anchor nor key.

**Logsumexp** (paper form, SupCon). With K_p the allowed keys of anchor p,

    l_p = log sum_{k in K_p} exp(s_pk)            d l_p / d s_pk = exp(s_pk - l_p)

so with an upstream gradient g_p and the matrix G_pk = g_p exp(s_pk - l_p), held only tile by tile,
dF_anchors = G F_keys / tau and dF_keys = G^T F_anchors / tau. The positive term of these losses is
linear and needs no pairs: the mean over positives q of s_pq is
f_p . (sum of the positives' features) / (tau |P_p|), with one sum of features for each class.

**Official form.** With neg_p = sum of exp(s_pk) over p's negatives and x_pq = neg_p exp(-s_pq),

    loss_p = 1/|P_p| sum_{q in P_p} log(1 + x_pq)

    d loss_p / d s_pq = -sigma_pq / |P_p|,   sigma = x / (1 + x)         for positives q
    d loss_p / d s_pk = a_p exp(s_pk),  a_p = mean_q(sigma_pq) / neg_p   for negatives k

Anchors and keys are one set, so S is symmetric and the gradient is one product with a symmetric
matrix: dF = M F / tau with, for weights w_p of the anchors (1/|P_p| is the same for p and q),
M_pk = exp(s_pk) (w_p a_p + w_k a_k) for negatives, and for positives
M_pq = -(w_p sigma_pq + w_q sigma_qp) / |P_p|.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from segnb.errors import ConfigError
from segnb.losses import plain
from segnb.losses.pixels import IGNORED, Pixels
from segnb.losses.tiled import operators as tiled
from segnb.losses.triton import operators as triton

Backend = Literal["auto", "plain", "tiled", "triton"]
Reduction = Literal["mean", "none"]
Form = Literal["logsumexp", "official"]

# Outside the functions, because torch 2.6 can't compile get_args.
_BACKENDS: tuple[str, ...] = get_args(Backend)
_REDUCTIONS: tuple[str, ...] = get_args(Reduction)

#: On the CPU, images with fewer pairs are faster with every pair in memory: there the calls for an
#: image's tiles cost more than they save (measured in ``benchmarks/NOTES.md``).
FEW_PAIRS = 1 << 16

#: Compute capabilities of GPUs on which ``python -m benchmarks.triton_check`` has passed.
#: ``auto`` takes the Triton kernels only on these.
CHECKED_CAPABILITIES: frozenset[tuple[int, int]] = frozenset()

#: Largest relative error allowed to the Triton kernels' values and gradients in float32, and where
#: ``torch.backends.cuda.matmul.allow_tf32`` lets products round.
FLOAT32_LIMIT, TF32_LIMIT = 1e-6, 2e-3

#: Devices and forms whose kernels have passed :func:`check_triton` in this process.
_CHECKED: set[tuple[torch.device, Form]] = set()


#: Names of the back ends that have computed a loss, while :func:`noted` listens.
_NOTES: ContextVar[set[str] | None] = ContextVar("back ends", default=None)


@contextlib.contextmanager
def noted() -> Iterator[set[str]]:
    """Collect the names of the back ends that compute a loss within the block."""
    names: set[str] = set()
    token = _NOTES.set(names)
    try:
        yield names
    finally:
        _NOTES.reset(token)


def note(name: str) -> None:
    """Tell who listens which back end computes."""
    names = _NOTES.get()
    if names is not None:
        names.add(name)


class LossBackend(Protocol):
    """Both forms, as the mean over the anchors that count, then over images.

    An image without an anchor that counts is 0 in the mean. Results are scalars in float32
    (float64 for float64 features).
    """

    def logsumexp_form(
        self, anchors: Pixels, keys: Pixels | None, other_keys: Pixels | None
    ) -> Tensor:
        """Mean over positives q of ``-log(exp(s_pq) / D_p)``: paper form and SupCon.

        Args:
            anchors: N pixels; an anchor counts if it is not ignored and has a positive.
            keys: M pixels, in the D_p of every anchor and positives of the anchors of their class;
                None takes the anchors, without the pixel itself.
            other_keys: Pixels that are positives, and in D_p, only for anchors of their class.
        """

    def official_form(self, pixels: Pixels, images: Tensor) -> Tensor:
        """Mean over positives q of ``log(1 + neg_p / exp(s_pq))``.

        Args:
            pixels: N pixels, both anchors and keys; all that are not ignored count.
            images: int64 ``[B, N]``: which image of the pair a pixel belongs to. Positives are
                the pixels of the anchor's class in all images (itself included), negatives are the
                pixels of other classes in its own image.
        """


def logsumexp_loss(
    anchors: Pixels,
    keys: Pixels | None,
    other_keys: Pixels | None = None,
    *,
    reduction: Reduction,
    backend: Backend,
) -> Tensor:
    """See :meth:`LossBackend.logsumexp_form`; with ``none`` every anchor's loss, ``[B, N]``."""
    number = sum(s.labels.shape[1] for s in (keys or anchors, other_keys) if s is not None)
    chosen = choose_backend(backend, "logsumexp", anchors, number)
    if _each_anchor(reduction):
        return plain.logsumexp_losses(anchors, keys, other_keys)[0]
    return chosen.logsumexp_form(anchors, keys, other_keys)


def official_loss(
    pixels: Pixels, images: Tensor, *, reduction: Reduction, backend: Backend
) -> Tensor:
    """See :meth:`LossBackend.official_form`; with ``none`` every anchor's loss, ``[B, N]``."""
    chosen = choose_backend(backend, "official", pixels, pixels.labels.shape[1])
    if _each_anchor(reduction):
        return plain.official_losses(pixels, images)[0]
    return chosen.official_form(pixels, images)


def _each_anchor(reduction: Reduction) -> bool:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be one of {_REDUCTIONS}, got {reduction!r}")
    return reduction == "none"


def choose_backend(backend: Backend, form: Form, anchors: Pixels, keys: int) -> LossBackend:
    """The back end to use.

    ``auto`` takes the plain form on the CPU where an image has few pairs, the Triton kernels on
    GPUs of ``CHECKED_CAPABILITIES``, and tiles otherwise.

    Args:
        backend: The caller's choice.
        form: The form to compute.
        anchors: The anchors.
        keys: Number of keys in each image.

    Raises:
        ValueError: No such back end.
        ConfigError: The Triton kernels do not take these features, or fail their check on this
            device.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"backend must be one of {_BACKENDS}, got {backend!r}")
    features = anchors.features
    if backend == "auto":
        if features.is_cuda:
            backend = "triton" if _checked_card(anchors) else "tiled"
        else:
            backend = "plain" if features.shape[1] * keys < FEW_PAIRS else "tiled"
    if not torch.compiler.is_compiling():
        note(backend)
    if backend == "plain":
        return plain
    if backend == "tiled":
        return tiled
    reason = triton.unsupported_reason(features, anchors.dtype)
    if reason is not None:
        raise ConfigError(f"backend='triton' cannot be used: {reason}; use backend='tiled'")
    check_triton(features.device, form)
    return triton


def _checked_card(anchors: Pixels) -> bool:
    return (
        bool(CHECKED_CAPABILITIES)
        and torch.cuda.get_device_capability(anchors.features.device) in CHECKED_CAPABILITIES
        and triton.unsupported_reason(anchors.features, anchors.dtype) is None
    )


def check_triton(device: torch.device, form: Form) -> None:
    """Compare the Triton kernels with the plain form, once for each device and form.

    Raises:
        ConfigError: The kernels do not compile or run, or a value or gradient is wrong or NaN.
    """
    if (device, form) in _CHECKED:
        return
    sizes = (67, 53, 41)  # multiples of no tile
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, n, 19, generator=generator) for n in sizes]
    features = [torch.nn.functional.normalize(f, dim=2).to(device) for f in features]
    labels = [torch.randint(3, (2, n), generator=generator) for n in sizes]
    labels = [y.masked_fill(torch.arange(y.shape[1]) % 11 == 5, IGNORED).to(device) for y in labels]

    def value_and_gradients(module: LossBackend, dtype: torch.dtype) -> list[Tensor]:
        leaves = [f.to(dtype).requires_grad_() for f in features]
        sets = [
            Pixels(features=f, labels=y, temperature=0.07, dtype=dtype)
            for f, y in zip(leaves, labels, strict=True)
        ]
        if form == "official":
            images = torch.arange(sizes[0], device=device).gt(40).long().expand_as(labels[0])
            loss, leaves = module.official_form(sets[0], images), leaves[:1]
        else:
            loss = module.logsumexp_form(sets[0], sets[1], sets[2])
            loss = loss + module.logsumexp_form(sets[0], None, None)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    what, cause = "", None
    try:
        with torch.inference_mode(False), torch.enable_grad():
            found = value_and_gradients(triton, torch.float32)
            wanted = value_and_gradients(plain, torch.float64)
        limit = TF32_LIMIT if triton.tf32_allowed() else FLOAT32_LIMIT
        errors = [
            float((a.double() - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)
        ]
        # NaN is not within any limit.
        if not all(error <= limit for error in errors):
            what = (
                f"compute a wrong value or gradient (relative errors of "
                f"{', '.join(f'{error:.0e}' for error in errors)}, at most {limit:.0e} allowed)"
            )
    except Exception as error:
        what, cause = f"do not run ({type(error).__name__}: {error})".split("\n")[0], error
    if what:
        card = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        raise ConfigError(
            f"the Triton kernels of the contrastive loss {what} on {card}; use backend='tiled'"
        ) from cause
    _CHECKED.add((device, form))


# torch.compile runs it instead of tracing it. torch.compiler.assume_constant_result does the same,
# but would import Triton at once.
check_triton._dynamo_marked_constant = True  # type: ignore[attr-defined]
