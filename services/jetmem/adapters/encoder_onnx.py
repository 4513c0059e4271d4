"""The model through onnxruntime: needs neither torch nor transformers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jetmem.adapters.encoder_batches import Forward
from jetmem.runtime.errors import Broken


def open_onnx(path: Path, threads: int) -> Forward:
    """Open a session of an exported model; its pool inherits the calling thread's niceness.

    Raises:
        Broken: onnxruntime refuses the file.
    """
    # read at its import: 1.31 reports use to its maker by default and leaves a file in the temporary folder
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Shapes differ from batch to batch: a plan per shape is memory for nothing.
    options.enable_mem_pattern = False
    # Spin within a run, where it pays, but sleep between runs: other stages share the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Broken(f"onnxruntime cannot load {path}: {error}") from error

    def forward(tokens: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        result = session.run(["vectors"], {"tokens": tokens, "mask": mask})[0]
        return np.asarray(result, np.float32)

    return forward
