"""On which kind of machine digits are expected to be the same."""

import platform
import re
from importlib.metadata import version
from pathlib import Path

import torch

DECIDE = ("torch", "numpy", "scipy", "scikit-learn", "timm", "onnxruntime", "opencv-python-headless", "albumentations")
SIMD = re.compile(r"(avx|amx|fma|sse|bf16|f16c)\w*")
OTHER_PROCESSORS = {  # makes torch, oneDNN, MKL and OpenBLAS compute as on an older one
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "sse": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
}


def machine() -> dict[str, str]:
    """The processor, what torch uses of it, and the versions of the packages that compute."""
    info = Path("/proc/cpuinfo")
    fields = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", info.read_text(), re.MULTILINE)) if info.exists() else {}
    flags = sorted(flag for flag in fields.get("flags", "").split() if SIMD.fullmatch(flag))
    return {
        "cpu": " ".join(fields.get(key, "?") for key in ("model name", "cpu family", "model")),
        "system": f"{platform.system()} {platform.machine()}",
        "simd": " ".join(flags),
        "torch capability": torch.backends.cpu.get_cpu_capability(),
        **{name: version(name) for name in DECIDE},
    }
