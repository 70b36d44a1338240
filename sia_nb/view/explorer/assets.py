"""The explorer's front as text: its modules in ``front/`` joined into one script, and its style sheet.

A notebook's widget and a page that is one file take one script, not a tree of modules. Each module becomes a function that
returns what the module exports, so names of one never meet those of another; the modules stay plain ES modules that an
editor understands. Standard library only; ``widget`` and ``page`` import it.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

FRONT = Path(__file__).parent / "front"
ENTRY = "explorer"
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|let) (\w+))", re.MULTILINE)


@cache
def script() -> str:
    """All modules as one text; ``modules.explorer`` holds what the entry exports.

    Raises:
        ValueError: two modules import each other.
    """
    order: list[str] = []
    _visit(ENTRY, order, ())
    return "const modules = {};\n" + "".join(map(_wrapped, order))


def widget_script() -> str:
    """The script of a notebook's widget: an ES module whose default export has ``render``."""
    return script() + "export default { render: modules.explorer.render };\n"


def page_script() -> str:
    """The script of a static page: it mounts the explorer on the data that the page carries."""
    return script() + "modules.explorer.mountEmbedded();\n"


@cache
def style() -> str:
    """The style sheet."""
    return (FRONT / f"{ENTRY}.css").read_text(encoding="utf-8")


@cache
def _source(name: str) -> str:
    return (FRONT / f"{name}.js").read_text(encoding="utf-8")


def _visit(name: str, order: list[str], above: tuple[str, ...]) -> None:
    if name in above:
        raise ValueError(f"{name}.js imports itself by way of {', '.join(above)}")
    for _, needed in _IMPORT.findall(_source(name)):
        if needed not in order:
            _visit(needed, order, (*above, name))
    order.append(name)


def _wrapped(name: str) -> str:
    text = _IMPORT.sub(lambda m: f"const {{{m[1].replace(' as ', ': ')}}} = modules.{m[2]};\n", _source(name))
    exported = ", ".join(_EXPORT.findall(text))
    return f"modules.{name} = (() => {{\n{_EXPORT.sub('', text)}\nreturn {{ {exported} }};\n}})();\n"
