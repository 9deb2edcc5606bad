"""Array handling of the interpolations: one namespace, one dtype to compute in, one axis, cache-sized blocks.

The formulas (`clipgeom.interpolation._great_circle`) are written once, for any array library, with vectors along the last
axis. This module brings the caller's arrays into that form and the result back into the caller's form.
"""

import itertools
import math
import operator
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, TypeAlias

from array_api_compat import (
    array_namespace,
    is_array_api_obj,
    is_jax_array,
    is_numpy_array,
    is_numpy_namespace,
    is_torch_array,
    is_torch_namespace,
)

from clipgeom.errors import ShapeError

Array: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]

BLOCK = 1 << 19
"""Numbers of one operand in a block. In float32 that is 2 MB: two ends, a product and a result stay in the cache, and
the block is large enough to hide what some forty calls of the library cost. It also has the more than 500 rows, at the
768 components of CLIP, from which on NumPy lets other threads run while it multiplies."""


@dataclass(frozen=True)
class Backend:
    """Properties of the array library that formulas depend on."""

    xp: Any
    eager: bool
    """Values can be looked at. False under jit, vmap and the like: then no Python branch may depend on data."""
    stop_gradient: Callable[[Array], Array] | None
    """None where nothing is being differentiated."""
    largest: float
    """The largest number of the dtype that the caller gets back."""
    eps: float
    """The distance from 1 to the next number, in the dtype that formulas compute in."""
    smallest: float
    """The smallest normal number of that dtype."""
    workspace: tuple[Array, Array] | None = None
    """Arrays of the shape of the operands, for a product and for a result. Fresh ones would cost more than the
    arithmetic: memory of this size goes back to the system when it is freed, and comes again page by page, cleared."""

    def dot(self, x: Array, y: Array) -> Array:
        """Return the scalar products of the rows, keeping the axis."""
        if is_numpy_namespace(self.xp):
            return self.xp.vecdot(x, y)[..., None]
        # Not vecdot: accelerators may lower that to a matrix product of reduced precision.
        return self.xp.sum(x * y, axis=-1, keepdims=True)

    def blend(self, p: Array, x: Array, q: Array, y: Array) -> Array:
        """Return p·x + q·y. In a workspace, the next call overwrites it."""
        if self.workspace is None:
            return p * x + q * y
        product, result = self.workspace
        self.xp.multiply(p, x, out=result)
        self.xp.multiply(q, y, out=product)
        result += product
        return result


Formula: TypeAlias = Callable[..., Array]


@dataclass(frozen=True)
class Operands:
    """The two operands of an interpolation, broadcast against each other, vectors along the last axis."""

    library: Backend
    a: Array
    b: Array
    s: Array
    """1 − t, as accurate as t itself: next to t = 1, rounding t to float32 first would spoil it."""
    t: Array
    vectors: dict[str, Array]
    """The other vectors, such as the centre: as they were given, apart from axis and dtype."""
    dtype: Any
    work: Any
    axis: int
    threads: int
    """How many threads work through blocks of the arrays; 0 where the arrays are small, or not plain ones in memory."""

    def interpolate(self, formula: Formula, *vectors: Array) -> Array:
        """Evaluate ``formula(library, a, b, s, t, *vectors)``; return the result in the caller's axis and dtype."""
        xp = self.library.xp
        operands = [self.a, self.b, self.s, self.t, *(xp.broadcast_to(v, self.a.shape) for v in vectors)]
        if self.threads > 0:
            out = self._in_blocks(formula, operands)
        else:
            with quiet(xp):
                a, b, *others = (xp.astype(x, self.work, copy=False) for x in operands)
                out = self._round(xp, formula(self.library, _contiguous(a), _contiguous(b), *others))
        return _moveaxis(xp, out, -1, self.axis)

    def _round(self, xp: Any, result: Array) -> Array:
        """Round to the dtype of the caller, saturating."""
        if result.dtype == self.dtype:
            return result
        return xp.astype(xp.clip(result, -self.library.largest, self.library.largest), self.dtype)

    def _in_blocks(self, formula: Formula, operands: list[Array]) -> Array:
        """Process the vectors a block at a time in NumPy, which shares the memory of torch's tensors.

        The threads of torch synchronise after each operation. With the many operations here, one other busy process
        would delay them by seconds. The threads of this function take the next block as soon as they are free.
        """
        import numpy as np

        numpy, torch = array_namespace(np.empty(0)), sys.modules["torch"] if is_torch_array(self.a) else None
        shape, half = tuple(self.a.shape), self.dtype != self.work
        work = np.float64 if self.work == self.library.xp.float64 else np.float32
        out = target = self.library.xp.empty(shape, dtype=self.dtype)
        if torch is not None:
            operands = [x.detach() for x in operands]
            target = out if half else out.numpy()
        blocks = iter(_blocks(shape))

        def take_blocks(_: int) -> None:
            scratch = np.empty((2, max(BLOCK, shape[-1])), dtype=work)
            with quiet(numpy):
                for index in blocks:
                    inputs = [x[index] if torch is None else x[index].to(self.work).numpy() for x in operands]
                    a, b, *others = (x.astype(work, copy=False) for x in inputs)
                    product, result = (x[: a.size].reshape(a.shape) for x in scratch)
                    if not half:
                        result = target[index]
                    library = replace(self.library, xp=numpy, workspace=(product, result))
                    block = formula(library, _contiguous(a), _contiguous(b), *others)
                    if half:
                        target[index] = self._round(
                            self.library.xp, block if torch is None else torch.from_numpy(block)
                        )
                    elif block is not result:
                        result[...] = block

        if self.threads == 1:
            take_blocks(0)
        else:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(take_blocks, range(self.threads)))
        return out


def is_number(x: object) -> bool:
    """Whether `x` is a real number of Python or NumPy, not an array."""
    return isinstance(x, Real)


def prepare(name: str, a: Array, b: Array, t: Array, *, axis: int, **vectors: Array) -> Operands:
    """Check the operands of the public function `name`, and convert them to the form that formulas expect.

    Parameters
    ----------
    name
        The public function, for messages.
    a, b
        Arrays ``(..., d)``, with the vectors along `axis`.
    t
        A number, or an array that broadcasts with the batch shape. As in the arithmetic of torch, an array without axes
        may be NumPy's, or lie on the CPU while `a` and `b` lie on another device.
    axis
        Axis of the vectors in `a` and `b`, each by its own shape, and in the result.
    vectors
        Other vectors, such as a centre: arrays ``(d,)``, or ones that broadcast with `a` and `b` and have their vectors
        along `axis`.

    Raises
    ------
    TypeError
        An operand is no array, is not of real floating point, or belongs to another library than the others.
    ShapeError
        The axis is out of range, or the shapes do not fit together.
    """
    named = {"a": a, "b": b, **vectors}
    t = _scalar(t, a)
    t_is_number = is_number(t)
    arrays = named if t_is_number else named | {"t": t}
    for key, x in arrays.items():
        if not is_array_api_obj(x):
            kind = "a real number or an array" if key == "t" else "an array"
            raise TypeError(
                f"{name}: expected {key} to be {kind}, got {type(x).__name__}; convert it, as numpy.asarray does"
            )
    try:
        xp = array_namespace(*arrays.values())
    except TypeError as error:
        kinds = {key: f"{type(x).__module__}.{type(x).__name__}" for key, x in arrays.items()}
        raise TypeError(
            f"{name}: expected arrays of one library, got {_listing(kinds)}; convert them to that of the result"
        ) from error
    for key, x in arrays.items():
        if not (xp.isdtype(x.dtype, "real floating") or (key == "t" and xp.isdtype(x.dtype, "integral"))):
            raise TypeError(f"{name}: expected {key} in real floating point, got {x.dtype}; convert it, say to float32")
        if xp.isdtype(x.dtype, "real floating") and xp.finfo(x.dtype).bits > 64:
            raise TypeError(f"{name}: expected {key} in at most 64 bits, got {x.dtype}; convert it to float64")

    dtype = xp.result_type(a, b)
    work = xp.float32 if xp.finfo(dtype).bits < 32 else dtype
    moved = {key: _axis_last(xp, name, key, x, axis) for key, x in named.items()}
    sizes = {key: x.shape[-1] for key, x in moved.items()}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise ShapeError(
            f"{name}: expected vectors of one length, at least 1, along axis {axis}, got {_listing(sizes)}; "
            "pass the axis of the vectors"
        )
    batches = {key: tuple(x.shape[:-1]) for key, x in moved.items()}
    if not t_is_number:
        batches["t"] = tuple(t.shape)
    shape = (*_broadcast_shapes(name, batches), sizes["a"])

    library, threads = _library(xp, list(arrays.values()), dtype, work)
    a, b = (xp.broadcast_to(moved[key], shape) for key in ("a", "b"))
    with quiet(xp):
        s, t = _complements(xp, t, like=a, work=work)
        others = {key: xp.astype(moved[key], work, copy=False) for key in vectors}
    return Operands(
        library=library,
        a=a,
        b=b,
        s=s,
        t=t,
        vectors=others,
        dtype=dtype,
        work=work,
        axis=axis,
        threads=threads if math.prod(shape) > BLOCK else 0,
    )


def _scalar(t: Array, a: Array) -> Array:
    """Convert a `t` without axes: a NumPy one to a number, a torch one to the device of the vectors."""
    if is_numpy_array(t) and t.ndim == 0 and not is_numpy_array(a):
        number = t.item()
        return number if is_number(number) else t
    if is_torch_array(t) and t.ndim == 0 and t.device.type == "cpu" and is_torch_array(a):
        return t.to(a.device)
    return t


def _axis_last(xp: Any, name: str, key: str, x: Array, axis: int) -> Array:
    try:
        axis = operator.index(axis)
    except TypeError:
        raise TypeError(
            f"{name}: expected axis to be an integer, got {axis!r}; pass one axis, for example -1"
        ) from None
    if key not in ("a", "b") and x.ndim == 1:
        return x
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(
            f"{name}: expected {key} to have axis {axis}, got shape {tuple(x.shape)}; "
            "pass vectors (..., d) and the axis of their d components"
        )
    return _moveaxis(xp, x, axis, -1)


def _moveaxis(xp: Any, x: Array, source: int, destination: int) -> Array:
    """Implement xp.moveaxis also for ``torch.func.vmap``, which lacks it."""
    order = list(range(x.ndim))
    order.insert(destination % x.ndim, order.pop(source))
    return xp.permute_dims(x, order)


def _broadcast_shapes(name: str, shapes: dict[str, Shape]) -> Shape:
    result: list[int] = []
    for shape in shapes.values():
        result = [1] * (len(shape) - len(result)) + result
        for i in range(1, len(shape) + 1):
            if result[-i] == 1:
                result[-i] = shape[-i]
            elif shape[-i] not in (1, result[-i]):
                raise ShapeError(
                    f"{name}: expected batch shapes (the shapes without the vector axis) that broadcast together, "
                    f"got {_listing(shapes)}; reshape one of them, or insert axes of length 1"
                )
    return tuple(result)


def _complements(xp: Any, t: Array, *, like: Array, work: Any) -> tuple[Array, Array]:
    """1 − t and t, one per vector, subtracted before anything is rounded to the dtype of the vectors."""
    one_each = like[..., :1]
    if is_number(t):
        t = float(t)
        return xp.full_like(one_each, 1.0 - t, dtype=work), xp.full_like(one_each, t, dtype=work)
    wide = xp.result_type(t.dtype, work) if xp.isdtype(t.dtype, "real floating") else work
    t = xp.broadcast_to(xp.astype(t, wide, copy=False)[..., None], one_each.shape)
    return xp.astype(1.0 - t, work, copy=False), xp.astype(t, work, copy=False)


def _library(xp: Any, arrays: list[Array], dtype: Any, work: Any) -> tuple[Backend, int]:
    """Describe the library, and how many threads it would use on these arrays if they are plain ones in memory."""
    eager, threads, stop_gradient = False, 0, None
    if all(is_numpy_array(x) for x in arrays):
        eager, threads = True, int(all(type(x) is sys.modules["numpy"].ndarray for x in arrays))
    elif is_torch_array(arrays[0]):
        torch = sys.modules["torch"]
        eager = not torch.compiler.is_compiling() and all(_has_values(torch, x) for x in arrays)
        if not eager or any(_is_differentiated(torch, x) for x in arrays):
            stop_gradient = torch.Tensor.detach
        elif all(x.device.type == "cpu" for x in arrays):
            threads = torch.get_num_threads()
    elif is_jax_array(arrays[0]):
        stop_gradient = sys.modules["jax"].lax.stop_gradient
    finfo, largest = xp.finfo(work), float(xp.finfo(dtype).max)
    return Backend(xp, eager, stop_gradient, largest, float(finfo.eps), float(finfo.smallest_normal)), threads


def _is_differentiated(torch: Any, x: Array) -> bool:
    if x.requires_grad and torch.is_grad_enabled():
        return True
    return torch.autograd.forward_ad.unpack_dual(x).tangent is not None


def _has_values(torch: Any, x: Array) -> bool:
    """Whether `x` is an ordinary tensor: not fake, not on "meta", not batched or tracked by a torch.func transform."""
    if type(x) not in (torch.Tensor, torch.nn.Parameter) or x.device.type == "meta":
        return False
    try:
        x.data_ptr()  # the wrappers of torch.func have no storage of their own
    except RuntimeError:
        return False
    return True


def _blocks(shape: Shape) -> list[tuple[slice, ...]]:
    """Slices that cut the batch axes, the longest first, into blocks that are small enough."""
    *steps, d = shape
    while d * math.prod(steps) > BLOCK and max(steps, default=1) > 1:
        longest = steps.index(max(steps))
        steps[longest] = 1
        steps[longest] = max(1, BLOCK // (d * math.prod(steps)))
    cuts = ([slice(i, i + step) for i in range(0, n, step)] for n, step in zip(shape, steps, strict=False))
    return list(itertools.product(*cuts))


def _contiguous(x: Array) -> Array:
    if is_numpy_array(x):
        return sys.modules["numpy"].ascontiguousarray(x)
    return x.contiguous() if is_torch_array(x) else x


def quiet(xp: Any) -> AbstractContextManager[Any]:
    """Suppress floating-point warnings: masked values may overflow, and returned ones are documented."""
    numpy = sys.modules.get("numpy")
    return nullcontext() if numpy is None or is_torch_namespace(xp) else numpy.errstate(all="ignore")


def _listing(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in values.items())
