"""A page as a list of blocks, and the two forms it is written in: GitHub's Markdown and HTML.

Text in blocks has a little Markdown: `code`, [text](link) and arXiv numbers, which become links.
"""

from __future__ import annotations

import html
import re
from typing import NamedTuple


class Heading(NamedTuple):
    level: int
    text: str


class Paragraph(NamedTuple):
    text: str


class Bullets(NamedTuple):
    items: list[str]


class Code(NamedTuple):
    text: str


class Math(NamedTuple):
    lines: list[str]


class Table(NamedTuple):
    head: list[str]
    rows: list[list[str]]


Block = Heading | Paragraph | Bullets | Code | Math | Table

ARXIV = re.compile(r"\barXiv (\d{4}\.\d{5})")
ISSUE = re.compile(r"\b([\w-]+/[\w.-]+)#(\d+)")
# A backslash before punctuation is Markdown's, also inside GitHub's $$.
ESCAPE = re.compile(r"\\[^A-Za-z]")
# (, =, comma, <, > and &le; before a minus sign.
PREFIX_MINUS = re.compile(
    r"(<mo[^>]*>&#x000?(?:28|3D|2C|3C|3E);</mo>|<mo>&#x02264;</mo>)<mo>&#x02212;</mo>"
)


def slug(text: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", text.replace("`", "").lower()).replace(" ", "-")


def linked(text: str) -> str:
    """Papers and issues as links."""
    text = ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    return ISSUE.sub(r"[\1#\2](https://github.com/\1/issues/\2)", text)


# ---- Markdown ------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Text from the lists, with Markdown's characters escaped where they would act."""
    return re.sub(r"([*<>|])", r"\\\1", text)


def markdown(blocks: list[Block]) -> str:
    return "\n".join(_markdown(block) for block in blocks)


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}\n"
    if isinstance(block, Paragraph):
        return f"{linked(block.text)}\n"
    if isinstance(block, Bullets):
        return "".join(f"- {linked(item)}\n" for item in block.items)
    if isinstance(block, Code):
        return f"```text\n{block.text}\n```\n"
    if isinstance(block, Math):
        for line in block.lines:
            if ESCAPE.search(line):
                raise ValueError(f"Markdown would change {line}")
        return "\n".join(f"$$\n{line}\n$$\n" for line in block.lines)
    rows = [block.head, ["---"] * len(block.head), *block.rows]
    return "".join(f"| {' | '.join(linked(cell) for cell in row)} |\n" for row in rows)


# ---- HTML ----------------------------------------------------------------------------------------


def inline(text: str) -> str:
    """`code`, $math$, links and escapes of a text as HTML."""
    return _inline(linked(text))


def _inline(text: str) -> str:
    out = []
    for part in re.split(r"(`[^`]*`|\$[^$]*\$|\[[^\]]*\]\([^)]*\))", text):
        if part.startswith("`"):
            out.append(f"<code>{html.escape(part[1:-1])}</code>")
        elif part.startswith("$"):
            out.append(mathml(part[1:-1], "inline"))
        elif link := re.fullmatch(r"\[(.*)\]\((.*)\)", part):
            out.append(f'<a href="{html.escape(link[2])}">{_inline(link[1])}</a>')
        else:
            out.append(html.escape(re.sub(r"\\([*<>|])", r"\1", part), quote=False))
    return "".join(out)


def mathml(line: str, display: str = "block") -> str:
    """A line of TeX as MathML."""
    from latex2mathml.converter import convert

    text = convert(line, display=display)
    # "log" is an identifier there, without the space around a function's name, and a minus after an
    # opening fence, a relation or a comma a binary operator.
    text = text.replace("<mi>log</mi>", '<mo lspace="0.17em" rspace="0.17em">log</mo>')
    return PREFIX_MINUS.sub(r'\1<mo form="prefix">&#x02212;</mo>', text)


def body(blocks: list[Block]) -> str:
    """The blocks as HTML; each heading of level 2 begins a section."""
    out, is_open = [], False
    for block in blocks:
        if isinstance(block, Heading) and block.level <= 2 and is_open:
            out.append("</section>")
            is_open = False
        if isinstance(block, Heading) and block.level == 2:
            out.append("<section>")
            is_open = True
        out.append(_html(block))
    return "\n".join([*out, "</section>"] if is_open else out)


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        tag = f"h{block.level}"
        return f'<{tag} id="{slug(block.text)}">{inline(block.text)}</{tag}>'
    if isinstance(block, Paragraph):
        return f"<p>{inline(block.text)}</p>"
    if isinstance(block, Bullets):
        return "<ul>" + "".join(f"<li>{inline(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Code):
        return f"<pre>{html.escape(block.text, quote=False)}</pre>"
    if isinstance(block, Math):
        return f'<div class="math">{"".join(map(mathml, block.lines))}</div>'
    head = "".join(f"<th>{inline(cell)}</th>" for cell in block.head)
    rows = ["".join(map(_cell, row)) for row in block.rows]
    lines = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>\n{lines}</table></div>'


def _cell(text: str) -> str:
    """A cell; one of many words keeps a width that they can be read in."""
    attribute = ' class="long"' if len(text.split()) > 6 else ""
    return f"<td{attribute}>{inline(text)}</td>"
