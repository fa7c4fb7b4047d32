"""The pages in docs/: complete, true to the code, and run as a reader would, in reading order."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from edge_runtime.cli import main as edgetune
from tests.make_docs import PAGES
from tests.pages import FENCE, ROOT, RUN, Reader, blocks
from tests.photos import write_photos

DOCS = ROOT / "docs"
INDEX = (DOCS / "index.md").read_text()
ORDER = [DOCS / name for name in re.findall(r"\]\((\w+\.md)\)", INDEX)]
LINKED = [*sorted(DOCS.glob("*.md")), *(ROOT / f"{n}.md" for n in ("README", "ARCHITECTURE"))]
LANGUAGES = ("sh", "console", "python", "text", "yaml")
NEEDED = ("torch", "timm", "onnx", "onnxruntime", "PIL", "starlette", "uvicorn")


def test_the_index_lists_every_page_once() -> None:
    assert sorted(ORDER) == sorted(page for page in DOCS.glob("*.md") if page.name != "index.md")


def test_every_link_leads_somewhere() -> None:
    for page in LINKED:
        for target, anchor in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", page.read_text()):
            found = page.parent / target if target else page
            assert found.exists(), f"{page.name} -> {target}"
            if anchor:
                assert anchor[1:] in anchors(found), f"{page.name} -> {target}{anchor}"


def anchors(page: Path) -> set[str]:
    """What its headings are called in a link."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_up_to_date(name: str) -> None:
    pinned = re.findall(r"^click==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if name == "cli.md" and [version("click")] != pinned:
        pytest.skip("another click than constraints.txt names words some help otherwise")
    assert (DOCS / name).read_text() == PAGES[name](), f"docs/{name} is out of date: run make docs"


def test_messages_in_the_faq_are_those_of_the_code() -> None:
    messages = [
        " ".join(block.content.split())
        for block in blocks((DOCS / "faq.md").read_text())
        if block.language == "text"
    ]
    assert len(messages) > 10
    forms = [
        re.compile(form)
        for package in ("edge_runtime", "trainer_lite", "export")
        for path in (ROOT / package).rglob("*.py")
        for form in message_forms(path)
    ]
    for message in messages:
        said = re.sub(r"^Error: ", "", message)
        assert any(form.fullmatch(said) for form in forms), f"no such message: {message}"
    assert not any(form.fullmatch("a memory budget that nobody can keep") for form in forms)


def message_forms(path: Path) -> Iterator[str]:
    """A pattern for every text in a source file that could be a message: {...} is anything."""
    for node in ast.walk(ast.parse(path.read_text())):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        fixed = [p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)]
        if sum(text.count(" ") for text in fixed) >= 4:  # words of our own, not a mere {...}: {...}
            yield "".join(
                re.escape(part.value)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
                else ".+"
                for part in parts
            )


def test_every_block_says_what_it_is() -> None:
    for page in DOCS.glob("*.md"):
        for block in blocks(page.read_text()):
            assert block.language in LANGUAGES, f"{page.name}:{block.line}: {block.language!r}"


def test_commands_that_are_only_named_exist_with_their_options() -> None:
    known = 0
    for page in LINKED:
        for arguments in named_commands(page.read_text()):
            command = edgetune.get_command(click.Context(edgetune), arguments[0])
            assert command is not None, f"{page.name}: edgetune {arguments[0]}"
            parser = command.make_parser(click.Context(command))
            try:
                parser.parse_args(arguments[1:])
            except click.NoSuchOption as error:
                pytest.fail(f"{page.name}: edgetune {' '.join(arguments)}: {error.message}")
            except click.BadOptionUsage:
                pass  # `edgetune extract --codec`, as prose has it
            known += 1
    assert known > 50


def named_commands(page: str) -> Iterator[list[str]]:
    """Arguments of every `edgetune NAME ...` in blocks that are typed and in code within prose."""
    prose = FENCE.sub("", page)
    typed = "".join(block.script for block in blocks(page) if block.language in RUN)
    lines = typed.replace("\\\n", " ").splitlines()
    for text in [*lines, *re.findall(r"`([^`]+)`", prose)]:
        found = re.search(r"(?:^|[/ ])edgetune ([a-z-]+[^|#;)]*)", text)
        if found and not found[1].startswith("-"):
            yield found[1].split()


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="the tutorial exports a backbone: needs edgetune[export,serve]",
)
def test_every_block_runs_in_reading_order(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "reader", model="test_vit")
    reader.folder.mkdir()
    write_photos(reader.folder / "my-photos", {"": 40})
    done = 0
    with reader.closing:
        for page in ORDER:
            for block in blocks(page.read_text()):
                if block.to_run:
                    print(f"{page.name}:{block.line}")
                    reader.read(block)
                    done += 1
    assert done > 20
