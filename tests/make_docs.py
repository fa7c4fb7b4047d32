"""Writes the generated pages: docs/cli.md from every command's help, docs/signatures.md from code.

python -m tests.make_docs
"""

from __future__ import annotations

import ast

import click

from edge_runtime.cli import main as edgetune
from tests.pages import ROOT

HOW = "<!-- Written by `make docs` (python -m tests.make_docs): change the code, then run that. -->"
WIDTH = 100
PUBLIC = {  # what a program may rely on, by module
    "edge_runtime.image_folder": ["scan", "ImageFolder"],
    "edge_runtime.backbone": ["Backbone"],
    "edge_runtime.extract": ["extract", "ExtractResult"],
    "edge_runtime.features": ["FeatureFolder"],
    "edge_runtime.feature_split": ["FeatureSplit"],
    "edge_runtime.sources": ["FeatureSource", "ArrayFeatures"],
    "edge_runtime.adaptor": ["Adaptor", "top_k"],
    "edge_runtime.metrics": ["Evaluation"],
    "edge_runtime.runtimes": ["open_adaptor"],
    "edge_runtime.together": ["Together"],
    "edge_runtime.remote_backbone": ["RemoteBackbone"],
    "edge_runtime.image_features": ["local_features", "remote_features"],
    "edge_runtime.memory": ["peak_rss_bytes"],
    "trainer_lite.config": ["TrainConfig"],
    "trainer_lite.trainer": ["Trainer"],
    "trainer_lite.reports": ["TrainResult", "EpochReport", "StepReport"],
    "trainer_lite.checkpoint": ["Checkpoints", "Every"],
    "export.backbone": ["export_backbone"],
    "export.serve.app": ["create_app", "Settings"],
    "export.serve.batching": ["Limits"],
}

Definition = (ast.FunctionDef, ast.ClassDef)


def cli_page() -> str:
    """Every command's help, in the order in which `edgetune --help` lists them."""
    root = click.Context(
        edgetune, info_name="edgetune", terminal_width=WIDTH, **edgetune.context_settings
    )
    parts = [
        "# Commands",
        HOW,
        "What `edgetune --help` and `edgetune COMMAND --help` print. [The tutorial](tutorial.md) "
        "uses most of them.",
        shown(edgetune.get_help(root)),
    ]
    for name in edgetune.list_commands(root):
        command = edgetune.get_command(root, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=root)
        parts += [f"## {name}", shown(command.get_help(context))]
    return "\n\n".join(parts) + "\n"


def shown(help_text: str) -> str:
    lines = (line.rstrip() for line in help_text.splitlines())
    return "\n".join(["```text", *lines, "```"])


def signatures_page() -> str:
    """Signatures and the first lines of docstrings of what PUBLIC names, read off the source."""
    parts = [
        "# Signatures",
        HOW,
        "What a program may use; [api.md](api.md) shows how it goes together. The docstrings say "
        "more, such as what is raised.",
    ]
    for module, names in PUBLIC.items():
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        found = {node.name: node for node in tree.body if isinstance(node, Definition)}
        parts.append(f"## {module}")
        parts += ["\n".join(described(found[name])) for name in names]
    return "\n\n".join(parts) + "\n"


def described(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    """A function, or a class with its fields or arguments and its public methods, as a list."""
    lines = [f"**`{signature(node)}`**  ", summary(node)]
    if isinstance(node, ast.ClassDef):
        methods = [
            member
            for member in node.body
            if isinstance(member, ast.FunctionDef) and not member.name.startswith("_")
        ]
        lines += [""] if methods else []
        lines += [f"- `{signature(method)}` {summary(method)}".rstrip() for method in methods]
    return lines


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """As it is called: no self, a class with the arguments of __init__ or its annotated fields."""
    if isinstance(node, ast.FunctionDef):
        if any(ast.unparse(d) in ("property", "cached_property") for d in node.decorator_list):
            return f"{node.name}: {ast.unparse(node.returns)}" if node.returns else node.name
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"{node.name}({arguments(node)}){returns}"
    fields = []
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return f"{node.name}({arguments(member)})"
        if isinstance(member, ast.AnnAssign) and not ast.unparse(member.target).startswith("_"):
            fields.append(ast.unparse(member))
    return f"{node.name}({', '.join(fields)})" if fields else node.name


def arguments(node: ast.FunctionDef) -> str:
    """A function's arguments, without self or cls."""
    names = ast.unparse(node.args).split(", ")
    return ", ".join(names[1:] if names[0] in ("self", "cls") else names)


def summary(node: ast.FunctionDef | ast.ClassDef) -> str:
    """The first paragraph of a docstring in one line; empty where there is none."""
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


PAGES = {"cli.md": cli_page, "signatures.md": signatures_page}


def main() -> None:
    """Writes every generated page."""
    for name, page in PAGES.items():
        path = ROOT / "docs" / name
        path.write_text(page())
        print(path)


if __name__ == "__main__":
    main()
