"""Convert MediaPipe's face networks (Apache-2.0) from TFLite to safetensors, once.

    pip install tflite flatbuffers
    python tools/convert_face_networks.py MEDIAPIPE_MODULES [OUT]

MEDIAPIPE_MODULES is the folder ``mediapipe/modules`` of an unpacked mediapipe wheel (0.10.21 was used); OUT
is ``src/moditalker/assets`` unless given. A result holds the weights, channels first, at the precision in
which MediaPipe stores them (mostly float16: nothing is lost), and as JSON in its metadata the list of
operations that ``moditalker.features.face.networks`` executes in torch. Neither TFLite nor MediaPipe is
needed afterwards.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from flatbuffers import flexbuffers
from safetensors.numpy import save_file

NETWORKS = {  # our name: the file inside mediapipe/modules
    "face_detector": "face_detection/face_detection_short_range.tflite",
    "face_detector_far": "face_detection/face_detection_full_range_sparse.tflite",
    "face_mesh": "face_landmark/face_landmark_with_attention.tflite",
}
DTYPES = {0: np.float32, 1: np.float16, 2: np.int32}
ACTIVATIONS = {0: None, 1: "relu"}
OPERATORS = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}


def options(op: tflite.Operator, kind: type) -> Any:
    """The typed option table of an operator."""
    table = kind()
    table.Init(op.BuiltinOptions().Bytes, op.BuiltinOptions().Pos)
    return table


def densify(tensor: tflite.Tensor, values: np.ndarray) -> np.ndarray:
    """A tensor whose zeros were left out along its last axis (compressed rows), with its zeros."""
    sparsity, shape = tensor.Sparsity(), tensor.ShapeAsNumpy()
    last = sparsity.DimMetadata(sparsity.DimMetadataLength() - 1)
    if sparsity.DimMetadataLength() != len(shape) or last.Format() != 1:
        raise ValueError("only sparsity along the last axis is understood")

    def vector(kind: int, table: Any) -> np.ndarray:
        typed = {1: tflite.Int32Vector, 2: tflite.Uint16Vector, 3: tflite.Uint8Vector}[kind]()
        typed.Init(table.Bytes, table.Pos)
        return np.asarray(typed.ValuesAsNumpy(), np.int64)

    segments = vector(last.ArraySegmentsType(), last.ArraySegments())
    columns = vector(last.ArrayIndicesType(), last.ArrayIndices())
    dense = np.zeros((int(np.prod(shape[:-1])), shape[-1]), values.dtype)
    dense[np.repeat(np.arange(len(dense)), np.diff(segments)), columns] = values
    return dense.reshape(shape)


class Converter:
    """One TFLite graph -> operations on channels-first tensors, with constants folded."""

    def __init__(self, path: Path) -> None:
        self.model = tflite.Model.GetRootAs(path.read_bytes(), 0)
        self.graph = self.model.Subgraphs(0)
        self.constants: dict[int, np.ndarray] = {}
        self.alias: dict[int, int] = {}
        self.weights: dict[str, np.ndarray] = {}
        self.ops: list[dict[str, Any]] = []
        for i in range(self.graph.TensorsLength()):
            tensor = self.graph.Tensors(i)
            data = self.model.Buffers(tensor.Buffer()).DataAsNumpy()
            if isinstance(data, np.ndarray):
                values = data.view(DTYPES[tensor.Type()])
                dense = densify(tensor, values) if tensor.Sparsity() else values.reshape(self.shape(i))
                self.constants[i] = dense

    def shape(self, i: int) -> list[int]:
        tensor = self.graph.Tensors(i)
        return [int(n) for n in tensor.ShapeAsNumpy()] if tensor.ShapeLength() else []

    def weight(self, i: int, *axes: int) -> str:
        """Store a constant once, transposed by ``axes`` if given; returns its name."""
        value = self.constants[i].transpose(axes) if axes else self.constants[i]
        self.weights[f"w{i}"] = np.ascontiguousarray(value)
        return f"w{i}"

    def same_padding(self, source: int, target: int, kernel: list[int], stride: list[int]) -> list[int]:
        """TFLite's SAME as explicit [left, right, top, bottom] (the order of torch's pad)."""
        pads: list[int] = []
        for axis in (2, 1):
            covered = (self.shape(target)[axis] - 1) * stride[axis - 1] + kernel[axis - 1]
            total = max(0, covered - self.shape(source)[axis])
            pads += [total // 2, total - total // 2]
        return pads

    def convert(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        for i in range(self.graph.OperatorsLength()):
            op = self.graph.Operators(i)
            code = self.model.OperatorCodes(op.OpcodeIndex())
            name = OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            inputs = [self.alias.get(int(t), int(t)) for t in op.InputsAsNumpy()]
            self.operator(name, code, op, inputs, int(op.Outputs(0)))
        self.fold_padding()
        self.merge_branches()
        resolve = {i: self.alias.get(i, i) for i in map(int, self.graph.OutputsAsNumpy())}
        graph = {
            "input": int(self.graph.Inputs(0)),
            "size": self.shape(int(self.graph.Inputs(0)))[1],
            "outputs": {self.graph.Tensors(i).Name().decode(): j for i, j in resolve.items()},
            "ops": self.ops,
        }
        return self.weights, graph

    def operator(self, name: str, code: Any, op: tflite.Operator, inputs: list[int], out: int) -> None:
        fields: dict[str, Any] = {}
        activation: int = 0
        if name in ("DEQUANTIZE", "DENSIFY"):
            self.constants[out] = self.constants[inputs[0]]
            return
        if name == "STRIDED_SLICE":  # of the whole tensor
            assert self.shape(inputs[0]) == self.shape(out)
            self.alias[out] = inputs[0]
            return
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            deep = name == "DEPTHWISE_CONV_2D"
            o = options(op, tflite.DepthwiseConv2DOptions if deep else tflite.Conv2DOptions)
            assert o.DilationHFactor() == o.DilationWFactor() == 1
            assert not deep or o.DepthMultiplier() == 1
            stride, kernel = [o.StrideH(), o.StrideW()], self.shape(inputs[1])[1:3]
            activation = o.FusedActivationFunction()
            fields = {
                "weight": self.weight(inputs[1], *((3, 0, 1, 2) if deep else (0, 3, 1, 2))),
                "bias": self.weight(inputs[2]),
                "stride": stride,
                "pad": self.same_padding(inputs[0], out, kernel, stride) if o.Padding() == 0 else [0] * 4,
                "groups": self.shape(inputs[0])[3] if deep else 1,
            }
            kind, inputs = "conv", inputs[:1]
        elif name == "MAX_POOL_2D":
            o = options(op, tflite.Pool2DOptions)
            kernel, stride = [o.FilterHeight(), o.FilterWidth()], [o.StrideH(), o.StrideW()]
            pad = self.same_padding(inputs[0], out, kernel, stride) if o.Padding() == 0 else [0] * 4
            assert pad == [0] * 4
            kind, fields = "max_pool", {"kernel": kernel, "stride": stride}
        elif name == "PRELU":
            kind, fields, inputs = "prelu", {"weight": self.weight(inputs[1], 2, 0, 1)}, inputs[:1]
        elif name == "RELU":
            kind = "relu"
        elif name == "ADD":
            kind, activation = "add", options(op, tflite.AddOptions).FusedActivationFunction()
        elif name == "MUL":
            kind, fields, inputs = "scale", {"weight": self.weight(inputs[1])}, inputs[:1]
        elif name == "PAD":
            pads = self.constants[inputs[1]].tolist()  # per axis of (batch, row, column, channel)
            kind, fields = "pad", {"pad": [*pads[2], *pads[1], *pads[3]]}
            inputs = inputs[:1]
        elif name == "CONCATENATION":
            assert options(op, tflite.ConcatenationOptions).Axis() == 1
            assert len(self.shape(out)) == 3
            kind = "concat"
        elif name == "RESHAPE":
            kind, fields, inputs = "reshape", {"shape": self.shape(out)[1:]}, inputs[:1]
        elif name == "RESIZE_BILINEAR":
            o = options(op, tflite.ResizeBilinearOptions)
            assert (o.HalfPixelCenters(), o.AlignCorners()) == (True, False)
            kind, fields, inputs = "resize", {"size": self.shape(out)[1:3]}, inputs[:1]
        elif name == "DEPTH_TO_SPACE":
            kind, fields = "depth_to_space", {"block": options(op, tflite.DepthToSpaceOptions).BlockSize()}
        elif name == "CUSTOM":
            data = op.CustomOptionsAsNumpy()
            fields = flexbuffers.Loads(bytes(data)) if isinstance(data, np.ndarray) and len(data) else {}
            assert code.Version() == 2
            kind = {
                "Landmarks2TransformMatrix": "landmarks_to_matrix",
                "TransformTensorBilinear": "sample",
                "TransformLandmarks": "transform_landmarks",
            }[code.CustomCode().decode()]
        else:
            raise ValueError(f"operation {name} is not known")
        if ACTIVATIONS[activation]:
            fields["activation"] = ACTIVATIONS[activation]
        self.ops.append({"op": kind, "in": inputs, "out": out, **fields})

    def fold_padding(self) -> None:
        """Remove pads: convolutions pad rows and columns themselves, additions take unequal channels."""
        for pad in [op for op in self.ops if op["op"] == "pad"]:
            readers = [op for op in self.ops if pad["out"] in op["in"]]
            spatial, channels = pad["pad"][:4], pad["pad"][4:]
            for op in readers:
                if op["op"] == "conv" and op["pad"] == [0] * 4 and channels == [0, 0]:
                    op["pad"], op["in"] = spatial, pad["in"]
                elif op["op"] == "add" and spatial == [0] * 4 and channels[0] == 0:
                    op["in"] = [pad["in"][0] if i == pad["out"] else i for i in op["in"]]
            if not any(pad["out"] in op["in"] for op in readers):
                self.ops.remove(pad)

    def merge_branches(self) -> None:
        """Run the mesh's parallel branches (lips, eyes, irises) as one, side by side on the channel axis.

        It saves half of the operations. What is alike, comes from samples and could run now is merged, step
        by step.
        """
        ops, self.ops = self.ops, []
        channels = {op["out"]: self.shape(op["out"])[-1] for op in ops}
        member: dict[int, int] = {}  # a tensor -> the stack it lies in
        stacks: dict[int, list[int]] = {}
        fresh = self.graph.TensorsLength()

        def emit(op: dict[str, Any], members: list[int]) -> int:
            nonlocal fresh
            self.ops.append({**op, "out": fresh})
            stacks[fresh] = members
            fresh += 1
            return fresh - 1

        def pick(tensors: list[int]) -> int:
            """The stack that holds exactly these tensors in this order."""
            for stack, members in stacks.items():
                if members == tensors:
                    return stack
            if all(t in member for t in tensors):
                source = member[tensors[0]]
                ends = np.cumsum([0] + [channels[t] for t in stacks[source]]).tolist()
                parts = [[ends[k], ends[k + 1]] for k in map(stacks[source].index, tensors)]
                return emit({"op": "channels", "in": [source], "parts": parts}, tensors)
            return emit({"op": "concat", "in": tensors}, tensors)

        def signature(op: dict[str, Any]) -> Any:
            shapes = [self.weights[op[key]].shape for key in ("weight", "bias") if key in op]
            rest = {k: v for k, v in op.items() if k not in ("in", "out", "weight", "bias")}
            return rest, shapes, [channels.get(i) for i in op["in"]]

        sampled = {op["out"] for op in ops if op["op"] == "sample"}
        while ops:
            run, pending = [ops.pop(0)], {op["out"] for op in ops}
            branched = all(i in member or i in sampled for i in run[0]["in"])
            if branched and run[0]["op"] in ("conv", "prelu", "add", "max_pool"):
                ready = [op for op in ops if not pending.intersection(op["in"])]
                run += [op for op in ready if signature(op) == signature(run[0])]
                ops = [op for op in ops if op not in run]
            op, outs = run[0], [op["out"] for op in run]
            if len(run) == 1:
                inputs = [pick([i]) if i in member else i for i in op["in"]]
                self.ops.append({**op, "in": inputs})
                continue
            merged = {**op, "in": [pick([o["in"][k] for o in run]) for k in range(len(op["in"]))]}
            for key in ("weight", "bias"):
                if key in op:
                    merged[key] = f"{key}{fresh}"
                    self.weights[merged[key]] = np.concatenate([self.weights[o[key]] for o in run])
            if "groups" in op:
                merged["groups"] *= len(run)
            if op["op"] == "add":
                merged["branches"] = len(run)
            member.update(dict.fromkeys(outs, emit(merged, outs)))
        used = {op[key] for op in self.ops for key in ("weight", "bias") if key in op}
        self.weights = {name: value for name, value in self.weights.items() if name in used}


def main(modules: Path, out: Path) -> None:
    for name, file in NETWORKS.items():
        weights, graph = Converter(modules / file).convert()
        metadata = {
            "graph": json.dumps(graph, separators=(",", ":")),
            "source": f"mediapipe 0.10.21, mediapipe/modules/{file}",
            "licence": "Apache-2.0, Copyright The MediaPipe Authors",
        }
        save_file(weights, out / f"{name}.safetensors", metadata=metadata)
        size = (out / f"{name}.safetensors").stat().st_size
        (out / f"{name}.safetensors").chmod(0o644)
        print(f"{name}: {len(graph['ops'])} operations, {len(weights)} tensors, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    assets = Path(__file__).parents[1] / "src" / "moditalker" / "assets"
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else assets)
