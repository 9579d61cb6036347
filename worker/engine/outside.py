"""Virtual tokens outside the softmax: each adds its value by how well a query fits its key, whatever else there is.

Inside the softmax a prefix takes attention away from the text, the less of it the longer the text, and moves every
output by a mean of its values. Outside it adds to what attention gave, and depends on the query in full.

Source: "Towards Better Parameter-Efficient Fine-Tuning by Prefix-Tuning+", arXiv 2506.13674, for the idea; here as keys
and values, so that it has the shape of a prefix, and without a function on the queries (docs/decisions.md).
"""

from torch import Tensor


def maps_of(outside: Tensor) -> Tensor:
    """All tokens of a prefix as one linear map of queries for each head: the sum of `(q k / sqrt(D)) v` is `q M`.

    Args:
        outside: `[..., 2, H_kv, R, D]`, keys and values.

    Returns:
        `[..., H_kv, D, D]`.
    """
    key, value = outside.unbind(-4)
    maps: Tensor = key.mT @ value * outside.shape[-1] ** -0.5
    return maps


def add_mapped(output: Tensor, query: Tensor, maps: Tensor) -> Tensor:
    """Attention's output with what stands outside of it.

    Args:
        output: `[B, T, H, D]`.
        query: `[B, H, T, D]`.
        maps: `[B, H_kv, D, D]`, shared by the heads that share keys; zeros leave a row bit for bit as it is.
    """
    num_rows, num_heads, length, width = query.shape
    num_kv_heads = maps.shape[1]
    grouped = query.reshape(num_rows, num_kv_heads, num_heads // num_kv_heads * length, width)
    added = (grouped @ maps.to(query.dtype)).reshape(num_rows, num_heads, length, width)
    return output + added.transpose(1, 2)
