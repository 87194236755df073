"""A hash of arrays, bytes and texts."""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    pass


def fingerprint(*parts: Any) -> str:
    """Hash arrays, bytes and strings.

    Parameters
    ----------
    *parts : array-like, bytes or str
        NumPy arrays or scalars, tensors on the CPU, bytes, strings.

    Returns
    -------
    str
        The SHA-256 hash, in 64 hexadecimal digits, of the kinds, shapes, dtypes and
        bytes, in order.

    Raises
    ------
    TypeError
        If a part is none of these, or is an array of Python objects.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str | bytes):
            data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            header = f"{type(part).__name__} {len(data)};"
            digest.update(header.encode() + data)
            continue
        array = np.asarray(part) if hasattr(part, "__array__") else None
        if array is None or array.dtype.hasobject:
            got = type(part).__name__ if array is None else f"an array of dtype {array.dtype}"
            raise TypeError(
                f"cannot fingerprint {got}; expected numeric or fixed-width string arrays, bytes "
                "or str. Convert it, for example with .astype('U') or json.dumps."
            )
        digest.update(f"array {array.dtype.str} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
