"""An exported model that reads its weights from the safetensors file beside it.

The weights of a BERT take 90 MB, and an export repeats every one of them. ONNX may name another file's
bytes as a tensor's data, and safetensors holds each tensor raw in row order, so the export names those
bytes. A linear layer's export is the transpose of its weights: it gets a `Transpose` in front, which
runtimes fold once when they open the model. The vectors stay the same to the last bit.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

LEAST_BYTES: Final = 1024
"""Smaller tensors stay in the export."""
_STORED: Final = "stored:"
"""Before the name of a tensor that is kept as its transpose."""


class _Place(NamedTuple):
    """Where a tensor's bytes lie in a safetensors file."""

    offset: int
    length: int
    shape: list[int]
    transposed: bool
    """Whether the tensor looked for is the transpose of what is stored."""


def share_weights(model: Path, weights: Path, target: Path) -> None:
    """Write an exported model to `target` with its float32 tensors read from `weights`.

    Both files must lie in the folder of `target` when it is opened. Tensors that `weights` does not
    hold stay in the model.
    """
    import onnx
    from onnx import helper, numpy_helper

    shared = onnx.load(str(model))
    places = _places(weights)
    turned = []
    for tensor in shared.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        place = places.get(_digest(numpy_helper.to_array(tensor)))
        if place is None:
            continue
        if place.transposed:
            stored = _STORED + tensor.name
            turned.append(helper.make_node("Transpose", [stored], [tensor.name], perm=[1, 0]))
            tensor.name = stored
        _point(tensor, weights.name, place)
    nodes = [*turned, *shared.graph.node]
    del shared.graph.node[:]
    shared.graph.node.extend(nodes)
    target.write_bytes(shared.SerializeToString())


def _point(tensor: Any, file: str, place: _Place) -> None:
    """Replace a tensor's data by where it lies."""
    import onnx

    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    del tensor.dims[:]
    tensor.dims.extend(place.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", place.offset), ("length", place.length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)


def _places(weights: Path) -> dict[bytes, _Place]:
    """{digest of a tensor: where it lies}, of each float32 tensor and of the transposes of matrices."""
    found: dict[bytes, _Place] = {}
    for offset, tensor in _tensors(weights):
        shape = list(tensor.shape)
        found[_digest(tensor)] = _Place(offset, tensor.nbytes, shape, False)
        if tensor.ndim == 2:
            found.setdefault(_digest(tensor.T), _Place(offset, tensor.nbytes, shape, True))
    return found


def _digest(tensor: Any) -> bytes:
    return hashlib.sha256(tensor.tobytes()).digest()


def _tensors(weights: Path) -> Iterator[tuple[int, Any]]:
    """(place in the file, float32 array) of each tensor; the format is a header's length, JSON, data."""
    content = np.memmap(weights, np.uint8, mode="r")
    size = int(content[:8].view("<u8")[0])
    header: dict[str, Any] = json.loads(content[8 : 8 + size].tobytes())
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        begin, end = (8 + size + at for at in entry["data_offsets"])
        if end - begin >= LEAST_BYTES:
            data = np.frombuffer(content[begin:end].tobytes(), "<f4")
            yield begin, data.reshape(entry["shape"])


def whole_model(file: Path) -> Any:
    """An exported model with all of its weights inside, as `torch.onnx` had written it."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(file))
    stored = {t.name: t for t in model.graph.initializer if t.name.startswith(_STORED)}
    rest = []
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.input[0] in stored:
            tensor = stored[node.input[0]]
            turned = np.ascontiguousarray(numpy_helper.to_array(tensor).T)
            tensor.CopyFrom(numpy_helper.from_array(turned, node.output[0]))
        else:
            rest.append(node)
    del model.graph.node[:]
    model.graph.node.extend(rest)
    return model
