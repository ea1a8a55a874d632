"""Opens ONNX networks on the CPU."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from moditalker.errors import UserError


def session(path: Path, threads: int = 0, seed: int | None = None) -> Any:
    """Open a session of ONNX Runtime. threads: 0: its own choice; seed: seed of the network's noise.

    Raises:
        UserError: ONNX Runtime is missing, or the file is of another kind.
    """
    try:
        onnxruntime: Any = import_module("onnxruntime")  # by name: type checkers need not read it
    except ImportError as error:
        raise UserError(f"{path} needs ONNX Runtime: pip install 'moditalker[eval]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in `jobs.machine.calm`
    if seed is not None:
        onnxruntime.set_seed(seed)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it raises many types
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is no ONNX network that can be run ({reason})") from None
