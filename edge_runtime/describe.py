"""What a file or folder of ours is, as one flat object; with `verify`, whether it is intact."""

from __future__ import annotations

from pathlib import Path

from edge_runtime import formats, tensorfile
from edge_runtime.adaptor import Adaptor
from edge_runtime.basis import Basis
from edge_runtime.classifier import Classifier
from edge_runtime.errors import FormatError
from edge_runtime.features import FeatureFolder
from edge_runtime.runtimes import runtime_of


def describe(path: Path, *, verify: bool = False) -> formats.Json:
    """Describes a backbone or feature folder, a shard, a basis, an adaptor file or a graph of one.

    Raises:
        FormatError: none of ours, damaged, or (with verify) altered.
    """
    if path.is_dir():
        manifest = path / formats.MANIFEST
        if not manifest.is_file():
            raise FormatError(f"{path} is not a folder of ours: it has no {formats.MANIFEST}")
        if formats.read_json(manifest).get("format") == formats.BACKBONE:
            return _backbone(path, verify)
        return _features(path, verify)
    if not path.exists():
        raise FormatError(f"{path}: no such file or folder")
    if runtime_of(path) != "numpy":
        return _graph(path)
    with open(path, "rb") as file:
        header = tensorfile.read_header(file, path)
    if header.metadata.get("format") == formats.SHARD:
        return _shard(path, header)
    if header.metadata.get("format") == formats.BASIS:
        content = basis_entry(Basis.load(path))
        return {"format": formats.BASIS, "version": formats.VERSION, **content}
    return _adaptor(path)


def _backbone(path: Path, verify: bool) -> formats.Json:
    manifest = formats.read_manifest(path, formats.BACKBONE)
    where = path / formats.MANIFEST
    onnx = formats.field(manifest, "onnx", dict, where)
    if verify:
        name = Path(formats.field(onnx, "file", str, where)).name
        file = path / name
        if not file.is_file() or formats.file_sha256(file) != onnx.get("sha256"):
            raise FormatError(f"{file} is missing or altered; run export again")
    return {**manifest, **({"intact": True} if verify else {})}


def _features(path: Path, verify: bool) -> formats.Json:
    folder = FeatureFolder.open(path)
    manifest = folder.manifest
    content = {key: value for key, value in manifest.items() if key != "splits"}
    content["bytes_per_image"] = folder.codec.bytes_per_image(folder.tokens, folder.embed_dim)
    if folder.masks is not None:
        content["bytes_per_image"] += folder.masks.bytes_per_image
    content["skipped"] = len(formats.field(manifest, "skipped", list, path / formats.MANIFEST))
    for name in folder.split_names:
        split = folder.split(name)
        content[name] = f"{split.rows} rows in {len(split.shards)} shards, rms {split.rms:.4g}"
    if verify:
        altered = [name for name, good in folder.verify() if not good]
        if altered:
            raise FormatError(f"{path}: altered: {', '.join(altered)}; run extract again")
        formats.check_identity(manifest, path / formats.MANIFEST)
        content["intact"] = True
    return content


def _shard(path: Path, header: tensorfile.Header) -> formats.Json:
    formats.check_version(header.metadata, formats.SHARD, path)
    tensors = {n: f"{i.dtype.name} {list(i.shape)}" for n, i in header.tensors.items()}
    metadata = {k: v for k, v in header.metadata.items() if k not in ("paths", "skipped")}
    return {**metadata, **tensors}


def _adaptor(path: Path) -> formats.Json:
    return {"format": formats.ADAPTOR, **_trained(Adaptor.load(path), path)}


def _graph(path: Path) -> formats.Json:
    from edge_runtime.graph_adaptor import GraphAdaptor

    runtime = runtime_of(path)
    graph = GraphAdaptor(path, runtime)
    stored = {"runtime": runtime, "codec": graph.codec.name, "quantize": graph.quantize}
    return {"format": formats.GRAPH, **stored, **_trained(graph, path)}


def basis_entry(basis: Basis) -> formats.Json:
    """What is told of a basis besides its numbers."""
    return {"identity": basis.identity, "width": basis.width, "embed_dim": basis.embed_dim}


def _trained(adaptor: Classifier, path: Path) -> formats.Json:
    return {
        "version": formats.VERSION,
        **adaptor.config.to_json(),
        "class_names": adaptor.classes,
        "parameters": adaptor.config.parameter_count(),
        "bytes": path.stat().st_size,
        **({} if adaptor.basis is None else {"basis": basis_entry(adaptor.basis)}),
        "backbone": adaptor.backbone,
        "features": adaptor.features,
        "training": adaptor.training,
    }
